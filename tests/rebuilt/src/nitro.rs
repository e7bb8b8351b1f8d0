//! Attestation documents of Nitro enclaves: a COSE_Sign1 without a tag and with an empty
//! unprotected header, nine members, and a chain of region, zone and instance below the root.

use ciborium::Value;

use crate::NOW_S;
use crate::certificate::{
    CERT_SIGN, CRL_SIGN, Certificate, DIGITAL_SIGNATURE, NON_REPUDIATION, Name, authority_key_id,
    basic_constraints, crl_distribution, key_usage, subject_key_id,
};
use crate::key::{Algorithm, Key};

const HOUR_S: i64 = 3600;
const DAY_S: i64 = 24 * HOUR_S;

/// A member of a document.
pub type Member = (&'static str, Value);

/// A hypervisor with one enclave, and all that certifies it.
pub struct Enclave {
    /// The keys of the root, the region, the zone and the instance.
    keys: [Key; 4],
    /// The key that signs documents.
    pub key: Key,
    /// The time of its documents, in seconds since the epoch.
    now_s: i64,
}

impl Enclave {
    /// The enclave's id.
    pub const MODULE: &str = "i-0123456789abcdef0-enc0123456789abcde";

    /// Makes an enclave of [`NOW_S`] with new keys.
    pub fn new() -> Self {
        Self::at(NOW_S)
    }

    /// Makes an enclave of this time, in seconds since the epoch, with new keys.
    pub fn at(now_s: i64) -> Self {
        Self {
            keys: [(); 4].map(|()| Key::new(Algorithm::P384)),
            key: Key::new(Algorithm::P384),
            now_s,
        }
    }

    fn names() -> [Name; 5] {
        let company = [("C", "US"), ("O", "Sundew"), ("OU", "Tests")];
        let of = |place: &[(&str, &str)], name: &str| {
            Name::new(&[&company[..1], place, &company[1..], &[("CN", name)]].concat())
        };
        let seat = [("ST", "Washington"), ("L", "Seattle")];
        // The zone's name has its attributes in another order.
        let zone = Name::new(&[
            ("CN", "0123456789abcdef.zonal.eu-west-1.nitro-enclaves"),
            company[2],
            company[1],
            company[0],
            ("ST", "WA"),
            ("L", "Seattle"),
        ]);
        [
            of(&[], "nitro-enclaves"),
            of(&[], "fedcba9876543210.eu-west-1.nitro-enclaves"),
            zone,
            of(&seat, "i-0123456789abcdef0.eu-west-1.nitro-enclaves"),
            of(&seat, "i-0123456789abcdef0-enc0123456789abcde.eu-west-1"),
        ]
    }

    /// Returns the certificates of the root, the region, the zone and the instance, in DER.
    pub fn bundle(&self) -> [Vec<u8>; 4] {
        let names = Self::names();
        let [root, region, zone, _] = &self.keys;
        let all = DIGITAL_SIGNATURE | CERT_SIGN | CRL_SIGN;
        let list =
            crl_distribution("http://crl.invalid/crl/01234567-89ab-cdef-0123-456789abcdef.crl");
        let made = |at: usize, valid_s, extensions| {
            let issuer = at.saturating_sub(1);
            Certificate {
                serial: &[0x11 + u8::try_from(at).expect("small"); 16],
                issuer: &names[issuer],
                subject: &names[at],
                valid_s,
                key: &self.keys[at],
                extensions,
            }
            .signed_by(&self.keys[issuer])
        };
        let below = |key: &Key, issuer: &Key, path| {
            vec![
                basic_constraints(true, Some(path)),
                authority_key_id(issuer),
                subject_key_id(key),
                key_usage(all, true),
                list.clone(),
            ]
        };
        let root_extensions = vec![
            basic_constraints(true, None),
            subject_key_id(root),
            key_usage(all, true),
        ];
        let instance_extensions =
            vec![basic_constraints(true, Some(0)), key_usage(CERT_SIGN, true)];
        [
            made(
                0,
                (self.now_s - 2600 * DAY_S, self.now_s + 8300 * DAY_S),
                root_extensions,
            ),
            made(
                1,
                (self.now_s - 3 * DAY_S, self.now_s + 17 * DAY_S),
                below(region, root, 2),
            ),
            made(
                2,
                (self.now_s - DAY_S / 2, self.now_s + 5 * DAY_S),
                below(zone, region, 1),
            ),
            made(
                3,
                (self.now_s - 2 * HOUR_S, self.now_s + 22 * HOUR_S),
                instance_extensions,
            ),
        ]
    }

    /// Returns the root's certificate, in DER.
    pub fn root(&self) -> Vec<u8> {
        let [root, ..] = self.bundle();
        root
    }

    /// Returns the enclave's certificate, which ends at this second since the epoch, in DER.
    pub fn certificate(&self, end_s: i64) -> Vec<u8> {
        let [.., issuer, subject] = &Self::names();
        let [.., instance] = &self.keys;
        Certificate {
            serial: &[0x15; 16],
            issuer,
            subject,
            valid_s: (end_s - 3 * HOUR_S - 3, end_s),
            key: &self.key,
            extensions: vec![
                basic_constraints(false, None),
                key_usage(DIGITAL_SIGNATURE | NON_REPUDIATION, false),
            ],
        }
        .signed_by(instance)
    }

    /// Returns the members of a document that is bound to 32 bytes of 9, in their order.
    pub fn content(&self) -> Vec<Member> {
        // Of 16 registers, those of image, kernel, application and instance are set.
        let registers = (0..16_u8)
            .map(|index| {
                let value = if matches!(index, 0 | 1 | 2 | 4) {
                    index + 1
                } else {
                    0
                };
                (Value::from(index), Value::Bytes(vec![value; 48]))
            })
            .collect();
        vec![
            ("module_id", Value::from(Self::MODULE)),
            ("digest", Value::from("SHA384")),
            ("timestamp", Value::from(self.now_s * 1000)),
            ("pcrs", Value::Map(registers)),
            (
                "certificate",
                Value::Bytes(self.certificate(self.now_s + 2 * HOUR_S)),
            ),
            (
                "cabundle",
                Value::Array(self.bundle().map(Value::Bytes).to_vec()),
            ),
            ("public_key", Value::Null),
            ("user_data", Value::Bytes(vec![7; 32])),
            ("nonce", Value::Bytes(vec![9; 32])),
        ]
    }

    /// Returns the genuine document.
    pub fn genuine(&self) -> Vec<u8> {
        self.document(self.content())
    }

    /// Returns a signed document with these members.
    pub fn document(&self, content: Vec<Member>) -> Vec<u8> {
        let members = content
            .into_iter()
            .map(|(name, value)| (Value::from(name), value));
        self.signed(&encoded(&Value::Map(members.collect())))
    }

    /// Returns a signed document with this payload.
    pub fn signed(&self, payload: &[u8]) -> Vec<u8> {
        let protected = encoded(&Value::Map(vec![(Value::from(1), Value::from(-35))]));
        let message = encoded(&Value::Array(vec![
            Value::from("Signature1"),
            Value::Bytes(protected.clone()),
            Value::Bytes(Vec::new()),
            Value::Bytes(payload.to_vec()),
        ]));
        encoded(&Value::Array(vec![
            Value::Bytes(protected),
            Value::Map(Vec::new()),
            Value::Bytes(payload.to_vec()),
            Value::Bytes(self.key.sign_fixed(&message)),
        ]))
    }

    /// Returns a signed document that differs in one member, or lacks it.
    pub fn with(&self, name: &'static str, value: Option<Value>) -> Vec<u8> {
        let mut content = self.content();
        match (content.iter().position(|(other, _)| *other == name), value) {
            (Some(at), Some(value)) => content[at].1 = value,
            (Some(at), None) => drop(content.remove(at)),
            (None, Some(value)) => content.push((name, value)),
            (None, None) => {}
        }
        self.document(content)
    }
}

impl Default for Enclave {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns a value in CBOR.
pub fn encoded(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    ciborium::into_writer(value, &mut out).expect("made");
    out
}
