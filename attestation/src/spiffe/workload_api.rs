//! What a client takes from a response of the SPIFFE Workload API with X.509-SVIDs (SPIFFE Workload
//! API, sections 4.4, 4.5 and 5).
//!
//! A response is everything that counts from now on: the caller keeps nothing that is not in it.

use std::fmt::{self, Display};

use rustls_pki_types::CertificateDer;

use super::bundle::{BundleSet, TrustBundle, split_der};
use super::id::{SpiffeId, TrustDomain};
use super::svid::{SvidError, spiffe_id_of};
use crate::left_out::{LeftOut, quoted};

/// The SVID that a client wants, where the Workload API has several for it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum SvidChoice {
    /// The first one, which is the default identity (section 5.3).
    #[default]
    First,
    /// The first one with this hint.
    Hint(String),
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
}

impl Display for SvidChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("the first SVID"),
            Self::Hint(hint) => write!(f, "an SVID with the hint {}", quoted(hint)),
            Self::Id(id) => write!(f, "an SVID with the ID {id}"),
        }
    }
}

/// An entry of a response, without its key.
#[derive(Clone, Copy, Debug)]
pub struct SvidEntry<'a> {
    /// The SPIFFE ID that the API says the SVID has.
    pub spiffe_id: &'a str,
    /// The certificates in DER, leaf first, one after the other.
    pub chain: &'a [u8],
    /// The roots of the SVID's trust domain in DER, one after the other.
    pub bundle: &'a [u8],
    /// The operator's hint, or nothing.
    pub hint: &'a str,
}

/// The reasons to take nothing from a response, or no SVID.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// No entry is the one that is wanted: it was redacted, or never there.
    #[error("there is not {wanted}; there are: {found}")]
    Absent {
        /// The SVID that is wanted.
        wanted: SvidChoice,
        /// The SPIFFE IDs and hints that there are.
        found: String,
    },
    /// The leaf of the SVID has another SPIFFE ID than its entry says.
    #[error("{0}: its certificate is of another ID")]
    AnotherId(SpiffeId),
    /// There is no SVID, or an entry lacks a mandatory field (section 4.5).
    #[error("a mandatory field is empty")]
    Incomplete,
    /// The chain of the SVID is not certificates in DER, or its leaf is no SVID.
    #[error("{id}: {cause}")]
    Svid {
        /// The SPIFFE ID that the entry names.
        id: String,
        /// The check that failed.
        cause: SvidError,
    },
}

/// The SVID that was wanted.
#[derive(Debug)]
pub struct ChosenSvid {
    /// The place of its entry in the response, from 0.
    pub index: usize,
    /// The SPIFFE ID, as its leaf and its entry say.
    pub id: SpiffeId,
    /// The certificates, leaf first. They are not validated.
    pub chain: Vec<CertificateDer<'static>>,
}

/// What counts from a response on.
#[derive(Debug)]
pub struct WorkloadResponse {
    /// The SVID that was wanted.
    pub svid: Result<ChosenSvid, ResponseError>,
    /// The bundles of all trust domains. What cannot be used of one is left out of that one.
    pub bundles: BundleSet,
    /// The entries and bundles that belong to no trust domain that they could.
    pub left_out: LeftOut,
}

impl WorkloadResponse {
    /// Reads a response: its entries, and its federated bundles by the SPIFFE ID of their trust
    /// domain. One entry or bundle that cannot be used costs no other.
    ///
    /// # Errors
    /// [`ResponseError::Incomplete`], if the response is to be discarded as a whole.
    pub fn read<'a>(
        entries: &[SvidEntry<'_>],
        federated: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        choice: &SvidChoice,
    ) -> Result<Self, ResponseError> {
        let is_incomplete = |entry: &SvidEntry<'_>| {
            entry.spiffe_id.is_empty() || entry.chain.is_empty() || entry.bundle.is_empty()
        };
        if entries.is_empty() || entries.iter().any(is_incomplete) {
            return Err(ResponseError::Incomplete);
        }
        let (mut bundles, mut left_out) = (BundleSet::default(), LeftOut::default());
        for (index, entry) in entries.iter().enumerate() {
            match SpiffeId::parse(entry.spiffe_id) {
                Ok(id) if bundles.of(id.trust_domain()).is_some() => {}
                Ok(id) => bundles.insert(TrustBundle::from_concatenated_der(
                    id.trust_domain().clone(),
                    entry.bundle,
                )),
                Err(reason) => left_out.add(format!("SVID {index}"), reason),
            }
        }
        for (name, roots) in federated {
            let part = format!("federated bundle {}", quoted(name));
            match TrustDomain::parse(name) {
                // What the API says of the client's own trust domain stands beside its SVID.
                Ok(domain) if bundles.of(&domain).is_some() => {
                    left_out.add(part, "is there already");
                }
                Ok(domain) => bundles.insert(TrustBundle::from_concatenated_der(domain, roots)),
                Err(reason) => left_out.add(part, reason),
            }
        }
        Ok(Self {
            svid: choose(entries, choice),
            bundles,
            left_out,
        })
    }
}

fn choose(entries: &[SvidEntry<'_>], choice: &SvidChoice) -> Result<ChosenSvid, ResponseError> {
    let is_wanted = |entry: &SvidEntry<'_>| match choice {
        SvidChoice::First => true,
        SvidChoice::Hint(hint) => entry.hint == hint,
        SvidChoice::Id(id) => entry.spiffe_id == id.as_str(),
    };
    let mut found = entries.iter().enumerate();
    let Some((index, entry)) = found.find(|(_, entry)| is_wanted(entry)) else {
        let names = entries.iter().map(|entry| match entry.hint {
            "" => quoted(entry.spiffe_id),
            hint => format!("{} (hint {})", quoted(entry.spiffe_id), quoted(hint)),
        });
        return Err(ResponseError::Absent {
            wanted: choice.clone(),
            found: names.collect::<Vec<_>>().join(", "),
        });
    };
    let fail = |cause| ResponseError::Svid {
        id: quoted(entry.spiffe_id),
        cause,
    };
    let chain = split_der(entry.chain)
        .map(|der| der.map(|der| CertificateDer::from(der.to_vec())))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| fail(SvidError::Malformed))?;
    let leaf = chain.first().ok_or(fail(SvidError::Empty))?;
    let id = spiffe_id_of(leaf).map_err(fail)?;
    if id.as_str() != entry.spiffe_id {
        return Err(ResponseError::AnotherId(id));
    }
    Ok(ChosenSvid { index, id, chain })
}

#[cfg(test)]
mod tests;
