//! What `sundew-rebuilt` makes has the form of the recordings: the same elements, members, fields
//! and orders, with other contents.

use ciborium::Value as Cbor;
use serde_json::Value as Json;
use sundew_rebuilt::aws_iid;
use sundew_rebuilt::edits::ber::{self, Node};
use sundew_rebuilt::event_log::Log;
use sundew_rebuilt::nitro::Enclave;
use sundew_rebuilt::sev_snp::{Chip, FIELDS, Product, Tcb};
use sundew_rebuilt::tdx::{Collateral, Form, HEADER, Platform};

use crate::{pem, vector};

/// Returns the form of elements in DER: tags, object identifiers, flags and small numbers.
fn der(bytes: &[u8]) -> String {
    fn of(node: &Node) -> String {
        match node {
            Node::Leaf(6, content) => format!("oid {}", hex::encode(content)),
            Node::Leaf(tag @ (1 | 3), content) if content.len() < 4 => {
                format!("{tag} {}", hex::encode(content))
            }
            // An extension holds elements.
            Node::Leaf(4, content) if content.len() > 2 => match ber::parse(content) {
                Some(inner) => format!("octets {{{}}}", all(&inner)),
                None => "octets".to_owned(),
            },
            Node::Leaf(tag, _) => tag.to_string(),
            Node::Tree(tag, _, children) => format!("{tag} {{{}}}", all(children)),
        }
    }
    fn all(nodes: &[Node]) -> String {
        let each: Vec<String> = nodes.iter().map(of).collect();
        each.join(", ")
    }
    all(&ber::parse(bytes).unwrap())
}

/// Returns the form of a value in CBOR: types, names and lengths; of certificates, their own.
fn cbor(value: &Cbor) -> String {
    match value {
        Cbor::Bytes(bytes) if bytes.starts_with(&[0x30, 0x82]) => der(bytes),
        Cbor::Bytes(bytes) if bytes.len() > 1000 => match ciborium::from_reader(&bytes[..]) {
            Ok(inner) => format!("embedded {{{}}}", cbor(&inner)),
            Err(_) => "long".to_owned(),
        },
        Cbor::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Cbor::Text(_) => "text".to_owned(),
        Cbor::Integer(number) => format!("integer {}", i128::from(*number).signum()),
        Cbor::Array(items) => items
            .iter()
            .map(|item| format!("[{}]", cbor(item)))
            .collect(),
        Cbor::Map(members) => members
            .iter()
            .map(|(name, value)| match name {
                Cbor::Text(name) => format!("{name}: {}; ", cbor(value)),
                other => format!("{}: {}; ", cbor(other), cbor(value)),
            })
            .collect(),
        other => format!("{other:?}"),
    }
}

/// Returns the form of a value in JSON: names in their order, types, and lengths of hexadecimal.
fn json(value: &Json) -> String {
    match value {
        Json::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{name}: {}; ", json(value)))
            .collect(),
        // Lists have any number of the same.
        Json::Array(items) => {
            let mut forms: Vec<String> = items.iter().map(json).collect();
            forms.sort();
            forms.dedup();
            format!("{forms:?}")
        }
        Json::String(text) if text.bytes().all(|b| b.is_ascii_hexdigit()) => {
            format!("{} digits", text.len())
        }
        other => format!("{:?}", std::mem::discriminant(other)),
    }
}

#[test]
fn a_rebuilt_nitro_document_has_the_form_of_a_recorded_one() {
    let form = |document: &[u8]| cbor(&ciborium::from_reader(document).unwrap());
    let recorded = vector("nitro/aws_nitro_document.cbor");
    let rebuilt = Enclave::new().genuine();
    assert_eq!(form(&rebuilt), form(&recorded));
    assert_eq!(rebuilt[..6], recorded[..6], "the protected header");
}

#[test]
fn rebuilt_snp_reports_and_certificates_have_the_form_of_recorded_ones() {
    let chip = Chip::new(Product::Milan);
    let set = |report: &[u8]| -> Vec<usize> {
        let is_set =
            |(at, length): &&(usize, usize)| report[*at..at + length].iter().any(|byte| *byte != 0);
        FIELDS.iter().filter(is_set).map(|(at, _)| *at).collect()
    };
    let between = |report: &[u8]| {
        let mut rest = report.to_vec();
        for (at, length) in FIELDS {
            rest[at..at + length].fill(0);
        }
        rest.iter().all(|byte| *byte == 0)
    };
    let (recorded, rebuilt) = (vector("sev-snp/test-report.bin"), chip.report(2, |_| {}));
    assert_eq!(set(&rebuilt), set(&recorded));
    assert!(between(&rebuilt) && between(&recorded));
    for (what, rebuilt, recorded) in [
        ("VCEK", chip.own_vcek(), vector("sev-snp/test-vcek.der")),
        (
            "VLEK",
            chip.vlek_for(Tcb::OWN),
            vector("sev-snp/test-vlek.der"),
        ),
        (
            "ARK",
            chip.ark(),
            pem("sev-snp/amd-roots/milan/ark.pem").remove(0),
        ),
        (
            "ASK",
            chip.intermediate(false),
            pem("sev-snp/amd-roots/milan/ask.pem").remove(0),
        ),
    ] {
        assert_eq!(der(&rebuilt), der(&recorded), "{what}");
    }
}

#[test]
fn rebuilt_tdx_quotes_and_collateral_have_the_form_of_recorded_ones() {
    let platform = Platform::new();
    let (recorded, rebuilt) = (vector("tdx/tdx_quote"), platform.genuine(Form::V4));
    assert_eq!(rebuilt[..12], recorded[..12]);
    assert_eq!(rebuilt[12..28], recorded[12..28], "the vendor");
    assert_eq!(rebuilt[44..HEADER], recorded[44..HEADER]);
    let chain = |quote: &[u8]| -> Vec<String> {
        let at = quote.windows(10).position(|w| w == b"-----BEGIN").unwrap();
        assert_eq!(at, 1258, "all lengths before the chain");
        use rustls_pki_types::pem::PemObject as _;
        rustls_pki_types::CertificateDer::pem_slice_iter(&quote[at..])
            .map(|certificate| der(&certificate.unwrap()))
            .collect()
    };
    assert_eq!(chain(&rebuilt), chain(&recorded));
    let recorded = vector("tdx/tdx_quote_collateral.json");
    let rebuilt = Collateral::genuine().signed_by(&platform);
    let [recorded, rebuilt] =
        [recorded, rebuilt].map(|document| serde_json::from_slice::<Json>(&document).unwrap());
    for name in ["tcb_info", "qe_identity"] {
        let form = |document: &Json| {
            json(&serde_json::from_str(document[name].as_str().unwrap()).unwrap())
        };
        assert_eq!(form(&rebuilt), form(&recorded), "{name}");
    }
    let lists = |document: &Json, name: &str| {
        let list = der(&hex::decode(document[name].as_str().unwrap()).unwrap());
        // Any number of entries.
        let mut entries: Vec<String> = list.split("48 {2, 23, ").map(str::to_owned).collect();
        entries.dedup();
        entries
    };
    for name in ["root_ca_crl", "pck_crl"] {
        assert_eq!(lists(&rebuilt, name), lists(&recorded, name), "{name}");
    }
    let names = |document: &Json| -> Vec<String> {
        document.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names(&rebuilt), names(&recorded));
}

/// Returns types and PCRs of a log's events in their order; what repeats counts once.
fn events(log: &[u8]) -> Vec<(u32, u32)> {
    let number = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
    let size = |at: usize| usize::try_from(number(at)).unwrap();
    let mut at = 32 + size(28);
    let mut out = Vec::new();
    while at < log.len() {
        out.push((number(at), number(at + 4)));
        let count = size(at + 8);
        at += 12;
        for _ in 0..count {
            at += match log[at] {
                4 => 22,
                11 => 34,
                _ => 50,
            };
        }
        at += 4 + size(at);
    }
    out.dedup();
    out
}

#[test]
fn rebuilt_event_logs_have_the_form_of_recorded_ones() {
    for (name, log) in [
        (
            "tpm-eventlogs/coreos_36_shielded_vm_no_secure_boot_eventlog",
            Log::of_cloud(false),
        ),
        (
            "tpm-eventlogs/crypto_agile_eventlog",
            Log::of_computer(false),
        ),
    ] {
        let (recorded, rebuilt) = (vector(name), log.bytes());
        assert_eq!(rebuilt[..52], recorded[..52], "{name}: the first event");
        // GRUB's commands and files follow each other in an order of the script.
        let form = |log: &[u8]| -> Vec<(u32, u32)> {
            let mut events = events(log);
            events.retain(|event| *event != (8, 13));
            events.dedup();
            events
        };
        assert_eq!(form(&rebuilt), form(&recorded), "{name}");
    }
}

#[test]
fn a_rebuilt_identity_document_has_the_members_of_a_recorded_one() {
    let form = |document: &[u8]| {
        let text = String::from_utf8(document.to_vec()).unwrap();
        let names: Vec<String> = text
            .lines()
            .map(|line| line.split(" : ").next().unwrap().to_owned())
            .collect();
        (names, json(&serde_json::from_slice(document).unwrap()))
    };
    let recorded = vector("aws-iid/document.json");
    assert_eq!(form(aws_iid::DOCUMENT.as_bytes()), form(&recorded));
}
