//! What a registration allowed before it was replaced and allows no more.

use sundew_attestation::Narrowing;

use super::{Begin, LocalSelector, Registration};
use crate::selector::{GivenFor, Selector};

impl Registration {
    /// Returns the selectors of everything that was issued under `former` and may be more than this
    /// registration allows (P3, P4). Times and numbers are not among them, which count from the next
    /// task or token on, nor are audiences, which are looked at whenever a token is (L26).
    #[must_use]
    pub fn narrowing_from(&self, former: &Self) -> Vec<Selector> {
        let workload = || Selector::workload(self.spiffe_id.clone());
        let mut bindings = former.bindings.iter();
        let has_bindings = bindings.all(|binding| self.bindings.contains(binding));
        let evidence = self.policy().narrowing_from(&former.policy());
        // P3: no selector tells tasks that the workload gave itself from those that were ordered.
        let begins_no_more = former.begin == Begin::Own && self.begin == Begin::Ordered;
        if !has_bindings || begins_no_more || evidence == Narrowing::Everything {
            return vec![workload()];
        }
        let mut selectors = Vec::new();
        if let Narrowing::Values(values) = evidence {
            selectors.extend(values.into_iter().map(|claim| Selector {
                claims: vec![claim],
                ..workload()
            }));
        }
        let lost = former
            .scopes
            .iter()
            .filter(|scope| !self.scopes.covers(scope));
        selectors.extend(lost.map(|scope| Selector {
            scope: Some(scope.clone()),
            ..workload()
        }));
        // Each rule costs something, and a registration may lose very many values at once.
        if selectors.len() > MAX_SELECTORS {
            return vec![workload()];
        }
        selectors
    }

    /// Returns what SVIDs were given for under `former` and may be given for no more.
    #[must_use]
    pub fn svids_narrowing_from(&self, former: &Self) -> Vec<GivenFor<'static>> {
        let mut lost = Vec::new();
        let evidence = self.enrollment_policy();
        if evidence.narrowing_from(&former.enrollment_policy()) != Narrowing::Nothing {
            lost.push(GivenFor::Evidence);
        }
        // An SVID does not say which selector meant its process.
        let is_lost = |old: &&LocalSelector| !self.local.iter().any(|new| new.covers(old));
        for selector in former.local.iter().filter(is_lost) {
            let what = match selector.node {
                None => GivenFor::LocalProcess,
                Some(_) => GivenFor::NodeProcess,
            };
            if !lost.contains(&what) {
                lost.push(what);
            }
        }
        lost
    }
}

/// The largest number of selectors. Instead of more, everything of the workload is selected.
const MAX_SELECTORS: usize = 32;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn registration(changes: Value) -> Registration {
        let mut document = json!({
            "spiffe_id": "spiffe://a.test/agent",
            "evidence": [{ "kind": "nitro", "claims": { "pcr0": ["aa", "bb"] } }],
            "scopes": ["secret:app/*", "exec:git"],
            "audiences": ["https://api.test/*"],
            "bindings": ["certificate", "bearer"],
            "begin": "self",
            "owner": "tests",
        });
        if let (Some(document), Value::Object(changes)) = (document.as_object_mut(), changes) {
            document.extend(changes);
        }
        serde_json::from_value(document).unwrap()
    }

    fn narrowing(changes: Value) -> Vec<Selector> {
        registration(changes).narrowing_from(&registration(json!({})))
    }

    #[test]
    fn e9_what_is_as_wide_as_before_takes_nothing_back() {
        for changes in [
            json!({}),
            json!({ "scopes": ["secret:*", "exec:*"] }),
            json!({ "audiences": ["https://other.test"] }),
            json!({ "max_token_ttl": "60s", "max_tasks": 1, "prove_every": "60s", "owner": "others" }),
        ] {
            assert_eq!(narrowing(changes.clone()), [], "{changes}");
        }
    }

    #[test]
    fn e9_scopes_and_values_that_are_left_out_are_taken_back_alone() {
        let changes = json!({
            "scopes": ["secret:app/db", "exec:git"],
            "evidence": [{ "kind": "nitro", "claims": { "pcr0": ["aa"] } }],
        });
        let selectors = narrowing(changes);
        let claims: Vec<_> = selectors.iter().map(|selector| &selector.claims).collect();
        assert_eq!(claims, [&vec!["nitro.pcr0=bb".to_owned()], &Vec::new()]);
        let scope = selectors[1].scope.as_ref().unwrap();
        assert_eq!(scope.as_str(), "secret:app/*");
    }

    #[test]
    fn e9_what_no_selector_tells_apart_takes_everything_of_the_workload_back() {
        let former = registration(json!({}));
        let everything = [Selector::workload(former.spiffe_id.clone())];
        for changes in [
            json!({ "begin": "ordered" }),
            json!({ "bindings": ["certificate"] }),
            json!({ "evidence": [{ "kind": "nitro", "claims": { "pcr0": ["aa", "bb"], "pcr8": ["cc"] } }] }),
        ] {
            assert_eq!(narrowing(changes.clone()), everything, "{changes}");
        }
    }

    #[test]
    fn e9_local_processes_that_are_meant_no_more_lose_their_svids() {
        let node = "spiffe://a.test/node";
        let former = json!([
            { "uid": 1, "exe": "/bin/a" },
            { "uid": 2 },
            { "node": node, "uid": 3 },
        ]);
        let with = |local: &Value| registration(json!({ "local": local }));
        let (local, nodes) = (GivenFor::LocalProcess, GivenFor::NodeProcess);
        for (now, lost) in [
            (former.clone(), vec![]),
            (
                json!([{ "uid": 1 }, { "uid": 2 }, { "node": node, "uid": 3 }, { "uid": 4 }]),
                vec![],
            ),
            (json!([{ "uid": 1 }, { "uid": 2 }]), vec![nodes]),
            (
                json!([{ "uid": 1, "exe": "/bin/a" }, { "node": node, "uid": 3 }]),
                vec![local],
            ),
            (
                json!([
                    { "uid": 1, "exe": "/bin/a" },
                    { "uid": 2, "gid": 2 },
                    { "node": node, "uid": 3 },
                ]),
                vec![local],
            ),
            (
                json!([{ "uid": 1 }, { "uid": 2 }, { "node": "spiffe://a.test/other", "uid": 3 }]),
                vec![nodes],
            ),
            (json!([]), vec![local, nodes]),
        ] {
            let found = with(&now).svids_narrowing_from(&with(&former));
            assert_eq!(found, lost, "{now}");
        }
    }
}
