//! The verified claims of a task: what rules find it by, and what must stay the same for as long as it
//! lives.

use sundew_attestation::Attested;
use sundew_core::Grounds;

use crate::peer::Peer;
use crate::refusal::Refusal;

/// Longest claims of one task, in bytes.
const MAX_CLAIMS: usize = 16 << 10;

/// Claims that differ from one piece of evidence to the next, though nothing has changed.
const VOLATILE: [&str; 12] = [
    "aio",
    "at_hash",
    "clock_safe",
    "exp",
    "iat",
    "jti",
    "nbf",
    "nonce",
    "reset_count",
    "restart_count",
    "rh",
    "uti",
];

/// Claims about what surrounds a workload: the program that started it, what its maker has published
/// of its platform, or when its user signed in. They change by themselves while the workload goes on.
const SURROUNDING: [&str; 4] = ["advisory", "auth_time", "parent_exe", "tcb_status"];
/// The beginnings of names of such claims: a log of measurements grows, and a host updates the
/// firmware of its processor below its guests.
const SURROUNDING_PREFIXES: [&str; 2] = ["event.", "tcb."];

/// The verified claims that rules may later be about, each as `kind.name=value`: all but those that
/// differ from one piece of evidence to the next. Refuses claims that are longer than a record may
/// have.
pub(super) fn claims(attested: &Attested) -> Result<Vec<String>, Refusal> {
    let mut all = Vec::new();
    for claims in attested.claims() {
        for (name, values) in claims
            .values
            .iter()
            .filter(|(name, _)| !VOLATILE.contains(&name.as_str()))
        {
            all.extend(
                values
                    .iter()
                    .map(|value| format!("{}.{name}={value}", claims.kind)),
            );
        }
    }
    // No claim is left out: a rule about it would not find the task.
    if all.iter().map(String::len).sum::<usize>() > MAX_CLAIMS {
        return Err(Refusal::invalid(
            "evidence",
            format!("its claims are longer than {MAX_CLAIMS} bytes"),
        ));
    }
    Ok(all)
}

/// The claims of a task that begins on this evidence with the SVID of this peer, which may rest on
/// evidence of its own.
pub(super) fn claims_of(attested: &Attested, peer: &Peer) -> Result<Vec<String>, Refusal> {
    let mut all = claims(attested)?;
    all.extend(peer.grounds().into_iter().flat_map(Grounds::claims));
    Ok(all)
}

/// E7: refuses claims that are not those of the same workload. Claims about what surrounds it are not
/// compared: the registration says, each time anew, which of them it takes.
pub(super) fn require_same(before: &[String], now: &[String]) -> Result<(), Refusal> {
    let is_in = |list: &[String], claim: &String| is_surrounding(claim) || list.contains(claim);
    let mut changed = now
        .iter()
        .filter(|claim| !is_in(before, claim))
        .chain(before.iter().filter(|claim| !is_in(now, claim)));
    match changed.next() {
        Some(claim) => Err(Refusal::EvidenceChanged(claim.clone())),
        None => Ok(()),
    }
}

/// Whether a claim, written as `kind.name=value`, is about the SVID that the task was begun with, or about what surrounds the workload.
fn is_surrounding(claim: &str) -> bool {
    if claim.starts_with("svid.") {
        return true;
    }
    let name = claim.split_once('=').map_or(claim, |(name, _)| name);
    let name = name.split_once('.').map_or(name, |(_, name)| name);
    let mut prefixes = SURROUNDING_PREFIXES.iter();
    SURROUNDING.contains(&name) || prefixes.any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_refused;

    fn list(claims: &[&str]) -> Vec<String> {
        claims.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn e7_what_changes_by_itself_is_no_other_workload() {
        for (before, now) in [
            (
                "process.parent_exe=/usr/bin/bash",
                "process.parent_exe=/sbin/init",
            ),
            (
                "tdx.tcb_status=UpToDate",
                "tdx.tcb_status=SWHardeningNeeded",
            ),
            ("tdx.advisory=INTEL-SA-00001", "tdx.advisory=INTEL-SA-00002"),
            ("sev_snp.tcb.microcode=209", "sev_snp.tcb.microcode=210"),
            ("tpm2.event.sha256.10=aa", "tpm2.event.sha256.10=bb"),
        ] {
            let with = |claim: &str| list(&[claim, "process.exe_sha256=aa"]);
            let alone = list(&["process.exe_sha256=aa"]);
            require_same(&with(before), &with(now)).unwrap();
            require_same(&with(before), &alone).unwrap();
            require_same(&alone, &with(now)).unwrap();
        }
    }

    #[test]
    fn what_says_who_a_workload_is_stays_the_same() {
        let before = list(&["tdx.mrtd=aa", "tdx.tcb_status=UpToDate"]);
        for now in [
            &["tdx.mrtd=ab", "tdx.tcb_status=UpToDate"][..],
            &["tdx.tcb_status=UpToDate"],
            &["tdx.mrtd=aa", "tdx.mrtd=ab"],
            // A value does not make a name.
            &["tdx.mrtd=aa", "oidc.note=x.tcb_status"],
        ] {
            let same = require_same(&before, &list(now));
            assert_refused!(same, Refusal::EvidenceChanged(_));
        }
    }
}
