//! A version of Sundew before this one, beside this one: `former BINARY vector FOLDER` lets it write
//! the store and the journal of `tests/vectors/former`; `former BINARY beside` runs a broker of it
//! and one of this version on one Redis, upgrades, and rolls back.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sundew_proto::v1::Effect;
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::selectors::of_workload;
use sundew_tests::until;
use sundew_tests::world::World;

/// Settings of the test brokers that a former version does not know.
const UNKNOWN: [&str; 3] = ["refusals_whole", "reserve", BESIDE];
/// What a broker needs beside those of the former version.
const BESIDE: &str = "beside_older_brokers";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [former, "vector", folder] => vector(Path::new(former), Path::new(folder)).await,
        [former, "beside"] => beside(Path::new(former)).await,
        _ => panic!("former BINARY vector FOLDER | former BINARY beside"),
    }
}

/// Starts a broker with this binary, which may be of a former version.
async fn start(broker: &mut Broker, binary: &Path) {
    let config = std::fs::read_to_string(broker.config_file()).expect("config");
    let known = |line: &&str| !UNKNOWN.iter().any(|key| line.starts_with(key));
    let config: Vec<&str> = config.lines().filter(known).collect();
    let mut config = config.join("\n");
    if binary == sundew_tests::sundew() {
        let section = "[revocation]\n";
        config = config.replace(section, &format!("{section}{BESIDE} = true\n"));
    }
    std::fs::write(broker.config_file(), config).expect("config");
    broker.up_as(Command::new(binary));
    broker.ready().await;
}

async fn begin(world: &World, caller: &Caller, path: &str) -> Begun {
    let begun = caller.begin(&world.issuer, path, &["secret:app/key"]).await;
    begun.expect("task")
}

async fn vector(former: &Path, folder: &Path) {
    let world = World::embedded();
    let mut broker = world.prepare("");
    start(&mut broker, former).await;
    let operator = world.operator(&broker);
    for path in ["/agent", "/held", "/gone"] {
        world.register(&broker, path, json!({})).await;
    }
    operator.put_secret("app/key", "kept since then").await;
    let caller = world.caller(&broker, "/agent");
    let task = begin(&world, &caller, "/agent").await;
    caller.complete(&task.task).await.expect("completed");
    let _left_alive = begin(&world, &caller, "/agent").await;
    let held = operator.respond(of_workload("/held"), Effect::Quarantine);
    held.await.expect("quarantined");
    let lifted = operator.respond(of_workload("/agent"), Effect::Contain);
    let lifted = lifted.await.expect("contained").revocation_id;
    operator.lift(&lifted).await.expect("lifted");
    let gone = sundew_proto::v1::DeleteWorkloadRequest {
        spiffe_id: "spiffe://test.example/gone".to_owned(),
    };
    operator
        .registry()
        .delete_workload(gone)
        .await
        .expect("deleted");
    broker.signal(rustix::process::Signal::TERM);
    broker.wait();
    std::fs::create_dir_all(folder.join("journal")).expect("folder");
    let own = broker.folder();
    std::fs::copy(own.join("store.log"), folder.join("store.log")).expect("store");
    for file in std::fs::read_dir(own.join("journal")).expect("journal") {
        let file: PathBuf = file.expect("file").path();
        let name = file.file_name().expect("name");
        std::fs::copy(&file, folder.join("journal").join(name)).expect("segment");
    }
    println!("written: {}", folder.display());
}

/// Whether a token is active at both brokers, or at none of them.
async fn everywhere(servers: &[Caller; 2], begun: &Begun, caller: &Caller, active: bool) {
    for server in servers {
        until("both brokers agree", || async {
            server.active(&begun.token, &caller.thumbprint()).await.ok() == Some(active)
        })
        .await;
    }
}

async fn beside(former: &Path) {
    let world = World::redis();
    let this = sundew_tests::sundew();
    let mut brokers = [world.prepare(""), world.prepare("")];
    for broker in &mut brokers {
        start(broker, former).await;
    }
    world.register(&brokers[0], "/agent", json!({})).await;
    world
        .operator(&brokers[0])
        .put_secret("app/key", "one")
        .await;
    // Upgrade one, then the other; roll both back.
    for (step, binary) in [(0, this.as_path()), (1, &this), (0, former), (1, former)] {
        brokers[step].signal(rustix::process::Signal::TERM);
        brokers[step].wait();
        start(&mut brokers[step], binary).await;
        let servers = [world.operator(&brokers[0]), world.operator(&brokers[1])];
        for (n, other) in [(0, 1), (1, 0)] {
            let caller = world.caller(&brokers[n], "/agent");
            let begun = begin(&world, &caller, "/agent").await;
            let secret = caller.secret(&begun.task, "app/key").await;
            assert_eq!(secret.expect("secret"), "one");
            everywhere(&servers, &begun, &caller, true).await;
            let there = world.caller_with(&brokers[other], caller.svid.clone().expect("SVID"));
            there
                .complete(&begun.task)
                .await
                .expect("ended at the other");
            everywhere(&servers, &begun, &caller, false).await;
            let begun = begin(&world, &caller, "/agent").await;
            everywhere(&servers, &begun, &caller, true).await;
            let revoked = servers[n].revoke(of_workload("/agent")).await;
            revoked.expect("revoked");
            everywhere(&servers, &begun, &caller, false).await;
        }
        println!("step {step} with {} holds", binary.display());
    }
}
