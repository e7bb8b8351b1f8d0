//! `sundew root-key`: making root keys, and rotating the one of a store.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use sundew_core::{KeyFingerprint, RootKey, read_secret_file};
use sundew_proto::v1::{
    RewriteUnderRootKeyRequest, RewriteUnderRootKeyResponse, UnderOtherRootKey,
};

use crate::args::{Connect, RootKeyCommand};
use crate::client::{registry, status_error};
use crate::output::{Output, View, escape, table};
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
    output.show(&NewView {
        file: file.to_owned(),
        root_key: name.to_string(),
    })?;
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
    output.show(&RewriteView::new(answer, check))?;
    Ok(ExitCode::SUCCESS)
}

/// A root key that was made.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct NewView {
    file: PathBuf,
    /// The name of the key, which does not tell the key.
    root_key: String,
}

impl View for NewView {
    const KIND: &'static str = "root_key";

    fn lines(&self) -> Vec<String> {
        vec![format!(
            "{}: root key {}",
            self.file.display(),
            self.root_key
        )]
    }
}

/// The root keys of a broker, by their names.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct BrokerRow {
    broker: String,
    /// Empty for a broker of an older version.
    active: String,
    others: Vec<String>,
}

/// What is under another root key than the active one.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct LeftRow {
    kind: String,
    count: u64,
    /// When it is gone by itself; 0 if never.
    until_ms: i64,
    names: Vec<String>,
    problem: String,
}

impl From<UnderOtherRootKey> for LeftRow {
    fn from(left: UnderOtherRootKey) -> Self {
        Self {
            kind: left.kind,
            count: left.count,
            until_ms: left.until_ms,
            names: left.names,
            problem: left.problem,
        }
    }
}

/// How far the rotation of the root key is.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct RewriteView {
    active: String,
    brokers: Vec<BrokerRow>,
    rewritten: u64,
    left: Vec<LeftRow>,
    #[serde(skip)]
    check: bool,
}

impl RewriteView {
    fn new(answer: RewriteUnderRootKeyResponse, check: bool) -> Self {
        let brokers = answer.brokers.into_iter().map(|keys| BrokerRow {
            broker: keys.broker,
            active: keys.active,
            others: keys.others,
        });
        Self {
            active: answer.active,
            brokers: brokers.collect(),
            rewritten: answer.rewritten,
            left: answer.left.into_iter().map(LeftRow::from).collect(),
            check,
        }
    }
}

impl View for RewriteView {
    const KIND: &'static str = "root_keys";

    fn lines(&self) -> Vec<String> {
        let row = |keys: &BrokerRow| {
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
        };
        let brokers: Vec<_> = self.brokers.iter().map(row).collect();
        let mut lines = table(&["BROKER", "ACTIVE", "ACCEPTED TOO"], &brokers);
        if !self.check {
            lines.push(format!("{} rewritten", self.rewritten));
        }
        if self.left.is_empty() {
            lines.push("nothing that a broker keeps is under another key".to_owned());
            return lines;
        }
        lines.push("under another key:".to_owned());
        let rows: Vec<_> = self.left.iter().map(LeftRow::cells).collect();
        lines.extend(table(&["KIND", "COUNT", "UNTIL", "WHICH"], &rows));
        lines
    }
}

impl LeftRow {
    fn cells(&self) -> Vec<String> {
        let until = match self.until_ms {
            0 => "-".to_owned(),
            ms => format_timestamp(ms),
        };
        let mut which = self.names.join(", ");
        if !self.problem.is_empty() {
            which = format!("{which}: {}", self.problem);
        }
        vec![
            escape(&self.kind, 64),
            self.count.to_string(),
            until,
            escape(which.trim_start_matches(": "), 256),
        ]
    }
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<NewView>(),
        crate::shapes::of::<RewriteView>(),
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
            RewriteView::new(answer, false).lines(),
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
