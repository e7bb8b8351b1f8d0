//! The image and Compose's project, by the parsers of BuildKit and of Docker Compose; and the
//! project's services in the order and with the users, roots and volumes that these files give them
//! (D3). No engine of containers runs here: `tests/deployed` builds the image, by `./tests/run --long`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sundew_tests::pod::{Pod, USER, owned_volume};

use super::cluster::in_own_network;
use super::deploy;
use super::kubernetes::{printed, tool};

/// What our reader of these files prints.
fn read(what: &str, path: &Path) -> Value {
    let output = Command::new(tool("bin/container"))
        .arg(what)
        .arg(path)
        .output()
        .expect("container");
    assert!(output.status.success(), "{}", printed(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The instructions of this name in a stage of the Dockerfile.
fn instructions(stage: &Value, name: &str) -> Vec<Value> {
    let all = stage["instructions"].as_array().expect("instructions");
    let found = all.iter().filter(|instruction| instruction["name"] == name);
    found.map(|instruction| instruction["is"].clone()).collect()
}

#[test]
fn d3_the_image_has_a_user_of_its_own_who_owns_the_volume_and_a_health_check() {
    let stages = read("dockerfile", &deploy("container/Dockerfile"));
    let stages = stages.as_array().expect("stages");
    let image = stages.last().expect("image");
    let user = format!("{USER}:{USER}");
    assert_eq!(instructions(image, "USER")[0]["User"], user.as_str());
    assert_eq!(
        instructions(image, "VOLUME")[0]["Volumes"][0],
        "/var/lib/sundew"
    );
    let copied = instructions(image, "COPY");
    let state = copied
        .iter()
        .find(|copy| copy["DestPath"] == "/var/lib/sundew");
    assert_eq!(state.expect("the volume's folder")["Chown"], user.as_str());
    for copy in &copied {
        assert_eq!(
            copy["From"], "build",
            "the image has what was built, and nothing else"
        );
    }
    let check = &instructions(image, "HEALTHCHECK")[0]["Health"]["Test"];
    assert_eq!(
        check,
        &serde_json::json!(["CMD", "/usr/bin/sundew", "health"])
    );
    // The toolchain is the one that the repository names.
    let pinned = std::fs::read_to_string(deploy("../rust-toolchain.toml")).expect("toolchain");
    let from = stages[0]["from"].as_str().expect("image");
    let version = from.split(&[':', '-'][..]).nth(1).expect("version");
    assert!(
        pinned.contains(&format!("\"{version}\"")),
        "{from}: {pinned}"
    );
}

/// What the build is given has everything that Cargo reads, and neither builds nor secrets.
#[test]
fn d3_the_build_is_given_the_sources_and_nothing_else() {
    let files = read("context", &deploy(".."));
    let files = files.as_object().expect("files");
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--"])
        .args([
            "Cargo.*",
            "rust-toolchain.toml",
            "agent-sdk",
            "attestation",
            "broker",
            "proto",
        ])
        .args([
            "tests/src",
            "tests/Cargo.toml",
            "tests/rebuilt",
            "deploy/package/binary",
        ])
        .current_dir(deploy(".."))
        .output()
        .expect("git");
    let listed = String::from_utf8(listed.stdout).expect("paths");
    assert!(listed.lines().count() > 300);
    for path in listed
        .lines()
        .filter(|path| deploy("..").join(path).exists())
    {
        assert!(files.contains_key(path), "{path} is missing");
    }
    for path in files.keys() {
        let parts: Vec<&str> = path.split('/').collect();
        assert!(
            !parts.contains(&"target") && !parts.contains(&".git"),
            "{path}"
        );
    }
    let bytes: u64 = files.values().filter_map(Value::as_u64).sum();
    assert!(bytes < 20 << 20, "{bytes} bytes");
}

/// A container of a service, as the image and the project have it. `volumes` is where volumes are.
fn start(service: &Value, volumes: &Path) -> Child {
    let mut container = Pod::within(tempfile::tempdir_in(volumes).expect("folder").keep(), USER);
    assert_eq!(service["read_only"], true);
    for volume in service["volumes"].as_array().expect("volumes") {
        let target = volume["target"].as_str().expect("target");
        let source = volume["source"].as_str().expect("source");
        match volume["type"].as_str() {
            Some("bind") => {
                assert_eq!(volume["read_only"], true);
                container.mount("ro", Path::new(source), target);
            }
            _ => {
                let path = volumes.join(source);
                if !path.exists() {
                    owned_volume(&path, USER);
                }
                container.mount("rw", &path, target);
            }
        }
    }
    let image = read("dockerfile", &deploy("container/Dockerfile"));
    let image = image
        .as_array()
        .and_then(|stages| stages.last())
        .expect("image")
        .clone();
    let own = &instructions(&image, "CMD")[0]["CmdLine"];
    let words = if service["command"].is_null() {
        own
    } else {
        &service["command"]
    };
    let words = words.as_array().expect("words").iter();
    container
        .command()
        .arg("/sundew")
        .args(words.map(|word| word.as_str().expect("word")))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("container")
}

/// The image's health check, from within the network of the service.
fn is_healthy() -> bool {
    let mut check = Command::new(sundew_tests::sundew());
    check.args(["health", "--within", "2s"]).env_clear();
    check.output().expect("health").status.success()
}

/// `docker compose up` in a folder where nothing is, and once more after `down`.
#[test]
fn d3_compose_comes_up_with_nothing_there_before_and_again_on_what_it_left() {
    let project = read("compose", &deploy("container/compose.yaml"));
    let services = project["services"].clone();
    let waits = &services["sundew"]["depends_on"]["key"]["condition"];
    assert_eq!(waits, "service_completed_successfully");
    in_own_network(move || {
        let volumes = tempfile::tempdir().expect("folder");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(volumes.path(), mode).expect("mode");
        let mut keys = Vec::new();
        for _ in 0..2 {
            let key = start(&services["key"], volumes.path()).wait().expect("key");
            assert!(key.success());
            let path = volumes.path().join("sundew/root.key");
            keys.push(std::fs::read(path).expect("root key"));
            let mut broker = start(&services["sundew"], volumes.path());
            let deadline = Instant::now() + Duration::from_secs(60);
            while !is_healthy() {
                let ended = broker.try_wait().expect("status");
                assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
            sundew_tests::process::signal(broker.id(), rustix::process::Signal::TERM);
            assert!(broker.wait().expect("end").success());
            assert!(!is_healthy(), "nobody answers");
        }
        assert_eq!(keys[0], keys[1], "a root key is never made anew");
    });
}
