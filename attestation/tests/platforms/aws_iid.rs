//! Identity documents of EC2 in the encoding that the metadata service has (E2): BER with
//! indefinite lengths and a constructed OCTET STRING.

use sundew_attestation::Claims;
use sundew_attestation::kinds::aws_iid::{self, IidError};

use crate::rsa::RsaKey;

const NOW_MS: i64 = 1_800_000_000_000;

const DOCUMENT: &str = r#"{
  "accountId" : "123456789012",
  "architecture" : "x86_64",
  "availabilityZone" : "eu-west-2a",
  "billingProducts" : null,
  "imageId" : "ami-0336cdd409ab5eec4",
  "instanceId" : "i-09fb86d76201dce1c",
  "instanceType" : "t3.micro",
  "pendingTime" : "2025-10-05T23:09:26Z",
  "region" : "eu-west-2",
  "version" : "2017-09-30"
}"#;

const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
const SIGNING_TIME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x05];
const ALGORITHM_PROTECTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x34];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];

/// Returns an element in DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    match length {
        [0, short @ 0..0x80] => out.push(short),
        [0, long] => out.extend([0x81, long]),
        [high, low] => out.extend([0x82, high, low]),
    }
    out.extend(content);
    out
}

/// Returns a constructed element of indefinite length.
fn open(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[tag, 0x80][..], &parts.concat(), &[0, 0]].concat()
}

fn algorithm(oid: &[u8]) -> Vec<u8> {
    der(0x30, &[&der(6, &[oid]), &[5, 0]])
}

fn attribute(oid: &[u8], value: &[u8]) -> Vec<u8> {
    der(0x30, &[&der(6, &[oid]), &der(0x31, &[value])])
}

struct Region {
    key: RsaKey,
    certificate: Vec<u8>,
}

impl Region {
    fn new() -> Self {
        let key = RsaKey::new();
        let certificate = key.certificate("EC2");
        Self { key, certificate }
    }

    /// Returns the signed attributes that the metadata service writes.
    fn attributes(document: &[u8]) -> [Vec<u8>; 4] {
        let protection = [algorithm(SHA256), der(0xa1, &[&der(6, &[RSA_SHA256])])].concat();
        let digest = ring::digest::digest(&ring::digest::SHA256, document);
        [
            attribute(CONTENT_TYPE, &der(6, &[DATA])),
            attribute(SIGNING_TIME, &der(0x17, &[b"251005230926Z"])),
            attribute(ALGORITHM_PROTECTION, &der(0x30, &[&protection])),
            attribute(MESSAGE_DIGEST, &der(4, &[digest.as_ref()])),
        ]
    }

    /// Returns a document of the given content type, whose octets stand in segments of this length.
    fn document(&self, document: &[u8], content_type: &[u8], segment: usize) -> Vec<u8> {
        let attributes = Self::attributes(document).concat();
        let issuer = der(
            0x30,
            &[
                &der(
                    0x30,
                    &[&der(
                        0x31,
                        &[&der(
                            0x30,
                            &[&der(6, &[&[0x55, 4, 6]]), &der(0x13, &[b"US"])],
                        )],
                    )],
                ),
                &der(2, &[&[0, 0xb6, 0x4b, 0xde]]),
            ],
        );
        let signer = der(
            0x30,
            &[
                &[2, 1, 1],
                &issuer,
                &algorithm(SHA256),
                &der(0xa0, &[&attributes]),
                &algorithm(RSA_SHA256),
                &der(4, &[&self.key.sign(&der(0x31, &[&attributes]))]),
            ],
        );
        let octets: Vec<u8> = document
            .chunks(segment)
            .flat_map(|segment| der(4, &[segment]))
            .collect();
        let enclosed = open(
            0x30,
            &[
                &der(6, &[content_type]),
                &open(0xa0, &[&open(0x24, &[&octets])]),
            ],
        );
        let signed = open(
            0x30,
            &[
                &[2, 1, 1],
                &der(0x31, &[&algorithm(SHA256)]),
                &enclosed,
                &der(0x31, &[&signer]),
            ],
        );
        open(0x30, &[&der(6, &[SIGNED_DATA]), &open(0xa0, &[&signed])])
    }

    fn verify(&self, document: &[u8]) -> Result<Claims, IidError> {
        aws_iid::verify(
            document,
            |name| (name == "eu-west-2").then_some(self.certificate.as_slice()),
            NOW_MS,
        )
    }
}

#[test]
fn e2_documents_are_taken_in_the_encoding_that_ec2_sends() {
    let region = Region::new();
    let genuine = region.document(DOCUMENT.as_bytes(), DATA, 1000);
    // The very bytes around the document.
    let head = "308006092a864886f70d010702a0803080020101310f300d060960864801650304020105003080\
                06092a864886f70d010701a08024800482";
    assert!(hex::encode(&genuine).starts_with(head));
    assert!(genuine.ends_with(&[0; 6]));
    for segment in [1000, 100, 7] {
        let claims = region
            .verify(&region.document(DOCUMENT.as_bytes(), DATA, segment))
            .unwrap();
        assert_eq!(claims.values["accountId"], ["123456789012"], "{segment}");
        assert_eq!(claims.values["instanceId"], ["i-09fb86d76201dce1c"]);
    }
}

#[test]
fn e2_no_bit_of_such_a_document_changes_what_it_says() {
    let region = Region::new();
    let genuine = region.document(DOCUMENT.as_bytes(), DATA, 200);
    let expected = region.verify(&genuine).unwrap();
    for at in 0..genuine.len() {
        assert!(region.verify(&genuine[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut variant = genuine.clone();
            variant[at] ^= 1 << bit;
            if let Ok(claims) = region.verify(&variant) {
                assert_eq!(claims.values, expected.values, "byte {at}, bit {bit}");
                assert_eq!(claims.single_use, expected.single_use);
            }
        }
    }
    let longer = [genuine.as_slice(), &[0]].concat();
    assert!(region.verify(&longer).is_err(), "a byte after the document");
}

#[test]
fn e2_hostile_encodings_are_refused_at_little_cost() {
    let region = Region::new();
    let bomb = |tag: u8| [tag, 0x80].repeat(8000);
    for (what, document) in [
        ("nested sequences", bomb(0x30)),
        ("nested strings", bomb(0x24)),
        (
            "a content that is not data",
            region.document(DOCUMENT.as_bytes(), SIGNED_DATA, 1000),
        ),
        ("nothing", Vec::new()),
    ] {
        let error = region.verify(&document).unwrap_err();
        assert!(matches!(error, IidError::Malformed(_)), "{what}: {error}");
    }
}
