//! The rules that the log has set, indexed by attribute.
//!
//! A check costs as many look-ups as its subject has attributes, however many rules there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::Effect;
use crate::position::{EntryId, Position};
use crate::selector::{Attribute, Selector, Subject};

/// The next generation. All sets of rules in the process share this counter, so that a result that
/// was remembered for one generation is never taken for a result of another set of rules.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// A rule, prepared for matching.
struct Rule {
    criteria: Vec<Vec<Attribute>>,
    /// The criteria of what the rule forbids: also what rests on an SVID that has the mark of a claim.
    forbids: Vec<Vec<Attribute>>,
    issued_before_ms: Option<i64>,
    /// Whether the rule kills subjects whatever their position, as a rule that names a token does.
    any_position: bool,
    effect: Effect,
    /// Whether new things may be issued again. What the rule killed or suspended stays so.
    is_lifted: bool,
    position: Position,
}

impl Rule {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.matches_by(&self.criteria, subject)
    }

    fn matches_by(&self, criteria: &[Vec<Attribute>], subject: &Subject<'_>) -> bool {
        self.issued_before_ms
            .is_none_or(|before| subject.issued_at_ms < before)
            && criteria.iter().all(|any| {
                any.iter()
                    .any(|attribute| subject.attributes().any(|own| own == attribute))
            })
    }

    fn kills(&self, subject: &Subject<'_>) -> bool {
        self.effect.revokes()
            && (self.any_position || self.position > subject.position)
            && self.matches(subject)
    }

    fn quarantines(&self, subject: &Subject<'_>) -> bool {
        self.effect.quarantines() && !self.is_lifted && self.matches_by(&self.forbids, subject)
    }
}

/// All rules that the log has set and that were not forgotten yet.
#[derive(Default)]
pub(crate) struct Rules {
    rules: HashMap<EntryId, Rule>,
    /// The rules by the attributes of their most selective criterion.
    index: HashMap<Attribute, Vec<EntryId>>,
    /// The rules that have no criterion in the form of attributes.
    unindexed: Vec<EntryId>,
    /// The number of rules that quarantine.
    quarantines: usize,
    /// The number of rules that suspend.
    suspensions: usize,
    /// The number of the present state of the rules. A rule that is added, moved or forgotten gives
    /// a new number. A lift does not, since it kills nothing and revives nothing.
    generation: u64,
}

impl Rules {
    /// Adds a rule. A rule that is there already is moved to the later one of the two positions.
    pub(crate) fn insert(
        &mut self,
        id: EntryId,
        selector: &Selector,
        effect: Effect,
        position: Position,
    ) {
        self.advance_generation();
        if let Some(rule) = self.rules.get_mut(&id) {
            rule.position = rule.position.max(position);
            return;
        }
        let criteria = selector.criteria();
        let forbids = match effect.quarantines() {
            true => selector.criteria_of_what_rests(),
            false => Vec::new(),
        };
        match forbids.first().or(criteria.first()) {
            Some(any) => any
                .iter()
                .for_each(|attribute| self.index.entry(attribute.clone()).or_default().push(id)),
            None => self.unindexed.push(id),
        }
        self.quarantines = self
            .quarantines
            .saturating_add(usize::from(effect.quarantines()));
        self.suspensions = self
            .suspensions
            .saturating_add(usize::from(effect == Effect::Suspend));
        let rule = Rule {
            criteria,
            forbids,
            issued_before_ms: selector.issued_before_ms,
            any_position: selector.token.is_some(),
            effect,
            is_lifted: false,
            position,
        };
        self.rules.insert(id, rule);
    }

    /// Lifts a quarantine. Everything that the rule killed stays dead, and what it suspended stays
    /// suspended.
    pub(crate) fn lift(&mut self, id: &EntryId) {
        if let Some(rule) = self.rules.get_mut(id)
            && rule.effect.quarantines()
            && !rule.is_lifted
        {
            rule.is_lifted = true;
            self.quarantines = self.quarantines.saturating_sub(1);
        }
    }

    /// Returns the rules that may match the subject.
    fn candidates<'a>(
        &'a self,
        subject: &'a Subject<'_>,
    ) -> impl Iterator<Item = (&'a EntryId, &'a Rule)> {
        let indexed = subject
            .attributes()
            .filter_map(|attribute| self.index.get(attribute))
            .flatten();
        self.unindexed
            .iter()
            .chain(indexed)
            .filter_map(|id| Some((id, self.rules.get(id)?)))
    }

    /// Returns a rule that kills the subject, if there is one.
    pub(crate) fn killed_by(&self, subject: &Subject<'_>) -> Option<EntryId> {
        self.candidates(subject)
            .find(|(_, rule)| rule.kills(subject))
            .map(|(id, _)| *id)
    }

    /// Returns the last rule that suspends the subject, lifted or not, and where it stands.
    pub(crate) fn suspended_by(&self, subject: &Subject<'_>) -> Option<(EntryId, Position)> {
        self.candidates(subject)
            .filter(|(_, rule)| rule.effect == Effect::Suspend && rule.matches(subject))
            .map(|(id, rule)| (*id, rule.position))
            .max_by_key(|(_, position)| *position)
    }

    /// Returns whether some rule kills the subject. The rule `without` is left out.
    pub(crate) fn is_killed(&self, subject: &Subject<'_>, without: Option<EntryId>) -> bool {
        self.candidates(subject)
            .any(|(id, rule)| Some(*id) != without && rule.kills(subject))
    }

    /// Returns whether some quarantine matches the subject.
    pub(crate) fn is_quarantined(&self, subject: &Subject<'_>) -> bool {
        self.candidates(subject)
            .any(|(_, rule)| rule.quarantines(subject))
    }

    /// Returns whether some quarantine matches the subject that is no mere suspension.
    pub(crate) fn is_quarantined_for_good(&self, subject: &Subject<'_>) -> bool {
        self.candidates(subject)
            .any(|(_, rule)| rule.effect != Effect::Suspend && rule.quarantines(subject))
    }

    /// Returns whether some rule kills what has this attribute, and names the attribute and nothing
    /// that the subject has not. Where and when the subject was issued does not count.
    pub(crate) fn revokes_for(&self, attribute: &Attribute, subject: &Subject<'_>) -> bool {
        let ever = Subject {
            issued_at_ms: i64::MIN,
            ..*subject
        };
        self.candidates(subject).any(|(_, rule)| {
            rule.effect.revokes()
                && rule.criteria.iter().any(|any| any.contains(attribute))
                && rule.matches(&ever)
        })
    }

    /// Returns whether some rule that names the attribute, and revokes, matches the subject whatever
    /// the positions of both.
    pub(crate) fn takes_back(&self, attribute: &Attribute, subject: &Subject<'_>) -> bool {
        self.candidates(subject).any(|(_, rule)| {
            rule.effect.revokes()
                && rule.criteria.iter().any(|any| any.contains(attribute))
                && rule.matches(subject)
        })
    }

    /// Makes every result that was remembered for an earlier generation worthless.
    pub(crate) fn advance_generation(&mut self) {
        self.generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of the present state of the rules. It is another number after a rule was
    /// added, moved or forgotten.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns whether there is any rule that suspends, so that most checks end at once.
    pub(crate) fn any_suspension(&self) -> bool {
        self.suspensions > 0
    }

    /// Returns whether there is any quarantine, so that most checks end at once.
    pub(crate) fn any_quarantine(&self) -> bool {
        self.quarantines > 0
    }

    /// Returns whether there are no rules.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns the rules that have some effect left, with this effect.
    pub(crate) fn active_rules(&self) -> impl Iterator<Item = (&EntryId, Effect)> {
        self.rules.iter().filter_map(|(id, rule)| {
            let left = if rule.is_lifted {
                rule.effect.lifted()?
            } else {
                rule.effect
            };
            Some((id, left))
        })
    }

    /// Forgets the rules that `is_kept` rejects.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&EntryId) -> bool) {
        let before = self.rules.len();
        self.rules.retain(|id, _| is_kept(id));
        if self.rules.len() != before {
            self.advance_generation();
            let suspends = |rule: &&Rule| rule.effect == Effect::Suspend;
            self.suspensions = self.rules.values().filter(suspends).count();
            let rules = &self.rules;
            self.index.retain(|_, ids| {
                ids.retain(|id| rules.contains_key(id));
                !ids.is_empty()
            });
            self.unindexed.retain(|id| rules.contains_key(id));
        }
    }
}
