//! The binding of evidence to a challenge, for freshness by nonces (RFC 9334, section 10.2), in one
//! construction for all kinds of evidence.
//!
//! P2: the binding is a digest over nonce, SVID key, TLS channel and purpose with domain
//! separation. Evidence of every kind that has a field for it carries the binding.

use ring::digest;

/// The nonce of a single-use challenge: 256 bits from the operating system's random generator.
pub type Nonce = [u8; 32];

/// The purpose of evidence. Evidence that was made for one purpose is rejected for another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindingPurpose {
    /// The claimant begins a task.
    BeginTask,
    /// The claimant asks for its first SVID; the bound key is that of its certificate request.
    Enroll,
    /// The claimant reads a secret.
    GetSecret,
    /// The claimant proves during a task that it is still the attested workload.
    Prove,
    /// The claimant resumes a suspended task.
    ResumeTask,
}

impl BindingPurpose {
    /// Returns the name that configuration and commands use.
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

    /// Returns the label that goes into the digest.
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

/// The 32 bytes that evidence must carry: the SHA-256 over `"sundew/v1/evidence-binding" ‖
/// len(purpose) ‖ purpose ‖ SHA-256(nonce) ‖ SHA-256(SubjectPublicKeyInfo) ‖ exporter`, where
/// `exporter` is the TLS channel binding of RFC 9266 and the length is one byte.
///
/// A binding is no secret and no proof, so it can be copied. Other crates make it with
/// [`Binding::new`], or with [`Binding::from_bytes`] where evidence is examined offline, and not of
/// a field:
///
/// ```compile_fail,E0423
/// let forged = sundew_attestation::Binding([0; 32]);
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Binding([u8; 32]);

impl Binding {
    /// Computes the binding of a nonce and a SubjectPublicKeyInfo in DER. The broker and the SDK
    /// both call this function.
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

    /// Makes a binding of recorded bytes, to verify evidence away from the broker that it was made
    /// for.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 bytes, for kinds of evidence whose field has a variable length: the
    /// qualifying data of a TPM, the nonce of a Nitro document.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64-byte form, for kinds of evidence whose field has exactly that length: the
    /// SHA-512 over `"sundew/v1/evidence-binding/64"` and the 32 bytes. It is never padded or cut.
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
