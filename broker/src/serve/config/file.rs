//! The sections of the file as they are written, with their defaults, before any rule is checked.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::Ttl;

use super::operators::FileOperator;
use super::trust::{FileBundleEndpoint, FileFederation, FileIdentity, FileTrust};
use super::{
    Archive, CallLimits, ConfigError, IssuerConfig, JournalConfig, Listen, ListenerLimits,
    LocalLimits, MaterialConfig, Person, RecordBudget, SegmentRules,
};
use crate::refusal_recorder::WHOLE_REFUSALS;
use crate::store::redis::Durability;
use crate::traces::FileTraces;

/// The file, section by section. A section that is missing or wrong is `None`, or has its defaults.
pub(super) struct File {
    pub(super) identity: Option<FileIdentity>,
    pub(super) issuers: Vec<IssuerConfig>,
    pub(super) journal: Option<FileJournal>,
    pub(super) keys: Option<FileKeys>,
    pub(super) limits: FileLimits,
    pub(super) listen: Option<FileListen>,
    pub(super) material: Vec<MaterialConfig>,
    pub(super) operators: Vec<FileOperator>,
    pub(super) break_glass: Option<FileBreakGlass>,
    pub(super) revocation: FileRevocation,
    pub(super) store: Option<FileStore>,
    pub(super) trust: Vec<FileTrust>,
    pub(super) federation: Vec<FileFederation>,
    pub(super) bundle_endpoint: Option<FileBundleEndpoint>,
    pub(super) traces: Option<FileTraces>,
}

impl File {
    /// Reads a text, and answers with it everything that is wrong with single sections. An error is
    /// a text that is not TOML.
    pub(super) fn parse(text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError(vec![e.to_string().trim_end().to_owned()]))?;
        let mut sections = Sections {
            table,
            errors: Vec::new(),
        };
        // Errors are told in this order.
        let file = Self {
            listen: sections.need("listen"),
            identity: sections.need("identity"),
            trust: sections.take("trust").unwrap_or_default(),
            bundle_endpoint: sections.take("bundle_endpoint"),
            federation: sections.take("federation").unwrap_or_default(),
            store: sections.need("store"),
            keys: sections.need("keys"),
            journal: sections.need("journal"),
            revocation: sections.take("revocation").unwrap_or_default(),
            operators: sections.take("operators").unwrap_or_default(),
            break_glass: sections.take("break_glass"),
            issuers: sections.take("issuers").unwrap_or_default(),
            material: sections.take("trust_material").unwrap_or_default(),
            limits: sections.take("limits").unwrap_or_default(),
            traces: sections.take("traces"),
        };
        let Sections { table, mut errors } = sections;
        errors.extend(table.keys().map(|name| format!("{name}: unknown section")));
        Ok((file, errors))
    }
}

#[derive(Deserialize)]
#[serde(rename = "Listen", deny_unknown_fields)]
pub(super) struct FileListen {
    workloads: SocketAddr,
    enrollment: Option<SocketAddr>,
    #[serde(default = "default_operations")]
    operations: SocketAddr,
    #[serde(default)]
    operations_hosts: Vec<String>,
    workload_api: Option<PathBuf>,
    #[serde(default)]
    reflection: bool,
}

fn default_operations() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9090))
}

impl From<FileListen> for Listen {
    fn from(file: FileListen) -> Self {
        Self {
            workloads: file.workloads,
            enrollment: file.enrollment,
            operations: file.operations,
            operations_hosts: file.operations_hosts,
            workload_api: file.workload_api,
            reflection: file.reflection,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileStore {
    pub(super) url: String,
    pub(super) password_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    #[serde(default = "default_store_timeout")]
    pub(super) timeout: Ttl,
    pub(super) replicas: Option<u32>,
    #[serde(default)]
    pub(super) durability: Durability,
}

fn default_store_timeout() -> Ttl {
    // Well over a second of a slow disk, well under a caller's patience.
    Ttl::SECOND
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileKeys {
    pub(super) root_key_file: PathBuf,
    #[serde(default)]
    pub(super) other_root_key_files: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileJournal {
    pub(super) directory: PathBuf,
    #[serde(default = "default_refusals_whole")]
    pub(super) refusals_whole: u64,
    #[serde(default = "default_reserve")]
    pub(super) reserve: ByteSize,
    #[serde(default = "default_segment_size")]
    pub(super) segment_size: ByteSize,
    #[serde(default = "default_segment_age")]
    pub(super) segment_age: Ttl,
    pub(super) keep_for: Option<Ttl>,
    pub(super) keep_size: Option<ByteSize>,
    pub(super) archive_to: Option<PathBuf>,
    pub(super) archive_command: Option<Vec<String>>,
}

fn default_refusals_whole() -> u64 {
    WHOLE_REFUSALS
}

fn default_reserve() -> ByteSize {
    // Room for a quarter of a million endings.
    ByteSize(64 << 20)
}

fn default_segment_size() -> ByteSize {
    // A start reads one or two segments of this size in well under a second.
    ByteSize(64 << 20)
}

fn default_segment_age() -> Ttl {
    Ttl::DAY
}

impl From<(FileJournal, &FileLimits)> for JournalConfig {
    fn from((file, limits): (FileJournal, &FileLimits)) -> Self {
        let command = file.archive_command.map(Archive::Command);
        Self {
            directory: file.directory,
            refusals_whole: file.refusals_whole,
            reserve: file.reserve.0,
            segments: SegmentRules {
                segment_bytes: file.segment_size.0,
                segment_age: file.segment_age.to_std(),
                keep_for: file.keep_for.map(Ttl::to_std),
                keep_bytes: file.keep_size.map(|size| size.0),
                archive: file.archive_to.map(Archive::Folder).or(command),
            },
            budget: RecordBudget {
                per_minute: limits.journal_per_minute.at_least_one(),
                burst: limits.journal_burst.at_least_one(),
            },
        }
    }
}

/// A size in bytes, as a text with a unit: `64MiB`.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ByteSize(pub(super) u64);

impl ByteSize {
    /// The size as a number that is not 0, and at most 4 GiB.
    fn at_least_one(self) -> NonZeroU32 {
        let bytes = u32::try_from(self.0).unwrap_or(u32::MAX);
        NonZeroU32::new(bytes).unwrap_or(NonZeroU32::MIN)
    }
}

impl TryFrom<String> for ByteSize {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let malformed = "must be a whole number with a unit: KiB, MiB, GiB";
        let units = [("KiB", 10_u32), ("MiB", 20), ("GiB", 30)];
        let (number, shift) = units
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
            .ok_or(malformed)?;
        let number: u64 = number.trim().parse().map_err(|_| malformed)?;
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or("is too large")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileBreakGlass {
    pub(super) spiffe_id: SpiffeId,
    pub(super) persons: Vec<Person>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileRevocation {
    pub(super) freshness: Ttl,
    pub(super) max_clock_skew: Ttl,
    #[serde(default)]
    pub(super) beside_older_brokers: bool,
}

impl Default for FileRevocation {
    fn default() -> Self {
        Self {
            freshness: Ttl::SECOND,
            max_clock_skew: Ttl::HALF_SECOND,
            beside_older_brokers: false,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileLimits {
    pub(super) calls_per_second: NonZeroU32,
    pub(super) issuing: usize,
    pub(super) journal_per_minute: ByteSize,
    pub(super) journal_burst: ByteSize,
    pub(super) purpose_bytes: usize,
    pub(super) instruction_bytes: usize,
    pub(super) secret_bytes: usize,
    pub(super) tokens_per_task: u32,
    pub(super) message_bytes: usize,
    pub(super) unfinished_bytes: ByteSize,
    pub(super) connections: usize,
    pub(super) connections_per_workload: usize,
    pub(super) connections_per_remote: usize,
    pub(super) operator_connections: usize,
    pub(super) pending_handshakes: usize,
    pub(super) handshakes: usize,
    pub(super) local_connections: usize,
    pub(super) local_connections_per_uid: usize,
    pub(super) streams: u32,
    pub(super) streams_per_workload: usize,
    pub(super) connection_age: Ttl,
    pub(super) max_task_ttl: Ttl,
    pub(super) bundle_age: Ttl,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            calls_per_second: NonZeroU32::MIN.saturating_add(999),
            issuing: 256,
            journal_per_minute: ByteSize(4 << 20),
            journal_burst: ByteSize(16 << 20),
            purpose_bytes: 1024,
            instruction_bytes: 64 << 10,
            secret_bytes: 256 << 10,
            tokens_per_task: 256,
            message_bytes: 1 << 20,
            unfinished_bytes: ByteSize(128 << 20),
            connections: 10_000,
            connections_per_workload: 2_500,
            connections_per_remote: 5_000,
            operator_connections: 100,
            pending_handshakes: 1_024,
            handshakes: 64,
            local_connections: 512,
            local_connections_per_uid: 128,
            streams: 256,
            streams_per_workload: 8_192,
            connection_age: Ttl::QUARTER_HOUR,
            max_task_ttl: Ttl::DAY,
            bundle_age: Ttl::HOUR,
        }
    }
}

impl From<&FileLimits> for CallLimits {
    fn from(file: &FileLimits) -> Self {
        Self {
            calls_per_second: file.calls_per_second,
            issuing: file.issuing,
            open_calls: file.streams_per_workload,
            unfinished_bytes: usize::try_from(file.unfinished_bytes.0).unwrap_or(usize::MAX),
            purpose_bytes: file.purpose_bytes,
            instruction_bytes: file.instruction_bytes,
            secret_bytes: file.secret_bytes,
            tokens_per_task: file.tokens_per_task,
        }
    }
}

impl From<&FileLimits> for ListenerLimits {
    fn from(file: &FileLimits) -> Self {
        Self {
            connections: file.connections,
            handshakes: file.handshakes,
            for_operators: file.operator_connections,
            pending: file.pending_handshakes,
            per_remote: file.connections_per_remote,
            per_workload: file.connections_per_workload,
        }
    }
}

impl From<&FileLimits> for LocalLimits {
    fn from(file: &FileLimits) -> Self {
        Self {
            connections: file.local_connections,
            per_uid: file.local_connections_per_uid,
        }
    }
}

/// Reads sections one by one, so that an error in one does not hide those in others.
struct Sections {
    table: toml::Table,
    errors: Vec<String>,
}

impl Sections {
    /// Reads a section that may be missing. An error is noted by its path in the file. C6: a key that
    /// is wrong is taken out and the rest is read again, so that a section tells of each of its keys.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let mut value = self.table.remove(name)?;
        let mut taken_out = Vec::new();
        loop {
            let error = match serde_path_to_error::deserialize(value.clone()) {
                Ok(section) => return taken_out.is_empty().then_some(section),
                Err(error) => error,
            };
            let message = error.inner().message();
            // One that is missing because it was taken out is told already.
            let is_told = |key: &String| message == format!("missing field `{key}`");
            if taken_out.iter().any(is_told) {
                return None;
            }
            let path = error.path().to_string();
            let path = if path == "." {
                String::new()
            } else {
                format!(".{path}")
            };
            self.errors.push(format!("{name}{path}: {message}"));
            taken_out.push(take_out(&mut value, error.path())?);
        }
    }

    /// Reads a section that must be there.
    fn need<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if !self.table.contains_key(name) {
            self.errors.push(format!("{name}: section is missing"));
        }
        self.take(name)
    }
}

/// Takes the key at a path out of a section, and returns its name; nothing if the path ends at none.
fn take_out(section: &mut toml::Value, path: &serde_path_to_error::Path) -> Option<String> {
    let mut place = section;
    let mut segments = path.iter().peekable();
    loop {
        match segments.next()? {
            Segment::Map { key } if segments.peek().is_none() => {
                place.as_table_mut()?.remove(key)?;
                return Some(key.clone());
            }
            Segment::Map { key } => place = place.as_table_mut()?.get_mut(key)?,
            Segment::Seq { index } => place = place.as_array_mut()?.get_mut(*index)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        }
    }
}
