//! The one binding construction for all kinds of evidence.
//!
//! P2: a digest over nonce, SVID key, TLS channel and purpose, domain-separated; evidence that has
//! room carries it.

use ring::digest;

/// A single-use challenge, 256 bits from the system's generator.
pub type Nonce = [u8; 32];

/// What the evidence is for. Evidence for one purpose is no good for another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindingPurpose {
    /// Opening a task.
    BeginTask,
    /// A first SVID: the key is that of the request.
    Enroll,
    /// Reading a secret.
    GetSecret,
    /// Going on with a task.
    Prove,
    /// Reviving a suspended task.
    ResumeTask,
}

impl BindingPurpose {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeginTask => "begin_task",
            Self::Enroll => "enroll",
            Self::GetSecret => "get_secret",
            Self::Prove => "prove",
            Self::ResumeTask => "resume_task",
        }
    }

    fn label(self) -> &'static [u8] {
        match self {
            Self::BeginTask => b"begin-task",
            Self::Enroll => b"enroll",
            Self::GetSecret => b"get-secret",
            Self::Prove => b"prove",
            Self::ResumeTask => b"resume-task",
        }
    }
}

/// What evidence must be bound to: 32 bytes, SHA-256 over
/// `"sundew/v1/evidence-binding" ‖ len(purpose) ‖ purpose ‖ SHA-256(nonce) ‖
/// SHA-256(SubjectPublicKeyInfo) ‖ exporter`, where `exporter` is the TLS channel binding of RFC
/// 9266 and lengths are one byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Binding([u8; 32]);

impl Binding {
    /// Computes the binding; broker and SDK both call this.
    #[must_use]
    pub fn new(
        purpose: BindingPurpose,
        nonce: &[u8],
        public_key: &[u8],
        exporter: &[u8; 32],
    ) -> Self {
        let label = purpose.label();
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"sundew/v1/evidence-binding");
        context.update(&u8::try_from(label.len()).unwrap_or(u8::MAX).to_be_bytes());
        context.update(label);
        context.update(digest::digest(&digest::SHA256, nonce).as_ref());
        context.update(digest::digest(&digest::SHA256, public_key).as_ref());
        context.update(exporter);
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }

    /// A binding that was noted down, to look at evidence away from the broker that it was meant
    /// for.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, for kinds whose room takes any length up to a limit: a TPM's qualifying data,
    /// a Nitro nonce.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// For kinds whose room is exactly 64 bytes: SHA-512 over `"sundew/v1/evidence-binding/64"` and
    /// the 32 bytes. Never padded, never cut.
    #[must_use]
    pub fn wide(&self) -> [u8; 64] {
        let mut context = digest::Context::new(&digest::SHA512);
        context.update(b"sundew/v1/evidence-binding/64");
        context.update(&self.0);
        let mut out = [0; 64];
        out.copy_from_slice(context.finish().as_ref());
        out
    }
}
