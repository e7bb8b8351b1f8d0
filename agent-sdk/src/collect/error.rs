//! Why evidence could not be collected.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use sundew_core::client::manifest::ManifestError;

/// Why a piece of evidence could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The broker asked for a token with this audience, which is neither set nor its own.
    #[error(
        "the broker asks for a token for `{0}`, which is no name of its own: if tokens for it have \
         that audience, set SUNDEW_OIDC_AUDIENCE"
    )]
    Audience(String),
    /// The command that should print the evidence failed; `said` is the beginning of what it wrote
    /// to its standard error.
    #[error("the command failed: {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Command {
        /// How the command ended.
        status: ExitStatus,
        /// At most 300 characters.
        said: String,
    },
    /// The evidence could not be written as JSON.
    #[error(transparent)]
    Encoding(#[from] serde_json::Error),
    /// A file could not be read.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The SVID's key does not sign.
    #[error("{0}")]
    Key(String),
    /// The broker's own socket did not answer, or refused.
    #[error("{socket}: {problem}")]
    LocalSocket {
        /// The socket.
        socket: String,
        /// The reason.
        problem: String,
    },
    /// What is measured is not what the manifest says.
    #[error(
        "{0}, which was measured at {1}: run what was signed, or sign it anew \
         (`sundew manifest sign`)"
    )]
    Manifest(ManifestError, PathBuf),
    /// The manifest names a model, and this agent says that it uses another one, or none.
    #[error("the manifest is for the model `{0}`: set SUNDEW_MODEL to the model that is in use")]
    Model(String),
    /// The host hands out no certificate with its reports.
    #[error("the host hands out no VCEK or VLEK: set SUNDEW_SEV_SNP_CERTIFICATE to a file with it")]
    NoCertificate,
    /// This machine is not a guest that the kernel can report of; the folder is not there.
    #[error("this is no such guest, or its kernel has no configfs-tsm ({0} is not there)")]
    NoGuest(&'static str),
    /// The node of this host did not answer, or refused.
    #[error("{socket}: {problem}")]
    Node {
        /// The node's socket.
        socket: String,
        /// The reason.
        problem: String,
    },
    /// A collector of the program's own says this.
    #[error("{0}")]
    Other(String),
    /// The kernel reports of another kind of guest.
    #[error("this guest's reports come from `{found}`, not from `{expected}`")]
    Provider {
        /// The kernel's name of the kind of guest that this is.
        found: String,
        /// The kernel's name of the kind of guest that was asked for.
        expected: &'static str,
    },
    /// The shell could not be started.
    #[error(transparent)]
    Shell(io::Error),
    /// The thread that collected has stopped.
    #[error(transparent)]
    Stopped(#[from] tokio::task::JoinError),
    /// The TPM did not do its part.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

impl CollectError {
    /// Returns a function that says which file a system error is about.
    pub(super) fn file(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |cause| Self::File {
            path: path.to_owned(),
            cause,
        }
    }
}

impl From<&str> for CollectError {
    fn from(problem: &str) -> Self {
        Self::Other(problem.to_owned())
    }
}

impl From<String> for CollectError {
    fn from(problem: String) -> Self {
        Self::Other(problem)
    }
}

/// Why a TPM did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// The TPM had something else to do for two seconds.
    #[error("the TPM is busy")]
    Busy,
    /// The connection to the TPM failed.
    #[error("TPM: {0}")]
    Connection(io::Error),
    /// The answer ended before all of it was there.
    #[error("the TPM's answer was cut short")]
    CutShort,
    /// The device or the event log could not be opened or read.
    #[error("{}: {cause}", path.display())]
    File {
        /// The device or file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// Keys that are protected against guessing cannot be used for a while.
    #[error(
        "the TPM is locked out, after failures or because it was switched off hard: `tpm2_dictionarylockout -c` ends that"
    )]
    LockedOut,
    /// The TPM has no SHA-256 bank of PCRs.
    #[error("the TPM has no SHA-256 bank")]
    NoBank,
    /// No certificate is stored where the TPM's maker would have put it.
    #[error("no certificate is there")]
    NoCertificate,
    /// No key is at this persistent handle.
    #[error("the TPM has no key at handle {0:#x}")]
    NoKey(u32),
    /// The SHA-256 bank lacks these PCRs.
    #[error("the TPM has no SHA-256 bank with PCRs {0:?}")]
    NoPcrs(Vec<u8>),
    /// The TPM answered with this response code.
    #[error("the TPM refused (response code {0:#x})")]
    Refused(u32),
    /// The text that should name a device, a handle and PCRs does not.
    #[error("must be DEVICE,HANDLE,PCR+PCR…, such as /dev/tpmrm0,0x81010002,0+4+7")]
    Setting,
    /// A length does not fit.
    #[error(transparent)]
    Size(#[from] std::num::TryFromIntError),
}

impl TpmError {
    /// Returns a function that says which device or file a system error is about.
    pub(super) fn file(path: &Path) -> impl Fn(io::Error) -> Self + Copy + '_ {
        |cause| Self::File {
            path: path.to_owned(),
            cause,
        }
    }
}
