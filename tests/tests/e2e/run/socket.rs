//! C5: the task's socket. What `sundew run` has started gets fresh tokens and secrets of the task
//! there, and nobody else does.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sundew_tests::{sundew, until};

use super::{Place, code, start};
use crate::cli::text;

/// A shell function that asks the task's socket: a path, and the question if there is one.
pub(super) const ASK: &str =
    r#"ask() { curl -s --unix-socket "$SUNDEW_TASK_SOCKET" ${2:+-d "$2"} "http://task$1"; };"#;

/// Waits until the command has written a file, and returns what it has.
async fn written(place: &Place, name: &str) -> String {
    let path = place.path(name);
    until(name, || {
        let there = path.exists();
        async move { there }
    })
    .await;
    std::fs::read_to_string(path)
        .expect("file")
        .trim()
        .to_owned()
}

/// Returns what `command > FOLDER/name` is in a script, so that the file is whole when it is there.
fn into(name: &str, command: &str) -> String {
    format!("{command} > \"$FOLDER/{name}.part\"; mv \"$FOLDER/{name}.part\" \"$FOLDER/{name}\";")
}

/// Returns what waits in a script for a file that a test makes.
fn wait_for(name: &str) -> String {
    format!("until test -e \"$FOLDER/{name}\"; do sleep 0.02; done;")
}

fn with_sundew(command: &mut Command) -> &mut Command {
    command.env("BIN", sundew())
}

/// Lets a command go on, and waits for its end.
async fn let_end(place: &Place, child: &mut Child) {
    std::fs::write(place.path("end"), "").expect("file");
    assert_eq!(code(child).await, Some(0));
}

pub(super) fn sha256_of_certificate(pem: &Path) -> [u8; 32] {
    use rustls_pki_types::pem::PemObject as _;
    let der = rustls_pki_types::CertificateDer::from_pem_file(pem).expect("certificate");
    sundew_attestation::spiffe::thumbprint(&der)
}

/// A task of many lives of tokens: when the first one has died, and when the supervisor has another
/// SVID, the child still gets tokens. It has neither SVID nor evidence.
#[tokio::test]
async fn c5_a_child_gets_fresh_tokens_after_the_first_died_and_after_the_svid_was_rotated() {
    let place = Place::with(json!({ "attendance_grace": "60s", "max_token_ttl": "2s" })).await;
    place.put("app/key", b"s3cr3t");
    let new = "\"$BIN\" token --cert-out \"$FOLDER/c\" --key-out \"$FOLDER/k\"";
    let again = "\"$BIN\" token --cert \"$FOLDER/c\" --key \"$FOLDER/k\"";
    let script = [
        "echo up;".to_owned(),
        into("one", new),
        wait_for("died"),
        into("two", again),
        wait_for("rotated"),
        into("three", again),
        into("secret", "\"$BIN\" secret get app/key"),
    ]
    .concat();
    let (mut child, _) = start(with_sundew(&mut place.script(&[], &script)));
    let server = place.world.operator(&place.broker);
    let is_active = async |token: &str, certificate: [u8; 32]| {
        server.active(token, &certificate).await.expect("answer")
    };

    let one = written(&place, "one").await;
    let shown = sha256_of_certificate(&place.path("c"));
    let mode = |name| {
        place
            .path(name)
            .metadata()
            .expect("file")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("k"), 0o600);
    let folder = place.world.folder().join("svid-agent");
    let of_svid = sha256_of_certificate(&folder.join("svid.pem"));
    // P8: bound to the child's own key, and dead with the supervisor's.
    assert!(!is_active(&one, of_svid).await);
    until("the first token has died", async || {
        !is_active(&one, shown).await
    })
    .await;
    std::fs::write(place.path("died"), "").expect("file");
    let two = written(&place, "two").await;
    assert!(is_active(&two, shown).await, "fresh");

    let certificate = std::slice::from_ref(&place.world.ca.certificate);
    place.world.ca.svid("/agent").write(&folder, certificate);
    until("the task was moved to the other SVID", async || {
        let journal = place.broker.journal();
        journal
            .iter()
            .any(|record| record.event == "binding_rotated")
    })
    .await;
    std::fs::write(place.path("rotated"), "").expect("file");
    let three = written(&place, "three").await;
    assert!(is_active(&three, shown).await, "fresh under the other SVID");
    assert_eq!(written(&place, "secret").await, "s3cr3t");
    assert_eq!(code(&mut child).await, Some(0));
    // P4: dead with the task.
    assert!(!is_active(&three, shown).await);
}

#[tokio::test]
async fn c5_the_child_has_nothing_by_which_it_could_be_its_supervisor() {
    let place = Place::new().await;
    let mut command = place.script(&[], "env");
    let kept_back = [
        ("SUNDEW_MODEL", "m"),
        ("SUNDEW_OIDC_AUDIENCE", "a"),
        ("SUNDEW_EVIDENCE_FILE_NITRO", "/nowhere"),
        ("SPIFFE_ENDPOINT_SOCKET", "unix:/nowhere"),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t"),
        ("SUNDEW_TASK_SOCKET", "/of/another/task"),
    ];
    command.envs(kept_back).env("OF_THE_USER", "u");
    let output = command.output().expect("run");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let names: Vec<_> = said
        .lines()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name))
        .filter(|name| {
            ["SUNDEW", "SPIFFE", "ACTIONS", "OF_THE"]
                .iter()
                .any(|own| name.starts_with(own))
        })
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let expected = [
        "OF_THE_USER",
        "SUNDEW_BROKER",
        "SUNDEW_TASK_ID",
        "SUNDEW_TASK_SOCKET",
        "SUNDEW_TOKEN",
    ];
    assert_eq!(names, expected, "{said}");
    assert!(!said.contains("/of/another/task"), "{said}");
}

/// Starts a task that goes on until it is let end; returns it with the path of its socket.
async fn waiting(place: &Place) -> (Child, PathBuf) {
    let script = format!(
        "echo up; {} {}",
        into("path", "echo \"$SUNDEW_TASK_SOCKET\""),
        wait_for("end")
    );
    let (child, _) = start(&mut place.script(&[], &script));
    let path = written(place, "path").await;
    (child, path.into())
}

fn asked(socket: &Path) -> Value {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--unix-socket"]).arg(socket);
    let output = curl.arg("http://task/v1/task").output().expect("curl");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

#[tokio::test]
async fn c5_the_socket_answers_no_process_of_the_same_user_that_is_not_of_the_task() {
    let place = Place::new().await;
    let (mut child, socket) = waiting(&place).await;
    let folder = socket.parent().expect("folder");
    let mode = folder.metadata().expect("folder").permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    // A stranger.
    assert_eq!(asked(&socket)["error"]["code"], "not_of_task");
    // A process of another task, which has its own.
    let other = format!(
        "{ASK} ask /v1/task; echo; SUNDEW_TASK_SOCKET={} ask /v1/task",
        socket.display()
    );
    let output = place.script(&[], &other).output().expect("run");
    let answers: Vec<Value> = text(&output)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let [own, others] = answers.as_slice() else {
        panic!("{}", text(&output));
    };
    assert_eq!(own["state"], "active");
    assert_eq!(others["error"]["code"], "not_of_task");
    let_end(&place, &mut child).await;
    assert!(!folder.exists(), "gone with the task");
    let tokens = place.broker.journal();
    assert!(tokens.iter().all(|record| record.event != "token_minted"));
}

/// Connects in the task, asks, and hands the connection over to whoever connects to `FOLDER/pass`:
/// first a whole one, then one on which half of a question is under way.
const HAND_OVER: &str = r#"
import os, socket
folder = os.environ["FOLDER"]
def connected():
    made = socket.socket(socket.AF_UNIX)
    made.connect(os.environ["SUNDEW_TASK_SOCKET"])
    return made
whole, half, used = connected(), connected(), connected()
half.sendall(b"GET /v1/task HTTP/1.1\r\nHost: task\r\n")
used.sendall(b"GET /v1/task HTTP/1.1\r\nHost: task\r\n\r\n")
assert b" 200 OK" in used.recv(65536)
door = socket.socket(socket.AF_UNIX)
door.bind(folder + "/pass")
door.listen()
print("up", flush=True)
outside, _ = door.accept()
socket.send_fds(outside, [b"x"], [whole.fileno(), half.fileno(), used.fileno()])
outside.recv(1)
own = connected()
own.sendall(b"GET /v1/task HTTP/1.1\r\nHost: task\r\n\r\n")
assert b" 200 OK" in own.recv(65536)
"#;

/// Takes the connections over, and asks on them.
const TAKE_OVER: &str = r#"
import socket, sys
door = socket.socket(socket.AF_UNIX)
door.connect(sys.argv[1])
_, given, _, _ = socket.recv_fds(door, 1, 3)
for number, question in zip(given, [b"GET /v1/task HTTP/1.1\r\nHost: task\r\n\r\n", b"\r\n",
                                    b"GET /v1/task HTTP/1.1\r\nHost: task\r\n\r\n"]):
    taken = socket.socket(fileno=number)
    taken.sendall(question)
    print(taken.recv(65536).decode().splitlines()[0])
door.send(b"x")
"#;

#[tokio::test]
async fn c5_a_connection_that_was_handed_to_an_outsider_says_nothing_for_him() {
    let place = Place::new().await;
    let mut command = place.run(&[], &["python3", "-c", HAND_OVER]);
    let (mut child, _) = start(&mut command);
    let mut outsider = Command::new("python3");
    outsider.args(["-c", TAKE_OVER]).arg(place.path("pass"));
    let output = outsider.output().expect("python");
    assert_eq!(text(&output), "HTTP/1.1 403 Forbidden\n".repeat(3));
    assert_eq!(
        code(&mut child).await,
        Some(0),
        "who is of the task is answered still"
    );
}

/// A process that came after a connection was made has to make its own: by its id alone nobody can tell
/// it from one that has ended, and that has sent something.
const FORKED: &str = r#"
import os, socket
question = b"GET /v1/task HTTP/1.1\r\nHost: task\r\n\r\n"
def asked(made):
    made.sendall(question)
    return made.recv(65536).split(b"\r\n")[0].decode()
def connected():
    made = socket.socket(socket.AF_UNIX)
    made.connect(os.environ["SUNDEW_TASK_SOCKET"])
    return made
inherited = connected()
print(asked(inherited), flush=True)
# Times of processes are in hundredths of a second.
import time; time.sleep(0.1)
if os.fork() == 0:
    print(asked(inherited), asked(connected()), flush=True)
else:
    os.wait()
"#;

#[tokio::test]
async fn c5_a_process_that_came_later_makes_its_own_connection() {
    let place = Place::new().await;
    let output = place
        .run(&[], &["python3", "-c", FORKED])
        .output()
        .expect("run");
    assert_eq!(
        text(&output),
        "HTTP/1.1 200 OK\nHTTP/1.1 403 Forbidden HTTP/1.1 200 OK\n"
    );
}

/// After its end the task's socket says that it ended, for as long as the command may take, and is
/// gone then.
#[tokio::test]
async fn c5_after_the_end_the_socket_says_so_and_is_gone() {
    let place = Place::new().await;
    let asks = [
        ASK,
        "trap '",
        &into("state", "ask /v1/task"),
        &into(
            "secret",
            "ask /v1/secret \"{\\\"name\\\":\\\"app/key\\\"}\"",
        ),
        "exit 0' TERM;",
        &into("path", "echo \"$SUNDEW_TASK_SOCKET\""),
        "echo up; while :; do sleep 0.02; done",
    ]
    .concat();
    let mut run = crate::cli::command_as(&place.world, &place.broker, "/agent");
    run.args([
        "run",
        "--task",
        "t",
        "--scope",
        "secret:app/*",
        "--kill-after",
        "30s",
        "--",
    ])
    .args(["sh", "-c", &asks])
    .env("FOLDER", place.folder.path())
    .stdin(Stdio::null());
    let (mut child, _) = start(&mut run);
    let socket = PathBuf::from(written(&place, "path").await);
    place.revoke();
    let answer = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    let state = answer(written(&place, "state").await);
    assert_eq!(
        (&state["state"], &state["outcome"]),
        (&json!("ended"), &json!("revoked"))
    );
    let secret = answer(written(&place, "secret").await);
    assert_eq!(secret["error"]["code"], "task_ended");
    assert_eq!(secret["error"]["outcome"], "revoked");
    assert_eq!(code(&mut child).await, Some(143));
    assert!(!socket.exists() && !socket.parent().expect("folder").exists());
}

/// Without a task, what to do is said.
#[tokio::test]
async fn c5_outside_of_a_task_the_commands_say_what_to_do() {
    for arguments in [&["token", "--bearer"][..], &["secret", "get", "app/key"]] {
        let output = Command::new(sundew())
            .args(arguments)
            .output()
            .expect("run");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("SUNDEW_TASK_SOCKET") && said.contains("sundew run"),
            "{said}"
        );
    }
    let mut gone = Command::new(sundew());
    gone.env("SUNDEW_TASK_SOCKET", "/nowhere/task.sock");
    let output = gone.args(["secret", "get", "a"]).output().expect("run");
    assert!(
        text(&output).contains("the task has ended"),
        "{}",
        text(&output)
    );
}

/// P8: a bearer token needs the registration's leave, and a certificate its key.
#[tokio::test]
async fn c5_a_bearer_token_needs_leave_and_a_certificate_its_key() {
    let place = Place::new().await;
    let script = "\"$BIN\" token --bearer; echo \"code $?\"; \"$BIN\" token; echo \"code $?\"";
    let output = with_sundew(&mut place.script(&[], script))
        .output()
        .expect("run");
    let said = text(&output);
    assert!(said.contains("code 1\ncode 1\n"), "{said}");
    assert!(
        said.contains("not permitted") && said.contains("--cert-out"),
        "{said}"
    );
    assert!(!said.contains("sdw_"), "{said}");

    let both = json!({ "attendance_grace": "60s", "bindings": ["certificate", "bearer"] });
    place.world.register(&place.broker, "/agent", both).await;
    let script = "\"$BIN\" --json token --bearer --ttl 5s --scope exec:git";
    let output = with_sundew(&mut place.script(&[], script))
        .output()
        .expect("run");
    let view: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&view["kind"], &view["bearer"]),
        (&json!("token_handed_out"), &json!(true))
    );
    assert_eq!(view["scopes"], json!(["exec:git"]));
}

/// Memory and environment of supervisor and front are not for the command of the same user. What it is
/// given is there all the same.
#[tokio::test]
async fn c5_the_command_cannot_look_into_its_supervisor() {
    let place = Place::new().await;
    let nobody = 65534;
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(nobody), Some(nobody));
    place.put("app/key", b"s3cr3t");
    let look = "set -e; cat /proc/$$/environ >/dev/null; read -r _ _ _ front _ < /proc/$PPID/stat
        for process in $PPID $front; do
            for what in environ mem fd/0; do ! cat /proc/$process/$what 2>&1; done
        done
        cat \"$FILE\" /proc/self/fd/\"$OPEN\"; \"$BIN\" secret get app/key";
    let given = [
        "--secret-file",
        "FILE=app/key",
        "--secret-fd",
        "OPEN=app/key",
    ];
    let mut run = place.run(&given, &["sh", "-c", look]);
    with_sundew(&mut run);
    let from = place.world.folder().join("svid-agent");
    let to = place.path("svid");
    std::fs::create_dir(&to).expect("folder");
    for name in ["svid.pem", "key.pem", "bundle.pem"] {
        std::fs::copy(from.join(name), to.join(name)).expect("copy");
        own(&to.join(name)).expect("owner");
    }
    let token = place.path("token");
    std::fs::copy(place.world.folder().join("token"), &token).expect("copy");
    for path in [place.folder.path(), &to, &token] {
        own(path).expect("owner");
    }
    run.env("SUNDEW_SVID_DIR", &to)
        .env("SUNDEW_OIDC_TOKEN_FILE", &token);
    let mut dropped = Command::new("setpriv");
    dropped
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(run.get_program())
        .args(run.get_args())
        .stdin(Stdio::null());
    for (name, value) in run.get_envs() {
        dropped.env(name, value.expect("value"));
    }
    let output = dropped.output().expect("run");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("Permission denied").count(), 6, "{said}");
    assert!(said.contains("s3cr3ts3cr3ts3cr3t"), "{said}");
}
