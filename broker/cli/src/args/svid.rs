//! The command line of SVIDs.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sundew_sdk::Ttl;

#[derive(Debug, Subcommand)]
pub(crate) enum SvidCommand {
    /// Create a single-use join token for a registered workload. Needs the role `registrar`.
    JoinToken {
        spiffe_id: String,
        #[arg(long, default_value = "10m", value_name = "DURATION")]
        ttl: Ttl,
    },
    /// Get a first SVID for a join token, read from standard input, or for evidence, and write it
    /// to a folder.
    Enroll(EnrollSvid),
    /// Get a JWT-SVID from the Workload API and print it. It is a bearer token; the registration
    /// has to name the audience.
    Jwt {
        /// Whom it is for. May be repeated.
        #[arg(long, required = true, value_name = "NAME")]
        audience: Vec<String>,
        /// Which identity, where the process has several.
        #[arg(long, value_name = "SPIFFE_ID")]
        spiffe_id: Option<String>,
    },
    /// Verify a JWT-SVID, read from standard input, through the Workload API.
    VerifyJwt {
        /// Whom it must be for.
        #[arg(long, value_name = "NAME")]
        audience: String,
    },
    /// Replace the SVID in the folder that --svid-dir names by a new one with a new key.
    Renew {
        /// Go on doing it at half of each SVID's life.
        #[arg(long)]
        keep: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EnrollSvid {
    /// The broker's enrollment listener.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) enrollment: String,
    /// PEM of the trust domain's roots.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: PathBuf,
    /// The trust domain.
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain: String,
    /// Show evidence instead of a join token: whose SVID it is to be.
    #[arg(long, value_name = "SPIFFE_ID", requires = "evidence")]
    pub(crate) spiffe_id: Option<String>,
    /// A kind of evidence to show. May be repeated.
    #[arg(long = "evidence", value_name = "KIND", requires = "spiffe_id")]
    pub(crate) evidence: Vec<String>,
    /// Where to write svid.pem, key.pem and bundle.pem.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
