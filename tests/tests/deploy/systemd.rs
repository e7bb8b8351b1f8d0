//! The units, by systemd's own programs, byte for byte; and the protocol between the broker and its
//! service manager, over a real socket (D4).

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use sundew_tests::world::World;

use super::{deploy, text};

/// The units, and the exposure that systemd counts for each at most, of 10. The node reads the
/// processes of every user as root.
const UNITS: [(&str, f64); 2] = [("sundew.service", 2.0), ("sundew-node.service", 3.5)];

fn systemd_analyze(arguments: &[&str]) -> Output {
    Command::new("systemd-analyze")
        .args(arguments)
        .output()
        .expect("systemd is not installed: run ./tests/run")
}

fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A root with the shipped units, and with programs where they name them.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("folder");
    let units = root.path().join("etc/systemd/system");
    std::fs::create_dir_all(&units).expect("units");
    std::fs::create_dir_all(root.path().join("usr/bin")).expect("bin");
    for (unit, _) in UNITS {
        std::fs::copy(deploy(&format!("systemd/{unit}")), units.join(unit)).expect("unit");
    }
    for program in ["sundew", "kill"] {
        std::fs::copy(
            Path::new("/bin/true"),
            root.path().join("usr/bin").join(program),
        )
        .expect("program");
    }
    root
}

/// Whatever systemd does not know in a unit, such as `Type=notify-reload` in 252, it says and
/// ignores.
#[test]
fn d4_systemd_honours_every_line_of_the_units() {
    let root = root();
    for (unit, _) in UNITS {
        let output = systemd_analyze(&[
            "verify",
            "--man=no",
            "--recursive-errors=no",
            &format!("--root={}", root.path().display()),
            unit,
        ]);
        let printed = printed(&output);
        assert!(
            output.status.success() && !printed.contains(unit),
            "{unit}: {printed}"
        );
    }
}

/// The test above can fail: what 252 does not know is told.
#[test]
fn d4_systemd_tells_what_it_does_not_honour() {
    let root = root();
    let unit = root.path().join("etc/systemd/system/sundew.service");
    let changed = text("systemd/sundew.service").replace("Type=notify\n", "Type=notify-never\n");
    std::fs::write(&unit, changed).expect("unit");
    let output = systemd_analyze(&[
        "verify",
        "--man=no",
        "--recursive-errors=no",
        &format!("--root={}", root.path().display()),
        "sundew.service",
    ]);
    assert!(printed(&output).contains("notify-never"), "{output:?}");
}

#[test]
fn d4_the_units_are_not_exposed() {
    for (unit, limit) in UNITS {
        let path = deploy(&format!("systemd/{unit}")).display().to_string();
        let threshold = format!("--threshold={}", limit * 10.0);
        let output = systemd_analyze(&["security", "--offline=yes", &threshold, &path]);
        let printed = printed(&output);
        let last = printed.lines().rfind(|line| !line.is_empty());
        assert!(output.status.success(), "{unit}: {last:?}");
        assert!(printed.contains("Overall exposure level"), "{printed}");
    }
}

/// The commands that the units name are there, with their options.
#[test]
fn units_name_commands_that_there_are() {
    let mut seen = 0;
    for (unit, _) in UNITS {
        for line in text(&format!("systemd/{unit}")).lines() {
            let Some(command) = line
                .strip_prefix("ExecStart=/usr/bin/sundew ")
                .or(line.strip_prefix("ExecStartPre=/usr/bin/sundew "))
            else {
                continue;
            };
            seen += 1;
            let words: Vec<&str> = command.split_whitespace().collect();
            let options = words.iter().position(|word| word.starts_with("--"));
            let end = options.unwrap_or(words.len());
            let help = Command::new(sundew_tests::sundew())
                .args(&words[..end])
                .arg("--help")
                .output()
                .expect("run");
            let help_text = printed(&help);
            for option in words[end..].iter().filter(|word| word.starts_with("--")) {
                assert!(
                    help.status.success() && help_text.contains(option),
                    "{line}"
                );
            }
        }
    }
    assert_eq!(seen, 3);
}

/// A service manager that listens for at most ten seconds.
struct Manager(UnixDatagram);

impl Manager {
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("socket");
        let timeout = Some(Duration::from_secs(10));
        socket.set_read_timeout(timeout).expect("timeout");
        Self(socket)
    }

    fn hear_anything(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.0.recv(&mut buffer).expect("told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// What is told beside the signs of life.
    fn hear(&self) -> String {
        loop {
            let told = self.hear_anything();
            if told != "WATCHDOG=1" {
                return told;
            }
        }
    }
}

/// Microseconds of the kernel's monotonic clock.
fn monotonic_usec() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// systemd hears when the broker is ready, reloads and stops, and that it lives. A reload without
/// its time is one that systemd 253 and later does not take for an answer.
#[tokio::test]
async fn d4_systemd_is_told_of_the_start_each_reload_the_end_and_signs_of_life() {
    let world = World::embedded();
    let path = world.folder().join("notify");
    let manager = Manager::bind(&path);
    let mut broker = world.prepare("");
    let mut command = Command::new(sundew_tests::sundew());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000");
    broker.up_as(command);
    assert_eq!(manager.hear(), "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.hear_anything(), "WATCHDOG=1");
    }
    for _ in 0..2 {
        let before = monotonic_usec();
        broker.signal(Signal::HUP);
        let told = manager.hear();
        let time = told
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap_or_else(|| panic!("{told}"));
        let time: i64 = time.trim_end().parse().expect("microseconds");
        assert!((before..=monotonic_usec()).contains(&time), "{told}");
        assert_eq!(manager.hear(), "READY=1");
    }
    broker.signal(Signal::TERM);
    assert_eq!(manager.hear(), "STOPPING=1");
    assert!(broker.wait().success());
}

/// A broker that hangs gives no sign of life, so that systemd ends it.
#[tokio::test]
async fn d4_a_broker_that_hangs_gives_no_sign_of_life() {
    let world = World::embedded();
    let path = world.folder().join("notify");
    let manager = Manager::bind(&path);
    let mut broker = world.prepare("");
    let mut command = Command::new(sundew_tests::sundew());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000");
    broker.up_as(command);
    assert_eq!(manager.hear(), "READY=1");
    broker.signal(Signal::STOP);
    let quiet = Some(Duration::from_secs(2));
    manager.0.set_read_timeout(quiet).expect("timeout");
    let mut buffer = [0; 256];
    let mut heard = 0;
    while manager.0.recv(&mut buffer).is_ok() {
        heard += 1;
        assert!(heard < 100, "signs of life of a process that is stopped");
    }
    broker.signal(Signal::CONT);
    manager
        .0
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("timeout");
    assert_eq!(manager.hear_anything(), "WATCHDOG=1");
}

/// The watchdog of another process is not answered.
#[tokio::test]
async fn d4_a_watchdog_of_another_process_is_not_answered() {
    let world = World::embedded();
    let path = world.folder().join("notify");
    let manager = Manager::bind(&path);
    let mut broker = world.prepare("");
    let mut command = Command::new(sundew_tests::sundew());
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "50000")
        .env("WATCHDOG_PID", "1");
    broker.up_as(command);
    broker.ready().await;
    broker.signal(Signal::TERM);
    assert!(broker.wait().success());
    assert_eq!(manager.hear_anything(), "READY=1");
    assert_eq!(manager.hear_anything(), "STOPPING=1");
}
