//! The Helm chart and the plain manifests, by the programs that read them: Helm, Kubernetes' own
//! schemas, and the types of the Prometheus operator (D2).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sundew_tests::process::run;

use super::deploy;

/// The versions of Kubernetes whose schemas are asked: the oldest that the chart names, and the newest
/// that there was.
const KUBERNETES: [&str; 2] = ["1.30", "1.37"];

/// Values that change which objects there are, and those of none.
const VALUES: [&[&str]; 6] = [
    &[],
    &[
        "monitoring.enabled=true",
        "monitoring.labels.release=prometheus",
    ],
    &["identity.source=workload_api", "node.enabled=false"],
    &[
        "redis.enabled=false",
        "redis.url=rediss://sundew@redis.example:6379",
    ],
    &[
        "networkPolicy.enabled=false",
        "brokers.journal.storageClassName=fast",
    ],
    &[
        "networkPolicy.probes={10.0.0.0/8}",
        "image.pullSecrets[0].name=registry",
        "brokers.nodeSelector.kubernetes\\.io/os=linux",
        "brokers.replicas=3",
        "brokers.spread=DoNotSchedule",
    ],
];

/// The program or folder of this name that `tests/toolchains` has brought.
pub(super) fn tool(name: &str) -> PathBuf {
    let path = deploy("../target/toolchains").join(name);
    assert!(path.exists(), "{name} is missing: run ./tests/run");
    path
}

pub(super) fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn helm(arguments: &[&str], values: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("folder");
    Command::new(tool("bin/helm"))
        .args(arguments)
        .args(values.iter().flat_map(|value| ["--set", value]))
        .env("HOME", home.path())
        .current_dir(deploy(".."))
        .output()
        .expect("helm")
}

/// The chart with these values, as Helm sends it to a cluster.
pub(super) fn rendered(values: &[&str]) -> String {
    let arguments = [
        "template",
        "sundew",
        "deploy/helm/sundew",
        "--namespace",
        "sundew",
    ];
    let output = helm(&arguments, values);
    assert!(output.status.success(), "{values:?}: {}", printed(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// The objects of a text with YAML documents.
pub(super) fn objects(yaml: &str) -> Vec<Value> {
    let output = run(Command::new(tool("bin/objects")), yaml);
    assert!(output.status.success(), "{}", printed(&output));
    let lines = String::from_utf8(output.stdout).expect("text");
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// What Kubernetes' schemas of this version say of a text with YAML documents.
fn judged(version: &str, yaml: &str) -> Output {
    let schemas = tool(&format!("kubernetes/{version}"));
    let mut command = Command::new(tool("bin/kubeconform"));
    command
        .args([
            "-strict",
            "-summary",
            "-skip",
            "ServiceMonitor,PrometheusRule",
        ])
        .arg("-schema-location")
        .arg(format!(
            "{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
            schemas.display()
        ));
    run(command, yaml)
}

#[test]
fn d2_kubernetes_takes_every_object_of_the_chart_in_each_version() {
    for values in VALUES {
        let yaml = rendered(values);
        for version in KUBERNETES {
            let output = judged(version, &yaml);
            let text = printed(&output);
            assert!(
                output.status.success() && text.contains("Invalid: 0, Errors: 0"),
                "{version} {values:?}: {text}"
            );
        }
    }
    // The same judge refuses a field that Kubernetes does not have, and a value of another type.
    for (good, bad) in [
        ("runAsNonRoot:", "runAsNoRoot:"),
        (
            "publishNotReadyAddresses: true",
            "publishNotReadyAddresses: yes please",
        ),
    ] {
        let output = judged("1.37", &rendered(&[]).replace(good, bad));
        assert!(!output.status.success(), "{bad}: {}", printed(&output));
    }
}

#[test]
fn d2_the_prometheus_operator_takes_its_objects() {
    let yaml = rendered(&["monitoring.enabled=true"]);
    let read = |yaml: &str| run(Command::new(tool("bin/monitoring")), yaml);
    let output = read(&yaml);
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    let taken: BTreeSet<&str> = text.lines().collect();
    assert_eq!(
        taken,
        ["PrometheusRule sundew", "ServiceMonitor sundew"].into()
    );
    assert!(
        !read(&yaml.replace("endpoints:", "endpoint:"))
            .status
            .success()
    );
}

/// The plain manifests are the chart with its defaults, and the objects of the Prometheus operator
/// beside them. `SUNDEW_BLESS=1` writes them.
#[test]
fn d2_the_plain_manifests_are_what_the_chart_renders() {
    let folder = tempfile::tempdir().expect("folder");
    let to = folder.path().display().to_string();
    let arguments = [
        "template",
        "sundew",
        "deploy/helm/sundew",
        "--namespace",
        "sundew",
        "--output-dir",
        &to,
    ];
    let output = helm(&arguments, &["monitoring.enabled=true"]);
    assert!(output.status.success(), "{}", printed(&output));
    let files = |folder: &Path| -> BTreeMap<String, String> {
        let entries = std::fs::read_dir(folder).expect("folder");
        entries
            .map(|entry| entry.expect("entry").path())
            .map(|path| {
                let name = path
                    .file_name()
                    .expect("name")
                    .to_string_lossy()
                    .into_owned();
                (name, std::fs::read_to_string(path).expect("text"))
            })
            .collect()
    };
    let made = files(&folder.path().join("sundew/templates"));
    let shipped = deploy("kubernetes");
    if std::env::var_os("SUNDEW_BLESS").is_some() {
        for name in files(&shipped).keys() {
            std::fs::remove_file(shipped.join(name)).expect("removed");
        }
        for (name, text) in &made {
            std::fs::write(shipped.join(name), text).expect("written");
        }
    }
    assert!(
        files(&shipped) == made,
        "deploy/kubernetes is not what the chart renders: run this test with SUNDEW_BLESS=1"
    );
}

#[test]
fn values_that_the_chart_does_not_know_or_take_are_refused() {
    for (value, part) in [
        ("brokers.replica=3", "replica"),
        ("brokers.replicas=0", "replicas"),
        ("identity.source=none", "source"),
        ("redis.url=redis://plain:6379", "url"),
        ("redis.enabled=false", "url"),
        ("trustDomain=Example.org", "trustDomain"),
        ("networkPolicy.probes={everywhere}", "probes"),
    ] {
        let output = helm(&["template", "sundew", "deploy/helm/sundew"], &[value]);
        let text = printed(&output);
        assert!(
            !output.status.success() && text.contains(part),
            "{value}: {text}"
        );
    }
    let lint = helm(&["lint", "--strict", "deploy/helm/sundew"], &[]);
    assert!(lint.status.success(), "{}", printed(&lint));
}

/// Every default is in `values.yaml` and has a rule in the schema, and nothing else is there.
#[test]
fn every_value_has_a_rule() {
    let values = std::fs::read_to_string(deploy("helm/sundew/values.yaml")).expect("values");
    let schema: Value = serde_json::from_slice(
        &std::fs::read(deploy("helm/sundew/values.schema.json")).expect("schema"),
    )
    .expect("JSON");
    fn compare(path: &str, value: &Value, rule: &Value) {
        let Some(properties) = rule.get("properties").and_then(Value::as_object) else {
            return;
        };
        let mut named: BTreeSet<&String> = properties.keys().collect();
        named.retain(|name| *name != "global");
        let there: BTreeSet<&String> = value.as_object().expect("object").keys().collect();
        assert_eq!(there, named, "{path}");
        for name in there {
            compare(&format!("{path}.{name}"), &value[name], &properties[name]);
        }
    }
    compare("values", &objects(&values)[0], &schema);
}

/// Probes come to the pod's address, and operators find brokers that are not ready (L7).
#[test]
fn d2_probes_reach_what_they_probe_and_services_follow_readiness_where_they_should() {
    let all = objects(&rendered(&[]));
    let find = |kind: &str, name: &str| {
        all.iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
            .unwrap_or_else(|| panic!("{kind} {name}"))
    };
    let config = find("ConfigMap", "sundew")["data"]["sundew.toml"]
        .as_str()
        .expect("text");
    let config = sundew_broker::serve::config::Config::parse(config).expect("valid");
    assert!(config.listen.operations.ip().is_unspecified());
    let service = |name: &str| find("Service", name)["spec"]["publishNotReadyAddresses"] == true;
    assert!(!service("sundew") && service("sundew-operators") && service("sundew-redis"));
    for (kind, name) in [("StatefulSet", "sundew"), ("StatefulSet", "sundew-redis")] {
        let object = find(kind, name);
        assert_eq!(
            find("PodDisruptionBudget", name)["spec"]["selector"],
            object["spec"]["selector"]
        );
        assert_eq!(
            find("NetworkPolicy", name)["spec"]["podSelector"],
            object["spec"]["selector"]
        );
        let claims = object["spec"]["volumeClaimTemplates"]
            .as_array()
            .expect("claims");
        assert_eq!(claims.len(), 1, "{name}");
    }
}

/// The commands of every container are some that the binary has.
#[test]
fn d2_containers_run_commands_that_there_are() {
    let mut seen = 0;
    for object in objects(&rendered(&[])) {
        let spec = &object["spec"]["template"]["spec"];
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array().into_iter().flatten() {
                let Some(arguments) = container["args"].as_array() else {
                    continue;
                };
                seen += 1;
                let words: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
                let end = words.iter().position(|word| word.starts_with("--"));
                let help = Command::new(sundew_tests::sundew())
                    .args(&words[..end.unwrap_or(words.len())])
                    .arg("--help")
                    .output()
                    .expect("run");
                let text = printed(&help);
                assert!(help.status.success(), "{words:?}: {text}");
                for option in words.iter().filter(|word| word.starts_with("--")) {
                    let name = option.split('=').next().expect("name");
                    assert!(text.contains(name), "{words:?}: {name}");
                }
            }
        }
    }
    assert_eq!(seen, 4);
}
