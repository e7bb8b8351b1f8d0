//! The files that `deploy/` ships are accepted by the programs that read them.

mod acl;
mod secrets;

use std::path::{Path, PathBuf};
use std::process::Command;

use sundew_broker::serve::config::Config;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).expect(name)
}

#[test]
fn the_example_configuration_is_valid_and_its_commented_defaults_are_the_defaults() {
    let example = text("sundew.toml");
    let config = Config::parse(&example).expect("valid");
    // With every commented setting of [revocation] and [limits] taken in, nothing changes.
    let from = example.find("# [revocation]").expect("section");
    let uncommented: String = example[from..]
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|l| l.starts_with('[') || l.contains(" = "))
                .unwrap_or("#")
                .to_owned()
                + "\n"
        })
        .collect();
    let full = Config::parse(&format!("{}{uncommented}", &example[..from]))
        .expect("valid with everything taken in");
    assert_eq!(format!("{config:?}"), format!("{full:?}"));
    assert!(uncommented.matches(" = ").count() >= 13, "{uncommented}");
}

#[test]
fn every_setting_is_in_the_example() {
    let example = text("sundew.toml");
    for setting in [
        "enrollment",
        "operations",
        "workload_api",
        "reflection",
        "svid_ttl",
        "trust_domain",
        "socket",
        "spiffe_id",
        "hint",
        "dns_names",
        "certificate_file",
        "key_file",
        "timeout",
        "jwks_file",
        "jwks_url",
        "ca_file",
        "max_age",
        "freshness",
        "max_clock_skew",
        "calls_per_second",
        "bundle_age",
    ] {
        assert!(
            example.contains(&format!("{setting} = ")),
            "{setting} is not in the example"
        );
    }
}

#[test]
fn units_and_manifests_name_what_there_is() {
    let unit = text("systemd/sundew.service");
    for line in unit.lines().filter_map(|l| {
        l.strip_prefix("ExecStart=")
            .or(l.strip_prefix("ExecStartPre="))
    }) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let end = words
            .iter()
            .position(|w| *w == "--config")
            .expect("--config");
        let help = Command::new(sundew_tests::sundew())
            .args(&words[1..end])
            .arg("--help")
            .output()
            .expect("run");
        assert!(
            help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--config"),
            "{line}"
        );
    }
    assert!(unit.contains("Type=notify-reload") && unit.contains("LimitCORE=0"));
    for name in ["broker.yaml", "redis.yaml", "network-policy.yaml"] {
        let manifest = text(&format!("kubernetes/{name}"));
        assert!(!manifest.contains('\t'), "{name}: YAML has no tabs");
        for document in manifest.split("\n---\n") {
            for member in ["apiVersion: ", "kind: ", "metadata:", "spec:"] {
                assert!(
                    document.lines().any(|l| l.starts_with(member)),
                    "{name}: {member} is missing in\n{document}"
                );
            }
        }
    }
    // L7: with a stale view a broker is not ready, and takes endings all the same.
    let brokers = text("kubernetes/broker.yaml");
    let for_responders = brokers.split("\n---\n").find(|document| {
        document.contains("\nkind: Service\n") && document.contains("name: sundew-responders")
    });
    assert!(for_responders.is_some_and(|s| s.contains("\n  publishNotReadyAddresses: true\n")));
    let redis = text("kubernetes/redis.yaml") + &text("container/compose.yaml");
    assert_eq!(redis.matches("noeviction").count(), 2);
    let policy = text("kubernetes/network-policy.yaml");
    assert!(policy.contains("app: sundew-redis") && policy.contains("egress: []"));
}

/// systemd hears when the broker is ready, and when it stops.
#[tokio::test]
async fn systemd_is_told() {
    use sundew_tests::world::World;
    let world = World::embedded();
    let path = world.folder().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("socket");
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .expect("timeout");
    let mut broker = world.prepare("");
    let mut command = Command::new(sundew_tests::sundew());
    command.env("NOTIFY_SOCKET", &path);
    broker.up_as(command);
    let hear = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    broker.signal(rustix::process::Signal::TERM);
    assert_eq!(hear(), "STOPPING=1");
    assert!(broker.wait().success());
}

/// Every registration and issuer that the documents show is one that the program reads.
#[test]
fn what_the_quick_starts_show_is_what_the_program_reads() {
    use sundew_attestation::Rule;
    use sundew_broker::serve::config::IssuerConfig;
    use sundew_core::Registration;
    let mut files: Vec<PathBuf> = std::fs::read_dir(deploy("quickstart"))
        .expect("folder")
        .map(|entry| entry.expect("entry").path())
        .collect();
    files.push(deploy("../README.md"));
    let mut seen = 0;
    for file in files {
        let document = std::fs::read_to_string(&file).expect("document");
        // Blocks in lists are indented.
        let lines: Vec<&str> = document.lines().map(str::trim_start).collect();
        for block in lines.split(|line| *line == "```toml").skip(1) {
            let text: String = block
                .iter()
                .take_while(|line| **line != "```")
                .map(|line| format!("{line}\n"))
                .collect();
            let table: serde_json::Value =
                toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", file.display()));
            let read = |what: &str, result: Result<(), serde_json::Error>| {
                result.unwrap_or_else(|e| panic!("{}: {what}: {e}\n{text}", file.display()))
            };
            let workloads = table.get("workload").map(|workloads| {
                workloads
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![workloads.clone()])
            });
            for workload in workloads.into_iter().flatten() {
                seen += 1;
                if workload.get("spiffe_id").is_some() {
                    read(
                        "workload",
                        serde_json::from_value::<Registration>(workload.clone()).map(drop),
                    );
                } else {
                    read(
                        "evidence",
                        serde_json::from_value::<Vec<Rule>>(workload["evidence"].clone()).map(drop),
                    );
                }
            }
            for issuer in table["issuers"].as_array().into_iter().flatten() {
                seen += 1;
                read(
                    "issuer",
                    serde_json::from_value::<IssuerConfig>(issuer.clone()).map(drop),
                );
            }
        }
    }
    assert!(seen >= 10, "{seen} were read");
}
