//! C2: signals arrive once, and exit codes are those of shells.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use sundew_tests::process::signal;
use sundew_tests::until;

use super::{Place, code, start};

/// Writes the name of each signal that it gets, and ends at the first that is twice there, or when
/// told by USR2.
const LISTENER: &str = r#"
for name in HUP INT QUIT TERM USR1 WINCH ALRM; do
  trap "echo $name >> \"$FOLDER/heard\"" $name
done
trap 'exit 0' USR2
echo up
while :; do sleep 0.02; done
"#;

fn heard(place: &Place) -> Vec<String> {
    let text = std::fs::read_to_string(place.path("heard")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

const NAMED: [(Signal, &str); 7] = [
    (Signal::HUP, "HUP"),
    (Signal::INT, "INT"),
    (Signal::QUIT, "QUIT"),
    (Signal::TERM, "TERM"),
    (Signal::USR1, "USR1"),
    (Signal::WINCH, "WINCH"),
    (Signal::ALARM, "ALRM"),
];

/// Sends each signal, one after the other, and then the one that ends the listener: had one come
/// twice, it would be there by then.
async fn assert_each_is_heard_once(place: &Place, pid: Pid, send: impl Fn(Signal)) {
    for (count, (signal, _)) in NAMED.into_iter().enumerate() {
        send(signal);
        until("the signal is heard", || async {
            heard(place).len() > count
        })
        .await;
    }
    rustix::process::kill_process(pid, Signal::USR2).expect("signal");
    until("the listener has ended", || async {
        !place.outcomes().is_empty()
    })
    .await;
    let names: Vec<_> = NAMED.iter().map(|(_, name)| *name).collect();
    assert_eq!(heard(place), names);
    std::fs::remove_file(place.path("heard")).expect("file");
}

#[tokio::test]
async fn c2_a_signal_to_the_process_arrives_once_without_a_terminal() {
    let place = Place::new().await;
    let (mut child, _output) = start(&mut place.script(&[], LISTENER));
    let pid = Pid::from_child(&child);
    assert_each_is_heard_once(&place, pid, |signal| {
        rustix::process::kill_process(pid, signal).expect("signal");
    })
    .await;
    assert_eq!(code(&mut child).await, Some(0));
}

#[tokio::test]
async fn c2_a_signal_to_the_process_group_arrives_once_without_a_terminal() {
    let place = Place::new().await;
    let (mut child, _output) = start(&mut place.script(&[], LISTENER));
    let pid = Pid::from_child(&child);
    assert_each_is_heard_once(&place, pid, |signal| {
        kill_process_group(pid, signal).expect("signal");
    })
    .await;
    assert_eq!(code(&mut child).await, Some(0));
}

#[tokio::test]
async fn c2_a_signal_to_the_process_arrives_once_in_a_terminal() {
    let place = Place::new().await;
    let terminal = sundew_tests::terminal::Terminal::open();
    let mut child = terminal.start(&place.run(&[], &["sh", "-c", LISTENER]));
    terminal.shows("up", 1).await;
    let pid = Pid::from_child(&child);
    assert_each_is_heard_once(&place, pid, |signal| {
        rustix::process::kill_process(pid, signal).expect("signal");
    })
    .await;
    assert_eq!(code(&mut child).await, Some(0));
}

#[tokio::test]
async fn c2_a_signal_to_the_whole_job_arrives_once_in_a_terminal() {
    let place = Place::new().await;
    let terminal = sundew_tests::terminal::Terminal::open();
    let mut child = terminal.start(&place.run(&[], &["sh", "-c", LISTENER]));
    terminal.shows("up", 1).await;
    let pid = Pid::from_child(&child);
    assert_each_is_heard_once(&place, pid, |signal| {
        kill_process_group(pid, signal).expect("signal");
    })
    .await;
    assert_eq!(code(&mut child).await, Some(0));
}

#[tokio::test]
async fn c2_exit_codes_are_those_of_shells() {
    let place = Place::new().await;
    let file = place.path("file");
    std::fs::write(&file, "no program").expect("file");
    let set = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
    set(0o644).expect("mode");
    let file = file.display().to_string();
    for (words, expected) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&[file.as_str()], 126),
        (&["/"], 126),
        (&["/no/such/command"], 127),
        (&["no-such-command"], 127),
    ] {
        let status = place.run(&[], words).status().expect("run");
        assert_eq!(status.code(), Some(expected), "{words:?}");
    }
    let help = place.run(&["--help"], &[]).output().expect("run");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for documented in ["124", "125", "126", "127", "128+N"] {
        assert!(help.contains(documented), "{documented}: {help}");
    }
}

/// A command that takes its end for a success has not succeeded.
#[tokio::test]
async fn c5_a_command_whose_time_is_over_ends_with_124() {
    let place = Place::new().await;
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done";
    let mut run = place.script(&["--ttl", "2s"], script);
    let (mut child, _output) = start(&mut run);
    assert_eq!(code(&mut child).await, Some(124));
}

/// The time is over although nobody can say so.
#[tokio::test]
async fn c5_a_command_ends_in_time_also_when_the_broker_stands_still() {
    let place = Place::new().await;
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done";
    let mut run = place.script(&["--ttl", "2s"], script);
    let (mut child, _output) = start(&mut run);
    place.broker.signal(Signal::STOP);
    assert_eq!(code(&mut child).await, Some(124));
    place.broker.signal(Signal::CONT);
}

/// The grace is a minute, so that it is never the grace that ended a task.
#[tokio::test]
async fn c3_a_run_has_ended_its_task_when_it_ends_itself() {
    let place = Place::new().await;
    let ways: [(&[&str], &[&str], &str); 6] = [
        (&[], &["true"], "completed"),
        (&[], &["sh", "-c", "kill -KILL $$"], "failed"),
        (&[], &["/no/such/command"], "canceled"),
        (&[], &["/"], "canceled"),
        (&["--secret", "KEY=app/none"], &["true"], "canceled"),
        (&["--env-file", "/no/such/file"], &["true"], "canceled"),
    ];
    let mut expected = Vec::new();
    for (options, words, outcome) in ways {
        let run = place.run(options, words).output();
        run.expect("run");
        expected.push(outcome);
        assert_eq!(place.outcomes(), expected, "{options:?} {words:?}");
    }
}

/// A broker that stands still is waited for, not for long, and not against the user's will.
#[tokio::test]
async fn c2_after_the_commands_end_the_broker_is_waited_for_three_seconds() {
    let place = Place::new().await;
    for interrupted in [false, true] {
        let script = "echo up; read -r line < \"$FOLDER/go\"; exit 3";
        let go = place.path("go");
        let _ = std::fs::remove_file(&go);
        let made = std::process::Command::new("mkfifo").arg(&go).status();
        assert!(made.expect("mkfifo").success());
        let mut run = place.script(&[], script);
        run.stderr(std::process::Stdio::piped());
        let (mut child, _output) = start(&mut run);
        place.broker.signal(Signal::STOP);
        std::fs::write(&go, "\n").expect("go");
        let begun = Instant::now();
        if interrupted {
            // The command has ended: nothing else can take the signal.
            until("the command has ended", || async {
                sundew_tests::process::children(child.id())
                    .iter()
                    .all(|child| sundew_tests::process::children(*child).is_empty())
            })
            .await;
            signal(child.id(), Signal::INT);
        }
        assert_eq!(code(&mut child).await, Some(3));
        let took = begun.elapsed();
        let bound = if interrupted { 1900 } else { 3500 };
        assert!(
            took < Duration::from_millis(bound),
            "{interrupted} {took:?}"
        );
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("stderr");
        stderr.read_to_string(&mut said).expect("stderr");
        assert!(said.contains("ends by itself"), "{said}");
        place.broker.signal(Signal::CONT);
    }
}

/// A program that is told to end before its command runs has ended, and so has its task.
#[tokio::test]
async fn c2_a_signal_before_the_command_runs_ends_the_run() {
    let place = Place::new().await;
    place.broker.signal(Signal::STOP);
    let mut child = place.script(&[], "true").spawn().expect("run");
    until("the supervisor runs", || async {
        !sundew_tests::process::children(child.id()).is_empty()
    })
    .await;
    signal(child.id(), Signal::TERM);
    assert_eq!(code(&mut child).await, Some(143));
    place.broker.signal(Signal::CONT);
}
