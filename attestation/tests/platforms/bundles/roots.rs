//! Roots for a partner's bundle: common ones, odd ones, and edited ones.

use sundew_rebuilt::NOW_S;
use sundew_rebuilt::certificate::{
    self, CERT_SIGN, CRL_SIGN, Certificate, Name, basic_constraints, extension,
};
use sundew_rebuilt::der::{element, oid, unsigned};
use sundew_rebuilt::dice::Dice;
use sundew_rebuilt::edits::ber::{self, Node};
use sundew_rebuilt::key::{Algorithm, Key};

/// Returns extensions of each kind that readers take apart.
pub(super) fn extensions(key: &Key) -> Vec<Vec<u8>> {
    let sequence = |parts: &[&[u8]]| element(0x30, parts);
    let uri = element(0x86, &[b"spiffe://partner.example"]);
    let names = sequence(&[
        &uri,
        &element(0x82, &[b"ca.partner.example"]),
        &element(0x81, &[b"ca@partner.example"]),
        &element(0x87, &[&[10, 0, 0, 1]]),
        &element(0x87, &[&[0x20; 16]]),
        &element(0xa4, &[&Name::new(&[("CN", "other")]).0]),
        &element(0x88, &[&[0x2a, 3]]),
    ]);
    let trees = [
        sequence(&[&element(0x82, &[b".partner.example"])]),
        sequence(&[&element(0x81, &[b"partner.example"])]),
        sequence(&[&element(0x81, &[b"a@partner.example"])]),
        sequence(&[&element(0x86, &[b".partner.example"])]),
        sequence(&[&element(0x87, &[&[10, 0, 0, 0, 0xff, 0, 0, 0]])]),
    ];
    let constraints = sequence(&[&element(0xa0, &[&trees.concat()])]);
    let policy = oid("2.5.29.32.0");
    let notice = sequence(&[
        &oid("1.3.6.1.5.5.7.2.1"),
        &element(0x16, &[b"https://a.example"]),
    ]);
    let policies = sequence(&[
        &sequence(&[&policy, &sequence(&[&notice])]),
        &sequence(&[&oid("1.2.3.4")]),
    ]);
    let access = sequence(&[
        &oid("1.3.6.1.5.5.7.48.1"),
        &element(0x86, &[b"http://a.example"]),
    ]);
    let number = |tag, value| element(tag, &[&[value]]);
    vec![
        basic_constraints(true, Some(3)),
        certificate::key_usage(CERT_SIGN | CRL_SIGN, true),
        certificate::subject_key_id(key),
        certificate::authority_key_id(key),
        extension("2.5.29.17", false, &names),
        extension("2.5.29.30", true, &constraints),
        certificate::crl_distribution("http://partner.example/crl"),
        extension("2.5.29.32", false, &policies),
        extension(
            "2.5.29.33",
            false,
            &sequence(&[&sequence(&[&oid("1.2.3"), &oid("1.2.4")])]),
        ),
        extension(
            "2.5.29.36",
            true,
            &sequence(&[&number(0x80, 1), &number(0x81, 0)]),
        ),
        extension("2.5.29.37", false, &sequence(&[&oid("1.3.6.1.5.5.7.3.1")])),
        extension("2.5.29.54", true, &number(2, 0)),
        extension("1.3.6.1.5.5.7.1.1", false, &sequence(&[&access])),
        extension("1.2.3.4.5", false, b"bytes"),
    ]
}

/// Returns a root whose content `change` has changed.
pub(super) fn root_with(
    key: &Key,
    extensions: Vec<Vec<u8>>,
    change: impl FnOnce(&mut Vec<Node>),
) -> Vec<u8> {
    let name = Name::new(&[("C", "DE"), ("O", "SPIFFE"), ("CN", "é")]);
    let root = Certificate {
        serial: &[7; 16],
        issuer: &name,
        subject: &name,
        valid_s: (NOW_S, NOW_S + 1_000_000_000),
        key,
        extensions,
    };
    changed(&root.signed_by(key), change)
}

/// Returns a certificate whose signed part `change` has changed. Nobody looks at the signature of a
/// root.
fn changed(root: &[u8], change: impl FnOnce(&mut Vec<Node>)) -> Vec<u8> {
    let mut nodes = ber::parse(root).unwrap();
    let Node::Tree(_, _, parts) = &mut nodes[0] else {
        panic!("no certificate");
    };
    let Node::Tree(_, _, content) = &mut parts[0] else {
        panic!("no content");
    };
    change(content);
    ber::bytes(&nodes)
}

pub(super) fn keys() -> Vec<Key> {
    vec![
        Key::new(Algorithm::P256),
        Key::new(Algorithm::P384),
        Key::rsa(Algorithm::RsaPkcs1, 2048),
    ]
}

/// Returns an element that was written before.
pub(super) fn node(der: &[u8]) -> Node {
    ber::parse(der).unwrap().remove(0)
}

/// Returns the key of a root that is RSA with these numbers.
fn rsa_of(modulus: &[u8], exponent: &[u8]) -> Node {
    let key = element(0x30, &[&unsigned(modulus), &unsigned(exponent)]);
    let kind = sundew_rebuilt::der::algorithm("1.2.840.113549.1.1.1");
    node(&element(0x30, &[&kind, &element(3, &[&[0], &key])]))
}

/// Returns a name of one value with this tag.
pub(super) fn name_of(tag: u8, value: &[u8]) -> Node {
    let attribute = element(0x30, &[&oid("2.5.4.3"), &element(tag, &[value])]);
    node(&element(0x30, &[&element(0x31, &[&attribute])]))
}

type Change = Box<dyn FnOnce(&mut Vec<Node>)>;

/// Returns roots that some reader refuses, and what is odd about each. The places are: 0 version, 1
/// serial number, 2 algorithm, 3 issuer, 4 validity, 5 subject, 6 key, 7 extensions.
pub(super) fn odd(key: &Key) -> Vec<(&'static str, Vec<u8>)> {
    let off_curve = {
        let mut spki = key.spki();
        *spki.last_mut().unwrap() ^= 1;
        node(&spki)
    };
    let replace = |at: usize, with: Node| -> Change { Box::new(move |all| all[at] = with) };
    let leaf = |tag, bytes: &[u8]| Node::Leaf(tag, bytes.to_vec());
    let date = |text: &str| {
        node(&element(
            0x30,
            &[
                &element(0x17, &[b"260101000000Z"]),
                &element(0x17, &[text.as_bytes()]),
            ],
        ))
    };
    let mut even = vec![0xc7; 256];
    even[255] = 0xc6;
    let changes: Vec<(&str, Change)> = vec![
        (
            "version 1 with extensions",
            Box::new(|all| drop(all.remove(0))),
        ),
        ("version 4", replace(0, node(&element(0xa0, &[&[2, 1, 3]])))),
        ("a negative serial number", replace(1, leaf(2, &[0x80, 1]))),
        (
            "a serial number with a zero before it",
            replace(1, leaf(2, &[0, 1])),
        ),
        ("no serial number", replace(1, leaf(2, &[]))),
        (
            "two algorithms",
            replace(
                2,
                node(&sundew_rebuilt::der::algorithm("1.2.840.113549.1.1.11")),
            ),
        ),
        (
            "a PrintableString with another character",
            replace(5, name_of(0x13, b"a@b")),
        ),
        (
            "a UTF8String that is Latin",
            replace(5, name_of(0x0c, &[0xe9])),
        ),
        (
            "an IA5String with another character",
            replace(5, name_of(0x16, &[0xe9])),
        ),
        (
            "a BMPString with a surrogate",
            replace(3, name_of(0x1e, &[0xd8, 0])),
        ),
        (
            "a BMPString of an odd length",
            replace(3, name_of(0x1e, &[0])),
        ),
        (
            "a NumericString with a letter",
            replace(5, name_of(0x12, b"a")),
        ),
        (
            "a name with an empty part",
            replace(5, node(&[0x30, 2, 0x31, 0])),
        ),
        ("a time without seconds", replace(4, date("2701010000Z"))),
        ("a time elsewhere", replace(4, date("270101000000+0100"))),
        ("a time that is none", replace(4, date("270231000000Z"))),
        ("a point that is not on the curve", replace(6, off_curve)),
        ("an even RSA key", replace(6, rsa_of(&even, &[1, 0, 1]))),
        (
            "a small RSA key",
            replace(6, rsa_of(&[0xc7; 128], &[1, 0, 1])),
        ),
        (
            "a large RSA key",
            replace(6, rsa_of(&[0xc7; 1024], &[1, 0, 1])),
        ),
        (
            "an RSA key with a large exponent",
            replace(6, rsa_of(&[0xc7; 256], &[0x7f; 9])),
        ),
    ];
    let all = changes
        .into_iter()
        .map(|(what, change)| (what, root_with(key, plain(), change)));
    all.chain(odd_extensions(key)).collect()
}

/// Returns roots with an odd extension, and what is odd about each.
fn odd_extensions(key: &Key) -> Vec<(&'static str, Vec<u8>)> {
    let sequence = |parts: &[&[u8]]| element(0x30, parts);
    let name = |tag, value: &[u8]| sequence(&[&element(tag, &[value])]);
    let tree = |tag, value: &[u8]| sequence(&[&element(0xa0, &[&name(tag, value)])]);
    let mapped = [&[0; 10][..], &[0xff, 0xff, 1, 2, 3, 4]].concat();
    let relative = sequence(&[&element(0xa0, &[&element(0xa1, &[&sequence(&[])])])]);
    let policy = sequence(&[&oid("1.2.3")]);
    let odd = [
        ("an unknown critical extension", "1.2.3", true, vec![5, 0]),
        ("key usage twice", "2.5.29.15", true, vec![3, 2, 1, 6]),
        (
            "a critical id of the issuer's key",
            "2.5.29.35",
            true,
            sequence(&[]),
        ),
        (
            "a critical id of the key",
            "2.5.29.14",
            true,
            element(4, &[&[7]]),
        ),
        (
            "critical information",
            "1.3.6.1.5.5.7.1.1",
            true,
            sequence(&[]),
        ),
        (
            "a URI with a space",
            "2.5.29.17",
            false,
            name(0x86, b"spiffe://a b"),
        ),
        (
            "a URI that ends in a dot",
            "2.5.29.17",
            false,
            name(0x86, b"spiffe://a."),
        ),
        (
            "a URI that is not ASCII",
            "2.5.29.17",
            false,
            name(0x86, &[b'a', b':', 0xe9]),
        ),
        (
            "a DNS name that is not ASCII",
            "2.5.29.17",
            false,
            name(0x82, &[0xe9]),
        ),
        (
            "an address of five bytes",
            "2.5.29.17",
            false,
            name(0x87, &[1; 5]),
        ),
        (
            "an address of IPv4 in IPv6",
            "2.5.29.17",
            false,
            name(0x87, &mapped),
        ),
        ("empty name constraints", "2.5.29.30", true, sequence(&[])),
        (
            "a constraint by a bad mask",
            "2.5.29.30",
            true,
            tree(0x87, &[1, 0, 0, 0, 0x0f, 0, 0, 0]),
        ),
        (
            "a constraint of URIs by address",
            "2.5.29.30",
            true,
            tree(0x86, b"10.0.0.1"),
        ),
        (
            "a constraint that ends in a dot",
            "2.5.29.30",
            true,
            tree(0x82, b"a."),
        ),
        (
            "a relative place of a list",
            "2.5.29.31",
            false,
            sequence(&[&relative]),
        ),
        (
            "a policy twice",
            "2.5.29.32",
            false,
            sequence(&[&policy, &policy]),
        ),
        (
            "a purpose with a large number",
            "2.5.29.37",
            false,
            sequence(&[&oid("2.5.4294967296")]),
        ),
        (
            "a large number of policies",
            "2.5.29.54",
            true,
            element(2, &[&[0x7f; 9]]),
        ),
    ];
    let root = |(what, dotted, critical, value): (_, _, _, Vec<u8>)| {
        let mut extensions = plain();
        extensions.push(extension(dotted, critical, &value));
        (what, root_with(key, extensions, |_| {}))
    };
    odd.into_iter().map(root).collect()
}

/// The extensions without which no root is taken.
pub(super) fn plain() -> Vec<Vec<u8>> {
    vec![
        basic_constraints(true, None),
        certificate::key_usage(CERT_SIGN, true),
    ]
}

/// Returns a root with one to three edits, of its elements or of those in an extension or in its key.
pub(super) fn edited(root: &[u8], dice: &mut Dice) -> Vec<u8> {
    if dice.one_in(3) {
        return ber::edited(root, dice);
    }
    changed(root, |content| {
        let within = if dice.one_in(5) { 6 } else { content.len() - 1 };
        edit_leaf(&mut content[within], dice);
    })
}

/// Edits the elements that the bytes of some leaf have, or the bytes, below this node.
fn edit_leaf(node: &mut Node, dice: &mut Dice) {
    match node {
        Node::Tree(_, _, nodes) if !nodes.is_empty() => {
            let at = dice.roll(nodes.len());
            edit_leaf(&mut nodes[at], dice);
        }
        Node::Tree(..) => {}
        Node::Leaf(4, bytes) if ber::parse(bytes).is_some_and(|inner| !inner.is_empty()) => {
            *bytes = ber::edited(bytes, dice);
        }
        Node::Leaf(3, bytes) if bytes.get(1) == Some(&0x30) => {
            *bytes = [&[0][..], &ber::edited(&bytes[1..], dice)].concat();
        }
        Node::Leaf(_, bytes) => sundew_rebuilt::edits::bend(bytes, dice),
    }
}
