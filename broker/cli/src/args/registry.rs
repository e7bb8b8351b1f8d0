//! The command line of registered things: workloads, secrets, the keyring and engines.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sundew_sdk::Ttl;

use super::{ArgumentError, Page};

#[derive(Debug, Subcommand)]
pub(crate) enum WorkloadCommand {
    /// Create or replace workloads from TOML or JSON files; prints a line for each that changes.
    ///
    /// `scopes` and `audiences` are the most that a workload's tasks get: names, or names whose last
    /// segment is `*`. A workload without `audiences` may have tokens for any service.
    #[command(after_help = APPLY_EXIT_CODES)]
    Apply {
        #[command(flatten)]
        from: WorkloadFiles,
        /// Show what would change, and change nothing; exit code 1 if anything would.
        #[arg(long)]
        dry_run: bool,
        /// Remove those that are not in the files, of the ones that --prefix, --owner and --label
        /// choose.
        #[arg(long, requires = "chosen")]
        prune: bool,
        #[command(flatten)]
        choice: WorkloadChoice,
    },
    /// Show line by line how files differ from what is registered; exit code 1 if they do.
    Diff {
        #[command(flatten)]
        from: WorkloadFiles,
    },
    /// Print registrations as `apply` takes them, in TOML, or with --json in JSON.
    Export {
        #[command(flatten)]
        choice: WorkloadChoice,
    },
    /// List workloads.
    List {
        #[command(flatten)]
        choice: WorkloadChoice,
        #[command(flatten)]
        page: Page,
    },
    /// Show one registration.
    Show { spiffe_id: String },
    /// Remove a registration; everything issued to it dies, SVIDs of the embedded CA and join tokens
    /// included, also if it is registered again.
    Delete { spiffe_id: String },
}

const APPLY_EXIT_CODES: &str = "Exit codes:
  0  applied; or, with --dry-run, nothing would change
  1  with --dry-run: something would change; else: something was refused";

/// Where registrations are read from.
#[derive(Debug, Args)]
pub(crate) struct WorkloadFiles {
    /// A file, a folder with *.toml and *.json at any depth, or - for standard input. May be repeated.
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// Which registrations are meant: those for which everything holds that is given.
#[derive(Debug, Args)]
#[group(id = "chosen", multiple = true)]
pub(crate) struct WorkloadChoice {
    /// A SPIFFE ID and all below it, by whole path segments.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) prefix: Option<String>,
    /// Those of one owner.
    #[arg(long, value_name = "OWNER")]
    pub(crate) owner: Option<String>,
    /// Those with a label. May be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
}

/// Reads a label with its value.
fn label(text: &str) -> Result<(String, String), ArgumentError> {
    let (name, value) = text.split_once('=').ok_or(ArgumentError::Label)?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Write a secret; the value comes from standard input or a file, byte for byte. On a terminal it
    /// is one line, which is not shown.
    Put {
        name: String,
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print a secret of the task that this command is a part of, byte for byte. What `sundew run` has
    /// started finds its task by SUNDEW_TASK_SOCKET, and needs no identity of its own.
    #[command(after_help = super::TASK_EXIT_CODES)]
    Get { name: String },
    /// List names and versions, never values.
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Remove a secret.
    Delete { name: String },
    /// Work on engines, which make secrets for one task each in another system.
    #[command(subcommand)]
    Engine(EngineCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyringCommand {
    /// Add a new key; stored secrets are sealed anew in the background.
    Rotate,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RootKeyCommand {
    /// Write a new root key into a new file.
    New {
        /// The file; no file is overwritten.
        file: PathBuf,
        /// Leave a root key that is there already, and succeed.
        #[arg(long)]
        if_missing: bool,
    },
    /// Show which root keys each broker has, and what is under another key than the active one. That
    /// key may go when there is nothing. Needs the role `registrar`.
    Status,
    /// Write everything anew, under the active key, that would stay under another one. The rest ends
    /// by itself. It may be repeated. Needs the role `registrar`.
    Rewrite,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Show the roots and the keys that sign JWT-SVIDs: which sign, and until when each is trusted.
    Status,
    /// Add a root. It is in all bundles at once, signs after an overlap, and the root before it
    /// leaves the bundles when everything that it signed has ended.
    Rotate {
        /// Rotate the key that signs JWT-SVIDs, and not the root.
        #[arg(long)]
        jwt: bool,
        /// How long the new key is in the bundles before it signs; the life of an SVID by default,
        /// since whoever renews an SVID gets the bundle with it.
        #[arg(long, value_name = "DURATION")]
        activate_after: Option<Ttl>,
    },
    /// Trust nothing but the newest root from now on; every SVID of another root is refused.
    DropOld {
        /// Say that it is meant: whoever has an SVID of an old root has to get a new one.
        #[arg(long, required = true)]
        now: bool,
        /// Drop keys that sign JWT-SVIDs, and not roots.
        #[arg(long)]
        jwt: bool,
    },
}

const ENGINE_EXAMPLE: &str = r#"Example:
  name = "db/reporting"               # its secrets are db/reporting/ROLE
  password_file = "admin.password"    # or password_env = "PGPASSWORD"
  [target]
  kind = "postgres"                   # or "redis"
  host = "db.example.org"
  database = "app"
  username = "sundew"                 # PostgreSQL: CREATEROLE; Redis: +acl +client
  ca = """-----BEGIN CERTIFICATE-----…"""
  [roles.readonly]                    # PostgreSQL: statements; Redis: ACL rules such as "~app:*", "+get"
  grants = ["GRANT SELECT ON ALL TABLES IN SCHEMA public TO {{name}}"]
  max_ttl = "1h"
A lease of each role is made, used and removed before the engine is taken. What a
PostgreSQL lease has made is dropped with it; with acts_as = ["app_owner"] in a role, its
leases may be members of app_owner, and what they make as app_owner stays."#;

#[derive(Debug, Subcommand)]
pub(crate) enum EngineCommand {
    /// Create or replace an engine from a TOML or JSON file; a lease of each role is tried first.
    #[command(after_help = ENGINE_EXAMPLE)]
    Put {
        /// The file, or - for standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Do not try the target.
        #[arg(long)]
        unchecked: bool,
    },
    /// List engines, with their backlog and what is wrong with them.
    List,
    /// Remove an engine that has no leases left.
    Delete { name: String },
}
