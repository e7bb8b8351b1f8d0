//! Operators as the file names them: each role as a word, or as a table with its bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::{Limit, Pattern, RoleBounds};

use super::Role;
use crate::role::{Reach, Roles, may_order_for};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileOperator {
    pub(super) spiffe_id: SpiffeId,
    pub(super) roles: Vec<FileRole>,
}

/// A role: a word for one without bounds, or a table.
pub(super) enum FileRole {
    Bounded(FileBounds),
    Unbounded(Role),
}

/// A role with its bounds. The table has every list that the role has a use for, and no other one,
/// so that nobody has to know what a list means that is not there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileBounds {
    role: Role,
    path_prefixes: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
    secrets: Option<Vec<String>>,
    /// Whether whoever has the identity runs no model. A dispatcher must say so: what a model reads
    /// could order by it, with nobody's leave.
    runs_no_model: Option<bool>,
}

impl<'de> Deserialize<'de> for FileRole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrTable;
        impl<'de> Visitor<'de> for WordOrTable {
            type Value = FileRole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a role, or a table with `role` and its bounds")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<FileRole, E> {
                let word = serde::de::value::StrDeserializer::new(word);
                Role::deserialize(word).map(FileRole::Unbounded)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FileRole, A::Error> {
                FileBounds::deserialize(MapAccessDeserializer::new(map)).map(FileRole::Bounded)
            }
        }
        deserializer.deserialize_any(WordOrTable)
    }
}

impl FileRole {
    fn role(&self) -> Role {
        match self {
            Self::Bounded(bounds) => bounds.role,
            Self::Unbounded(role) => *role,
        }
    }
}

/// The roles of each operator; an operator that is named twice has the roles of both.
pub(super) fn operators(
    operators: Vec<FileOperator>,
    errors: &mut Vec<String>,
) -> BTreeMap<SpiffeId, Roles> {
    let mut all: BTreeMap<SpiffeId, Roles> = BTreeMap::new();
    for operator in operators {
        let id = operator.spiffe_id;
        if operator.roles.is_empty() {
            errors.push(format!("operators: {id} has no roles"));
        }
        let roles = all.entry(id.clone()).or_default();
        for role in operator.roles {
            let word = role.role();
            let reach = match role {
                FileRole::Unbounded(Role::Dispatcher) => {
                    errors.push(format!(
                        "operators: {id}: dispatcher: must be a table with its bounds: nobody \
                         orders for everybody, itself among them"
                    ));
                    Reach::Unbounded
                }
                FileRole::Unbounded(_) => Reach::Unbounded,
                FileRole::Bounded(bounds) => {
                    let mut problem = |problem: String| {
                        let role = word.as_str();
                        errors.push(format!("operators: {id}: {role}: {problem}"));
                    };
                    Reach::Within(Arc::new(bounds.read(&mut problem)))
                }
            };
            // Two bounds are not one: what is within both lists of one may be within no bound.
            let is_other = |before: &Reach| *before != reach;
            if roles.get(&word).is_some_and(is_other) {
                let role = word.as_str();
                errors.push(format!(
                    "operators: {id}: {role}: named twice, with other bounds"
                ));
            }
            roles.insert(word, reach);
        }
    }
    dispatchers(&all, errors);
    all
}

/// Nobody orders for itself, nor for whoever may order for it over any number of steps.
fn dispatchers(all: &BTreeMap<SpiffeId, Roles>, errors: &mut Vec<String>) {
    for id in all.keys().filter(|id| may_order_for(all, id, id)) {
        errors.push(format!(
            "operators: {id}: dispatcher: path_prefixes: nobody orders for itself, nor for whoever \
             may order for it"
        ));
    }
}

impl FileBounds {
    fn read(self, problem: &mut impl FnMut(String)) -> RoleBounds {
        let lists = self.role.bounds();
        match (self.role == Role::Dispatcher, self.runs_no_model) {
            (true, Some(true)) | (false, None) => {}
            (true, _) => problem(
                "runs_no_model: must be true: an identity that runs a model orders from within its \
                 own tasks, without this role"
                    .to_owned(),
            ),
            (false, Some(_)) => problem("runs_no_model is for dispatchers".to_owned()),
        }
        RoleBounds {
            path_prefixes: list("path_prefixes", self.path_prefixes, lists, problem),
            scopes: list("scopes", self.scopes, lists, problem),
            audiences: list("audiences", self.audiences, lists, problem),
            secrets: list("secrets", self.secrets, lists, problem),
        }
    }
}

/// Reads one of the lists, which must be there if and only if the role has a use for it.
fn list<P: Pattern>(
    key: &str,
    texts: Option<Vec<String>>,
    lists: &[&str],
    problem: &mut impl FnMut(String),
) -> Limit<P> {
    match (texts, lists.contains(&key)) {
        (None, false) => {}
        (None, true) => problem(format!(
            "{key} is missing: `[]` allows nothing, and `[\"*\"]` sets no limit"
        )),
        (Some(_), false) => problem(format!("{key} is no bound of this role")),
        (Some(texts), true) => match Limit::parse(&texts) {
            Ok(limit) => return limit,
            Err(error) => problem(format!("{key}: {error}")),
        },
    }
    Limit::default()
}
