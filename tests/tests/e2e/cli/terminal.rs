//! C6: what is typed on a terminal.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use sundew_tests::until;
use sundew_tests::world::World;

use super::command_as;

/// A terminal: the side of whoever types, and the side of the program.
fn terminal() -> (File, File) {
    let typing = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("terminal");
    grantpt(&typing).expect("terminal");
    unlockpt(&typing).expect("terminal");
    let name = ptsname(&typing, Vec::new()).expect("name");
    let name = name.into_string().expect("a path");
    let program = File::options()
        .read(true)
        .write(true)
        .open(name)
        .expect("terminal");
    (File::from(typing), program)
}

fn shows_what_is_typed(terminal: &File) -> bool {
    let modes = tcgetattr(terminal).expect("modes").local_modes;
    modes.contains(LocalModes::ECHO)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c6_a_secret_that_is_typed_is_not_shown() {
    let world = World::embedded();
    let (broker, agent) = world.broker_and_agent().await;
    let (mut typing, program) = terminal();
    assert!(shows_what_is_typed(&program));
    let mut put = command_as(&world, &broker, "/operator")
        .args(["secret", "put", "app/typed"])
        .stdin(program.try_clone().expect("terminal"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("put");
    // The prompt is no result, and ends without a new line.
    let mut prompt = [0; 9];
    let mut stderr = put.stderr.take().expect("pipe");
    stderr.read_exact(&mut prompt).expect("prompt");
    assert_eq!(&prompt, b"value of ");
    until("nothing is shown", || async {
        !shows_what_is_typed(&program)
    })
    .await;
    typing.write_all(b"very s3cret\n").expect("typed");
    let mut done = String::new();
    let mut stdout = BufReader::new(put.stdout.take().expect("pipe"));
    stdout.read_line(&mut done).expect("result");
    assert!(put.wait().expect("put").success());
    assert_eq!(done, "app/typed version 1\n");
    assert!(shows_what_is_typed(&program), "as it was before");
    // Whatever the terminal showed is what can be read at this side; a last word ends it.
    drop(put);
    (&program).write_all(b"END\n").expect("written");
    let mut shown = String::new();
    BufReader::new(typing).read_line(&mut shown).expect("shown");
    assert_eq!(shown.trim_end(), "END");
    let begun = agent
        .begin(&world.issuer, "/agent", &["secret:app/*"])
        .await;
    let secret = agent.secret(&begun.expect("task").task, "app/typed").await;
    assert_eq!(secret.expect("secret"), "very s3cret");
}
