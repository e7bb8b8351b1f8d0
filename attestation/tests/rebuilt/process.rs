//! Statements of a node, under a CA and keys of its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sundew_attestation::kinds::process::{self, Evidence, Statement, signed_bytes};
use sundew_attestation::spiffe::{BundleSet, SpiffeId, TrustBundle, TrustDomain};
use sundew_rebuilt::certificate::{
    CERT_SIGN, Certificate, DIGITAL_SIGNATURE, Name, basic_constraints, extension, key_usage,
};
use sundew_rebuilt::der::element;
use sundew_rebuilt::dice::Dice;
use sundew_rebuilt::edits::{self, ber, json};
use sundew_rebuilt::key::{Algorithm, Key};
use sundew_rebuilt::{NOW_MS, NOW_S};

use crate::said;

const NODE: &str = "spiffe://example.org/node";

/// A trust domain's CA.
struct Ca {
    key: Key,
    root: Vec<u8>,
}

/// A node with its SVID.
struct Node {
    key: Key,
    svid: Vec<u8>,
}

fn certificate(name: &str, uri: &str, key: &Key, issuer: &Key, is_ca: bool) -> Vec<u8> {
    let uri = element(0x30, &[&element(0x86, &[uri.as_bytes()])]);
    let usage = if is_ca { CERT_SIGN } else { DIGITAL_SIGNATURE };
    let certificate = Certificate {
        serial: &[7; 16],
        issuer: &Name::new(&[("CN", "CA")]),
        subject: &Name::new(&[("CN", name)]),
        valid_s: (NOW_S - 60, NOW_S + 3600),
        key,
        extensions: vec![
            basic_constraints(is_ca, None),
            key_usage(usage, true),
            extension("2.5.29.17", false, &uri),
        ],
    };
    certificate.signed_by(issuer)
}

impl Ca {
    fn new() -> Self {
        let key = Key::new(Algorithm::P256);
        let root = certificate("CA", "spiffe://example.org", &key, &key, true);
        Self { key, root }
    }

    fn node(&self, id: &str) -> Node {
        let key = Key::new(Algorithm::P256);
        let svid = certificate("node", id, &key, &self.key, false);
        Node { key, svid }
    }

    fn bundles(&self) -> BundleSet {
        let domain = TrustDomain::parse("example.org").unwrap();
        TrustBundle::from_der(domain, [self.root.as_slice()]).into()
    }
}

impl Node {
    /// Returns evidence with this statement. What is signed of it is the kind's.
    fn says(&self, statement: &str, signed: fn(&str) -> Vec<u8>) -> Evidence {
        Evidence {
            statement: statement.to_owned(),
            signature: STANDARD.encode(self.key.sign(&signed(statement))),
            chain: vec![STANDARD.encode(&self.svid)],
        }
    }
}

/// A statement that is signed with the SVID of its signer, and an attacker who has another SVID of the
/// same trust domain, and a CA of the same name with an SVID of the same ID.
pub(crate) struct Signed {
    pub(crate) bundles: BundleSet,
    pub(crate) signers: [SpiffeId; 1],
    statement: String,
    signed: fn(&str) -> Vec<u8>,
    genuine: Evidence,
    attackers: [Node; 2],
}

impl Signed {
    pub(crate) fn new(statement: String, signed: fn(&str) -> Vec<u8>) -> Self {
        let (ca, fake) = (Ca::new(), Ca::new());
        Self {
            bundles: ca.bundles(),
            signers: [SpiffeId::parse(NODE).unwrap()],
            genuine: ca.node(NODE).says(&statement, signed),
            attackers: [ca.node("spiffe://example.org/other"), fake.node(NODE)],
            statement,
            signed,
        }
    }

    pub(crate) fn genuine(&self) -> Value {
        serde_json::to_value(&self.genuine).unwrap()
    }

    /// An edit that knows the statement, the chain and the elements of a certificate.
    pub(crate) fn variant(&self, dice: &mut Dice) -> Value {
        let der = |evidence: &Evidence| STANDARD.decode(&evidence.chain[0]).unwrap();
        let mut bent: Value = serde_json::from_str(&self.statement).unwrap();
        for _ in 0..dice.roll(3) {
            json::edit(&mut bent, dice);
        }
        let theirs = self.attackers[dice.roll(2)].says(&bent.to_string(), self.signed);
        let mut evidence = match dice.roll(4) {
            0 => theirs.clone(),
            1 => Evidence {
                statement: bent.to_string(),
                ..self.genuine.clone()
            },
            _ => self.genuine.clone(),
        };
        match dice.roll(6) {
            0 => evidence.chain = vec![STANDARD.encode(ber::edited(&der(&evidence), dice))],
            1 => evidence.chain.clone_from(&theirs.chain),
            2 => evidence.chain.clone_from(&self.genuine.chain),
            3 => evidence.chain.extend(theirs.chain.clone()),
            4 => evidence.signature.clone_from(&theirs.signature),
            _ => {}
        }
        let mut document = serde_json::to_value(&evidence).unwrap();
        if dice.one_in(2) {
            json::edit(&mut document, dice);
        }
        document
    }
}

fn statement() -> String {
    let statement = Statement {
        binding: "09".repeat(32),
        task: format!("task-{}", "07".repeat(16)),
        uid: 1000,
        gid: 1000,
        pid: 77,
        exe: "/usr/bin/agent".to_owned(),
        exe_sha256: "ab".repeat(32),
        cgroup: Some("/system.slice/agent.service".to_owned()),
        container_id: None,
        systemd_unit: Some("agent.service".to_owned()),
        parent_exe: Some("/usr/lib/systemd/systemd".to_owned()),
    };
    serde_json::to_string(&statement).unwrap()
}

#[test]
fn t34_no_structural_edit_of_a_nodes_statement_changes_what_it_says() {
    let all = Signed::new(statement(), signed_bytes);
    let verify = |evidence: &Value| {
        let payload = evidence.to_string();
        let (nodes, bundles) = (&all.signers, &all.bundles);
        process::verify(payload.as_bytes(), nodes, bundles, &[9; 32], NOW_MS)
    };
    let outcome = edits::structural(
        &all.genuine(),
        0x5eed_0000_0000_0017,
        |dice| all.variant(dice),
        |evidence| said(verify(evidence)),
    );
    // With a chain that has more, or members in another order.
    assert!(outcome.taken < outcome.different / 5, "{outcome:?}");
}
