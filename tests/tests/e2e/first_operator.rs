//! The first operator of brokers with an embedded CA, and one for an emergency (I10).

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use rcgen::{KeyPair, PublicKeyData as _};
use sundew_tests::broker::Broker;
use sundew_tests::disk::Disk;
use sundew_tests::document::Document;
use sundew_tests::pki::{pem, write_private};
use sundew_tests::world::World;

/// A user of the machine who is not the one that runs the brokers.
const STRANGER: u32 = 64_999;

#[test]
fn i10_the_walk_to_the_first_operator_and_through_an_emergency_is_as_documented() {
    match Document::read("deploy/first-operator.md").run("") {
        Ok(ran) => assert!(ran >= 10, "{ran} blocks"),
        Err(why) => panic!("{why}"),
    }
}

/// A broker with an embedded CA and an operator of its trust domain.
fn broker(world: &World) -> Broker {
    let (broker, _) = world.prepare_with_own_ca("");
    let text = std::fs::read_to_string(broker.config_file()).expect("config");
    // Each broker has a socket of its own.
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("workload_api"))
        .map(|line| format!("{line}\n"))
        .collect();
    let operator =
        "[[operators]]\nspiffe_id = \"spiffe://own.example/boss\"\nroles = [\"registrar\"]\n";
    std::fs::write(broker.config_file(), format!("{text}\n{operator}")).expect("config");
    broker
}

/// Asks a broker for the first operator, as the user that runs the tests or as another.
fn bootstrap(world: &World, at: &Broker, name: &str, uid: Option<u32>) -> Output {
    let mut command = Command::new(sundew_tests::sundew());
    command
        .args(["operator", "bootstrap", "--config"])
        .arg(at.config_file())
        .arg("--out")
        .arg(world.folder().join(name));
    if let Some(uid) = uid {
        command.uid(uid);
    }
    command.output().expect("sundew")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command with the SVID of the first operator.
fn as_boss(world: &World, at: &Broker, arguments: &[&str]) -> Output {
    let mut command = Command::new(sundew_tests::sundew());
    command
        .args(arguments)
        .env("SUNDEW_BROKER", at.address())
        .env("SUNDEW_SVID_DIR", world.folder().join("boss"));
    command.output().expect("sundew")
}

/// I10: once for all brokers of a store, and also when they have started anew and somebody has taken
/// the record out of the store.
#[tokio::test]
async fn i10_a_second_first_operator_is_refused_everywhere_and_after_a_restart() {
    let world = World::redis();
    let (mut one, mut two) = (broker(&world), broker(&world));
    for broker in [&mut one, &mut two] {
        broker.up();
        broker.ready().await;
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(world.folder(), open).expect("mode");
    assert!(
        !bootstrap(&world, &one, "stranger", Some(STRANGER))
            .status
            .success()
    );

    let given = bootstrap(&world, &one, "boss", None);
    assert!(given.status.success(), "{}", said(&given));
    for at in [&one, &two] {
        let list = as_boss(&world, at, &["workload", "list"]);
        assert!(list.status.success(), "{}", said(&list));
        // A registrar and no responder.
        assert!(!as_boss(&world, at, &["task", "list"]).status.success());
    }
    let refused = |at: &Broker| {
        let output = bootstrap(&world, at, "second", None);
        assert!(!output.status.success());
        assert!(
            said(&output).contains("was given before"),
            "{}",
            said(&output)
        );
    };
    refused(&one);
    refused(&two);
    let events = |of: &Broker| -> Vec<_> {
        let records = of.journal();
        records.into_iter().map(|record| record.event).collect()
    };
    assert!(events(&one).contains(&"operator_bootstrapped".to_owned()));
    assert!(!events(&two).contains(&"operator_bootstrapped".to_owned()));
    let (_, metrics) = one.http("/metrics").await.expect("metrics");
    assert!(
        metrics.contains("sundew_owner_svids_total{way=\"bootstrap\"} 1"),
        "{metrics}"
    );
    assert!(one.output().contains("ALARM"), "a line of the log");

    let mut redis = world.redis.as_ref().expect("redis").connection();
    let mut delete = redis::cmd("HDEL");
    delete.arg("sundew:documents:meta").arg("first-operator");
    let deleted: i64 = delete.query(&mut redis).expect("deleted");
    assert_eq!(deleted, 1);
    refused(&one);
    for broker in [&mut one, &mut two] {
        broker.restart().await;
    }
    refused(&one);
    refused(&two);
}

/// A broker with its journal on this disk, and the names of the keys of two persons.
pub(crate) fn broker_with_persons_on(world: &World, disk: &Disk) -> (Broker, [&'static str; 2]) {
    let mut broker = broker_with_persons(world);
    broker.journal_on(disk, "128KiB");
    (broker, ["ann", "bob"])
}

/// Goes through an emergency, with the keys of these persons.
pub(crate) fn emergency(world: &World, broker: &Broker, persons: &[&str]) {
    let config = broker.config_file().display().to_string();
    let run = |arguments: &[&str]| {
        let output = break_glass(world, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    };
    let place = ["--config", &config, "--out", "out"];
    run(&[&["ask", "--reason", "r"], &place[..]].concat());
    for key in persons {
        run(&["sign", "--key", key]);
    }
    run(&[&["redeem"], &place[..]].concat());
}

/// A broker of which two persons may give an SVID in an emergency, whose keys are in the folder.
fn broker_with_persons(world: &World) -> Broker {
    let broker = broker(world);
    let mut text = std::fs::read_to_string(broker.config_file()).expect("config");
    text.push_str("[break_glass]\nspiffe_id = \"spiffe://own.example/boss\"\npersons = [\n");
    for name in ["ann", "bob"] {
        let key = KeyPair::generate().expect("key");
        write_private(&world.folder().join(name), &key.serialize_pem());
        let public = pem("PUBLIC KEY", &key.subject_public_key_info());
        text.push_str(&format!(
            "{{ name = \"{name}\", key = \"\"\"{public}\"\"\" }},\n"
        ));
    }
    std::fs::write(broker.config_file(), text + "]\n").expect("config");
    broker
}

/// Runs a command of an emergency in the folder of the world.
fn break_glass(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(sundew_tests::sundew());
    command
        .args(["operator", "break-glass"])
        .args(arguments)
        .current_dir(world.folder());
    command.output().expect("sundew")
}

/// I10: what is refused leaves no key behind; one person counts once; and a statement is not spent on
/// a key that is not here.
#[tokio::test]
async fn i10_a_statement_is_spent_for_the_key_that_asked_and_a_person_counts_once() {
    let world = World::embedded();
    let mut broker = broker_with_persons(&world);
    broker.up();
    broker.ready().await;
    let config = broker.config_file().display().to_string();
    let at = |out: &'static str| ["--config", config.as_str(), "--out", out];
    let run = |first: &[&str], more: &[&str]| break_glass(&world, &[first, more].concat());
    let refused = run(&["ask", "--reason", ""], &at("none"));
    assert!(!refused.status.success());
    assert!(!world.folder().join("none/key.waiting.pem").exists());

    let asked = run(&["ask", "--reason", "r"], &at("out"));
    assert!(asked.status.success(), "{}", said(&asked));
    for (key, keys) in [("ann", "1 key"), ("ann", "1 key"), ("bob", "2 keys")] {
        let signed = break_glass(&world, &["sign", "--key", key]);
        assert!(signed.status.success(), "{}", said(&signed));
        let told = String::from_utf8_lossy(&signed.stdout);
        assert!(told.contains(&format!("with {keys} in all")), "{told}");
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(world.folder().join("bob"), open).expect("mode");
    let of_everybody = break_glass(&world, &["sign", "--key", "bob"]);
    assert!(
        said(&of_everybody).contains("others may read it"),
        "{}",
        said(&of_everybody)
    );

    // Another key waits elsewhere.
    let second = run(&["ask", "--reason", "r", "other.json"], &at("other"));
    assert!(second.status.success(), "{}", said(&second));
    let elsewhere = run(&["redeem", "break-glass.json"], &at("other"));
    assert!(
        said(&elsewhere).contains("is for another key"),
        "{}",
        said(&elsewhere)
    );
    for key in ["ann", "bob"] {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(world.folder().join(key), private).expect("mode");
        let signed = break_glass(&world, &["sign", "--key", key, "other.json"]);
        assert!(signed.status.success(), "{}", said(&signed));
    }
    let wrong = run(&["redeem", "other.json"], &at("out"));
    assert!(
        said(&wrong).contains("is for another key"),
        "{}",
        said(&wrong)
    );
    let given = run(&["redeem", "other.json"], &at("other"));
    assert!(given.status.success(), "{}", said(&given));

    // Without a broker there is one line, and no key.
    broker.kill();
    let nobody = run(&["ask", "--reason", "r"], &at("nobody"));
    let text = said(&nobody);
    assert!(text.contains("no broker answers here"), "{text}");
    assert!(
        text.lines().count() == 1 && !text.contains("os error"),
        "{text}"
    );
    assert!(!world.folder().join("nobody").exists());
}
