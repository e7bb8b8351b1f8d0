//! What each kind of evidence proves, what it needs, and against what its verifier was proven: for
//! people who choose among the kinds.

use serde::Serialize;

/// What a verifier was proven against.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// Evidence that a platform made, as it was recorded there.
    Genuine,
    /// The structure of a platform's evidence, byte for byte, under keys of ours.
    Rebuilt,
    /// Evidence that only our own programs make.
    Own,
}

impl Against {
    /// Returns the word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Genuine => "genuine",
            Self::Rebuilt => "rebuilt",
            Self::Own => "made by us",
        }
    }
}

/// A verifier was proven against something.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Proven {
    /// The sort of evidence.
    pub against: Against,
    /// The evidence.
    pub what: &'static str,
}

/// A kind of evidence, as people choose it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct About {
    /// The name of the kind.
    pub kind: &'static str,
    /// What evidence of the kind proves.
    pub proves: &'static str,
    /// What brokers and agents need for it.
    pub needs: &'static str,
    /// What the verifier was proven against.
    pub proven: &'static [Proven],
}

const fn genuine(what: &'static str) -> Proven {
    let against = Against::Genuine;
    Proven { against, what }
}

const fn rebuilt(what: &'static str) -> Proven {
    let against = Against::Rebuilt;
    Proven { against, what }
}

const fn own(what: &'static str) -> Proven {
    let against = Against::Own;
    Proven { against, what }
}

/// All kinds, sorted by their names.
pub const KINDS: [About; 10] = [
    About {
        kind: "aws_iid",
        proves: "AWS says that an instance of this account and image is there; not that the holder is it",
        needs: "the region's certificate (`trust add aws_iid REGION`); an EC2 instance with IMDSv2",
        proven: &[rebuilt(
            "documents in BER as EC2 sends them, signed by OpenSSL",
        )],
    },
    About {
        kind: "cosign",
        proves: "a registered key signed this digest; `cross_checks` say whether that runs",
        needs: "the signer's public key in the registration; the signature or bundle as a file",
        proven: &[rebuilt(
            "signatures, envelopes and bundles in cosign's form",
        )],
    },
    About {
        kind: "local_user",
        proves: "a process of this user, on the machine of a broker, asked for it; which program is not said",
        needs: "a broker's own socket (`listen.workload_api`), named in SPIFFE_ENDPOINT_SOCKET",
        proven: &[own(
            "real processes of several users at a real broker's socket",
        )],
    },
    About {
        kind: "manifest",
        proves: "the holder of the SVID's key says that it runs what the platform team signed",
        needs: "the signer's public key in the registration; SUNDEW_MANIFEST",
        proven: &[own("manifests signed with DSSE")],
    },
    About {
        kind: "nitro",
        proves: "the AWS hypervisor runs an enclave of this image, not in debug mode",
        needs: "AWS's root (`trust add nitro`); an enclave, and SUNDEW_EVIDENCE_COMMAND_NITRO",
        proven: &[
            genuine("a document of an enclave, under AWS's root"),
            rebuilt("hostile documents"),
        ],
    },
    About {
        kind: "oidc",
        proves: "an issuer said this of the holder: of a job, a pod, an instance or an application",
        needs: "the issuer in the broker's file; SUNDEW_OIDC_TOKEN_FILE or SUNDEW_OIDC_TOKEN_COMMAND",
        proven: &[rebuilt(
            "tokens of GitHub, GitLab, Buildkite, CircleCI, Terraform, Kubernetes, Google and Azure",
        )],
    },
    About {
        kind: "process",
        proves: "a node looked at this process through the kernel: user, container, executable",
        needs: "a node on the host (`sundew node`), named in the registration; SUNDEW_NODE_SOCKET",
        proven: &[own("real processes that a real node looked at")],
    },
    About {
        kind: "sev_snp",
        proves: "an AMD chip at this TCB runs a guest that was launched with this measurement",
        needs: "AMD's certificates of the product (`trust add sev_snp`); Linux 6.7 with configfs-tsm",
        proven: &[
            genuine("reports of Milan under a VCEK and a VLEK, and AMD's roots"),
            rebuilt("reports of Genoa and Turin, hostile reports, a host's certificate table"),
        ],
    },
    About {
        kind: "tdx",
        proves: "an Intel platform at this TCB runs a trust domain with these measurements",
        needs: "Intel's collateral of the platform (`trust add tdx`); Linux 6.7 with configfs-tsm",
        proven: &[genuine(
            "quotes of two platforms, one of them out of date, with Intel's collateral",
        )],
    },
    About {
        kind: "tpm2",
        proves: "the TPM with this key has these PCRs now; its event log says what they are of",
        needs: "its key (`trust add tpm2_ak`) or its maker (`trust add tpm2_ek_root`, `attest activate`); \
                SUNDEW_TPM2",
        proven: &[
            genuine("an event log of a cloud's virtual machine"),
            rebuilt("quotes of an emulated TPM, with certificates in the shapes of six makers"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Each file or folder beside this one is a kind, so that a new one is not forgotten.
    #[test]
    fn the_table_has_every_kind_once_and_sorted() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kinds");
        let kinds: BTreeSet<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| name != "mod" && name != "about")
            .collect();
        assert!(KINDS.iter().map(|about| about.kind).eq(&kinds));
    }

    #[test]
    fn a_line_says_something_and_is_one_line() {
        for about in &KINDS {
            let proven = about.proven.iter().map(|proven| proven.what);
            let mut texts = [about.proves, about.needs].into_iter().chain(proven);
            assert!(!about.proven.is_empty(), "{}", about.kind);
            assert!(texts.all(|text| !text.trim().is_empty() && !text.contains('\n')));
        }
    }
}
