//! `sundew demo`: the whole story in one process and one child, each step with what it proves. It
//! fails if one does not hold.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::Serialize;
use serde_json::Value;
use sundew_core::client::manifest::{
    PAYLOAD_TYPE, PREDICATE_TYPE, Predicate, STATEMENT_TYPE, SignedManifest, Statement, Subject,
    pre_authentication_encoding,
};
use sundew_proto::v1::access_service_client::AccessServiceClient;
use sundew_proto::v1::agent_service_client::AgentServiceClient;
use sundew_proto::v1::registry_service_client::RegistryServiceClient;
use sundew_proto::v1::response_service_client::ResponseServiceClient;
use sundew_proto::v1::{
    ApplyWorkloadsRequest, GetSecretRequest, IntrospectRequest, PutSecretRequest, RevokeRequest,
    Selector,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tonic::transport::Channel;

use crate::args::Connect;
use crate::client::{connection, status_error};
use crate::example_agent::digest;
use crate::local::Local;
use crate::output::Output;

const DOMAIN: &str = "demo.local";
const MODEL: &str = "demo-model-1";

#[derive(Serialize)]
struct Step {
    step: &'static str,
    held: bool,
    found: String,
    proves: &'static str,
}

struct Story<'a> {
    output: &'a Output,
    steps: Vec<Step>,
}

impl Story<'_> {
    fn tell(&mut self, step: &'static str, held: bool, found: String, proves: &'static str) {
        if !self.output.is_json() {
            println!(
                "{} {step:<18} {found}\n  {:<18} {proves}",
                if held { "✓" } else { "✗" },
                ""
            );
        }
        self.steps.push(Step {
            step,
            held,
            found,
            proves,
        });
    }
}

pub(crate) async fn demo(output: &Output, command: Vec<String>) -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("sundew-demo-").tempdir()?;
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o711),
    )?;
    let mut story = Story {
        output,
        steps: Vec::new(),
    };
    let told = tokio::select! {
        told = tell_story(&mut story, folder.path(), command) => told,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    let held = told.is_ok() && story.steps.iter().all(|step| step.held);
    let problem = told.err().map(|error| format!("{error:#}"));
    if output.is_json() {
        println!(
            "{}",
            serde_json::json!({ "held": held, "steps": story.steps, "error": problem })
        );
    } else if held {
        println!("\nEvery promise shown held. Next: `sundew dev`, and the README.");
    } else {
        println!(
            "\nNOT everything held{}",
            problem.map(|p| format!(": {p}")).unwrap_or_default()
        );
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn tell_story(story: &mut Story<'_>, folder: &Path, command: Vec<String>) -> Result<()> {
    let local = Local::start(
        &folder.join("state"),
        DOMAIN,
        std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
    )
    .await?;
    story.tell(
        "broker",
        true,
        format!("listens on {} with its own CA for {DOMAIN}", local.broker()),
        "mutual TLS 1.3 only; state in one file, the record in a hash-chained journal",
    );
    let operator = Operator::connect(&local).await?;
    let own = std::env::current_exe()?;
    let manifest = Signed::new(folder, &own)?;
    let secret = register(&operator, &manifest).await?;
    story.tell(
        "registration",
        true,
        format!("spiffe://{DOMAIN}/agent may use secret:demo/*, if it shows a signed manifest"),
        "what is not registered, or proves nothing, gets nothing (P1)",
    );
    if command.is_empty() {
        example(story, &local, &operator, &manifest, &own, &secret).await?;
    } else {
        users_own(story, &local, &operator, &manifest, &own, &command).await?;
    }
    let journal = local.journal();
    local.server.stop().await;
    record(story, &journal, folder, &secret)
}

struct Operator {
    registry: RegistryServiceClient<Channel>,
    response: ResponseServiceClient<Channel>,
    access: AccessServiceClient<Channel>,
}

impl Operator {
    async fn connect(local: &Local) -> Result<Self> {
        let channel = connection(&local.connect_with(local.operator_dir()))
            .await?
            .channel();
        Ok(Self {
            registry: RegistryServiceClient::new(channel.clone()),
            response: ResponseServiceClient::new(channel.clone()),
            access: AccessServiceClient::new(channel),
        })
    }

    /// Asks as a resource server that got the token over mutual TLS from whoever has this
    /// certificate.
    async fn active(&self, token: &str, presenter: &[u8]) -> Result<bool> {
        let request = IntrospectRequest {
            token: token.to_owned(),
            presenter_certificate_sha256: presenter.to_vec(),
            ..IntrospectRequest::default()
        };
        Ok(self
            .access
            .clone()
            .introspect(request)
            .await
            .map_err(status_error)?
            .into_inner()
            .active)
    }

    async fn revoke(&self, spiffe_id: String) -> Result<()> {
        let selector = Some(Selector {
            spiffe_id,
            ..Selector::default()
        });
        let request = RevokeRequest {
            selector,
            reason: "demo".to_owned(),
            ..RevokeRequest::default()
        };
        self.response
            .clone()
            .revoke(request)
            .await
            .map(drop)
            .map_err(status_error)
    }
}

/// A manifest of the demo agent, signed with a key made for this demo.
struct Signed {
    file: PathBuf,
    public_key: String,
}

impl Signed {
    fn new(folder: &Path, code: &Path) -> Result<Self> {
        let random = ring::rand::SystemRandom::new();
        let pkcs8 =
            Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| anyhow!("no randomness"))?;
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|e| anyhow!("{e}"))?;
        let code = digest(&std::fs::read(code)?);
        let statement = Statement {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: vec![Subject {
                name: "code".to_owned(),
                digest: [("sha256".to_owned(), code)].into(),
            }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                name: "demo agent".to_owned(),
                model: MODEL.to_owned(),
                expires_ms: None,
            },
        };
        let payload = serde_json::to_vec(&statement)?;
        let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, &payload));
        let envelope: SignedManifest = serde_json::from_value(serde_json::json!({
            "payloadType": PAYLOAD_TYPE, "payload": STANDARD.encode(&payload), "signatures": [{ "sig": STANDARD.encode(signature) }],
        }))?;
        let file = folder.join("manifest.json");
        std::fs::write(&file, serde_json::to_vec(&envelope)?)?;
        // SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4).
        let mut spki = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        spki.extend_from_slice(key.public_key().as_ref());
        Ok(Self {
            file,
            public_key: crate::svid_files::pem_of("PUBLIC KEY", &spki),
        })
    }
}

/// Registers the agent and the thief, and writes the secret. Answers the secret's value.
async fn register(operator: &Operator, manifest: &Signed) -> Result<String> {
    let uid = rustix::process::geteuid().as_raw();
    let evidence = serde_json::json!([{ "kind": "manifest", "keys": [manifest.public_key], "claims": { "model": [MODEL] } }]);
    let workload = |name: &str, local: Value| {
        serde_json::json!({ "spiffe_id": format!("spiffe://{DOMAIN}/{name}"), "evidence": evidence, "scopes": ["secret:demo/*"], "owner": "you", "local": local }).to_string()
    };
    let documents = vec![
        workload("agent", serde_json::json!([{ "uid": uid }])),
        workload("thief", serde_json::json!([])),
    ];
    let mut registry = operator.registry.clone();
    registry
        .apply_workloads(ApplyWorkloadsRequest {
            documents,
            dry_run: false,
        })
        .await
        .map_err(status_error)?;
    let mut random = [0_u8; 18];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
        .map_err(|_| anyhow!("no randomness"))?;
    let secret = format!("canary-{}", STANDARD.encode(random));
    let request = PutSecretRequest {
        name: "demo/api-key".to_owned(),
        value: secret.clone().into_bytes(),
        idempotency_key: String::new(),
    };
    registry.put_secret(request).await.map_err(status_error)?;
    Ok(secret)
}

fn agent_command(program: &Path, local: &Local, manifest: &Signed) -> Command {
    let mut command = Command::new(program);
    command
        .env("SUNDEW_BROKER", local.broker())
        .env("SPIFFE_ENDPOINT_SOCKET", local.socket())
        .env("SUNDEW_MANIFEST", &manifest.file)
        .env("SUNDEW_MODEL", MODEL);
    for variable in [
        "SUNDEW_SVID_DIR",
        "SUNDEW_BROKER_ID",
        "SUNDEW_CODE",
        "SUNDEW_SYSTEM_PROMPT_FILE",
        "SUNDEW_OIDC_TOKEN_FILE",
        "SUNDEW_OIDC_TOKEN_COMMAND",
    ] {
        command.env_remove(variable);
    }
    command.kill_on_drop(true);
    command
}

/// The agent's process, driven line by line.
struct Agent {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Agent {
    fn start(mut command: Command) -> Result<Self> {
        let mut process = command
            .arg("example-agent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().context("no pipe")?;
        let output = BufReader::new(process.stdout.take().context("no pipe")?).lines();
        Ok(Self {
            _process: process,
            input,
            output,
        })
    }

    async fn hear(&mut self) -> Result<Value> {
        let line =
            tokio::time::timeout(std::time::Duration::from_secs(30), self.output.next_line())
                .await
                .context("the agent said nothing for 30 seconds")??;
        Ok(serde_json::from_str(&line.context("the agent ended")?)?)
    }

    async fn ask(&mut self, word: &str) -> Result<Value> {
        self.input.write_all(format!("{word}\n").as_bytes()).await?;
        self.hear().await
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn bytes(value: &Value) -> Vec<u8> {
    let list = value.as_array().cloned().unwrap_or_default();
    list.iter()
        .filter_map(|b| b.as_u64().and_then(|b| u8::try_from(b).ok()))
        .collect()
}

async fn example(
    story: &mut Story<'_>,
    local: &Local,
    operator: &Operator,
    manifest: &Signed,
    own: &Path,
    secret: &str,
) -> Result<()> {
    let mut agent = Agent::start(agent_command(own, local, manifest))?;
    let hello = agent.hear().await?;
    let id = text(&hello, "spiffe_id").to_owned();
    story.tell(
        "identity",
        id == format!("spiffe://{DOMAIN}/agent"),
        format!("a child process got the X.509-SVID of {id}"),
        "the kernel said who the process is; it had no password or key before",
    );
    let begun = agent.ask("begin").await?;
    let (task, token, certificate) = (
        text(&begun, "task_id").to_owned(),
        text(&begun, "token").to_owned(),
        bytes(begun.get("certificate").unwrap_or(&Value::Null)),
    );
    story.tell(
        "evidence and task",
        !task.is_empty(),
        if task.is_empty() { text(&begun, "refused").to_owned() } else { format!("{task} begun") },
        "the manifest was signed by the registered key, measured, and bound to a fresh nonce and the SVID's key (P2)",
    );
    let active = operator.active(&token, &certificate).await?;
    story.tell(
        "token",
        active,
        format!("{}: {}", text(&begun, "token_id"), word(active)),
        "a resource server can ask at any moment",
    );
    let used = agent.ask("secret").await?;
    story.tell(
        "secret",
        text(&used, "sha256") == digest(secret.as_bytes()),
        "the agent got demo/api-key and computed with it".to_owned(),
        "only for the task's scopes, to the bound key, while the task lives (P3)",
    );
    theft(story, local, operator, &task, &token).await?;
    let ended = agent.ask("complete").await?;
    let active = operator.active(&token, &certificate).await?;
    story.tell(
        "task complete",
        text(&ended, "ended") == "completed" && !active,
        format!(
            "{}; its token is now {}",
            text(&ended, "ended"),
            word(active)
        ),
        "dead means dead, from the moment that completion was answered (P4)",
    );
    let after = agent.ask("secret-of-ended").await?;
    story.tell(
        "secret afterwards",
        after.get("refused").is_some(),
        format!(
            "the agent asks for the secret again: {}",
            text(&after, "refused")
        ),
        "nothing of the task outlives it",
    );
    let begun = agent.ask("begin").await?;
    let (token, certificate) = (
        text(&begun, "token").to_owned(),
        bytes(begun.get("certificate").unwrap_or(&Value::Null)),
    );
    let before = operator.active(&token, &certificate).await?;
    operator.revoke(id.clone()).await?;
    let after = operator.active(&token, &certificate).await?;
    let told = agent.ask("wait").await?;
    story.tell(
        "revoke",
        before && !after && text(&told, "ended") == "revoked",
        format!(
            "everything of {id} revoked: token {}; the agent heard `{}`",
            word(after),
            text(&told, "ended")
        ),
        "one append kills whatever a workload holds, and the agent is told",
    );
    Ok(())
}

fn word(active: bool) -> &'static str {
    if active { "active" } else { "not active" }
}

/// The same token and task id in the hands of another registered workload, with a valid SVID of its
/// own.
async fn theft(
    story: &mut Story<'_>,
    local: &Local,
    operator: &Operator,
    task: &str,
    token: &str,
) -> Result<()> {
    let folder = local.operator_dir().with_file_name("thief");
    local.write_svid_of("thief", &folder)?;
    let thief: Connect = local.connect_with(folder);
    let connection = connection(&thief).await?;
    let active = operator
        .active(token, &connection.identity().thumbprint())
        .await?;
    let request = GetSecretRequest {
        task_id: task.to_owned(),
        name: "demo/api-key".to_owned(),
        ..GetSecretRequest::default()
    };
    let stolen = AgentServiceClient::new(connection.channel())
        .get_secret(request)
        .await;
    let refused = stolen
        .as_ref()
        .err()
        .map(|status| status.message().to_owned());
    story.tell(
        "stolen",
        !active && refused.is_some(),
        format!(
            "in the hands of {}: token {}, secret {}",
            connection.identity().id(),
            word(active),
            refused.as_deref().unwrap_or("given")
        ),
        "a token is bound to the key it was minted for (P8)",
    );
    Ok(())
}

async fn users_own(
    story: &mut Story<'_>,
    local: &Local,
    operator: &Operator,
    manifest: &Signed,
    own: &Path,
    command: &[String],
) -> Result<()> {
    let mut run = agent_command(own, local, manifest);
    run.args([
        "run",
        "--task",
        "sundew demo",
        "--scope",
        "secret:demo/api-key",
        "--secret",
        "DEMO_API_KEY=demo/api-key",
        "--",
    ])
    .args(command);
    if story.output.is_json() {
        run.stdout(Stdio::from(std::io::stderr()));
    }
    let status = run.status().await?;
    story.tell(
        "your command",
        status.success(),
        format!(
            "`{}` ran under `sundew run` with DEMO_API_KEY and SUNDEW_TOKEN: {status}",
            command.join(" ")
        ),
        "the command needs no SDK; its secrets live as long as its task",
    );
    let mut begun = None;
    let mut ended = None;
    sundew_broker::journal::read(&local.journal(), |record| match record.event.as_str() {
        "task_begun" => begun = record.field("token_id").map(str::to_owned),
        "task_ended" => ended = record.field("outcome").map(str::to_owned),
        _ => {}
    })?;
    let token = begun.context("the journal has no task")?;
    let live = operator
        .response
        .clone()
        .list_tasks(sundew_proto::v1::ListTasksRequest::default())
        .await
        .map_err(status_error)?
        .into_inner()
        .tasks
        .len();
    story.tell(
        "task complete",
        ended.is_some() && live == 0,
        format!(
            "{}; {live} live tasks are left; {token} is dead",
            ended.as_deref().unwrap_or("not ended")
        ),
        "the task ended with the command, however the command ended",
    );
    Ok(())
}

/// The journal's lines, and that neither secret nor token is in anything that was written.
fn record(story: &mut Story<'_>, journal: &Path, folder: &Path, secret: &str) -> Result<()> {
    let mut lines = Vec::new();
    sundew_broker::journal::read(journal, |record| lines.push(crate::journal::line(&record)))?;
    story.tell(
        "journal",
        lines.len() > 5,
        format!(
            "{} records, each written before its effect; the chain holds",
            lines.len()
        ),
        "who, what, on whose instruction, on which evidence, and how it ended (P10)",
    );
    if !story.output.is_json() {
        lines.iter().for_each(|line| println!("    {line}"));
    }
    let mut leaks = Vec::new();
    search(folder, secret.as_bytes(), &mut leaks)?;
    story.tell(
        "nothing leaked",
        leaks.is_empty(),
        format!(
            "the secret is in the clear in {} files of the broker's state and journal",
            leaks.len()
        ),
        "secrets are sealed, tokens are kept as hashes (P8, P9)",
    );
    Ok(())
}

fn search(folder: &Path, needle: &[u8], found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, needle, found)?;
        } else if path.is_file()
            && std::fs::read(&path)?
                .windows(needle.len())
                .any(|window| window == needle)
        {
            found.push(path);
        }
    }
    Ok(())
}
