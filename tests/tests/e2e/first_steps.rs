//! The first steps of somebody new: `sundew dev` and its first workload, and a manifest of one's own
//! script (D6, D7).

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sundew_proto::v1::AttestUserRequest;
use sundew_proto::v1::local_service_client::LocalServiceClient;
use sundew_tests::dev::Dev;
use sundew_tests::process::run;
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

/// A user of the machine who is not the one that runs the tests.
const STRANGER: u32 = 64_999;

/// Runs lines in a shell that has the environment of the broker and nothing else.
fn paste(dev: &Dev, lines: &str) -> Output {
    let mut shell = Command::new("sh");
    let folder = sundew_tests::sundew();
    let folder = folder.parent().expect("folder");
    shell
        .args(["-e", "-c"])
        .arg(format!(". {}\n{lines}", dev.field("environment")))
        .current_dir(dev.folder())
        .env_clear()
        .env("HOME", dev.folder())
        .env("PATH", format!("{}:/usr/bin:/bin", folder.display()));
    run(shell, "")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// D7: what `dev` prints is pasted in the order in which it is printed, and each line works.
#[test]
fn d7_the_commands_that_dev_prints_work_as_they_are() {
    let dev = Dev::with_first_workload();
    let commands = dev.value("commands");
    let commands: Vec<_> = commands.as_array().expect("list").iter().collect();
    let [put, agent, list] = commands.as_slice() else {
        panic!("{commands:?}");
    };
    let pasted = |command: &Value| printed(&paste(&dev, command.as_str().expect("text")));
    assert_eq!(pasted(put), "app/greeting version 1\n");
    assert_eq!(pasted(agent), "the secret: hello\n");
    assert!(!pasted(list).contains("task-"), "the task is gone");
    assert_eq!(dev.field("workload"), "spiffe://dev.local/me");
    // Evidence was shown, and is worth what it is worth.
    let journal = dev.did(&["journal", "show", &dev.journal()], "");
    assert!(journal.contains("assurance=claimed") && journal.contains("evidence=local_user:"));
}

/// D7: both ports and the state are the same after a restart; a reset forgets the state; a
/// registration that was changed stays as it was changed.
#[test]
fn d7_a_restart_keeps_ports_and_state_and_a_reset_forgets() {
    let ports = sundew_tests::free_ports(2);
    let mut dev = Dev::at(ports);
    let before = (dev.field("broker"), dev.field("operations"));
    assert_eq!(before.1, format!("127.0.0.1:{}", ports + 1));
    dev.did(&["secret", "put", "app/key"], "k");
    let document = dev.did(&["workload", "show", "spiffe://dev.local/me"], "");
    let mut document: Value = serde_json::from_str(&document).expect("JSON");
    document["owner"] = json!("me@example.org");
    dev.did(&["workload", "apply", "-f", "-"], &document.to_string());
    assert!(dev.stop().success());

    dev.start_again(&[]);
    assert_eq!((dev.field("broker"), dev.field("operations")), before);
    assert!(dev.did(&["secret", "list"], "").contains("app/key"));
    assert!(
        dev.did(&["workload", "list"], "")
            .contains("me@example.org")
    );
    assert!(dev.stop().success());

    dev.start_again(&["--reset"]);
    assert_eq!((dev.field("broker"), dev.field("operations")), before);
    assert!(!dev.did(&["secret", "list"], "").contains("app/key"));
    assert!(
        !dev.did(&["workload", "list"], "")
            .contains("me@example.org")
    );
}

async fn attest_user(socket: &str, header: bool, binding: &[u8]) -> Result<Vec<u8>, Code> {
    let endpoint = Endpoint::from_shared(socket.replacen("unix:///", "unix:/", 1)).expect("URI");
    let channel = endpoint.connect().await.expect("socket");
    let mut request = tonic::Request::new(AttestUserRequest {
        binding: binding.to_vec(),
    });
    if header {
        let value = MetadataValue::from_static("true");
        request.metadata_mut().insert("workload.spiffe.io", value);
    }
    let answer = LocalServiceClient::new(channel).attest_user(request).await;
    Ok(answer
        .map_err(|status| status.code())?
        .into_inner()
        .evidence)
}

/// D7: the kernel's word is about who asks: another user gets a statement about himself, and nobody
/// else can show the statement of the first.
#[tokio::test]
async fn d7_a_user_gets_a_statement_about_himself_and_about_nobody_else() {
    let dev = Dev::with_first_workload();
    let socket = dev.field("endpoint_socket");
    let own = rustix::process::geteuid().as_raw();
    let evidence = attest_user(&socket, true, &[7; 32])
        .await
        .expect("evidence");
    assert!(text(&evidence).contains(&format!("\\\"uid\\\":{own}")));
    for (header, binding, code) in [
        (false, &[7; 32][..], Code::InvalidArgument),
        (true, &[7; 31], Code::InvalidArgument),
        (true, &[], Code::InvalidArgument),
    ] {
        let refused = attest_user(&socket, header, binding).await;
        assert_eq!(refused.map(drop), Err(code), "{header} {binding:?}");
    }
    assert_eq!(
        own, 0,
        "only root can be another user; ./tests/run runs as root in CI"
    );
    // Another user may have the identity too, and his statement is not the one that is wanted.
    let document = dev.did(&["workload", "show", "spiffe://dev.local/me"], "");
    let mut document: Value = serde_json::from_str(&document).expect("JSON");
    document["local"] = json!([{ "uid": own }, { "uid": STRANGER }]);
    dev.did(&["workload", "apply", "-f", "-"], &document.to_string());
    let run_as = |uid: u32| {
        let mut command = Command::new(sundew_tests::sundew());
        command
            .args(["run", "--task", "t", "--scope", "tool:x", "--", "true"])
            .env("SUNDEW_BROKER", dev.field("broker"))
            .env("SPIFFE_ENDPOINT_SOCKET", &socket)
            .env_remove("SUNDEW_SVID_DIR")
            .stdin(Stdio::null())
            .uid(uid);
        command.output().expect("run")
    };
    printed(&run_as(own));
    let refused = run_as(STRANGER);
    assert_eq!(refused.status.code(), Some(125));
    let explained = dev.did(&["attest", "explain", "spiffe://dev.local/me"], "");
    assert!(
        explained.contains("claim `uid` is not one of the registered values"),
        "{explained}"
    );
    assert!(explained.contains(&STRANGER.to_string()), "{explained}");
}

/// What a person validates a manifest with who has no Sundew.
const VALIDATE: &str = "import base64, json, jsonschema, sys
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
payload = json.loads(base64.b64decode(json.load(open(sys.argv[2]))['payload']))
jsonschema.Draft202012Validator(schema).validate(payload)
for bend in [lambda p: p.update(note='x'), lambda p: p['subject'].pop(0),
             lambda p: p['subject'][0].update(annotations={'path': '../agent.sh'}),
             lambda p: p['subject'][0].update(annotations={'path': '/agent.sh'}),
             lambda p: p['subject'][0]['digest'].update(sha256='ab'),
             lambda p: p['predicate'].pop('model')]:
    bent = json.loads(json.dumps(payload))
    bend(bent)
    assert not jsonschema.Draft202012Validator(schema).is_valid(bent), bent
print('valid')
";

/// D6: the schema that is shipped says what is written, and no more.
#[test]
fn d6_manifests_are_what_their_schema_says() {
    let folder = tempfile::tempdir().expect("folder");
    write_script(&folder.path().join("agent.sh"), "#!/bin/sh\n");
    std::fs::write(folder.path().join("prompt.txt"), "Be kind.").expect("prompt");
    for line in [
        "init --code agent.sh --system-prompt prompt.txt --tool a=prompt.txt --valid-for 1d",
        "sign",
    ] {
        let mut command = Command::new(sundew_tests::sundew());
        command
            .arg("manifest")
            .args(line.split(' '))
            .current_dir(folder.path());
        printed(&run(command, ""));
    }
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifest.schema.json");
    let mut python = Command::new("python3");
    python
        .args(["-c", VALIDATE])
        .arg(schema)
        .arg("manifest.json")
        .current_dir(folder.path());
    assert_eq!(printed(&run(python, "")), "valid\n");
}

/// Writes a script that a shell runs, and describes, signs and registers it as a manifest says.
fn script_with_manifest(dev: &Dev) {
    let script = "#!/bin/sh\necho \"key: $KEY\"\n";
    write_script(&dev.folder().join("agent.sh"), script);
    let lines = "sundew manifest init --code agent.sh --model m-1
        sundew manifest sign
        cat > agent.toml <<'TOML'
[[workload]]
spiffe_id = \"spiffe://dev.local/me\"
owner = \"you\"
begin = \"self\"
scopes = [\"secret:app/*\"]
TOML
        echo \"local = [{ uid = $(id -u) }]\" >> agent.toml
        sundew manifest show --requirement --key signer.pub >> agent.toml";
    printed(&paste(dev, lines));
    let file = dev.folder().join("agent.toml").display().to_string();
    dev.did(&["workload", "apply", "-f", &file], "");
    dev.did(&["secret", "put", "app/key"], "k1");
}

fn write_script(path: &Path, text: &str) {
    std::fs::write(path, text).expect("script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("mode");
}

/// D6: a script is what its manifest says, however it is started; another script is refused here, in
/// words, before the broker refuses it without any.
#[test]
fn d6_a_script_shows_the_manifest_that_was_signed_for_it() {
    let dev = Dev::with_first_workload();
    script_with_manifest(&dev);
    let agent = |manifest: &str, command: &str| {
        let run = "sundew run --task t --scope secret:app/key --secret KEY=app/key";
        paste(
            &dev,
            &format!("export SUNDEW_MODEL=m-1; {run} {manifest} -- {command}"),
        )
    };
    for command in ["./agent.sh", "sh agent.sh", "sh -u ./agent.sh a b"] {
        assert_eq!(
            printed(&agent("--manifest manifest.json", command)),
            "key: k1\n",
            "{command}"
        );
    }
    let by_environment = paste(
        &dev,
        "export SUNDEW_MODEL=m-1 SUNDEW_MANIFEST=manifest.json
         sundew run --task t --scope secret:app/key --secret KEY=app/key -- ./agent.sh",
    );
    assert_eq!(printed(&by_environment), "key: k1\n");

    write_script(
        &dev.folder().join("other.sh"),
        "#!/bin/sh\necho stolen $KEY\n",
    );
    let refused = |output: Output, why: &str| {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(text(&output.stdout), "");
    };
    refused(agent("--manifest manifest.json", "./other.sh"), "other.sh");
    refused(agent("", "./agent.sh"), "SUNDEW_MANIFEST");
    let no_model =
        "sundew run --task t --scope secret:app/key --manifest manifest.json -- ./agent.sh";
    refused(paste(&dev, no_model), "set SUNDEW_MODEL");
    write_script(
        &dev.folder().join("agent.sh"),
        "#!/bin/sh\necho changed $KEY\n",
    );
    refused(
        agent("--manifest manifest.json", "./agent.sh"),
        "sundew manifest sign",
    );
    // It is signed anew, and runs.
    printed(&paste(&dev, "sundew manifest sign"));
    let changed = agent("--manifest manifest.json", "./agent.sh");
    assert_eq!(printed(&changed), "changed k1\n");
}
