//! The agent of the demo: a process of its own that does with the SDK what it is told on standard
//! input, one word a line.
//!
//! The agent answers each word with one line of JSON. It plays the hijacked agent too: whoever
//! drives it is told its token.

use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use sundew_sdk::{Agent, Error, Task, minutes};

/// Does what each word says until standard input ends. Fails at a word that is not understood.
pub(crate) async fn run() -> Result<ExitCode> {
    let agent = Agent::from_env().await?;
    say(&json!({ "spiffe_id": agent.id().to_string() }))?;
    let (words, mut heard) = tokio::sync::mpsc::channel(1);
    // A thread of its own reads: a task must be attended while no word comes.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if words.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut task: Option<Task> = None;
    let mut last = String::new();
    while let Some(word) = heard.recv().await {
        let answer = match (word.as_str(), task.take()) {
            ("begin", _) => {
                let begun = agent
                    .task("triage issue 4711")
                    .instruction("Read issue 4711 and label it.")
                    .scope("secret:demo/api-key")
                    .ttl(minutes(5))
                    .begin()
                    .await;
                match begun {
                    Ok(begun) => {
                        begun.id().clone_into(&mut last);
                        let token = begun.token();
                        let answer = json!({
                            "task_id": begun.id(), "token": token.expose(),
                            "token_id": token.id(), "certificate": token.certificate_sha256(),
                        });
                        task = Some(begun);
                        answer
                    }
                    Err(error) => refusal(&error),
                }
            }
            ("secret", Some(own)) => {
                let answer = secret(&own).await;
                task = Some(own);
                answer
            }
            ("complete", Some(own)) => match own.complete().await {
                Ok(ended) => json!({ "ended": ended.to_string() }),
                Err(error) => refusal(&error),
            },
            ("secret-of-ended", _) => secret_of(&agent, &last).await,
            ("wait", Some(own)) => json!({ "ended": own.ended().await.to_string() }),
            (other, _) => bail!("`{other}` is not understood now"),
        };
        say(&answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn secret(task: &Task) -> Value {
    match task.secret("demo/api-key").await {
        // The agent uses the secret by computing with it; the value goes nowhere.
        Ok(secret) => json!({ "sha256": digest(secret.expose()) }),
        Err(error) => refusal(&error),
    }
}

/// Asks for the secret of a task that has ended, as a hijacked agent would: the SDK's task is gone,
/// but the id of the task is not.
async fn secret_of(agent: &Agent, task_id: &str) -> Value {
    let request = sundew_proto::v1::GetSecretRequest {
        task_id: task_id.to_owned(),
        name: "demo/api-key".to_owned(),
        ..Default::default()
    };
    let Ok(connection) = agent.connection() else {
        return json!({});
    };
    match sundew_proto::v1::agent_service_client::AgentServiceClient::new(connection.channel())
        .get_secret(request)
        .await
    {
        Ok(_) => json!({ "sha256": "it was given" }),
        Err(status) => json!({ "refused": status.message() }),
    }
}

fn refusal(error: &Error) -> Value {
    json!({ "refused": error.to_string() })
}

/// Returns the SHA-256 of bytes, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

fn say(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}
