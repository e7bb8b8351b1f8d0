//! A file of variables for the command's environment, in which secrets are named and not written.
//!
//! Each line is `NAME=VALUE`, empty, or a comment that begins with `#`. A value is taken as it is,
//! without quotes or escapes; `{{secret:NAME}}` in it stands for a secret.

use anyhow::{Result, bail};

const BEGIN: &str = "{{secret:";
const END: &str = "}}";

/// A variable with its value.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Vec<Part>,
}

/// A part of a value.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// The name of a secret.
    Secret(String),
    Text(String),
}

/// Reads a file's text.
///
/// # Errors
/// If a line is none of the above; the error names its number, and nothing of its value.
pub(super) fn parse(text: &str) -> Result<Vec<Variable>> {
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            bail!("line {number} is not NAME=VALUE");
        };
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_word) {
            bail!("line {number} begins with no name of a variable");
        }
        let Some(value) = parts(value) else {
            bail!("line {number} has a {BEGIN} without a name or without {END}");
        };
        let name = name.to_owned();
        variables.push(Variable { name, value });
    }
    Ok(variables)
}

fn parts(mut value: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    while let Some((before, rest)) = value.split_once(BEGIN) {
        let (secret, after) = rest.split_once(END).filter(|(name, _)| !name.is_empty())?;
        parts.push(Part::Text(before.to_owned()));
        parts.push(Part::Secret(secret.to_owned()));
        value = after;
    }
    parts.push(Part::Text(value.to_owned()));
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_are_and_secrets_are_named() {
        let text = "# a comment\n\nURL=https://u:{{secret:app/key}}@h/?a=b\nQUOTED=\"x\"\nEMPTY=\n";
        let text_part = |text: &str| Part::Text(text.to_owned());
        let variable = |name: &str, value| Variable {
            name: name.to_owned(),
            value,
        };
        let expected = [
            variable(
                "URL",
                vec![
                    text_part("https://u:"),
                    Part::Secret("app/key".to_owned()),
                    text_part("@h/?a=b"),
                ],
            ),
            variable("QUOTED", vec![text_part("\"x\"")]),
            variable("EMPTY", vec![text_part("")]),
        ];
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_wrong_line_is_named_and_not_shown() {
        for wrong in [
            "s3cr3t",
            "s3-cr3t=x",
            "=s3cr3t",
            "A={{secret:}}",
            "A={{secret:s3cr3t",
        ] {
            let error = parse(&format!("A=b\n{wrong}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2") && !error.contains("s3"), "{error}");
        }
    }
}
