//! A quote of a TPM: `tests/vectors/tpm2` was made by an emulator and our own collector.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_attestation::kinds::tpm2;
use sundew_attestation::{Claims, Roots};
use sundew_rebuilt::edits::{self, fields};

use crate::said;

fn vector(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    std::fs::read(folder.join(name)).unwrap()
}

fn mutate<E>(document: &[u8], verify: impl Fn(&[u8]) -> Result<Claims, E>) -> Vec<usize> {
    edits::bits(document, |document| said(verify(document)))
}

#[test]
fn t34_no_bit_of_a_tpm_quote_can_change_what_it_says() {
    let evidence: tpm2::Evidence = serde_json::from_slice(&vector("tpm2/quote.json")).unwrap();
    let key = tpm2::AttestationKey::parse(&vector("tpm2/key.json")).unwrap();
    let verify = |evidence: &tpm2::Evidence| {
        let payload = serde_json::to_vec(evidence).unwrap();
        tpm2::verify(
            &payload,
            |name| (name == key.name()).then_some(&key),
            &Roots::default(),
            &[9; 32],
            0,
        )
    };
    let genuine = verify(&evidence).unwrap();
    assert_eq!(genuine.values["pcr.sha256.7"], ["0".repeat(64)]);
    // The quote and its signature, each bit; the values of PCRs, each digit.
    let quote = STANDARD.decode(&evidence.quote).unwrap();
    let free = mutate(&quote, |quote| {
        verify(&tpm2::Evidence {
            quote: STANDARD.encode(quote),
            ..evidence.clone()
        })
    });
    assert_eq!(free, Vec::<usize>::new());
    let signature = STANDARD.decode(&evidence.signature).unwrap();
    let free = mutate(&signature, |signature| {
        verify(&tpm2::Evidence {
            signature: STANDARD.encode(signature),
            ..evidence.clone()
        })
    });
    assert_eq!(free, Vec::<usize>::new());
    for index in [0, 4, 7] {
        let mut other = evidence.clone();
        other.pcrs.insert(index, format!("{}1", "0".repeat(63)));
        assert!(verify(&other).is_err(), "PCR {index}");
        other.pcrs.remove(&index);
        assert!(verify(&other).is_err(), "without PCR {index}");
    }
    // The public area of the key: a bit more or less is another key, with another name.
    let document: serde_json::Value = serde_json::from_slice(&vector("tpm2/key.json")).unwrap();
    for member in ["key", "parent"] {
        let area = STANDARD.decode(document[member].as_str().unwrap()).unwrap();
        for at in 0..area.len() {
            let mut bent = area.clone();
            bent[at] ^= 1 << (at % 8);
            let mut document = document.clone();
            document[member] = STANDARD.encode(&bent).into();
            if let Ok(other) = tpm2::AttestationKey::parse(document.to_string().as_bytes()) {
                let payload = serde_json::to_vec(&evidence).unwrap();
                assert!(
                    tpm2::verify(&payload, |_| Some(&other), &Roots::default(), &[9; 32], 0)
                        .is_err(),
                    "{member}, byte {at}"
                );
            }
            assert!(
                tpm2::Public::parse(&area[..at]).is_err(),
                "{member} cut at {at}"
            );
        }
    }
}

/// The edits know the fields of TPMS_ATTEST and the members of the evidence.
#[test]
fn t34_no_structural_edit_of_a_tpm_quote_changes_what_it_says() {
    let genuine: serde_json::Value = serde_json::from_slice(&vector("tpm2/quote.json")).unwrap();
    let key = tpm2::AttestationKey::parse(&vector("tpm2/key.json")).unwrap();
    let quote = STANDARD.decode(genuine["quote"].as_str().unwrap()).unwrap();
    // Magic, type, name, extra data, clock, firmware, selection and digest.
    let places = [
        (0, 4),
        (4, 2),
        (6, 2),
        (8, 34),
        (42, 2),
        (44, 32),
        (76, 17),
        (93, 8),
        (101, 4),
    ];
    let outcome = edits::structural(
        &genuine,
        0x5eed_0000_0000_0005,
        |dice| {
            let mut evidence = genuine.clone();
            if dice.one_in(2) {
                evidence["quote"] = STANDARD
                    .encode(fields::edited(&quote, &places, dice))
                    .into();
            }
            for _ in 0..dice.roll(3) {
                edits::json::edit(&mut evidence, dice);
            }
            evidence
        },
        |evidence| {
            let payload = serde_json::to_vec(evidence).unwrap();
            let own = |name: &str| (name == key.name()).then_some(&key);
            said(tpm2::verify(&payload, own, &Roots::default(), &[9; 32], 0))
        },
    );
    assert!(outcome.taken < outcome.different / 5, "{outcome:?}");
}
