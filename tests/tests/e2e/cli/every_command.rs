//! C6: no command panics, whatever its output is: closed, full, no terminal, narrow or wide.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::json;
use sundew_tests::broker::Broker;
use sundew_tests::sundew;
use sundew_tests::world::World;

use super::command_as;

/// How each command is called here, with FILE, FOLDER, CONFIG and JOURNAL for what there is. Those that
/// go on until somebody ends them are ended after a moment.
const CALLS: &[(&str, &str)] = &[
    ("attest activate", "--tpm /nowhere"),
    ("attest collect", "oidc --out -"),
    ("attest explain", ""),
    ("attest kinds", ""),
    ("attest verify", "oidc --file FILE --requirement FILE"),
    ("backup", "--config CONFIG FOLDER/backup"),
    ("bounds set", "--freshness 1s"),
    ("bounds show", ""),
    ("ca drop-old", "--now"),
    ("ca rotate", ""),
    ("ca status", ""),
    ("completion", "bash"),
    ("config check", "--config CONFIG"),
    (
        "contain",
        "--task task-00000000000000000000000000000000 --reason r",
    ),
    ("demo", "-- true"),
    (
        "dev",
        "--state FOLDER/dev --listen 127.0.0.1:0 --operations 127.0.0.1:0",
    ),
    ("doctor", ""),
    ("health", "--operations 127.0.0.1:1"),
    ("journal show", "JOURNAL"),
    ("journal verify", "JOURNAL"),
    ("keyring rotate", ""),
    ("lease list", ""),
    ("lift", "rev-00000000000000000000000000000000 --reason r"),
    (
        "manifest init",
        "--code FILE FOLDER/manifest.toml --key FILE",
    ),
    ("manifest show", "FILE"),
    ("manifest sign", "FILE"),
    ("manifest verify", "FILE --key FILE"),
    ("node", "--socket FOLDER/node.sock"),
    (
        "operator bootstrap",
        "--config CONFIG --out FOLDER/operator",
    ),
    (
        "operator break-glass ask",
        "--config CONFIG --out FOLDER/operator --reason r FOLDER/statement",
    ),
    (
        "operator break-glass redeem",
        "--config CONFIG --out FOLDER/operator FILE",
    ),
    ("operator break-glass sign", "--key FILE FILE"),
    ("order cancel", "order-00000000000000000000000000000000"),
    (
        "order create",
        "--for spiffe://test.example/agent --task t --scope exec:git",
    ),
    ("order list", ""),
    ("order show", "order-00000000000000000000000000000000"),
    (
        "quarantine",
        "--task task-00000000000000000000000000000000 --reason r",
    ),
    ("restore", "--check --config CONFIG FILE"),
    ("revoke", "--everything --preview"),
    ("revoke list", ""),
    ("revoke status", "rev-00000000000000000000000000000000"),
    ("root-key new", "FOLDER/new.key"),
    ("root-key rewrite", ""),
    ("root-key status", ""),
    ("run", "--task t --scope exec:git -- true"),
    ("secret delete", "app/none"),
    ("secret engine delete", "app/none"),
    ("secret engine list", ""),
    ("secret engine put", "-f FILE"),
    ("secret get", "app/one"),
    ("secret list", ""),
    ("secret put", "app/one --file FILE"),
    ("serve", "--config FILE"),
    (
        "suspend",
        "--task task-00000000000000000000000000000000 --reason r",
    ),
    (
        "svid enroll",
        "--enrollment 127.0.0.1:1 --bundle FILE --trust-domain a --out FOLDER",
    ),
    ("svid join-token", "spiffe://test.example/agent"),
    ("svid jwt", "--audience a"),
    ("svid renew", ""),
    ("svid verify-jwt", "--audience a"),
    ("task begin", "p --scope exec:git --no-attend"),
    ("task complete", "task-00000000000000000000000000000000"),
    (
        "task delegate",
        "task-00000000000000000000000000000000 --to spiffe://a/b --scope exec:git",
    ),
    ("task list", "--state any"),
    ("task show", "task-00000000000000000000000000000000"),
    ("token", "--bearer"),
    ("token introspect", ""),
    ("token revoke", "tok-0000000000000000 --reason r"),
    ("trust add", "reference set/value"),
    ("trust list", ""),
    ("trust remove", "reference set/none --reason r"),
    ("trust status", ""),
    ("workload apply", "-f FILE --dry-run"),
    ("workload delete", "spiffe://test.example/none"),
    ("workload diff", "-f FILE"),
    ("workload export", ""),
    ("workload list", ""),
    ("workload show", "spiffe://test.example/agent"),
];

/// The commands that the program has, from its own help: those that do something by themselves.
fn commands(path: &[String], found: &mut BTreeSet<String>) {
    let output = Command::new(sundew())
        .args(path)
        .arg("--help")
        .output()
        .expect("help");
    let help = String::from_utf8(output.stdout).expect("text");
    let usage: String = help
        .lines()
        .skip_while(|line| !line.starts_with("Usage:"))
        .take(4)
        .collect();
    let below: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with("  "))
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    // `revoke` and `token` do something, and have commands.
    let acts = below.is_empty() || usage.contains("--reason") || usage.contains("--bearer");
    if acts && !path.is_empty() {
        found.insert(path.join(" "));
    }
    for name in below {
        commands(&[path, &[name]].concat(), found);
    }
}

#[test]
fn c6_every_command_of_the_program_is_tried() {
    let mut found = BTreeSet::new();
    commands(&[], &mut found);
    let tried: BTreeSet<_> = CALLS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, tried, "say how a new command is called");
}

/// Something that is not there to read or to write.
fn closed() -> OwnedFd {
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    writer.into()
}

fn full() -> OwnedFd {
    File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full")
        .into()
}

struct Place<'a> {
    world: &'a World,
    broker: &'a Broker,
    folder: &'a Path,
}

impl Place<'_> {
    fn command(&self, json: bool, name: &str, arguments: &str) -> Command {
        let file = self.folder.join("file");
        let replaced = arguments
            .replace("FILE", &file.display().to_string())
            .replace("CONFIG", &self.broker.config_file().display().to_string())
            .replace(
                "JOURNAL",
                &self.broker.folder().join("journal").display().to_string(),
            )
            .replace("FOLDER", &self.folder.display().to_string());
        let who = match name.split(' ').next() {
            Some("run" | "node") => "/agent",
            Some("task") if name == "task begin" => "/agent",
            _ => "/operator",
        };
        // Those that go on are ended; those that are done are not waited for.
        let sundew = command_as(self.world, self.broker, who);
        let token = self.folder.join("token");
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", "3"])
            .arg(sundew.get_program());
        command.envs(
            sundew
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        command.args(json.then_some("--json"));
        command
            .args(name.split(' '))
            .args(replaced.split_whitespace());
        // Others that run meanwhile write the one of `command_as`.
        command.env("SUNDEW_OIDC_TOKEN_FILE", token);
        command.stdin(Stdio::null());
        command
    }

    fn ran(&self, command: &mut Command, how: &str) -> Output {
        let output = command.output().expect("run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !said.contains("panicked") && !said.contains("RUST_BACKTRACE"),
            "{how}: {said}"
        );
        assert!(
            output.status.signal().is_none(),
            "{how}: {:?}",
            output.status
        );
        // 101 is the exit code of a panic, and 134 of an abort.
        assert!(
            !matches!(output.status.code(), Some(101 | 134)),
            "{how}: {said}"
        );
        output
    }

    /// Tries a command with every sort of output.
    fn try_all(&self, name: &str, arguments: &str) {
        for json in [false, true] {
            let how = |what: &str| format!("sundew {name} {arguments} (json: {json}), {what}");
            let call = || self.command(json, name, arguments);
            let plain = self.ran(
                call().env("COLUMNS", "40").env("NO_COLOR", "1"),
                &how("plain"),
            );
            if json && plain.status.code() == Some(1) && name != "run" {
                self.error_is_json(&plain, &how("error"));
            }
            let is_repeatable = !matches!(
                name,
                "root-key new" | "demo" | "dev" | "node" | "serve" | "run" | "task begin"
            );
            let wide = ("COLUMNS", "200");
            let shut = self.ran(call().stdout(closed()).env(wide.0, wide.1), &how("closed"));
            let filled = self.ran(call().stdout(full()).env("LANG", "C"), &how("full"));
            self.ran(
                call().stdout(closed()).stderr(closed()),
                &how("both closed"),
            );
            self.ran(call().stderr(full()), &how("full standard error"));
            if plain.status.success() && !plain.stdout.is_empty() && is_repeatable {
                assert_eq!(shut.status.code(), Some(0), "{}", how("closed"));
                let said = String::from_utf8_lossy(&filled.stderr);
                assert_eq!(filled.status.code(), Some(1), "{}: {said}", how("full"));
                assert!(said.contains("standard output"), "{}: {said}", how("full"));
            }
        }
    }

    /// An error is one line of JSON, or the result that says what is wrong is on standard output.
    fn error_is_json(&self, output: &Output, how: &str) {
        let said = String::from_utf8_lossy(&output.stderr);
        let is_error = |line: &str| {
            let error: Result<serde_json::Value, _> = serde_json::from_str(line);
            error.is_ok_and(|error| error["kind"] == "error" && error["code"].is_string())
        };
        assert!(
            !output.stdout.is_empty() || said.lines().any(is_error),
            "{how}: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_no_command_panics_whatever_its_output_is() {
    let world = World::embedded();
    let broker = world.broker().await;
    world.register(&broker, "/agent", json!({})).await;
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("file"), "no such thing\n").expect("file");
    let token = world.issuer.token("/agent");
    std::fs::write(folder.path().join("token"), token).expect("token");
    // Before several threads look whether they are there.
    for who in ["/agent", "/operator"] {
        drop(command_as(&world, &broker, who));
    }
    let calls: BTreeMap<_, _> = CALLS.iter().copied().collect();
    let calls: Vec<_> = calls.into_iter().collect();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (world, broker, folder, calls) = (&world, &broker, folder.path(), &calls);
            scope.spawn(move || {
                let place = Place {
                    world,
                    broker,
                    folder,
                };
                for (name, arguments) in calls.iter().skip(part).step_by(4) {
                    place.try_all(name, arguments);
                }
            });
        }
    });
    // Everything was asked for by commands that ended in time.
    tokio::time::timeout(Duration::from_secs(10), broker.http("/readyz"))
        .await
        .expect("ready");
}
