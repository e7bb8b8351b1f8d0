//! The command line of the owner of a broker's state.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Get the first SVID of an operator, once for each store. Run it on a broker's host, as the user
    /// who owns the folder of its journal; the broker runs, with the embedded CA.
    ///
    /// The SVID is good for `svid_ttl`. Register a workload for each operator before it ends, and get
    /// SVIDs for these (`sundew svid join-token`, `sundew svid enroll`). It is recorded, and is an alarm.
    Bootstrap {
        #[command(flatten)]
        place: OwnerPlace,
        /// Which operator [default: the one who is a registrar].
        #[arg(long, value_name = "SPIFFE_ID")]
        spiffe_id: Option<String>,
    },
    /// Get an SVID of an operator in an emergency, on the word of two persons whom the configuration
    /// names under break_glass. It is good for an hour at most, is recorded, and is an alarm.
    #[command(subcommand)]
    BreakGlass(BreakGlassCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BreakGlassCommand {
    /// Ask the broker for a statement to sign. It waits for 15 minutes.
    Ask {
        #[command(flatten)]
        place: OwnerPlace,
        /// Why; goes into the record.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Where the statement goes.
        #[arg(default_value = "break-glass.json", value_name = "FILE")]
        file: PathBuf,
    },
    /// Sign the statement, as one of the persons; on any machine. Says what is signed.
    Sign {
        /// The person's key: PEM, or an OpenSSH key (Ed25519 or ECDSA).
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The statement.
        #[arg(default_value = "break-glass.json", value_name = "FILE")]
        file: PathBuf,
    },
    /// Get the SVID for the statement that two persons have signed.
    Redeem {
        #[command(flatten)]
        place: OwnerPlace,
        /// The statement.
        #[arg(default_value = "break-glass.json", value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct OwnerPlace {
    /// The configuration of the broker.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Where to write svid.pem, key.pem and bundle.pem.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
