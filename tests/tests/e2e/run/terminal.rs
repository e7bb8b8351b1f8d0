//! C2 in a terminal: what is typed arrives once, and jobs are stopped and go on.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use sundew_tests::terminal::Terminal;
use sundew_tests::until;

use super::{Place, code};

const COUNTER: &str = r#"
trap 'echo INT >> "$FOLDER/heard"' INT
trap 'echo QUIT >> "$FOLDER/heard"' QUIT
trap 'echo WINCH >> "$FOLDER/heard"' WINCH
trap 'exit 0' TERM
echo u""p
while :; do sleep 0.02; done
"#;

/// Returns a shell with this script that finds `sundew run` and its command in `$@`.
fn shell(run: &Command, options: &[&str]) -> Command {
    let mut shell = Command::new("bash");
    shell.args(options);
    shell.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        shell.env(name, value.expect("value"));
    }
    shell
}

#[tokio::test]
async fn c2_what_is_typed_arrives_once_also_when_standard_input_is_a_pipe() {
    let place = Place::new().await;
    let heard = || std::fs::read_to_string(place.path("heard")).unwrap_or_default();
    for script in ["exec \"$@\"", "sleep 600 | \"$@\"", "\"$@\" | cat"] {
        let _ = std::fs::remove_file(place.path("heard"));
        let before = place.outcomes().len();
        let run = place.run(&[], &["sh", "-c", COUNTER]);
        let terminal = Terminal::open();
        // Nobody but the command takes what is typed.
        let script = format!("trap : INT QUIT; {script}");
        let mut child = terminal.start(&shell(&run, &["-c", &script, "bash"]));
        terminal.shows("up", 1).await;
        let mut all = String::new();
        for (name, act) in [
            ("INT", (|t| t.press("\x03")) as fn(&Terminal)),
            ("QUIT", |t| t.press("\x1c")),
            ("WINCH", |t| t.widen(120)),
            ("INT", |t| t.press("\x03")),
        ] {
            act(&terminal);
            all += &format!("{name}\n");
            until("the signal is heard", || async {
                heard().len() >= all.len()
            })
            .await;
        }
        let pid = sundew(child.id());
        sundew_tests::process::signal(pid, rustix::process::Signal::TERM);
        until("the task has ended", || async {
            place.outcomes().len() > before
        })
        .await;
        assert_eq!(heard(), all, "{script}");
        sundew_tests::process::end(child.id());
        code(&mut child).await;
    }
}

/// Returns the process below this one, or this one, that is `sundew run` as the user has started it.
fn sundew(pid: u32) -> u32 {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).expect("process");
    let words = String::from_utf8_lossy(&words).into_owned();
    if words
        .split('\0')
        .next()
        .is_some_and(|name| name.ends_with("sundew"))
    {
        return pid;
    }
    let mut children = sundew_tests::process::children(pid).into_iter();
    children
        .find_map(|child| {
            let words = std::fs::read_to_string(format!("/proc/{child}/cmdline")).ok()?;
            words
                .split('\0')
                .next()?
                .ends_with("sundew")
                .then_some(child)
        })
        .expect("sundew")
}

/// While the user does something else, the task goes on, however short its grace is.
#[tokio::test]
async fn c2_a_stopped_job_keeps_its_task_and_goes_on_in_the_foreground() {
    let place = Place::with(json!({ "attendance_grace": "1s" })).await;
    let script = "echo u\"\"p; while read -r line; do test \"$line\" = end && exit 5; echo \"got:$line\"; done";
    let run = place.run(&[], &["sh", "-c", script]);
    let terminal = Terminal::open();
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile", "-i"]).env("PS1", "$ ");
    for (name, value) in run.get_envs() {
        bash.env(name, value.expect("value"));
    }
    let line = run
        .get_args()
        .map(|word| format!(" '{}'", word.to_str().expect("text")));
    let line: String = line.collect();
    let mut child = terminal.start(&bash);
    terminal.press(&format!("'{}'{line}\n", run.get_program().display()));
    terminal.shows("up\r\n", 1).await;
    terminal.press("first\n");
    terminal.shows("got:first", 1).await;
    for round in 1..=2 {
        terminal.press("\x1a");
        terminal.shows("Stopped", round).await;
        // The shell has the terminal.
        until("the shell asks", || async {
            terminal.screen().ends_with("$ ")
        })
        .await;
        terminal.press(&format!("echo $(({round} + 40))=\n"));
        terminal.shows(&format!("{}=\r\n", round + 40), 1).await;
        // Three graces: the broker would have ended the task.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(place.outcomes().is_empty(), "{:?}", place.outcomes());
        terminal.press("fg\n");
        terminal.press(&format!("round-{round}\n"));
        terminal.shows(&format!("got:round-{round}"), 1).await;
    }
    terminal.press("end\n");
    let begun = Instant::now();
    while place.outcomes().is_empty() || !terminal.screen().ends_with("$ ") {
        let is_late = begun.elapsed() > Duration::from_secs(10);
        assert!(!is_late, "{:?}\n{}", place.outcomes(), terminal.screen());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(place.outcomes(), ["failed"]);
    terminal.press("echo code=$?\n");
    terminal.shows("code=5", 1).await;
    terminal.press("exit\n");
    code(&mut child).await;
}
