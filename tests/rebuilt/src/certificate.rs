//! Certificates and revocation lists (RFC 5280) with exactly the members that a maker writes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;

use crate::der::{element, oid, unsigned};
use crate::key::Key;

/// The bit of key usage for signatures.
pub const DIGITAL_SIGNATURE: u8 = 0x80;
/// The bit of key usage for signatures that cannot be denied.
pub const NON_REPUDIATION: u8 = 0x40;
/// The bit of key usage for certificates.
pub const CERT_SIGN: u8 = 0x04;
/// The bit of key usage for revocation lists.
pub const CRL_SIGN: u8 = 0x02;

/// A distinguished name, in DER.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name(pub Vec<u8>);

impl Name {
    /// Makes a name of attributes such as `("CN", "root")`, each in a set of its own.
    pub fn new(attributes: &[(&str, &str)]) -> Self {
        let sets = Self::attributes(attributes).into_iter();
        let sets: Vec<_> = sets.map(|one| element(0x31, &[&one])).collect();
        Self(element(0x30, &[&sets.concat()]))
    }

    /// Makes a name of attributes that are all in one set.
    pub fn of_one_set(attributes: &[(&str, &str)]) -> Self {
        let attributes = Self::attributes(attributes).concat();
        Self(element(0x30, &[&element(0x31, &[&attributes])]))
    }

    fn attributes(attributes: &[(&str, &str)]) -> Vec<Vec<u8>> {
        attributes
            .iter()
            .map(|(kind, text)| {
                let (arc, tag) = match *kind {
                    "CN" => ("2.5.4.3", 0x0c),
                    "C" => ("2.5.4.6", 0x13),
                    "L" => ("2.5.4.7", 0x0c),
                    "ST" => ("2.5.4.8", 0x0c),
                    "O" => ("2.5.4.10", 0x0c),
                    "OU" => ("2.5.4.11", 0x0c),
                    other => panic!("no attribute {other}"),
                };
                let value = element(tag, &[text.as_bytes()]);
                element(0x30, &[&oid(arc), &value])
            })
            .collect()
    }
}

/// The signed content of a certificate.
pub struct Certificate<'a> {
    /// The serial number, big-endian.
    pub serial: &'a [u8],
    /// The name of the issuer.
    pub issuer: &'a Name,
    /// The name of the subject.
    pub subject: &'a Name,
    /// The first and the last second in which the certificate is valid, since the epoch.
    pub valid_s: (i64, i64),
    /// The key that is certified.
    pub key: &'a Key,
    /// The extensions in their order, each in DER.
    pub extensions: Vec<Vec<u8>>,
}

impl Certificate<'_> {
    /// Returns the certificate in DER, signed by this key.
    pub fn signed_by(&self, issuer: &Key) -> Vec<u8> {
        let validity = element(0x30, &[&date(self.valid_s.0), &date(self.valid_s.1)]);
        let content = element(
            0x30,
            &[
                &element(0xa0, &[&[2, 1, 2]]),
                &unsigned(self.serial),
                &issuer.signature_algorithm(),
                &self.issuer.0,
                &validity,
                &self.subject.0,
                &self.key.spki(),
                &element(0xa3, &[&element(0x30, &[&self.extensions.concat()])]),
            ],
        );
        signed(&content, issuer)
    }
}

/// The signed content of a revocation list.
pub struct RevocationList<'a> {
    /// The name of the issuer.
    pub issuer: &'a Name,
    /// The times of this and of the next list, in seconds since the epoch.
    pub valid_s: (i64, i64),
    /// The serial numbers of what is revoked, big-endian.
    pub revoked: &'a [Vec<u8>],
}

impl RevocationList<'_> {
    /// Returns the list in DER, signed by this key, with its number and the id of the key.
    pub fn signed_by(&self, key: &Key) -> Vec<u8> {
        let (this, next) = (date(self.valid_s.0), date(self.valid_s.1));
        let reason = extension("2.5.29.21", false, &element(10, &[&[1]]));
        let entries: Vec<Vec<u8>> = self
            .revoked
            .iter()
            .map(|serial| {
                element(
                    0x30,
                    &[&unsigned(serial), &this, &element(0x30, &[&reason])],
                )
            })
            .collect();
        let entries = match entries.as_slice() {
            [] => Vec::new(),
            some => element(0x30, &[&some.concat()]),
        };
        let number = extension("2.5.29.20", false, &[2, 1, 1]);
        let extensions = element(0x30, &[&number, &authority_key_id(key)]);
        let content = element(
            0x30,
            &[
                &[2, 1, 1],
                &key.signature_algorithm(),
                &self.issuer.0,
                &this,
                &next,
                &entries,
                &element(0xa0, &[&extensions]),
            ],
        );
        signed(&content, key)
    }
}

fn signed(content: &[u8], key: &Key) -> Vec<u8> {
    let signature = element(3, &[&[0], &key.sign(content)]);
    element(0x30, &[content, &key.signature_algorithm(), &signature])
}

/// Returns a UTCTime, and a GeneralizedTime from 2050 on.
fn date(at_s: i64) -> Vec<u8> {
    let at = OffsetDateTime::from_unix_timestamp(at_s).expect("a time");
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    match at.year() {
        year @ ..2050 => element(0x17, &[format!("{:02}{rest}", year % 100).as_bytes()]),
        year => element(0x18, &[format!("{year}{rest}").as_bytes()]),
    }
}

/// Returns an extension around a value in DER.
pub fn extension(dotted: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    element(0x30, &[&oid(dotted), critical, &element(4, &[value])])
}

/// Returns critical basic constraints: of a CA with the greatest length of its path, or of none.
pub fn basic_constraints(ca: bool, path: Option<u8>) -> Vec<u8> {
    let ca: &[u8] = if ca { &[1, 1, 0xff] } else { &[] };
    let path = path.map(|path| vec![2, 1, path]).unwrap_or_default();
    extension("2.5.29.19", true, &element(0x30, &[ca, &path]))
}

/// Returns key usage of these bits.
pub fn key_usage(bits: u8, critical: bool) -> Vec<u8> {
    let unused = u8::try_from(bits.trailing_zeros()).expect("up to 8");
    extension("2.5.29.15", critical, &element(3, &[&[unused, bits]]))
}

/// Returns the id of the certified key.
pub fn subject_key_id(key: &Key) -> Vec<u8> {
    extension("2.5.29.14", false, &element(4, &[&key.id()]))
}

/// Returns the id of the issuer's key.
pub fn authority_key_id(key: &Key) -> Vec<u8> {
    let id = element(0x80, &[&key.id()]);
    extension("2.5.29.35", false, &element(0x30, &[&id]))
}

/// Returns the place of the issuer's revocation list.
pub fn crl_distribution(uri: &str) -> Vec<u8> {
    let name = element(0xa0, &[&element(0x86, &[uri.as_bytes()])]);
    let point = element(0x30, &[&element(0xa0, &[&name])]);
    extension("2.5.29.31", false, &element(0x30, &[&point]))
}

/// Returns certificates in PEM, one after the other, with lines of 64 characters.
pub fn pem(certificates: &[&[u8]]) -> String {
    let mut out = String::new();
    for certificate in certificates {
        out += "-----BEGIN CERTIFICATE-----\n";
        let text = STANDARD.encode(certificate);
        for line in text.as_bytes().chunks(64) {
            out += std::str::from_utf8(line).expect("ASCII");
            out += "\n";
        }
        out += "-----END CERTIFICATE-----\n";
    }
    out
}
