//! Bundles as documents that others fetch (Trust Domain and Bundle, section 4).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::TrustBundle;
use crate::jws;
use crate::rsa::stripped;

impl TrustBundle {
    /// Returns the bundle as a SPIFFE JSON bundle. `sequence` must grow whenever the bundle changes;
    /// `refresh_hint_s` says after how many seconds it should be fetched again.
    #[must_use]
    pub fn to_json(&self, sequence: u64, refresh_hint_s: u64) -> Vec<u8> {
        let roots = self.certificates().filter_map(|root| root_key(root));
        let jwt = self.jwt().map(|jwt| jws::keys_of(jwt.document()));
        let jwt = jwt.and_then(Result::ok).unwrap_or_default().into_iter();
        let jwt = jwt.map(|mut key| {
            // Section 4.2.2 demands it of each key, and a JWKS of a Workload API need not have it.
            if let Value::Object(members) = &mut key {
                members.insert("use".to_owned(), json!("jwt-svid"));
            }
            key
        });
        json!({
            "keys": roots.chain(jwt).collect::<Vec<_>>(),
            "spiffe_sequence": sequence,
            "spiffe_refresh_hint": refresh_hint_s,
        })
        .to_string()
        .into_bytes()
    }
}

/// Returns the JWK of a root (X509-SVID, section 6.1).
fn root_key(root: &[u8]) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(root).ok()?;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let mut key = match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let (x, y) = match point.data().split_first()? {
                (4, rest) => rest.split_at_checked(rest.len() / 2)?,
                _ => return None,
            };
            let curve = match x.len() {
                32 => "P-256",
                48 => "P-384",
                _ => return None,
            };
            json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
        }
        PublicKey::RSA(key) => {
            let (n, e) = (stripped(key.modulus), stripped(key.exponent));
            json!({ "kty": "RSA", "n": encode(n), "e": encode(e) })
        }
        PublicKey::Unknown(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key) }),
        PublicKey::DSA(_) | PublicKey::GostR3410(_) | PublicKey::GostR3410_2012(_) => return None,
    };
    if let Value::Object(members) = &mut key {
        members.insert("use".to_owned(), json!("x509-svid"));
        members.insert("x5c".to_owned(), json!([STANDARD.encode(root)]));
    }
    Some(key)
}
