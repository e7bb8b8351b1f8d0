//! Collateral of a platform: TCB levels, the identity of quoting enclaves, and revocation lists, as
//! a PCCS serves them and `dcap-qvl` keeps them.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{CPU_SVN, FMSPC, PCE_SVN, Platform, QE_SIGNER, TEE_TCB_SVN, named};
use crate::NOW_S;
use crate::certificate::{RevocationList, pem};

const DAY_S: i64 = 86_400;

/// The parts of collateral before they are signed.
#[derive(Clone, Debug)]
pub struct Collateral {
    /// The TCB levels of the platform and of the TDX module.
    pub tcb_info: Value,
    /// The identity of quoting enclaves and their levels.
    pub qe_identity: Value,
    /// The times of these, in seconds since the epoch: issued, and the next ones due.
    pub valid_s: (i64, i64),
    /// The time at which the next revocation lists are due, in seconds since the epoch.
    pub lists_until_s: i64,
    /// Whether the platform's certificate is revoked.
    pub revoked: bool,
}

impl Collateral {
    /// Returns genuine collateral of [`NOW_S`], by which the platform is up to date.
    pub fn genuine() -> Self {
        let level = |pce: u8, date: &str, status: &str, advisories: &[&str]| {
            let mut level = json!({
                "tcb": {
                    "sgxtcbcomponents": components(&CPU_SVN, 3, 3),
                    "pcesvn": pce,
                    "tdxtcbcomponents": components(&TEE_TCB_SVN, 3, 0),
                },
                "tcbDate": date,
                "tcbStatus": status,
            });
            if !advisories.is_empty() {
                level["advisoryIDs"] = json!(advisories);
            }
            level
        };
        let module = |major: u8, levels: Value| {
            json!({
                "id": format!("TDX_{major:02X}"),
                "mrsigner": "0".repeat(96),
                "attributes": "0".repeat(16),
                "attributesMask": "F".repeat(16),
                "tcbLevels": levels,
            })
        };
        let of_module = |svn: u8, date: &str, status: &str| {
            json!({
                "tcb": { "isvsvn": svn },
                "tcbDate": date,
                "tcbStatus": status,
            })
        };
        let (old, new) = ("2023-08-09T00:00:00Z", "2024-03-13T00:00:00Z");
        let tcb_info = json!({
            "id": "TDX",
            "version": 3,
            "issueDate": "",
            "nextUpdate": "",
            "fmspc": hex::encode_upper(FMSPC),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 17,
            "tdxModule": {
                "mrsigner": "0".repeat(96),
                "attributes": "0".repeat(16),
                "attributesMask": "F".repeat(16),
            },
            "tdxModuleIdentities": [
                module(3, json!([of_module(3, new, "UpToDate")])),
                module(1, json!([of_module(4, new, "UpToDate"), of_module(2, old, "OutOfDate")])),
            ],
            "tcbLevels": [
                level(PCE_SVN, new, "UpToDate", &[]),
                level(5, "2018-01-04T00:00:00Z", "OutOfDate", &["INTEL-SA-00106"]),
            ],
        });
        let qe_identity = json!({
            "id": "TD_QE",
            "version": 2,
            "issueDate": "",
            "nextUpdate": "",
            "tcbEvaluationDataNumber": 17,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": format!("11{}", "0".repeat(30)),
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": hex::encode_upper(QE_SIGNER),
            "isvprodid": 2,
            "tcbLevels": [of_module(4, new, "UpToDate")],
        });
        Self {
            tcb_info,
            qe_identity,
            valid_s: (NOW_S - 10 * DAY_S, NOW_S + 20 * DAY_S),
            lists_until_s: NOW_S + 21 * DAY_S,
            revoked: false,
        }
    }

    /// Returns collateral by which the platform has another status, with an advisory.
    pub fn of_platform(status: &str) -> Self {
        let mut collateral = Self::genuine();
        let level = &mut collateral.tcb_info["tcbLevels"][0];
        level["tcbStatus"] = json!(status);
        level["advisoryIDs"] = json!(["INTEL-SA-00001"]);
        collateral
    }

    /// Returns collateral by which no level is as low as the platform's.
    pub fn above_the_platform() -> Self {
        let mut collateral = Self::genuine();
        let levels = collateral.tcb_info["tcbLevels"].as_array_mut();
        for level in levels.into_iter().flatten() {
            level["tcb"]["sgxtcbcomponents"][0]["svn"] = json!(CPU_SVN[0] + 1);
        }
        collateral
    }

    /// Returns the document in JSON, with signatures and lists of this platform's makers.
    pub fn signed_by(mut self, platform: &Platform) -> Vec<u8> {
        let (issued, due) = (rfc_3339(self.valid_s.0), rfc_3339(self.valid_s.1));
        for part in [&mut self.tcb_info, &mut self.qe_identity] {
            for (name, time) in [("issueDate", &issued), ("nextUpdate", &due)] {
                if part[name] == "" {
                    part[name] = json!(time);
                }
            }
        }
        let (tcb_info, qe_identity) = (self.tcb_info.to_string(), self.qe_identity.to_string());
        let [tcb_signature, qe_signature] = [&tcb_info, &qe_identity]
            .map(|text| hex::encode(platform.tcb_signer.sign_fixed(text.as_bytes())));
        let (root, ca) = (platform.root(), platform.platform_ca());
        let signers = pem(&[&platform.tcb_certificate(), &root]);
        let mut serial = platform.pck.id();
        serial[0] &= 0x7f;
        let others: Vec<Vec<u8>> = (1..40).map(|index| vec![index; 20]).collect();
        let own: &[Vec<u8>] = if self.revoked { &[serial] } else { &[] };
        let list = |name: &str, key, revoked: &[Vec<u8>]| {
            hex::encode(
                RevocationList {
                    issuer: &named(name),
                    valid_s: (self.valid_s.0, self.lists_until_s),
                    revoked,
                }
                .signed_by(key),
            )
        };
        json!({
            "pck_crl_issuer_chain": pem(&[&ca, &root]),
            "root_ca_crl": list("SGX Root CA", &platform.root, &[]),
            "pck_crl": list("SGX PCK Platform CA", &platform.ca, &[&others, own].concat()),
            "tcb_info_issuer_chain": signers,
            "tcb_info": tcb_info,
            "tcb_info_signature": tcb_signature,
            "qe_identity_issuer_chain": signers,
            "qe_identity": qe_identity,
            "qe_identity_signature": qe_signature,
        })
        .to_string()
        .into_bytes()
    }
}

/// Returns 16 components with their security versions. So many of them say which part of the
/// platform they are of and what they are, and so many after them the part alone.
fn components(svns: &[u8; 16], described: usize, named: usize) -> Value {
    let of = |(at, svn): (usize, &u8)| {
        if at < described {
            json!({ "svn": svn, "category": "OS/VMM", "type": "TDX Module" })
        } else if at < described + named {
            json!({ "svn": svn, "category": "BIOS" })
        } else {
            json!({ "svn": svn })
        }
    };
    svns.iter().enumerate().map(of).collect()
}

fn rfc_3339(at_s: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(at_s).expect("a time");
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}
