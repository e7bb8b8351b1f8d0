//! Attestation documents of Nitro enclaves.

use ciborium::Value;
use sundew_attestation::kinds::nitro::{self, NitroError};
use sundew_attestation::{Claims, Roots};
use sundew_rebuilt::NOW_MS;
use sundew_rebuilt::dice::Dice;
use sundew_rebuilt::edits::{self, ber, cbor};
use sundew_rebuilt::nitro::{Enclave, encoded};

use crate::said;

const NONCE: [u8; 32] = [9; 32];

fn roots(enclave: &Enclave) -> Roots {
    Roots {
        anchors: vec![enclave.root()],
        ..Roots::default()
    }
}

fn verify(document: &[u8], roots: &Roots) -> Result<Claims, NitroError> {
    nitro::verify(document, roots, &NONCE, NOW_MS + 1000)
}

#[test]
fn ac_05_a_rebuilt_nitro_document_is_taken_at_its_time_for_its_nonce_under_its_root_only() {
    let (enclave, other) = (Enclave::new(), Enclave::new());
    let (document, roots) = (enclave.genuine(), roots(&enclave));
    let claims = verify(&document, &roots).unwrap();
    assert_eq!(claims.values["instance_id"], ["i-0123456789abcdef0"]);
    assert_eq!(claims.values["pcr4"], ["05".repeat(48)]);
    assert!(claims.fresh);
    // E12: the enclave's certificate ends in two hours.
    assert_eq!(claims.not_after_ms, Some(NOW_MS + 2 * 3_600_000));
    // Each call below differs from the accepted one in a single argument.
    let refused = |document: &[u8], roots: &Roots, nonce: &[u8], at| {
        nitro::verify(document, roots, nonce, at).unwrap_err()
    };
    for at in [NOW_MS + 5 * 60_000 + 1, NOW_MS - 30_001] {
        let error = refused(&document, &roots, &NONCE, at);
        assert!(matches!(error, NitroError::Age), "{at}: {error}");
    }
    for nonce in [&NONCE[..31], &[0; 32]] {
        let error = refused(&document, &roots, nonce, NOW_MS);
        assert!(matches!(error, NitroError::Binding), "{error}");
    }
    for roots in [Roots::default(), crate::nitro::roots(&other)] {
        let error = refused(&document, &roots, &NONCE, NOW_MS);
        assert!(matches!(error, NitroError::Chain(_)), "{error}");
    }
    let mut bent = document.clone();
    *bent.last_mut().unwrap() ^= 1;
    let error = refused(&bent, &roots, &NONCE, NOW_MS);
    assert!(matches!(error, NitroError::Signature), "{error}");
    // A tag in front, as others write COSE, says the same.
    let tagged = [&[0xd2][..], &document].concat();
    assert_eq!(
        said(verify(&tagged, &roots)),
        said(verify(&document, &roots))
    );
}

#[test]
fn t34_no_bit_of_a_rebuilt_nitro_document_changes_what_it_says() {
    let enclave = Enclave::new();
    let roots = roots(&enclave);
    let free = edits::bits(&enclave.genuine(), |document| {
        said(verify(document, &roots))
    });
    assert_eq!(free, Vec::<usize>::new(), "bytes that nothing covers");
}

/// The edits know CBOR, COSE and X.509, and a third of the variants are signed by an attacker whose
/// own certificates stand in the place of some of the genuine ones.
#[test]
fn t34_no_structural_edit_of_a_nitro_document_changes_what_it_says() {
    let (enclave, evil) = (Enclave::new(), Enclave::new());
    let (document, roots) = (enclave.genuine(), roots(&enclave));
    let outcome = edits::structural(
        &document,
        0x5eed_0000_0000_0001,
        |dice| edited(&enclave, &evil, dice),
        |document| said(verify(document, &roots)),
    );
    // Other encodings of the same: tags, and the order of what is not signed.
    assert!(outcome.taken < outcome.different / 10, "{outcome:?}");
}

fn is_certificate(bytes: &[u8]) -> bool {
    bytes.len() > 200 && ber::parse(bytes).is_some()
}

fn edited(enclave: &Enclave, evil: &Enclave, dice: &mut Dice) -> Vec<u8> {
    let members = enclave.content();
    let members = members
        .into_iter()
        .map(|(name, value)| (Value::from(name), value));
    let mut content = Value::Map(members.collect());
    for _ in 0..dice.roll(3) {
        cbor::edit(&mut content, dice);
    }
    let Value::Map(members) = &mut content else {
        return enclave.signed(&encoded(&content));
    };
    let evil_members = evil.content();
    for (name, value) in members {
        let theirs = evil_members
            .iter()
            .find(|(other, _)| Some(*other) == name.as_text());
        match (value, theirs) {
            (value, Some((_, theirs))) if dice.one_in(12) => *value = theirs.clone(),
            (Value::Bytes(bytes), _) if dice.one_in(4) && is_certificate(bytes) => {
                *bytes = ber::edited(bytes, dice);
            }
            (Value::Array(bundle), Some((_, Value::Array(theirs)))) if dice.one_in(3) => {
                bundle.extend(theirs.iter().skip(dice.roll(4)).cloned());
            }
            _ => {}
        }
    }
    let payload = encoded(&content);
    match dice.roll(3) {
        // Signed by the attacker.
        0 => evil.signed(&payload),
        // The genuine signature beside another payload, or beside bent headers.
        1 => {
            let mut message: Value = ciborium::from_reader(&enclave.genuine()[..]).unwrap();
            message.as_array_mut().unwrap()[2] = Value::Bytes(payload);
            encoded(&message)
        }
        _ => {
            let mut message: Value = ciborium::from_reader(&enclave.genuine()[..]).unwrap();
            cbor::edit(&mut message, dice);
            encoded(&message)
        }
    }
}
