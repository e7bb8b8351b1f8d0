//! `deploy/operations.md`: each command in it is run as it stands there.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::world::World;

use crate::cli::{command_as, text};

/// The commands of the guide in their order. The first block sets variables, and is left out.
fn commands(guide: &str) -> Vec<String> {
    let mut blocks = guide.split("```sh\n").skip(1);
    let variables = blocks.next().expect("variables");
    for name in ["CONFIG", "JOURNAL", "OPERATIONS", "BACKUPS"] {
        assert!(variables.contains(&format!("export {name}=")), "{name}");
    }
    let lines = blocks.map(|block| block.split("```").next().expect("a block"));
    lines
        .flat_map(str::lines)
        .map(str::to_owned)
        .filter(|line| !line.is_empty())
        .collect()
}

/// Runs a command of the guide in a shell, as an operator of this broker.
fn run(world: &World, broker: &Broker, backups: &Path, command: &str) {
    let operator = command_as(world, broker, "/operator");
    let binary = sundew_tests::sundew();
    let path = format!(
        "{}:{}",
        binary.parent().expect("folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut shell = Command::new("bash");
    shell
        .args(["-o", "pipefail", "-c", command])
        .envs(operator.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .env("PATH", path)
        .env("CONFIG", broker.config_file())
        .env("JOURNAL", broker.folder().join("journal"))
        .env("OPERATIONS", broker.operations())
        .env("BACKUPS", backups);
    let output = shell.output().expect("bash");
    assert!(output.status.success(), "{command}\n{}", text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_operators_guide_does_what_it_says() {
    let world = World::redis();
    let mut broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/operations.md");
    let guide = std::fs::read_to_string(folder).expect("the guide");
    let backups = tempfile::tempdir().expect("folder");
    let mut ran = 0;
    for command in commands(&guide) {
        // "Stop all brokers first."
        let restores = command.starts_with("sundew restore --config");
        if restores {
            broker.kill();
        }
        run(&world, &broker, backups.path(), &command);
        ran += 1;
        if restores {
            broker.up();
            broker.ready().await;
        }
    }
    assert!(ran > 12, "{ran} commands");
}
