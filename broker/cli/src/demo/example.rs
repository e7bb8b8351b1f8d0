//! The story of the example agent: it works, its token is stolen, its task ends, and it is revoked.

use anyhow::Result;
use serde_json::Value;
use sundew_proto::v1::GetSecretRequest;
use sundew_proto::v1::agent_service_client::AgentServiceClient;

use super::agent_process::{AgentProcess, bytes, text};
use super::operator::Operator;
use super::story::Story;
use super::{DOMAIN, Setup, activity_label};
use crate::client::connection;
use crate::example_agent::digest;

/// A task that the agent began, with what it tells of its token.
struct Begun {
    answer: Value,
    task_id: String,
    token: String,
    /// SHA-256 of the certificate that the token is bound to.
    certificate: Vec<u8>,
}

impl Begun {
    async fn begin(agent: &mut AgentProcess) -> Result<Self> {
        let answer = agent.ask("begin").await?;
        Ok(Self {
            task_id: text(&answer, "task_id").to_owned(),
            token: text(&answer, "token").to_owned(),
            certificate: bytes(&answer, "certificate"),
            answer,
        })
    }

    async fn is_active(&self, operator: &Operator) -> Result<bool> {
        operator.active(&self.token, &self.certificate).await
    }
}

pub(super) async fn tell(story: &mut Story<'_>, setup: &Setup, secret: &str) -> Result<()> {
    let mut agent = AgentProcess::start(setup.agent_command())?;
    let hello = agent.read_answer().await?;
    let id = text(&hello, "spiffe_id").to_owned();
    story.tell(
        "identity",
        id == format!("spiffe://{DOMAIN}/agent"),
        format!("a child process got the X.509-SVID of {id}"),
        "the kernel said who the process is; it had no password or key before",
    );
    let task = work(story, setup, &mut agent, secret).await?;
    theft(story, setup, &task).await?;
    completion(story, setup, &mut agent, &task).await?;
    revocation(story, setup, &mut agent, id).await
}

/// The agent begins a task, and uses its token and its secret.
async fn work(
    story: &mut Story<'_>,
    setup: &Setup,
    agent: &mut AgentProcess,
    secret: &str,
) -> Result<Begun> {
    let task = Begun::begin(agent).await?;
    story.tell(
        "evidence and task",
        !task.task_id.is_empty(),
        if task.task_id.is_empty() {
            text(&task.answer, "refused").to_owned()
        } else {
            format!("{} begun", task.task_id)
        },
        "the manifest was signed by the registered key, measured, \
         and bound to a fresh nonce and the SVID's key (P2)",
    );
    let active = task.is_active(&setup.operator).await?;
    story.tell(
        "token",
        active,
        format!(
            "{}: {}",
            text(&task.answer, "token_id"),
            activity_label(active)
        ),
        "a resource server can ask at any moment",
    );
    let used = agent.ask("secret").await?;
    story.tell(
        "secret",
        text(&used, "sha256") == digest(secret.as_bytes()),
        "the agent got demo/api-key and computed with it".to_owned(),
        "only for the task's scopes, to the bound key, while the task lives (P3)",
    );
    Ok(task)
}

/// Another registered workload, with a valid SVID of its own, has the token and the id of the task.
async fn theft(story: &mut Story<'_>, setup: &Setup, task: &Begun) -> Result<()> {
    let folder = setup.local.operator_dir().with_file_name("thief");
    setup.local.write_svid_of("thief", &folder)?;
    let connection = connection(&setup.local.connect_with(folder)).await?;
    let active = setup
        .operator
        .active(&task.token, &connection.identity().thumbprint())
        .await?;
    let request = GetSecretRequest {
        task_id: task.task_id.clone(),
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
            activity_label(active),
            refused.as_deref().unwrap_or("given")
        ),
        "a token is bound to the key it was minted for (P8)",
    );
    Ok(())
}

/// The agent completes its task, and tries to go on with it.
async fn completion(
    story: &mut Story<'_>,
    setup: &Setup,
    agent: &mut AgentProcess,
    task: &Begun,
) -> Result<()> {
    let ended = agent.ask("complete").await?;
    let active = task.is_active(&setup.operator).await?;
    story.tell(
        "task complete",
        text(&ended, "ended") == "completed" && !active,
        format!(
            "{}; its token is now {}",
            text(&ended, "ended"),
            activity_label(active)
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
    Ok(())
}

/// The operator revokes everything of the agent while the agent has a new task.
async fn revocation(
    story: &mut Story<'_>,
    setup: &Setup,
    agent: &mut AgentProcess,
    id: String,
) -> Result<()> {
    let task = Begun::begin(agent).await?;
    let before = task.is_active(&setup.operator).await?;
    setup.operator.revoke(id.clone()).await?;
    let after = task.is_active(&setup.operator).await?;
    let heard = agent.ask("wait").await?;
    story.tell(
        "revoke",
        before && !after && text(&heard, "ended") == "revoked",
        format!(
            "everything of {id} revoked: token {}; the agent heard `{}`",
            activity_label(after),
            text(&heard, "ended")
        ),
        "one append kills whatever a workload holds, and the agent is told",
    );
    Ok(())
}
