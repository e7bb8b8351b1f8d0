//! Identity documents of EC2 in the encoding that the metadata service has: BER with indefinite
//! lengths and a constructed OCTET STRING.

use crate::NOW_S;
use crate::certificate::{Certificate, Name};
use crate::der::{algorithm, element, oid, open};
use crate::key::{Algorithm, Key};

/// The content type of data.
pub const DATA: &str = "1.2.840.113549.1.7.1";
/// The content type of signed data.
pub const SIGNED_DATA: &str = "1.2.840.113549.1.7.2";
const SHA256: &str = "2.16.840.1.101.3.4.2.1";
const RSA_SHA256: &str = "1.2.840.113549.1.1.11";

/// A document as the metadata service writes it.
pub const DOCUMENT: &str = r#"{
  "accountId" : "123456789012",
  "architecture" : "x86_64",
  "availabilityZone" : "eu-west-2a",
  "billingProducts" : null,
  "devpayProductCodes" : null,
  "marketplaceProductCodes" : null,
  "imageId" : "ami-0123456789abcdef0",
  "instanceId" : "i-0123456789abcdef0",
  "instanceType" : "t3.micro",
  "kernelId" : null,
  "pendingTime" : "2027-01-15T07:00:00Z",
  "privateIp" : "10.0.0.1",
  "ramdiskId" : null,
  "region" : "eu-west-2",
  "version" : "2017-09-30"
}"#;

/// A region with its key.
pub struct Region {
    key: Key,
}

impl Region {
    /// Makes a region with a new key of 2048 bits.
    pub fn new() -> Self {
        Self {
            key: Key::rsa(Algorithm::RsaPkcs1, 2048),
        }
    }

    fn issuer() -> Name {
        Name::new(&[
            ("C", "US"),
            ("ST", "Washington State"),
            ("L", "Seattle"),
            ("O", "Sundew Tests"),
        ])
    }

    /// Returns the certificate that is published for the region, in DER; it ends in 180 years.
    pub fn certificate(&self) -> Vec<u8> {
        let name = Self::issuer();
        Certificate {
            serial: &[0xb6, 0x4b, 0xde],
            issuer: &name,
            subject: &name,
            valid_s: (NOW_S - 10 * 365 * 86_400, NOW_S + 180 * 365 * 86_400),
            key: &self.key,
            extensions: vec![crate::certificate::subject_key_id(&self.key)],
        }
        .signed_by(&self.key)
    }

    /// Returns the genuine answer of the metadata service.
    pub fn genuine(&self) -> Vec<u8> {
        self.document(DOCUMENT.as_bytes(), DATA, 1000)
    }

    /// Returns the signed attributes that the metadata service writes.
    fn attributes(document: &[u8]) -> Vec<u8> {
        let protection = [algorithm(SHA256), element(0xa1, &[&oid(RSA_SHA256)])].concat();
        let digest = ring::digest::digest(&ring::digest::SHA256, document);
        let attribute = |last: &str, value: &[u8]| {
            let kind = oid(&format!("1.2.840.113549.1.9.{last}"));
            element(0x30, &[&kind, &element(0x31, &[value])])
        };
        [
            attribute("3", &oid(DATA)),
            attribute("5", &element(0x17, &[b"270115070000Z"])),
            attribute("52", &element(0x30, &[&protection])),
            attribute("4", &element(4, &[digest.as_ref()])),
        ]
        .concat()
    }

    /// Returns a signed document of this content type, whose octets stand in segments of this
    /// length.
    pub fn document(&self, document: &[u8], content_type: &str, segment: usize) -> Vec<u8> {
        let attributes = Self::attributes(document);
        let issuer = element(0x30, &[&Self::issuer().0, &[2, 4, 0, 0xb6, 0x4b, 0xde]]);
        let signer = element(
            0x30,
            &[
                &[2, 1, 1],
                &issuer,
                &algorithm(SHA256),
                &element(0xa0, &[&attributes]),
                &algorithm(RSA_SHA256),
                &element(4, &[&self.key.sign(&element(0x31, &[&attributes]))]),
            ],
        );
        let octets: Vec<u8> = document
            .chunks(segment)
            .flat_map(|segment| element(4, &[segment]))
            .collect();
        let enclosed = open(
            0x30,
            &[&oid(content_type), &open(0xa0, &[&open(0x24, &[&octets])])],
        );
        let signed = open(
            0x30,
            &[
                &[2, 1, 1],
                &element(0x31, &[&algorithm(SHA256)]),
                &enclosed,
                &element(0x31, &[&signer]),
            ],
        );
        open(0x30, &[&oid(SIGNED_DATA), &open(0xa0, &[&signed])])
    }
}

impl Default for Region {
    fn default() -> Self {
        Self::new()
    }
}
