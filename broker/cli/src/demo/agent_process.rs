//! The process of the example agent.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The agent's process: each line on its standard input is a word, and each line of its output is
/// an answer in JSON. Dropping the value kills the process.
pub(super) struct AgentProcess {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl AgentProcess {
    pub(super) fn start(mut command: Command) -> Result<Self> {
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

    /// Returns the next line that the agent says. Fails if the agent says nothing for 30 seconds.
    pub(super) async fn read_answer(&mut self) -> Result<Value> {
        let line =
            tokio::time::timeout(std::time::Duration::from_secs(30), self.output.next_line())
                .await
                .context("the agent said nothing for 30 seconds")??;
        Ok(serde_json::from_str(&line.context("the agent ended")?)?)
    }

    /// Sends the agent a word, and returns the answer.
    pub(super) async fn ask(&mut self, word: &str) -> Result<Value> {
        self.input.write_all(format!("{word}\n").as_bytes()).await?;
        self.read_answer().await
    }
}

/// Returns a text member of an answer, or an empty text where there is none.
pub(super) fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Returns a member of an answer that is a list of bytes.
pub(super) fn bytes(answer: &Value, name: &str) -> Vec<u8> {
    let list = answer.get(name).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{bytes, text};

    #[test]
    fn members_that_are_not_there_are_empty() {
        let answer = json!({ "id": "a", "certificate": [0, 255] });
        assert_eq!(text(&answer, "id"), "a");
        assert_eq!(text(&answer, "certificate"), "");
        assert_eq!(bytes(&answer, "certificate"), [0, 255]);
        assert_eq!(bytes(&answer, "id"), [0; 0]);
    }
}
