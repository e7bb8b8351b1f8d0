//! `sundew root-key`: making root keys, and rotating the one of a store.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use sundew_core::{KeyFingerprint, RootKey, read_secret_file};
use sundew_proto::v1::{
    RewriteUnderRootKeyRequest, RewriteUnderRootKeyResponse, UnderOtherRootKey,
};

use crate::args::{Connect, RootKeyCommand};
use crate::client::{registry, status_error};
use crate::output::{Output, escape, table};
use crate::timestamp::format_timestamp;

pub(crate) async fn root_key(
    connect: &Connect,
    output: &Output,
    command: RootKeyCommand,
) -> Result<ExitCode> {
    match command {
        RootKeyCommand::New { file, if_missing } => new(output, &file, if_missing),
        RootKeyCommand::Rewrite => rewrite(connect, output, false).await,
        RootKeyCommand::Status => rewrite(connect, output, true).await,
    }
}

fn new(output: &Output, file: &Path, if_missing: bool) -> Result<ExitCode> {
    let name = if if_missing && file.exists() {
        // A file that is no root key is an error, and not taken for one.
        let key = read_secret_file(file)?;
        RootKey::parse(&key)
            .with_context(|| file.display().to_string())?
            .active()
    } else {
        write_new(file)?
    };
    let name = name.to_string();
    output.result(&json!({ "file": file, "root_key": name }), || {
        vec![format!("{}: root key {name}", file.display())]
    });
    Ok(ExitCode::SUCCESS)
}

/// Writes a random root key into a new file that only its owner may read, in hexadecimal. A file that
/// is there already is an error.
pub(crate) fn write_new(path: &Path) -> Result<KeyFingerprint> {
    let mut key = zeroize::Zeroizing::new([0_u8; 32]);
    SystemRandom::new()
        .fill(key.as_mut_slice())
        .map_err(|_| anyhow!("no randomness"))?;
    let text = zeroize::Zeroizing::new(hex::encode(key.as_slice()));
    let name = || path.display().to_string();
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = match options.open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{}: is there already, and no key is overwritten", name())
        }
        opened => opened.with_context(name)?,
    };
    file.write_all(text.as_bytes()).with_context(name)?;
    file.sync_all().with_context(name)?;
    Ok(RootKey::new(&key)?.active())
}

async fn rewrite(connect: &Connect, output: &Output, check: bool) -> Result<ExitCode> {
    let answer = registry(connect)
        .await?
        .rewrite_under_root_key(RewriteUnderRootKeyRequest { check })
        .await
        .map_err(status_error)?
        .into_inner();
    let brokers = answer
        .brokers
        .iter()
        .map(|keys| json!({ "broker": keys.broker, "active": keys.active, "others": keys.others }));
    let value = json!({
        "active": answer.active,
        "brokers": brokers.collect::<Vec<_>>(),
        "rewritten": answer.rewritten,
        "left": answer.left.iter().map(left_json).collect::<Vec<_>>(),
    });
    output.result(&value, || lines(&answer, check));
    Ok(ExitCode::SUCCESS)
}

fn left_json(left: &UnderOtherRootKey) -> Value {
    json!({
        "kind": left.kind, "count": left.count, "until_ms": left.until_ms,
        "names": left.names, "problem": left.problem,
    })
}

fn lines(answer: &RewriteUnderRootKeyResponse, check: bool) -> Vec<String> {
    let brokers: Vec<_> = answer
        .brokers
        .iter()
        .map(|keys| {
            let active = if keys.active.is_empty() {
                "(older version)"
            } else {
                &keys.active
            };
            vec![
                escape(&keys.broker, 64),
                escape(active, 64),
                escape(&keys.others.join(" "), 256),
            ]
        })
        .collect();
    let mut lines = table(&["BROKER", "ACTIVE", "ACCEPTED TOO"], &brokers);
    if !check {
        lines.push(format!("{} rewritten", answer.rewritten));
    }
    if answer.left.is_empty() {
        lines.push("nothing that a broker keeps is under another key".to_owned());
        return lines;
    }
    lines.push("under another key:".to_owned());
    let rows: Vec<_> = answer.left.iter().map(row).collect();
    lines.extend(table(&["KIND", "COUNT", "UNTIL", "WHICH"], &rows));
    lines
}

fn row(left: &UnderOtherRootKey) -> Vec<String> {
    let until = match left.until_ms {
        0 => "-".to_owned(),
        ms => format_timestamp(ms),
    };
    let mut which = left.names.join(", ");
    if !left.problem.is_empty() {
        which = format!("{which}: {}", left.problem);
    }
    vec![
        escape(&left.kind, 64),
        left.count.to_string(),
        until,
        escape(which.trim_start_matches(": "), 256),
    ]
}

#[cfg(test)]
mod tests {
    use sundew_proto::v1::BrokerRootKeys;

    use super::*;

    #[test]
    fn a_new_key_is_private_and_replaces_none() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let name = write_new(&path).unwrap();
        let key = fs::read(&path).unwrap();
        assert_eq!(RootKey::parse(&key).unwrap().active(), name);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = write_new(&path).unwrap_err().to_string();
        assert!(refused.ends_with("is there already, and no key is overwritten"));
        assert_eq!(fs::read(&path).unwrap(), key);
    }

    #[test]
    fn what_is_left_stands_below_the_brokers() {
        let answer = RewriteUnderRootKeyResponse {
            active: "b1".to_owned(),
            brokers: vec![
                BrokerRootKeys {
                    broker: "one".to_owned(),
                    active: "b1".to_owned(),
                    others: vec!["a0".to_owned()],
                },
                BrokerRootKeys {
                    broker: "two".to_owned(),
                    ..BrokerRootKeys::default()
                },
            ],
            rewritten: 3,
            left: vec![UnderOtherRootKey {
                kind: "name at a target".to_owned(),
                names: vec!["db/main".to_owned()],
                problem: "unreachable".to_owned(),
                ..UnderOtherRootKey::default()
            }],
        };
        assert_eq!(
            lines(&answer, false),
            [
                "BROKER  ACTIVE           ACCEPTED TOO",
                "one     b1               a0",
                "two     (older version)",
                "3 rewritten",
                "under another key:",
                "KIND              COUNT  UNTIL  WHICH",
                "name at a target  0      -      db/main: unreachable",
            ]
        );
    }
}
