//! Bundles as go-spiffe reads them: what we take of a partner's bundle we hand on, and go-spiffe
//! refuses all of it for one part that it does not take (I5).

mod roots;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sundew_attestation::spiffe::{JwtBundle, TrustBundle, TrustDomain};
use sundew_rebuilt::dice::Dice;
use sundew_rebuilt::edits::ber::Node;
use sundew_rebuilt::edits::{json as json_edits, variants};
use sundew_rebuilt::key::{Algorithm, Key};

use roots::{edited, extensions, keys, name_of, odd, plain, root_with};

/// Returns why go-spiffe refuses each of these inputs, or nothing for one that it takes.
fn go_spiffe(inputs: &[Value]) -> Vec<String> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/toolchains/bin/bundles");
    let mut child = Command::new(&tool)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}; tests/toolchains builds it", tool.display()));
    let lines: Vec<_> = inputs.iter().map(Value::to_string).collect();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(lines.join("\n").as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text.lines().map(|line| {
        let said: Value = serde_json::from_str(line).unwrap();
        said["refused"].as_str().unwrap().to_owned()
    });
    said.collect()
}

fn input(certificates: &[u8]) -> Value {
    json!({ "x509": STANDARD.encode(certificates) })
}

/// Returns what we take of roots that stand one after the other, as we hand it on.
fn taken(certificates: &[u8]) -> Vec<u8> {
    let domain = TrustDomain::parse("partner.example").unwrap();
    let bundle = TrustBundle::from_concatenated_der(domain, certificates);
    let all = bundle.certificates().flat_map(|der| der.to_vec());
    all.collect()
}

#[test]
fn i5_an_odd_root_costs_no_other_and_is_handed_on_to_nobody() {
    let key = Key::new(Algorithm::P256);
    let good = root_with(&key, plain(), |_| {});
    let (mut handed, mut refused_by_go) = (Vec::new(), Vec::new());
    for (what, root) in odd(&key) {
        let all = taken(&[&good[..], &root, &good].concat());
        assert_eq!(all, good.repeat(2), "{what}");
        handed.push(input(&all));
        refused_by_go.push((what, input(&root)));
    }
    let said = go_spiffe(&handed);
    assert!(
        said.len() == handed.len() && said.iter().all(String::is_empty),
        "{said:?}"
    );
    // The cases are real: go-spiffe alone refuses most of them. The others Envoy refuses, or nobody
    // could verify anything by them.
    let (names, inputs): (Vec<_>, Vec<_>) = refused_by_go.into_iter().unzip();
    let said = go_spiffe(&inputs);
    let takes = names
        .iter()
        .zip(&said)
        .filter(|(_, refused)| refused.is_empty());
    let takes: Vec<_> = takes.map(|(name, _)| *name).collect();
    assert!(takes.len() <= 10, "{takes:?}");
}

#[test]
fn i5_common_roots_are_handed_on_and_go_spiffe_takes_them() {
    let mut inputs = Vec::new();
    for key in keys() {
        for extensions in [plain(), extensions(&key)] {
            let root = root_with(&key, extensions, |_| {});
            assert_eq!(taken(&root), root);
            inputs.push(input(&root));
        }
    }
    // These are as old roots have them.
    let key = Key::new(Algorithm::P256);
    for change in [
        (1, Node::Leaf(2, vec![0])),
        (1, Node::Leaf(2, [&[0][..], &[0xff; 20]].concat())),
        (5, Node::Tree(0x30, false, Vec::new())),
        (5, name_of(0x14, &[0xe9])),
        (5, name_of(0x1e, &[0, b'a'])),
        (5, name_of(0x13, b"*.example & others")),
    ] {
        let (at, with) = change.clone();
        let root = root_with(&key, plain(), |all| all[at] = with);
        assert_eq!(taken(&root), root, "{change:?}");
        inputs.push(input(&root));
    }
    let said = go_spiffe(&inputs);
    assert!(
        said.len() == inputs.len() && said.iter().all(String::is_empty),
        "{said:?}"
    );
}

#[test]
fn i5_go_spiffe_takes_what_we_take_of_any_edited_root() {
    let mut dice = Dice::new(0x5eed_0000_0000_0015);
    let bases: Vec<_> = keys()
        .iter()
        .map(|key| root_with(key, extensions(key), |_| {}))
        .collect();
    let (mut inputs, mut count) = (Vec::new(), 0);
    for round in 0..variants() {
        let base = &bases[round % bases.len()];
        let root = edited(base, &mut dice);
        if root == *base {
            continue;
        }
        count += 1;
        let all = taken(&[&base[..], &root].concat());
        if all.len() > base.len() {
            inputs.push(input(&all));
        }
    }
    let said = go_spiffe(&inputs);
    println!("{count} roots, {} taken", inputs.len());
    assert_eq!(said.len(), inputs.len());
    for (input, refused) in inputs.iter().zip(&said) {
        assert!(refused.is_empty(), "{refused}: {input}");
    }
    assert!(
        inputs.len() > count / 50,
        "of {count} only {}",
        inputs.len()
    );
}

fn jwks() -> Value {
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let point = |key: &Key| {
        let (x, y) = key.public().split_at(key.public().len() / 2);
        (number(x), number(y))
    };
    let (small, large) = (Key::new(Algorithm::P256), Key::new(Algorithm::P384));
    let ((x, y), (wide_x, wide_y)) = (point(&small), point(&large));
    let rsa = number(&[0xc7; 256]);
    json!({ "keys": [
        { "kid": "a", "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "jwt-svid", "alg": "ES256" },
        { "kid": "b", "kty": "EC", "crv": "P-384", "x": wide_x, "y": wide_y, "key_ops": ["verify"] },
        { "kid": "c", "kty": "OKP", "crv": "Ed25519", "x": number(&[7; 32]), "use": "sig" },
        { "kid": "d", "kty": "RSA", "n": rsa, "e": "AQAB", "x5t": number(&[1; 20]), "x5c": [] },
    ] })
}

#[test]
fn i5_an_odd_key_of_a_partner_costs_no_other_and_is_handed_on_to_nobody() {
    let odd = |change: fn(&mut Value)| {
        let mut set = jwks();
        change(&mut set["keys"][0]);
        let bundle = JwtBundle::parse(set.to_string().as_bytes()).unwrap();
        let document: Value = serde_json::from_slice(bundle.document()).unwrap();
        let kids = document["keys"].as_array().unwrap().iter();
        let kids: Vec<_> = kids
            .map(|key| key["kid"].as_str().unwrap().to_owned())
            .collect();
        (kids, json!({ "jwks": STANDARD.encode(bundle.document()) }))
    };
    let mut inputs = Vec::new();
    let left_out: [fn(&mut Value); 6] = [
        |key| key["y"] = key["x"].clone(),
        |key| key["kid"] = json!(""),
        |key| key["kty"] = json!("oct"),
        |key| *key = json!({ "kid": "a", "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xc6; 256]), "e": "AQAB" }),
        |key| *key = json!({ "kid": "a", "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xc7; 256]), "e": "_________w" }),
        |key| *key = json!(7),
    ];
    for change in left_out {
        let (kids, input) = odd(change);
        assert_eq!(kids, ["b", "c", "d"]);
        inputs.push(input);
    }
    let bare: [fn(&mut Value); 6] = [
        |key| key["x5c"] = json!(["AAAA"]),
        |key| key["x5t"] = json!("short"),
        |key| key["x5u"] = json!("%"),
        |key| key["x5c"] = json!(7),
        |key| key["use"] = json!(7),
        |key| key["d"] = json!("AAAA"),
    ];
    for change in bare {
        let (kids, input) = odd(change);
        assert_eq!(kids, ["a", "b", "c", "d"]);
        inputs.push(input);
    }
    let said = go_spiffe(&inputs);
    assert!(
        said.len() == inputs.len() && said.iter().all(String::is_empty),
        "{said:?}"
    );
}

#[test]
fn i5_go_spiffe_takes_what_we_take_of_any_edited_jwks() {
    let mut dice = Dice::new(0x5eed_0000_0000_0016);
    let (genuine, mut inputs, mut keys) = (jwks(), Vec::new(), 0);
    for _ in 0..variants() {
        let mut set = genuine.clone();
        for _ in 0..=dice.roll(3) {
            json_edits::edit(&mut set, &mut dice);
        }
        if let Ok(bundle) = JwtBundle::parse(set.to_string().as_bytes()) {
            let document: Value = serde_json::from_slice(bundle.document()).unwrap();
            keys += document["keys"].as_array().unwrap().len();
            inputs.push(json!({ "jwks": STANDARD.encode(bundle.document()) }));
        }
    }
    let said = go_spiffe(&inputs);
    println!("{} sets, {keys} keys", inputs.len());
    assert_eq!(said.len(), inputs.len());
    for (input, refused) in inputs.iter().zip(&said) {
        assert!(refused.is_empty(), "{refused}: {input}");
    }
    assert!(keys > variants(), "{keys}");
}
