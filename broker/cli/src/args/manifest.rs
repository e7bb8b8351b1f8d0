//! The command line of manifests.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sundew_sdk::Ttl;

use super::ArgumentError;

#[derive(Debug, Subcommand)]
pub(crate) enum ManifestCommand {
    /// Describe what an agent consists of, in a file that `sign` reads, and make a key to sign with
    /// unless one is named.
    Init(InitManifest),
    /// Measure what the description names, and sign what was found; or add a signature to a manifest
    /// that is signed already.
    Sign(SignManifest),
    /// Check who signed a manifest, and whether the files beside it are what was signed; exit code 1
    /// if anything is not.
    Verify(VerifyManifest),
    /// Show what a manifest says, or what a registration says to take it. Nothing is verified.
    Show(ShowManifest),
}

#[derive(Debug, Args)]
pub(crate) struct InitManifest {
    /// The agent's program: a script, an executable, or a folder.
    #[arg(long, value_name = "PATH")]
    pub(crate) code: PathBuf,
    /// The agent's name, for people [default: the name of the program].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The model that the agent uses, as it says itself in SUNDEW_MODEL.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// The system prompt.
    #[arg(long, value_name = "FILE")]
    pub(crate) system_prompt: Option<PathBuf>,
    /// The definition of a tool. May be repeated.
    #[arg(long = "tool", value_name = "NAME=PATH", value_parser = name_and_path)]
    pub(crate) tools: Vec<(String, PathBuf)>,
    /// The definition of an MCP server. May be repeated.
    #[arg(long = "mcp", value_name = "NAME=PATH", value_parser = name_and_path)]
    pub(crate) mcp: Vec<(String, PathBuf)>,
    /// How long a manifest counts after it was signed [default: for ever].
    #[arg(long, value_name = "DURATION")]
    pub(crate) valid_for: Option<Ttl>,
    /// The key to sign with: PEM, or an OpenSSH key (Ed25519 or ECDSA). Without it, a new one is made
    /// beside the description, in signer.pem; its public half is in signer.pub.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The description to write. All parts must lie in its folder.
    #[arg(default_value = "manifest.toml", value_name = "DESCRIPTION")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SignManifest {
    /// The key to sign with, instead of the one that the description names. May be repeated.
    #[arg(long = "key", value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// Where the manifest goes [default: the description with the ending .json].
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The description; or a manifest, which gets one more signature.
    #[arg(default_value = "manifest.toml", value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyManifest {
    /// A key that must have signed: public in PEM or as OpenSSH has it, or private. May be repeated.
    #[arg(long = "key", value_name = "FILE", required = true)]
    pub(crate) keys: Vec<PathBuf>,
    /// The number of keys that must have signed.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub(crate) threshold: usize,
    /// Look at the signatures only, and measure nothing.
    #[arg(long)]
    pub(crate) signatures_only: bool,
    /// The manifest.
    #[arg(default_value = "manifest.json", value_name = "MANIFEST")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ShowManifest {
    /// Print what a registration says to take manifests of these keys, to be added to its file.
    #[arg(long, requires = "keys")]
    pub(crate) requirement: bool,
    /// A key that may sign: public in PEM or as OpenSSH has it, or private. May be repeated.
    #[arg(long = "key", value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// The manifest.
    #[arg(default_value = "manifest.json", value_name = "MANIFEST")]
    pub(crate) file: PathBuf,
}

/// Reads `NAME=PATH` as the name of a part and where it is.
fn name_and_path(text: &str) -> Result<(String, PathBuf), ArgumentError> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err(ArgumentError::Part),
    }
}
