//! The policies of one workload, and what they decide.
//!
//! P3: policies narrow. What scopes do not cover is not asked here.

use cedar_policy::{Authorizer, Decision, PolicySet, Response};

use crate::action::{ActionError, Question};
use crate::document::{Document, Version};
use crate::schema::Schema;

/// What is needed beside scopes that cover an action.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decide {
    /// Nothing without a policy that permits it.
    Policies,
    /// Scopes permit, and policies can forbid.
    Scopes,
}

/// A policy that decided.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Ground {
    /// The policy: its document, `#`, and its number there, from 0.
    pub policy: String,
    /// What its annotation `@reason` says.
    pub reason: Option<String>,
}

/// What an operator is told of a decision. Agents are told nothing of it (P11).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grounds {
    /// The version of all policies that were asked.
    pub version: Version,
    /// The policies that decided, by name.
    pub policies: Vec<Ground>,
}

/// Leave by policy. Only [`Compiled::decide`] makes one.
#[derive(Debug)]
#[must_use]
pub struct Permitted {
    grounds: Grounds,
}

impl Permitted {
    /// Returns what decided.
    #[must_use]
    pub fn grounds(&self) -> &Grounds {
        &self.grounds
    }
}

/// The reason why policies refuse.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No policy can speak of the action.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// A policy could not be evaluated.
    #[error("a policy failed, and a policy that fails refuses")]
    Failed(Grounds),
    /// A policy forbids it.
    #[error("a policy forbids it")]
    Forbidden(Grounds),
    /// No policy permits it.
    #[error("no policy permits it, and the registration says `decide = \"policies\"`")]
    NotPermitted(Grounds),
}

/// The reason why documents cannot be used together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("two documents have the same name: give each its own")]
pub struct SameName;

/// The policies that apply to one workload. A decision costs what these cost, however many there
/// are elsewhere.
#[derive(Debug)]
pub struct Compiled {
    policies: PolicySet,
    version: Version,
}

impl Compiled {
    /// Takes from all documents those that apply to a workload, whatever their order.
    ///
    /// # Errors
    ///
    /// [`SameName`] if two of them have one name. Leaving one out could leave out what forbids.
    pub fn new<'a>(
        workload: &str,
        documents: impl IntoIterator<Item = &'a Document>,
    ) -> Result<Self, SameName> {
        let mut applying: Vec<_> = documents
            .into_iter()
            .filter(|document| document.applies_to(workload))
            .collect();
        applying.sort_by(|a, b| a.name().cmp(b.name()));
        let version = Version::of(applying.iter().map(|document| document.version().as_str()));
        let policies = applying
            .iter()
            .flat_map(|document| document.policies.iter().cloned());
        let policies = PolicySet::from_policies(policies).map_err(|_| SameName)?;
        Ok(Self { policies, version })
    }

    /// Returns the version of all policies together.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Decides whether policies let an action happen that is covered by scopes.
    ///
    /// # Errors
    ///
    /// [`Refused`], with its grounds. A policy that fails refuses: Cedar leaves it out, also if it
    /// is one that forbids.
    pub fn decide(
        &self,
        decide: Decide,
        question: &Question,
        schema: &Schema,
    ) -> Result<Permitted, Refused> {
        let prepared = question.prepare(schema)?;
        let response =
            Authorizer::new().is_authorized(&prepared.request, &self.policies, &prepared.entities);
        let grounds = self.grounds(&response);
        if response.diagnostics().errors().next().is_some() {
            return Err(Refused::Failed(grounds));
        }
        let silent = grounds.policies.is_empty();
        match (response.decision(), decide) {
            (Decision::Allow, _) => Ok(Permitted { grounds }),
            (Decision::Deny, Decide::Scopes) if silent => Ok(Permitted { grounds }),
            (Decision::Deny, Decide::Policies) if silent => Err(Refused::NotPermitted(grounds)),
            (Decision::Deny, _) => Err(Refused::Forbidden(grounds)),
        }
    }

    fn grounds(&self, response: &Response) -> Grounds {
        let diagnostics = response.diagnostics();
        let failed = diagnostics.errors().map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => error.policy_id(),
        });
        let mut policies: Vec<_> = diagnostics
            .reason()
            .chain(failed)
            .map(|id| Ground {
                policy: id.to_string(),
                reason: self.policies.annotation(id, "reason").map(str::to_owned),
            })
            .collect();
        policies.sort();
        Grounds {
            version: self.version.clone(),
            policies,
        }
    }
}

#[cfg(test)]
mod tests;
