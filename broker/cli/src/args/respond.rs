//! The command line of responses: selectors, rules and leases.

use clap::{Args, Subcommand};

use super::ArgumentError;
use crate::timestamp::parse_timestamp;

/// What a rule is about: everything that is given must hold.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Selector (criteria combine with AND)")]
#[group(required = true, multiple = true)]
pub(crate) struct Select {
    /// One token, by its id.
    #[arg(long, value_name = "TOKEN_ID")]
    pub(crate) token: Option<String>,
    /// One task; with no other criterion it is ended, and what was delegated from it with it.
    #[arg(long, value_name = "TASK_ID")]
    pub(crate) task: Option<String>,
    /// A task and everything that was delegated from it.
    #[arg(long, value_name = "TASK_ID")]
    pub(crate) task_tree: Option<String>,
    /// Everything of one SPIFFE ID.
    #[arg(long, visible_alias = "spiffe-id", value_name = "SPIFFE_ID")]
    pub(crate) workload: Option<String>,
    /// A SPIFFE ID and all below it, by whole path segments.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) spiffe_prefix: Option<String>,
    /// A whole trust domain.
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain: Option<String>,
    /// Tokens meant for this audience.
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) audience: Option<String>,
    /// Whoever may do something that this scope allows; ends in /* for all below.
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<String>,
    /// Whoever may read this secret.
    #[arg(long, value_name = "NAME")]
    pub(crate) secret: Option<String>,
    /// A verified claim, such as oidc.repository=org/repo or manifest.digest=HEX. May be repeated.
    #[arg(long = "claim", value_name = "KIND.NAME=VALUE")]
    pub(crate) claims: Vec<String>,
    /// Serial number of an SVID, in hexadecimal. Counts for all renewals of an SVID of Sundew's CA.
    #[arg(long, value_name = "HEX")]
    pub(crate) svid_serial: Option<String>,
    /// What this version of a registration decided.
    #[arg(long, value_name = "VERSION")]
    pub(crate) registration: Option<String>,
    /// Issued before this instant: RFC 3339 in UTC, such as 2026-11-24T06:00:00Z, or milliseconds
    /// since the epoch.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    pub(crate) issued_before: Option<i64>,
    /// Orders of this dispatcher that nobody has claimed.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub(crate) dispatcher: Option<String>,
    /// One order, if nobody has claimed it.
    #[arg(long, value_name = "ORDER_ID")]
    pub(crate) order: Option<String>,
    /// With --dispatcher or --order: the tasks that came of the orders, too.
    #[arg(long)]
    pub(crate) ordered_tasks: bool,
    /// Everything there is; goes with no other criterion.
    #[arg(long)]
    pub(crate) everything: bool,
}

/// Reads an instant as milliseconds since the epoch.
fn instant(text: &str) -> Result<i64, ArgumentError> {
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(ms);
    }
    parse_timestamp(text).ok_or(ArgumentError::Instant)
}

/// What is done to what a selector matches.
#[derive(Debug, Args)]
pub(crate) struct Respond {
    #[command(flatten)]
    pub(crate) select: Select,
    /// Why; goes into the record.
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "preview",
        help_heading = "Action"
    )]
    pub(crate) reason: Option<String>,
    /// Say what it would hit, and change nothing.
    #[arg(long, help_heading = "Action")]
    pub(crate) preview: bool,
    /// Do not wait until what was hit is counted and cleaned up.
    #[arg(long, help_heading = "Action")]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Revoke {
    #[command(subcommand)]
    pub(crate) command: Option<RevokeCommand>,
    #[command(flatten)]
    pub(crate) respond: Respond,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RevokeCommand {
    /// How far the clean-up after a revocation is.
    Status {
        #[arg(value_name = "REVOCATION_ID")]
        revocation_id: String,
        /// Go on until it is done.
        #[arg(long)]
        watch: bool,
    },
    /// List rules and quarantines that stand: their effect and state, who put them in force, why and
    /// when.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// List credentials in other systems that are still to be removed.
    List {
        /// Only those of one engine.
        #[arg(long, value_name = "NAME")]
        engine: Option<String>,
        /// Only those that are due.
        #[arg(long)]
        due: bool,
        /// Most leases that are shown, 1000 at most.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
}
