//! Documents: what registrars write. Each is opened by the tag of its place, and by its version.
//!
//! L22: the bytes of a document are its version (8 bytes, big-endian), its body, and a tag over
//! both and the place. A document from before there were versions has version 0, and is taken until
//! a version of it is known.

use sundew_attestation::spiffe::SpiffeId;
use sundew_core::store::DocumentKind;
use sundew_core::{DocumentVersion, SealError};

use super::Records;
use super::versions::Verdict;
use crate::refusal::Refusal;

/// The families whose documents have versions. An action of a responder has none: it tells how far
/// a clean-up is, and nothing rests on it.
const VERSIONED: [DocumentKind; 4] = [
    DocumentKind::Engine,
    DocumentKind::Secret,
    DocumentKind::Trust,
    DocumentKind::Workload,
];

/// The name of the keyring, among the keys and counters of the broker.
pub(crate) const KEYRING: &str = "keyring";

/// The name of the document that says who was the first operator of a store, among the keys and
/// counters of the broker. Its content is sealed under the root key, as keys are.
pub(crate) const FIRST_OPERATOR: &str = "first-operator";

/// The two kinds of keys that an embedded CA has. The keys of a kind are one document, among the
/// keys and counters of the broker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CaKeys {
    /// Roots, which sign X.509-SVIDs.
    Roots,
    /// Keys that sign JWT-SVIDs.
    Jwt,
}

impl CaKeys {
    const ALL: [Self; 2] = [Self::Jwt, Self::Roots];
    /// What refusals and health call such a document.
    pub(crate) const WHAT: &'static str = "CA keys";

    /// What operators and the record call the kind.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Roots => "root",
        }
    }

    /// The name of the document of a trust domain.
    pub(crate) fn name(self, trust_domain: &str) -> String {
        format!("{}{trust_domain}", self.prefix())
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Jwt => "jwt/",
            Self::Roots => "ca/",
        }
    }

    /// Whether a document of the broker's own has keys of a CA.
    fn are_in(name: &str) -> bool {
        Self::ALL.iter().any(|keys| name.starts_with(keys.prefix()))
    }
}

/// The place of a document: its family, and its name there.
#[derive(Clone, Copy)]
pub(crate) struct DocumentPlace<'a> {
    /// The family.
    pub(crate) kind: DocumentKind,
    /// The name, unique within the family.
    pub(crate) name: &'a str,
}

impl<'a> DocumentPlace<'a> {
    /// The place of this name in a family.
    pub(crate) fn new(kind: DocumentKind, name: &'a str) -> Self {
        Self { kind, name }
    }

    /// Whether a document has versions: of the broker's own, keys have, and counters have not.
    pub(crate) fn is_versioned(kind: DocumentKind, name: &str) -> bool {
        VERSIONED.contains(&kind)
            || (kind == DocumentKind::Meta
                && (name == KEYRING || name == FIRST_OPERATOR || CaKeys::are_in(name)))
    }

    /// What refusals and health call a document of this family.
    pub(crate) fn what(self) -> &'static str {
        match self.kind {
            DocumentKind::Engine => "engine",
            DocumentKind::Meta if CaKeys::are_in(self.name) => CaKeys::WHAT,
            DocumentKind::Meta if self.name == FIRST_OPERATOR => "first operator",
            DocumentKind::Meta => "keyring",
            DocumentKind::Response => "action",
            DocumentKind::Secret => "secret",
            DocumentKind::Trust => "trust",
            DocumentKind::Workload => "workload",
        }
    }

    /// The statement that the document has a version, or was deleted with it.
    pub(crate) fn with_version(self, version: u64, deleted: bool) -> DocumentVersion {
        DocumentVersion {
            kind: self.kind,
            name: self.name.to_owned(),
            version,
            deleted,
            content_of: None,
        }
    }
}

/// A document that was opened.
pub(crate) struct Document {
    what: &'static str,
    version: u64,
    body: Vec<u8>,
    /// The bytes of the store, by which a change is refused if somebody else came first.
    pub(super) stored: Vec<u8>,
}

impl Document {
    /// The version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The content, without version and tag.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The content in the form of its family; refuses one of another form.
    pub(crate) fn decode<'a, T, E>(
        &'a self,
        decode: impl FnOnce(&'a [u8]) -> Result<T, E>,
    ) -> Result<T, Refusal> {
        decode(&self.body).map_err(|_| Refusal::Seal {
            what: self.what,
            cause: SealError::Opening,
        })
    }
}

impl Records {
    /// Returns a document, if there is one in this place. P8, T71: one that was edited or moved is
    /// refused; L22: so is one that is older than what this broker knows.
    pub(crate) async fn document(
        &self,
        place: DocumentPlace<'_>,
    ) -> Result<Option<Document>, Refusal> {
        match self.store.document(place.kind, place.name).await? {
            Some(stored) => self.open_current(place, &stored),
            None => Ok(None),
        }
    }

    /// Returns all documents of a family, with their names, each of them opened or refused. P4: the
    /// caller says what a refused one means.
    pub(crate) async fn documents(
        &self,
        kind: DocumentKind,
    ) -> Result<Vec<(String, Result<Document, Refusal>)>, Refusal> {
        let mut documents = Vec::new();
        for (name, stored) in self.store.documents(kind).await? {
            let opened = self.open_current(DocumentPlace::new(kind, &name), &stored);
            if let Some(opened) = opened.transpose() {
                documents.push((name, opened));
            }
        }
        Ok(documents)
    }

    /// Returns those documents of a family that can be opened. The others are problems that health
    /// tells.
    pub(crate) async fn readable_documents(
        &self,
        kind: DocumentKind,
    ) -> Result<Vec<(String, Document)>, Refusal> {
        let documents = self.documents(kind).await?;
        Ok(documents
            .into_iter()
            .filter_map(|(name, document)| Some((name, document.ok()?)))
            .collect())
    }

    /// Returns a document as the store takes it.
    pub(crate) fn seal_document(
        &self,
        place: DocumentPlace<'_>,
        version: u64,
        body: &[u8],
    ) -> Vec<u8> {
        let mut record = version.to_be_bytes().to_vec();
        record.extend_from_slice(body);
        self.root.tag(&versioned_place(place), record)
    }

    /// Learns which version a document has, so that no older one is taken any more.
    pub(crate) fn learn(&self, statement: &DocumentVersion) {
        self.versions.learn(statement);
        if statement.kind == DocumentKind::Workload
            && let Ok(id) = SpiffeId::parse(&statement.name)
        {
            self.forget_workload(&id);
        }
    }

    /// Returns whether somebody who had not seen this version of a document withdrew the document
    /// with the same version, so that it does not count.
    pub(crate) fn is_withdrawn_unseen(&self, statement: &DocumentVersion) -> bool {
        let place = DocumentPlace::new(statement.kind, &statement.name);
        let known = self.versions.known(place);
        known.is_some_and(|known| known.deleted && known.version == statement.version)
    }

    /// L22: returns a refusal if what somebody has in memory of a document is not the last version.
    pub(crate) fn require_current(
        &self,
        place: DocumentPlace<'_>,
        version: u64,
    ) -> Result<(), Refusal> {
        self.versions.require_current(place, version)
    }

    /// Returns the names and versions of the documents of a family that should be in the store.
    pub(crate) fn expected_documents(&self, kind: DocumentKind) -> Vec<(String, u64)> {
        self.versions.expected(kind)
    }

    /// L21: reads every document, so that operators hear of those that are older than what this
    /// broker knows, and of those that are missing. Returns the versions of the others, which every
    /// broker should have heard of.
    pub(crate) async fn look_at_documents(&self) -> Result<Vec<DocumentVersion>, Refusal> {
        let mut found = Vec::new();
        for kind in VERSIONED {
            let mut expected = self.versions.expected(kind);
            let stored = self.store.documents(kind).await?;
            for (name, bytes) in &stored {
                let place = DocumentPlace::new(kind, name);
                // What is wrong with it is noted where it is opened.
                if let Ok(Some(document)) = self.open_current(place, bytes) {
                    found.push(place.with_version(document.version, false));
                }
            }
            expected.retain(|(name, _)| !stored.iter().any(|(stored, _)| stored == name));
            for (name, _) in expected {
                // It may have been withdrawn meanwhile.
                let place = DocumentPlace::new(kind, &name);
                if self
                    .versions
                    .known(place)
                    .is_some_and(|known| !known.deleted)
                {
                    self.versions.note(place, "it is missing from the store");
                }
            }
        }
        // Keys that this broker has read; who has those that are missing puts them back.
        for (name, _) in self.versions.expected(DocumentKind::Meta) {
            let keys = DocumentPlace::new(DocumentKind::Meta, &name);
            match self.document(keys).await {
                Ok(Some(document)) => found.push(keys.with_version(document.version, false)),
                Ok(None) if name == FIRST_OPERATOR => {
                    self.versions.note(keys, "it is missing from the store");
                }
                Ok(None) | Err(_) => {}
            }
        }
        Ok(found)
    }

    /// Returns what is wrong with documents of the store, for operators, one line each.
    pub(crate) fn document_problems(&self) -> Vec<String> {
        self.versions.problem_lines()
    }

    /// Returns the number of documents of the store that something is wrong with.
    pub(crate) fn altered_documents(&self) -> usize {
        self.versions.problem_count()
    }

    /// Opens a document that counts; `None` is one that was withdrawn.
    fn open_current(
        &self,
        place: DocumentPlace<'_>,
        stored: &[u8],
    ) -> Result<Option<Document>, Refusal> {
        let opened = self.open_document(place, stored).inspect_err(|_| {
            self.versions.note(place, "it does not open");
        })?;
        match self.versions.judge(place, opened.version)? {
            Verdict::Current => Ok(Some(opened)),
            Verdict::Withdrawn => Ok(None),
        }
    }

    /// Opens the bytes of the store, whatever their version is.
    pub(crate) fn open_document(
        &self,
        place: DocumentPlace<'_>,
        stored: &[u8],
    ) -> Result<Document, Refusal> {
        let what = place.what();
        let split = |record: &[u8]| {
            let (version, body) = record.split_first_chunk()?;
            Some((u64::from_be_bytes(*version), body.to_vec()))
        };
        let versioned = self.root.untag(&versioned_place(place), stored);
        let opened = match versioned.ok().and_then(split) {
            Some(opened) => Ok(opened),
            // Keys are sealed whole under the root key; whoever opens them knows.
            None if place.kind == DocumentKind::Meta => Ok((0, stored.to_vec())),
            None => {
                let place = [place.kind.as_str().as_bytes(), place.name.as_bytes()];
                let record = self.root.untag(&place, stored);
                record.map(|record| (0, record.to_vec()))
            }
        };
        let (version, body) = opened.map_err(|cause| Refusal::Seal { what, cause })?;
        Ok(Document {
            what,
            version,
            body,
            stored: stored.to_vec(),
        })
    }
}

/// The parts over which the tag of a document goes.
pub(super) fn versioned_place<'a>(place: DocumentPlace<'a>) -> [&'a [u8]; 3] {
    [
        b"document",
        place.kind.as_str().as_bytes(),
        place.name.as_bytes(),
    ]
}
