//! The files that `deploy/` ships are accepted by the programs that read them.

mod acl;
mod cluster;
mod container;
mod kubernetes;
mod monitoring;
mod package;
mod readers;
mod secrets;
mod systemd;

use std::path::{Path, PathBuf};

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
        "token_file",
        "max_age",
        "freshness",
        "max_clock_skew",
        "calls_per_second",
        "bundle_age",
        "endpoint",
        "headers_file",
        "sample",
        "path_prefixes",
    ] {
        assert!(
            example.contains(&format!("{setting} = ")),
            "{setting} is not in the example"
        );
    }
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

/// The role that the page on engines shows is one that a broker takes from the command line.
#[tokio::test]
async fn what_the_page_on_engines_shows_is_what_a_broker_takes() {
    use sundew_tests::world::World;
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.folder().join("operator");
    let roots = std::slice::from_ref(&world.ca.certificate);
    world.ca.svid("/operator").write(&operator, roots);
    let page = text("engines.md");
    let mut seen = 0;
    for block in page.split("```toml\n").skip(1) {
        seen += 1;
        let roles = block.split("```").next().expect("block");
        let file = world.folder().join("engine.toml");
        let engine = format!(
            "name = \"db/{seen}\"\n[target]\nkind = \"postgres\"\nhost = \"127.0.0.1\"\n\
             port = 1\ndatabase = \"app\"\nusername = \"admin\"\n{roles}"
        );
        std::fs::write(&file, engine).expect("engine");
        let output = std::process::Command::new(sundew_tests::sundew())
            .args(["secret", "engine", "put", "--unchecked", "-f"])
            .arg(&file)
            .env("SUNDEW_BROKER", broker.address())
            .env("SUNDEW_SVID_DIR", &operator)
            .output()
            .expect("run");
        assert!(
            output.status.success(),
            "{roles}{}",
            kubernetes::printed(&output)
        );
    }
    assert!(seen > 0);
}
