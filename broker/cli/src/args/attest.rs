//! The command line of evidence and of what verifiers trust.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ArgumentError, Page};

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Trust something, or replace it.
    ///
    /// Kinds: `nitro` (roots, PEM), `sev_snp` (AMD's ARK and ASK or ASVK, PEM), `tdx` (Intel's
    /// collateral, JSON), `tpm2_ak` (an attestation key, JSON: {"key": …, "parent": …,
    /// "hierarchy": "endorsement"}, base64 of TPM2B_PUBLIC; a primary key has no parent), `tpm2_ek_root` (what a maker of TPMs
    /// certifies endorsement keys with, PEM), `crl` (what a maker of hardware has taken back,
    /// PEM or DER), `tpm2_barred` (a TPM no activated key of which counts: NAME is its `ek`, or a
    /// key's name; set by itself when a key is removed), `aws_iid` (the certificate of the region that NAME is, PEM), `reference`
    /// (an approved value: NAME is SET/VALUE).
    Add {
        /// What it is for; see above.
        kind: String,
        /// Its name, unique among those of its kind.
        name: String,
        /// The content, or - for standard input. A reference value needs none.
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// For a reference value: a remark instead of a file.
        #[arg(long, value_name = "TEXT", conflicts_with = "file")]
        remark: Option<String>,
    },
    /// List everything that is trusted, with where it comes from and when it ends.
    List {
        #[command(flatten)]
        page: Page,
    },
    /// Stop trusting something; tasks that rest on it die.
    Remove {
        /// What it is for, as `sundew trust list` shows it.
        kind: String,
        /// Its name.
        name: String,
        /// Why; goes into the record.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Say what does not work or ends soon; exit code 1 if anything does.
    Status {
        /// What counts as soon.
        #[arg(long, default_value = "24h", value_name = "DURATION")]
        within: sundew_sdk::Ttl,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AttestCommand {
    /// Say what was shown lately, what was found in it, what the registration wanted, and why it
    /// was refused. Needs the role `registrar`.
    Explain {
        /// Only attempts of this workload.
        #[arg(value_name = "SPIFFE_ID")]
        spiffe_id: Option<String>,
        #[arg(long, default_value_t = 5)]
        limit: u32,
    },
    /// Collect one piece of evidence, as the SDK would, and write it to a file.
    Collect(CollectEvidence),
    /// Say what each kind of evidence proves, what it needs, and what its verifier was proven
    /// against: evidence that a platform made (genuine), its structure under keys of ours (rebuilt),
    /// or what only our own programs make.
    Kinds,
    /// Make the broker trust the attestation key of this host's TPM, for what the TPM's maker says.
    /// Prints the claims to pin: `ek` and `key`.
    ///
    /// The broker knows the maker by `sundew trust add tpm2_ek_root`; the TPM opens a credential
    /// that is made for both of its keys.
    Activate(ActivateKey),
    /// Verify one piece of evidence from a file, away from any broker; exit code 1 if it would be
    /// refused.
    Verify(VerifyEvidence),
}

#[derive(Debug, Args)]
pub(crate) struct CollectEvidence {
    /// The kind, such as tpm2.
    pub(crate) kind: String,
    /// What it shall be bound to: 32 bytes in hexadecimal.
    #[arg(
        long,
        value_name = "HEX",
        default_value = "0000000000000000000000000000000000000000000000000000000000000000"
    )]
    pub(crate) binding: String,
    /// The audience that it shall have, for kinds with one.
    #[arg(long, default_value = "")]
    pub(crate) audience: String,
    /// Where to write it, or - for standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ActivateKey {
    /// The TPM, or the socket of an emulator.
    #[arg(long, value_name = "PATH", default_value = "/dev/tpmrm0")]
    pub(crate) tpm: PathBuf,
    /// Persistent handle of the attestation key, which is below the endorsement key.
    #[arg(long, value_name = "HANDLE", default_value = "0x81010002", value_parser = handle)]
    pub(crate) key: u32,
    /// Persistent handle of the endorsement key, of a default template.
    #[arg(long, value_name = "HANDLE", default_value = "0x81010001", value_parser = handle)]
    pub(crate) endorsement_key: u32,
    /// The endorsement key's certificate, PEM or DER, where the TPM has none.
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,
    /// PEM of what comes between it and the maker's root, where the broker does not have it.
    #[arg(long, value_name = "FILE")]
    pub(crate) intermediates: Option<PathBuf>,
    /// The broker's enrollment listener, where this host has no SVID yet.
    #[arg(
        long,
        value_name = "HOST:PORT",
        requires = "bundle",
        requires = "trust_domain"
    )]
    pub(crate) enrollment: Option<String>,
    /// With --enrollment: PEM of the trust domain's roots.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
    /// With --enrollment: the trust domain.
    #[arg(long, value_name = "NAME")]
    pub(crate) trust_domain: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyEvidence {
    /// The kind, such as tpm2.
    pub(crate) kind: String,
    /// The evidence, or - for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// File with the requirement in JSON, as it stands in a registration: {"kind": …,
    /// "claims": {…}}.
    #[arg(long, value_name = "FILE")]
    pub(crate) requirement: PathBuf,
    /// What it must be bound to: 32 bytes in hexadecimal.
    #[arg(
        long,
        value_name = "HEX",
        default_value = "0000000000000000000000000000000000000000000000000000000000000000"
    )]
    pub(crate) binding: String,
    /// What is trusted: KIND/NAME=FILE, as `sundew trust add` takes it. May be repeated.
    #[arg(long = "trust", value_name = "KIND/NAME=FILE", value_parser = trust_file)]
    pub(crate) trust: Vec<(String, PathBuf)>,
    /// A broker's configuration, for its issuers and trust material that are in files.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// PEM of the claimant's SVID, for kinds that its key signs.
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,
    /// At which time, such as 2026-01-31T12:00:00Z [default: now].
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
}

/// Reads the handle of a key in a TPM.
fn handle(text: &str) -> Result<u32, ArgumentError> {
    text.strip_prefix("0x")
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or(ArgumentError::TpmHandle)
}

/// Reads `KIND/NAME=FILE` as `KIND/NAME` and the file.
fn trust_file(text: &str) -> Result<(String, PathBuf), ArgumentError> {
    let (name, path) = text.split_once('=').ok_or(ArgumentError::TrustFile)?;
    Ok((name.to_owned(), path.into()))
}
