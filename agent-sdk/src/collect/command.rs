//! Evidence of any kind from a file or from a command, for kinds that only the platform's own tools
//! can collect.

use std::path::{Path, PathBuf};

use super::{CollectError, Collected, Collector, Context, hex};

/// Reads the metadata service of EC2 (IMDSv2) for the identity document in the `rsa2048` form.
pub(super) const AWS_IID: &str = r#"set -e
base=${SUNDEW_AWS_METADATA:-http://169.254.169.254}
token=$(curl -fsS -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$base/latest/api/token")
curl -fsS -m 5 -H "X-aws-ec2-metadata-token: $token" "$base/latest/dynamic/instance-identity/rsa2048" | base64 -d"#;

/// Evidence of a kind from a file, read anew each time, or from a command that prints it.
#[derive(Clone, Debug)]
pub struct EvidenceCollector {
    kind: String,
    source: Source,
}

/// The place that evidence comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    File(PathBuf),
    Command(String),
}

impl Source {
    pub(super) async fn read(&self, context: &Context<'_>) -> Result<Vec<u8>, CollectError> {
        self.read_again(context, 1).await
    }

    /// Reads the evidence, for the first time or again: `attempt` counts from 1.
    pub(super) async fn read_again(
        &self,
        context: &Context<'_>,
        attempt: u32,
    ) -> Result<Vec<u8>, CollectError> {
        match self {
            Self::File(path) => tokio::fs::read(path)
                .await
                .map_err(CollectError::file(path)),
            Self::Command(command) => run(command, context, attempt).await,
        }
    }
}

impl EvidenceCollector {
    /// The evidence is in a file.
    #[must_use]
    pub fn file(kind: &str, path: &Path) -> Self {
        Self {
            kind: kind.to_owned(),
            source: Source::File(path.to_owned()),
        }
    }

    /// A shell command prints the evidence. It finds in its environment what the evidence must be
    /// bound to, in hexadecimal: `SUNDEW_BINDING` (32 bytes) and `SUNDEW_BINDING_64` (for kinds
    /// whose room is exactly 64 bytes); and `SUNDEW_AUDIENCE`.
    #[must_use]
    pub fn command(kind: &str, command: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            source: Source::Command(command.to_owned()),
        }
    }
}

impl Collector for EvidenceCollector {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(self.source.read(context))
    }
}

/// Runs a command by the shell, and returns what it prints.
async fn run(command: &str, context: &Context<'_>, attempt: u32) -> Result<Vec<u8>, CollectError> {
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell
        .arg("-c")
        .arg(command)
        .env("SUNDEW_AUDIENCE", context.audience)
        .env("SUNDEW_ATTEMPT", attempt.to_string())
        .kill_on_drop(true);
    shell
        .env("SUNDEW_BINDING", hex(context.binding.as_bytes()))
        .env("SUNDEW_BINDING_64", hex(&context.binding.wide()));
    let output = shell.output().await.map_err(CollectError::Shell)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr)
            .trim()
            .chars()
            .take(300)
            .collect::<String>();
        return Err(CollectError::Command {
            status: output.status,
            said,
        });
    }
    Ok(output.stdout)
}
