//! Reports of AMD's secure processors, versions 2 to 5, with certificates of their chips (VCEK) and
//! of clouds (VLEK) below an ARK and an ASK or ASVK with RSA keys of 4096 bits.

mod product;

use std::sync::OnceLock;

use crate::NOW_S;
use crate::certificate::{
    CERT_SIGN, CRL_SIGN, Certificate, Name, RevocationList, authority_key_id, basic_constraints,
    crl_distribution, extension, key_usage, subject_key_id,
};
use crate::der::{element, unsigned};
use crate::key::{Algorithm, Key};
pub use product::{Product, Tcb};

const YEAR_S: i64 = 365 * 86_400;
/// The length of a report, in bytes.
pub const REPORT: usize = 1184;
/// The length of what the signature covers, in bytes.
pub const SIGNED: usize = 0x2A0;
/// The length of the signature's two numbers, in bytes; zeros follow.
pub const SIGNATURE: usize = 144;

/// The serial number of the ASK's and the ASVK's certificate.
pub const INTERMEDIATE: [u8; 3] = [1, 0, 1];

/// The fields of a report: offset and length, in bytes (AMD publication 56860, ATTESTATION_REPORT).
pub const FIELDS: [(usize, usize); 31] = [
    (0x000, 4),
    (0x004, 4),
    (0x008, 8),
    (0x010, 16),
    (0x020, 16),
    (0x030, 4),
    (0x034, 4),
    (0x038, 8),
    (0x040, 8),
    (0x048, 4),
    (0x04C, 4),
    (0x050, 64),
    (0x090, 48),
    (0x0C0, 32),
    (0x0E0, 48),
    (0x110, 48),
    (0x140, 32),
    (0x160, 32),
    (0x180, 8),
    (0x188, 1),
    (0x189, 1),
    (0x18A, 1),
    (0x1A0, 64),
    (0x1E0, 8),
    (0x1E8, 4),
    (0x1EC, 4),
    (0x1F0, 8),
    (0x1F8, 8),
    (0x200, 8),
    (0x2A0, 72),
    (0x2E8, 72),
];

/// Returns one of the RSA keys that stand for AMD's; making one takes seconds.
fn maker(index: usize) -> &'static Key {
    static KEYS: [OnceLock<Key>; 3] = [const { OnceLock::new() }; 3];
    KEYS[index].get_or_init(|| Key::rsa(Algorithm::RsaPss, 4096))
}

fn named(name: &str) -> Name {
    Name::new(&[
        ("OU", "Tests"),
        ("C", "US"),
        ("L", "Santa Clara"),
        ("ST", "CA"),
        ("O", "Sundew"),
        ("CN", name),
    ])
}

/// A chip with its keys, and the maker's certificates of its product line.
pub struct Chip {
    /// The product line.
    pub product: Product,
    /// The chip's id; of Turin's, 8 bytes count.
    pub id: [u8; 64],
    /// The chip's own key, which signs reports.
    pub vcek: Key,
    /// The key that a cloud has loaded.
    pub vlek: Key,
    /// The time by which certificates begin and end, in seconds since the epoch.
    now_s: i64,
}

impl Chip {
    /// Makes a chip of [`NOW_S`] with new keys.
    pub fn new(product: Product) -> Self {
        Self::at(product, NOW_S)
    }

    /// Makes a chip of this time, in seconds since the epoch, with new keys.
    pub fn at(product: Product, now_s: i64) -> Self {
        let mut id = [0; 64];
        for (at, byte) in id.iter_mut().enumerate().take(product.id_length()) {
            *byte = u8::try_from(at * 3 + 1).expect("small");
        }
        Self {
            product,
            id,
            vcek: Key::new(Algorithm::P384),
            vlek: Key::new(Algorithm::P384),
            now_s,
        }
    }

    /// Returns the certificate of the ARK, in DER.
    pub fn ark(&self) -> Vec<u8> {
        let (name, key) = (named(&format!("ARK-{}", self.product.name())), maker(0));
        Certificate {
            serial: &[1, 0, 0],
            issuer: &name,
            subject: &name,
            valid_s: (self.now_s - 6 * YEAR_S, self.now_s + 19 * YEAR_S),
            key,
            extensions: vec![
                key_usage(CERT_SIGN | CRL_SIGN, true),
                subject_key_id(key),
                basic_constraints(true, None),
                self.list(),
            ],
        }
        .signed_by(key)
    }

    fn list(&self) -> Vec<u8> {
        let name = self.product.name();
        crl_distribution(&format!("https://kds.invalid/vcek/v1/{name}/crl"))
    }

    /// Returns the certificate of the ASK, or of the ASVK, which certifies VLEKs, in DER.
    pub fn intermediate(&self, is_vlek: bool) -> Vec<u8> {
        let (subject, key) = self.issuer(is_vlek);
        Certificate {
            serial: &INTERMEDIATE,
            issuer: &named(&format!("ARK-{}", self.product.name())),
            subject: &subject,
            valid_s: (self.now_s - 6 * YEAR_S, self.now_s + 19 * YEAR_S),
            key: &key,
            extensions: vec![
                subject_key_id(&key),
                authority_key_id(maker(0)),
                basic_constraints(true, Some(0)),
                // AMD counts one unused bit, and there are two.
                extension("2.5.29.15", true, &element(3, &[&[1, CERT_SIGN]])),
                self.list(),
            ],
        }
        .signed_by(maker(0))
    }

    /// Returns the ARK's revocation list of these serial numbers, good for a day, in DER.
    pub fn revocation_list(&self, revoked: &[Vec<u8>]) -> Vec<u8> {
        RevocationList {
            issuer: &named(&format!("ARK-{}", self.product.name())),
            valid_s: (self.now_s, self.now_s + 86_400),
            revoked,
        }
        .signed_by(maker(0))
    }

    fn issuer(&self, is_vlek: bool) -> (Name, Key) {
        let name = self.product.name();
        match is_vlek {
            true => (
                named(&format!("SEV-VLEK-{name}")),
                maker(2).with(Algorithm::RsaPssDefaultTrailer),
            ),
            false => (named(&format!("SEV-{name}")), maker(1).clone()),
        }
    }

    /// Returns the certificate of the chip's own key for an id and a TCB version, in DER.
    pub fn vcek_for(&self, id: &[u8], tcb: Tcb) -> Vec<u8> {
        self.vcek_of(id, &tcb.components(self.product))
    }

    /// Returns the certificate of the chip's own key for an id and components of a TCB, each by the
    /// last arc of its identifier, in DER.
    pub fn vcek_of(&self, id: &[u8], tcb: &[(u8, u8)]) -> Vec<u8> {
        let name = format!("{}-B0", self.product.name());
        let id = extension_of("4", id);
        self.endorsement("SEV-VCEK", &self.vcek, &name, tcb, id, 7 * YEAR_S)
    }

    /// Returns the chip's own certificate, in DER.
    pub fn own_vcek(&self) -> Vec<u8> {
        self.vcek_for(&self.id[..self.product.id_length()], Tcb::OWN)
    }

    /// Returns the certificate of the cloud's key for a TCB version, in DER.
    pub fn vlek_for(&self, tcb: Tcb) -> Vec<u8> {
        let cloud = element(0x16, &[b"CN=cc-us-east-2.cloud.invalid"]);
        let cloud = extension_of("5", &cloud);
        self.endorsement(
            "SEV-VLEK",
            &self.vlek,
            self.product.name(),
            &tcb.components(self.product),
            cloud,
            YEAR_S,
        )
    }

    fn endorsement(
        &self,
        subject: &str,
        key: &Key,
        product: &str,
        tcb: &[(u8, u8)],
        last: Vec<u8>,
        life_s: i64,
    ) -> Vec<u8> {
        let (issuer, signer) = self.issuer(subject == "SEV-VLEK");
        let mut extensions = vec![
            extension_of("1", &[2, 1, 0]),
            extension_of("2", &element(0x16, &[product.as_bytes()])),
        ];
        for (arc, value) in tcb {
            extensions.push(extension_of(&format!("3.{arc}"), &unsigned(&[*value])));
        }
        extensions.push(last);
        Certificate {
            serial: &[0],
            issuer: &issuer,
            subject: &named(subject),
            valid_s: (self.now_s - YEAR_S / 2, self.now_s - YEAR_S / 2 + life_s),
            key,
            extensions,
        }
        .signed_by(&signer)
    }

    /// Returns a report that is bound to 64 bytes of 7 and that is changed before the chip's key
    /// signs it.
    pub fn report(&self, version: u8, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut report = self.unsigned(version);
        change(&mut report);
        signed(report, &self.vcek)
    }

    /// Returns such a report under the cloud's key.
    pub fn vlek_report(&self, version: u8, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut report = self.unsigned(version);
        report[0x48] = 1 << 2;
        change(&mut report);
        signed(report, &self.vlek)
    }

    fn unsigned(&self, version: u8) -> Vec<u8> {
        let mut report = vec![0; REPORT];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        let tcb = Tcb::OWN.bytes(self.product);
        put(0x000, &[version]);
        put(0x004, &[4]);
        // SMT is allowed, and bit 17 is always set; the ABI is 0.31.
        put(0x008, &0x3_001f_u64.to_le_bytes());
        put(0x010, &[1]);
        put(0x020, &[2]);
        put(0x034, &[1]);
        put(0x038, &tcb);
        put(0x040, &[1]);
        put(0x050, &[7; 64]);
        put(0x090, &[0xAB; 48]);
        put(0x0E0, &[0xE1; 48]);
        put(0x140, &[0xE3; 32]);
        put(0x160, &[0xFF; 32]);
        put(0x180, &tcb);
        if version >= 3 {
            put(0x188, &self.product.cpuid());
        }
        put(0x1A0, &self.id);
        put(0x1E0, &tcb);
        put(0x1E8, &[4, 52, 1, 0, 4, 52, 1, 0]);
        put(0x1F0, &tcb);
        if version >= 5 {
            // The mitigations at launch and now.
            put(0x1F8, &[1]);
            put(0x200, &[3]);
        }
        report
    }
}

/// Signs a report: R and S little-endian, in 72 bytes each.
pub fn signed(mut report: Vec<u8>, key: &Key) -> Vec<u8> {
    let signature = key.sign_fixed(&report[..SIGNED]);
    for (half, at) in signature.chunks(48).zip([SIGNED, SIGNED + 72]) {
        for (to, from) in report[at..at + 48].iter_mut().zip(half.iter().rev()) {
            *to = *from;
        }
    }
    report
}

/// Returns an extension of AMD's, by the last arcs of its identifier.
fn extension_of(arcs: &str, value: &[u8]) -> Vec<u8> {
    extension(&format!("1.3.6.1.4.1.3704.1.{arcs}"), false, value)
}
