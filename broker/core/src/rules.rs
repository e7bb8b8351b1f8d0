//! Standing rules, found by attribute: as many look-ups as a subject has attributes, however many
//! rules there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::{Effect, EntryId, Position};
use crate::selector::{Attribute, Selector, Subject};

/// No two states of any rules have the same number, so that what is remembered by number is never
/// of others.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

struct Rule {
    criteria: Vec<Vec<Attribute>>,
    issued_before_ms: Option<i64>,
    /// A rule that names a token kills it wherever it is stamped.
    any_position: bool,
    effect: Option<Effect>,
    position: Position,
}

impl Rule {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.issued_before_ms
            .is_none_or(|before| subject.issued_at_ms < before)
            && self.criteria.iter().all(|any| {
                any.iter()
                    .any(|attribute| subject.attributes().any(|own| own == attribute))
            })
    }

    fn kills(&self, subject: &Subject<'_>) -> bool {
        self.effect.is_some_and(Effect::revokes)
            && (self.any_position || self.position > subject.position)
            && self.matches(subject)
    }

    fn quarantines(&self, subject: &Subject<'_>) -> bool {
        self.effect.is_some_and(Effect::quarantines) && self.matches(subject)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Rules {
    rules: HashMap<EntryId, Rule>,
    /// By the attributes of each rule's most selective criterion.
    index: HashMap<Attribute, Vec<EntryId>>,
    /// Rules without a criterion that is an attribute.
    unindexed: Vec<EntryId>,
    quarantines: usize,
    /// Changes with every change of the rules.
    generation: u64,
}

impl Rules {
    /// Adds a rule, or moves one that is there to a later position.
    pub(crate) fn raise(
        &mut self,
        id: EntryId,
        selector: &Selector,
        effect: Effect,
        position: Position,
    ) {
        self.generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        if let Some(rule) = self.rules.get_mut(&id) {
            rule.position = rule.position.max(position);
            return;
        }
        let criteria = selector.criteria();
        match criteria.first() {
            Some(any) => any
                .iter()
                .for_each(|attribute| self.index.entry(attribute.clone()).or_default().push(id)),
            None => self.unindexed.push(id),
        }
        self.quarantines = self
            .quarantines
            .saturating_add(usize::from(effect.quarantines()));
        let rule = Rule {
            criteria,
            issued_before_ms: selector.issued_before_ms,
            any_position: selector.token.is_some(),
            effect: Some(effect),
            position,
        };
        self.rules.insert(id, rule);
    }

    /// Lifts a quarantine; what the rule killed stays dead.
    pub(crate) fn lift(&mut self, id: &EntryId) {
        if let Some(rule) = self.rules.get_mut(id)
            && rule.effect.is_some_and(Effect::quarantines)
        {
            rule.effect = rule
                .effect
                .filter(|effect| effect.revokes())
                .map(|_| Effect::Revoke);
            self.quarantines = self.quarantines.saturating_sub(1);
        }
    }

    /// A rule that kills the subject.
    pub(crate) fn killer(&self, subject: &Subject<'_>) -> Option<EntryId> {
        let kills = |id: &&EntryId| self.rules.get(*id).is_some_and(|rule| rule.kills(subject));
        let indexed = subject
            .attributes()
            .filter_map(|attribute| self.index.get(attribute))
            .flatten();
        self.unindexed.iter().chain(indexed).find(kills).copied()
    }

    fn any(&self, subject: &Subject<'_>, hit: impl Fn(&EntryId, &Rule) -> bool) -> bool {
        let found = |id: &EntryId| self.rules.get(id).is_some_and(|rule| hit(id, rule));
        self.unindexed.iter().any(found)
            || subject
                .attributes()
                .filter_map(|attribute| self.index.get(attribute))
                .flatten()
                .any(found)
    }

    /// Whether some rule kills the subject, one of them left out.
    pub(crate) fn kill(&self, subject: &Subject<'_>, without: Option<EntryId>) -> bool {
        self.any(subject, |id, rule| {
            Some(*id) != without && rule.kills(subject)
        })
    }

    /// Whether some quarantine covers the subject.
    pub(crate) fn quarantine(&self, subject: &Subject<'_>) -> bool {
        self.any(subject, |_, rule| rule.quarantines(subject))
    }

    /// What was found before is to be found anew.
    pub(crate) fn touch(&mut self) {
        self.generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
    }

    /// Another number whenever a rule came, went or moved.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn any_quarantine(&self) -> bool {
        self.quarantines > 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Rules that have some effect.
    pub(crate) fn standing(&self) -> impl Iterator<Item = (&EntryId, Effect)> {
        self.rules
            .iter()
            .filter_map(|(id, rule)| Some((id, rule.effect?)))
    }

    /// Forgets the rules whose entries are forgotten.
    pub(crate) fn retain(&mut self, stands: impl Fn(&EntryId) -> bool) {
        let before = self.rules.len();
        self.rules.retain(|id, _| stands(id));
        if self.rules.len() != before {
            self.generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
            let rules = &self.rules;
            self.index.retain(|_, ids| {
                ids.retain(|id| rules.contains_key(id));
                !ids.is_empty()
            });
            self.unindexed.retain(|id| rules.contains_key(id));
        }
    }
}
