//! The command line of orders.

use clap::{Args, Subcommand};
use sundew_sdk::Ttl;

#[derive(Debug, Subcommand)]
pub(crate) enum OrderCommand {
    /// Order one task for a workload; prints the ticket that claims it, once.
    Create(Box<CreateOrder>),
    /// List your own orders that may be claimed still, or were claimed meanwhile.
    List {
        /// Those of all dispatchers. Needs the role `responder`.
        #[arg(long)]
        all: bool,
        /// Most orders that are shown, 1000 at most.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show how an order of your own stands.
    Show {
        order_id: String,
        /// Go on until it has ended.
        #[arg(long)]
        watch: bool,
    },
    /// Cancel an order of your own that nobody has claimed.
    Cancel {
        order_id: String,
        /// End the task that came of it, too.
        #[arg(long)]
        end_task: bool,
    },
}

/// The task that is ordered.
#[derive(Debug, Args)]
pub(crate) struct CreateOrder {
    /// The workload that may claim the task.
    #[arg(long = "for", value_name = "SPIFFE_ID")]
    pub(crate) workload: String,
    /// Why: the purpose that is kept with the task.
    #[arg(long, value_name = "PURPOSE")]
    pub(crate) task: String,
    /// What the agent is told to do; kept with the task.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) instruction: String,
    /// What the task may do, such as secret:demo/api-key. May be repeated.
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// What its tokens may be meant for. May be repeated [default: all that the registration names].
    #[arg(long = "audience", value_name = "AUDIENCE")]
    pub(crate) audiences: Vec<String>,
    /// The time from now on in which the task must have ended [default: as long as tasks may last].
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Ttl>,
    /// The time from now on in which it must have been claimed.
    #[arg(long, default_value = "15m", value_name = "DURATION")]
    pub(crate) claimable: Ttl,
    /// A label of the task, such as `untrusted-input`. May be repeated.
    #[arg(long = "label", value_name = "LABEL")]
    pub(crate) labels: Vec<String>,
    /// How many levels may be delegated below the task.
    #[arg(long, default_value_t = 0, value_name = "LEVELS")]
    pub(crate) depth: u32,
    /// Let the task go on when its ticket is shown again. It is an alarm in any case.
    #[arg(long)]
    pub(crate) reuse_only_alarms: bool,
    /// A live task of your own from within which you order. Without it, you need the role
    /// `dispatcher`.
    #[arg(long, value_name = "TASK_ID")]
    pub(crate) within: Option<String>,
    /// Calls with equal keys give one order.
    #[arg(long, default_value = "", value_name = "KEY")]
    pub(crate) idempotency_key: String,
}
