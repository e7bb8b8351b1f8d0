//! Identity documents of EC2 instances.

use sundew_attestation::Claims;
use sundew_attestation::kinds::aws_iid::{self, IidError};
use sundew_rebuilt::NOW_MS;
use sundew_rebuilt::aws_iid::{DATA, DOCUMENT, Region, SIGNED_DATA};
use sundew_rebuilt::edits::{self, ber};

use crate::said;

fn verify(certificate: &[u8], document: &[u8]) -> Result<Claims, IidError> {
    let certificate_of = |name: &str| (name == "eu-west-2").then_some(certificate);
    aws_iid::verify(document, certificate_of, NOW_MS)
}

#[test]
fn e2_documents_are_taken_in_the_encoding_that_ec2_sends() {
    let region = Region::new();
    let (certificate, genuine) = (region.certificate(), region.genuine());
    // The very bytes around the document.
    let head = "308006092a864886f70d010702a0803080020101310f300d060960864801650304020105003080\
                06092a864886f70d010701a08024800482";
    assert!(hex::encode(&genuine).starts_with(head));
    assert!(genuine.ends_with(&[0; 6]));
    for segment in [1000, 100, 7] {
        let document = region.document(DOCUMENT.as_bytes(), DATA, segment);
        let claims = verify(&certificate, &document).unwrap();
        assert_eq!(claims.values["accountId"], ["123456789012"], "{segment}");
        assert_eq!(claims.values["instanceId"], ["i-0123456789abcdef0"]);
    }
    let other = Region::new().certificate();
    let error = verify(&other, &genuine).unwrap_err();
    assert!(matches!(error, IidError::Signature), "{error}");
}

#[test]
fn e2_no_bit_of_such_a_document_changes_what_it_says() {
    let region = Region::new();
    let certificate = region.certificate();
    let genuine = region.document(DOCUMENT.as_bytes(), DATA, 200);
    let taken = |document: &[u8]| said(verify(&certificate, document));
    edits::bits(&genuine, taken);
    let longer = [genuine.as_slice(), &[0]].concat();
    assert!(taken(&longer).is_none(), "a byte after the document");
}

/// The edits know BER: other lengths, other segments, and elements of the attacker's document.
#[test]
fn t34_no_structural_edit_of_an_identity_document_changes_what_it_says() {
    let (region, evil) = (Region::new(), Region::new());
    let (certificate, genuine) = (region.certificate(), region.genuine());
    let theirs = evil.document(DOCUMENT.replace("123", "321").as_bytes(), DATA, 1000);
    let outcome = edits::structural(
        &genuine,
        0x5eed_0000_0000_0004,
        |dice| match dice.roll(5) {
            0 => {
                let size = 1 + dice.roll(DOCUMENT.len());
                let text = match dice.roll(2) {
                    0 => DOCUMENT.to_owned(),
                    _ => DOCUMENT.replace("eu-west-2a", "eu-west-2b"),
                };
                evil.document(text.as_bytes(), DATA, size)
            }
            1 => spliced(&genuine, &theirs, dice),
            _ => ber::edited(&genuine, dice),
        },
        |document| said(verify(&certificate, document)),
    );
    assert!(
        outcome.taken > 0,
        "no other form of BER was taken: {outcome:?}"
    );
}

/// Returns the genuine document with one part of the attacker's: the document or who signed it.
fn spliced(genuine: &[u8], theirs: &[u8], dice: &mut sundew_rebuilt::dice::Dice) -> Vec<u8> {
    let (mut into, from) = (ber::parse(genuine).unwrap(), ber::parse(theirs).unwrap());
    let at = dice.roll(4);
    *parts(&mut into, at) = parts(&mut from.clone(), at).clone();
    ber::bytes(&into)
}

/// Returns a part of SignedData: version, algorithms, content or signers.
fn parts(nodes: &mut [ber::Node], at: usize) -> &mut ber::Node {
    let ber::Node::Tree(_, _, outer) = &mut nodes[0] else {
        panic!("no ContentInfo");
    };
    let ber::Node::Tree(_, _, explicit) = &mut outer[1] else {
        panic!("no content");
    };
    let ber::Node::Tree(_, _, signed) = &mut explicit[0] else {
        panic!("no SignedData");
    };
    &mut signed[at]
}

#[test]
fn e2_hostile_encodings_are_refused_at_little_cost() {
    let region = Region::new();
    let certificate = region.certificate();
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
        let error = verify(&certificate, &document).unwrap_err();
        assert!(matches!(error, IidError::Malformed(_)), "{what}: {error}");
    }
}
