//! Attestation documents of Nitro enclaves.

use ciborium::Value;
use sundew_attestation::kinds::nitro::{self, NitroError};
use sundew_attestation::{ChainError, Claims, Roots};
use sundew_rebuilt::NOW_MS;
use sundew_rebuilt::dice::Dice;
use sundew_rebuilt::edits::{self, ber, cbor};
use sundew_rebuilt::nitro::{Enclave, Member, encoded};

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
fn e12_evidence_ends_with_the_certificate_of_its_enclave() {
    let enclave = Enclave::new();
    let roots = roots(&enclave);
    let ending = |in_s: i64| {
        let certificate = enclave.certificate(NOW_MS / 1000 + in_s);
        enclave.with("certificate", Some(Value::Bytes(certificate)))
    };
    let verify = |document: &[u8], at_ms| nitro::verify(document, &roots, &NONCE, at_ms);
    let document = ending(60);
    let claims = verify(&document, NOW_MS + 59_000).unwrap();
    assert_eq!(claims.not_after_ms, Some(NOW_MS + 60_000));
    // The certificate was valid when the document was made, and is not any more.
    let refused = verify(&document, NOW_MS + 60_000);
    assert!(matches!(refused, Err(NitroError::Age)), "{refused:?}");
    let refused = verify(&ending(-1), NOW_MS);
    assert!(matches!(refused, Err(NitroError::Chain(_))), "{refused:?}");
}

/// A member of a document, and what stands there instead; with nothing it is missing.
type Other = (&'static str, &'static str, Option<Value>);

fn registers(values: &[(i64, Vec<u8>)]) -> Option<Value> {
    let register = |(index, value): &(i64, Vec<u8>)| (Value::from(*index), value.clone().into());
    Some(Value::Map(values.iter().map(register).collect()))
}

/// T30: what a genuine hypervisor says of an enclave that nobody should trust, and what none says.
#[test]
fn ac_05_t30_nitro_documents_of_debug_enclaves_or_of_another_form_are_refused() {
    let (enclave, evil) = (Enclave::new(), Enclave::new());
    let roots = roots(&enclave);
    let (pcr, long) = (vec![1; 48], Value::Bytes(vec![9; 33]));
    let others: [Other; 17] = [
        (
            "debug: PCR 0 is zero",
            "pcrs",
            registers(&[(0, vec![0; 48])]),
        ),
        ("no PCR 0", "pcrs", registers(&[(1, pcr.clone())])),
        ("no PCRs", "pcrs", None),
        ("a PCR that is cut", "pcrs", registers(&[(0, vec![1; 32])])),
        (
            "a PCR twice",
            "pcrs",
            registers(&[(0, pcr.clone()), (0, vec![2; 48])]),
        ),
        (
            "an index out of range",
            "pcrs",
            registers(&[(0, pcr.clone()), (32, pcr)]),
        ),
        ("no nonce", "nonce", None),
        ("a null nonce", "nonce", Some(Value::Null)),
        ("the nonce as text", "nonce", Some(Value::from("9"))),
        ("the nonce and more", "nonce", Some(long)),
        ("another digest", "digest", Some(Value::from("SHA256"))),
        ("no time", "timestamp", None),
        ("a time before all time", "timestamp", Some(Value::from(-1))),
        (
            "too old",
            "timestamp",
            Some(Value::from(NOW_MS - 5 * 60_000)),
        ),
        ("no certificate", "certificate", None),
        ("no bundle", "cabundle", None),
        (
            "the root as the leaf",
            "certificate",
            Some(Value::Bytes(enclave.root())),
        ),
    ];
    for (what, name, value) in others {
        let document = enclave.with(name, value);
        assert!(verify(&document, &roots).is_err(), "{what} was taken");
    }
    let mut twice = enclave.content();
    twice.push(("nonce", Value::Bytes(NONCE.to_vec())));
    assert!(
        verify(&enclave.document(twice), &roots).is_err(),
        "a member twice"
    );
    // T09: a mesh of intermediates costs no more than a chain, and a long chain costs nothing.
    let links = (0..10).map(|_| Value::Bytes(Enclave::new().root()));
    let long = enclave.with("cabundle", Some(Value::Array(links.collect())));
    let refused = verify(&long, &roots);
    let is_long = matches!(refused, Err(NitroError::Chain(ChainError::TooLong)));
    assert!(is_long, "{refused:?}");
    // T28: a chain of the attacker's own in the bundle, and a real one beside another signer.
    let refused = verify(&evil.genuine(), &roots);
    assert!(matches!(refused, Err(NitroError::Chain(_))), "{refused:?}");
    let theirs = enclave.certificate(NOW_MS / 1000 + 60);
    let refused = verify(
        &evil.with("certificate", Some(Value::Bytes(theirs))),
        &roots,
    );
    assert!(matches!(refused, Err(NitroError::Signature)), "{refused:?}");
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
    let edits = Edits {
        message: ciborium::from_reader(&document[..]).unwrap(),
        content: enclave.content(),
        evil_content: evil.content(),
        evil,
    };
    let outcome = edits::structural(
        &document,
        0x5eed_0000_0000_0001,
        |dice| edits.variant(dice),
        |document| said(verify(document, &roots)),
    );
    // Other encodings of the same: tags, and the order of what is not signed.
    assert!(outcome.taken < outcome.different / 10, "{outcome:?}");
}

/// A genuine document, and an attacker with an enclave under another root.
struct Edits {
    message: Value,
    content: Vec<Member>,
    evil_content: Vec<Member>,
    evil: Enclave,
}

impl Edits {
    fn variant(&self, dice: &mut Dice) -> Vec<u8> {
        let payload = encoded(&self.payload(dice));
        match dice.roll(3) {
            // Signed by the attacker.
            0 => self.evil.signed(&payload),
            // The genuine signature beside another payload, or beside bent headers.
            1 => {
                let mut message = self.message.clone();
                message.as_array_mut().unwrap()[2] = Value::Bytes(payload);
                encoded(&message)
            }
            _ => {
                let mut message = self.message.clone();
                cbor::edit(&mut message, dice);
                encoded(&message)
            }
        }
    }

    /// Returns a payload with bent members, of which some are the attacker's.
    fn payload(&self, dice: &mut Dice) -> Value {
        let members = self.content.iter().cloned();
        let mut content = Value::Map(members.map(|(name, value)| (name.into(), value)).collect());
        for _ in 0..dice.roll(3) {
            cbor::edit(&mut content, dice);
        }
        let Value::Map(members) = &mut content else {
            return content;
        };
        for (name, value) in members {
            let theirs = self
                .evil_content
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
        content
    }
}

fn is_certificate(bytes: &[u8]) -> bool {
    bytes.len() > 200 && ber::parse(bytes).is_some()
}
