//! What is believed of a local process, by selectors of registrations.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sundew_core::LocalSelector;

use super::local_process::{Facts, LocalProcess};
use super::program::path_of;
use super::workload_api::Identities as _;
use super::{OwnIdentities, tests};
use crate::testing::DOMAIN;

const DIGEST: &str = "4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f";

fn selector(value: Value) -> LocalSelector {
    serde_json::from_value(value).unwrap()
}

fn facts(cgroup: &str) -> Facts {
    Facts {
        cgroup: Some(cgroup.to_owned()),
        exe: Some("/usr/bin/agent".to_owned()),
        exe_sha256: Some(DIGEST.to_owned()),
        ..Facts::default()
    }
}

#[tokio::test]
async fn i2_an_executable_only_narrows_what_a_user_container_or_unit_pins() {
    let process = LocalProcess::own();
    let own = format!("/system.slice/docker-{DIGEST}.scope");
    let facts = facts(&own);
    let unit = format!("docker-{DIGEST}.scope");
    for pin in [
        json!({ "uid": process.uid() }),
        json!({ "container_id": DIGEST }),
        json!({ "systemd_unit": unit }),
    ] {
        assert!(process.matches(&selector(pin.clone()), &facts), "{pin}");
        for (narrowed, fits) in [
            (json!({ "exe_sha256": DIGEST }), true),
            (json!({ "exe": "/usr/bin/agent" }), true),
            (json!({ "exe": "/usr/bin/other" }), false),
            (json!({ "exe_sha256": "00" }), false),
        ] {
            // Of a registration of before: an executable alone means nobody.
            assert!(!process.matches(&selector(narrowed.clone()), &facts));
            let mut both = pin.clone();
            both.as_object_mut()
                .unwrap()
                .extend(narrowed.as_object().unwrap().clone());
            assert_eq!(
                process.matches(&selector(both.clone()), &facts),
                fits,
                "{both}"
            );
        }
    }
    let other = json!({ "uid": process.uid(), "systemd_unit": "agent.service" });
    assert!(!process.matches(&selector(other), &facts));
}

/// I3: `systemd-run --user --unit=agent`, and a group that is named like a container.
#[tokio::test]
async fn i3_the_units_and_containers_of_users_match_no_selector() {
    let process = LocalProcess::own();
    let of_user = "/user.slice/user-1000.slice/user@1000.service/app.slice";
    for own in [
        format!("{of_user}/agent.service"),
        format!("{of_user}/docker-{DIGEST}.scope"),
        format!("{of_user}/system.slice/agent.service"),
        format!("/system.slice/web.service/docker/{DIGEST}"),
    ] {
        let facts = facts(&own);
        for named in [
            json!({ "systemd_unit": "agent.service" }),
            json!({ "container_id": DIGEST }),
        ] {
            assert!(
                !process.matches(&selector(named.clone()), &facts),
                "{own}: {named}"
            );
        }
    }
}

/// I2: nodes of earlier versions match such a selector themselves.
#[tokio::test]
async fn i2_a_selector_that_pins_nothing_is_given_to_nobody() {
    let (broker, enrollment) = tests::enrolling().await;
    let local = json!([{ "exe_sha256": DIGEST }, { "uid": 7, "exe_sha256": DIGEST }]);
    broker
        .register_unchecked("/agent", json!({ "local": local }))
        .await;
    broker
        .register_unchecked("/other", json!({ "local": [{ "exe": "/usr/bin/agent" }] }))
        .await;
    let candidates = OwnIdentities(enrollment).candidates().await.unwrap();
    assert_eq!(candidates.len(), 1);
    assert_eq!(
        candidates[0].id.as_str(),
        format!("spiffe://{DOMAIN}/agent")
    );
    assert_eq!(candidates[0].local.len(), 1);
    assert_eq!(candidates[0].local[0].uid, Some(7));
}

/// A child that is ended when a test is over.
struct Sleeping(Child);

impl Drop for Sleeping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// I3: the path that the kernel shows is one where a process has found its file; for everybody else
/// another file may be there.
#[test]
fn i3_a_path_is_believed_where_we_have_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let path = folder.join("agent");
    // By a process of its own, since nobody may have a file open for writing that is executed.
    let copied = Command::new("cp").arg("/bin/sleep").arg(&path).status();
    assert!(copied.unwrap().success());
    let sleeping = Command::new(&path).arg("60").stdin(Stdio::null()).spawn();
    let child = Sleeping(sleeping.unwrap());
    assert_eq!(path_of(child.0.id()).as_deref(), path.to_str());
    // The kernel names the file that is gone by its path and a word, and that is a path too.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(path_of(child.0.id()), None);
    let shown = std::fs::read_link(format!("/proc/{}/exe", child.0.id())).unwrap();
    std::fs::copy("/bin/true", &shown).unwrap();
    assert_eq!(path_of(child.0.id()), None);
}
