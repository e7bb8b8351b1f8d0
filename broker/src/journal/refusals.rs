//! Refusals on the record: the first ones of a kind whole, the others as a count.
//!
//! A1: anybody can be refused as often as he likes. So in each window only the first refusals of a
//! kind are written whole. The others are counted, and the count is written as one record when the
//! window ends. Counts are exact: what is whole and what is counted add up to what was refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Journal, Record};
use crate::clock;

/// The length of a window, in milliseconds.
const WINDOW_MS: i64 = 60_000;
/// Kinds that are told apart in a window; more are counted together.
const MOST_KINDS: usize = 512;
/// Kinds of one caller that are told apart in a window; more are counted together.
const MOST_KINDS_OF_ONE: usize = 64;
/// Refusals of one caller that are written whole in a window, in refusals of one kind. The first one
/// of each kind is not counted: what tells much must not be hidden behind what tells little.
const WHOLE_OF_ONE: u64 = 4;
/// Refusals of all callers that are written whole in a window, in refusals of one kind.
const WHOLE_OF_ALL: u64 = 32;
/// Stands for several RPCs, classes or callers.
const SEVERAL: &str = "several";

/// Refusals that are counted together.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct RefusalKind {
    /// The event of the record: `refused`, or `handshake_refused`.
    pub(crate) event: &'static str,
    /// The RPC, if there was one.
    pub(crate) rpc: Option<&'static str>,
    /// The sort of cause.
    pub(crate) class: &'static str,
    /// The workload, or where the caller is.
    pub(crate) caller: String,
}

/// The refusals of this window.
pub(crate) struct RefusalCounts {
    journal: Arc<Journal>,
    /// Refusals of a kind that are written whole in a window.
    whole: u64,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    from_ms: i64,
    kinds: HashMap<RefusalKind, Count>,
    callers: HashMap<String, OfOne>,
    whole: u64,
}

#[derive(Default)]
struct OfOne {
    kinds: usize,
    whole: u64,
}

#[derive(Default)]
struct Count {
    whole: u64,
    counted: u64,
    /// The last cause, and the correlation id that its caller heard.
    last: (String, String),
}

impl RefusalCounts {
    /// Counts over this journal; so many refusals of a kind are written whole in each window.
    pub(crate) fn new(journal: Arc<Journal>, whole: u64) -> Self {
        Self {
            journal,
            whole,
            window: Mutex::default(),
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a refusal: writes its record, or counts it. Returns whether it was counted only.
    pub(crate) fn take(
        &self,
        kind: RefusalKind,
        cause: &str,
        correlation: &str,
        record: impl FnOnce() -> Record,
    ) -> bool {
        self.write_ended(clock::now_ms());
        let may_be_whole = !self.journal.is_low();
        let mut window = self.window();
        if window.kinds.is_empty() {
            window.from_ms = clock::now_ms();
        }
        if window.take(kind, (cause, correlation), self.whole, may_be_whole) {
            drop(window);
            self.journal.note(record());
            false
        } else {
            true
        }
    }

    /// Writes the counts of a window that has ended by now.
    pub(crate) fn write_ended(&self, now_ms: i64) {
        let mut window = self.window();
        // A clock that went back ends the window too.
        let is_open = (0..WINDOW_MS).contains(&now_ms.saturating_sub(window.from_ms));
        // Nothing that only tells is written into the reserve: it is counted further.
        if window.kinds.is_empty() || is_open || self.journal.is_low() {
            return;
        }
        let ended = std::mem::take(&mut *window);
        drop(window);
        self.write(ended, now_ms);
    }

    /// Writes the counts of the window that is open, at the end of the broker.
    pub(crate) fn write_all(&self) {
        let window = std::mem::take(&mut *self.window());
        self.write(window, clock::now_ms());
    }

    fn write(&self, window: Window, now_ms: i64) {
        for (kind, count) in window.kinds {
            if count.counted == 0 {
                continue;
            }
            let (cause, correlation) = count.last;
            self.journal.note(
                super::record("refused_more")
                    .with("of", kind.event)
                    .with_some("rpc", kind.rpc)
                    .with("class", kind.class)
                    .with("caller", kind.caller)
                    .with("count", count.counted)
                    .with("whole", count.whole)
                    .with("from_ms", window.from_ms)
                    .with("to_ms", now_ms)
                    .with("last_reason", cause)
                    .with("last_correlation", correlation),
            );
        }
    }
}

impl Window {
    /// Takes a refusal in; returns whether it is to be written whole.
    fn take(
        &mut self,
        kind: RefusalKind,
        (cause, correlation): (&str, &str),
        most_whole: u64,
        may_be_whole: bool,
    ) -> bool {
        let kind = self.known_as(kind);
        let caller = self.callers.entry(kind.caller.clone()).or_default();
        let count = self.kinds.entry(kind).or_default();
        let is_first = count.whole == 0 && count.counted == 0;
        let has_room = count.whole < most_whole
            && caller.whole < most_whole.saturating_mul(WHOLE_OF_ONE)
            && self.whole < most_whole.saturating_mul(WHOLE_OF_ALL);
        let whole = may_be_whole && (is_first || has_room);
        if whole {
            count.whole = count.whole.saturating_add(1);
        } else {
            count.counted = count.counted.saturating_add(1);
            count.last = (cause.to_owned(), correlation.to_owned());
        }
        if whole && !is_first {
            caller.whole = caller.whole.saturating_add(1);
            self.whole = self.whole.saturating_add(1);
        }
        whole
    }

    /// The kind under which a refusal is counted: P12, kinds are bounded for each caller and in all.
    fn known_as(&mut self, kind: RefusalKind) -> RefusalKind {
        if self.kinds.contains_key(&kind) {
            return kind;
        }
        let of_one = self.callers.get(&kind.caller).map_or(0, |one| one.kinds);
        let kind = if self.kinds.len() >= MOST_KINDS {
            RefusalKind {
                rpc: None,
                class: SEVERAL,
                caller: SEVERAL.to_owned(),
                ..kind
            }
        } else if of_one >= MOST_KINDS_OF_ONE {
            RefusalKind {
                rpc: None,
                class: SEVERAL,
                ..kind
            }
        } else {
            kind
        };
        if !self.kinds.contains_key(&kind) {
            let caller = self.callers.entry(kind.caller.clone()).or_default();
            caller.kinds = caller.kinds.saturating_add(1);
        }
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::testing;
    use crate::journal;

    fn kind(caller: &str, class: &'static str) -> RefusalKind {
        RefusalKind {
            event: "refused",
            rpc: Some("BeginTask"),
            class,
            caller: caller.to_owned(),
        }
    }

    fn records(folder: &std::path::Path) -> Vec<Record> {
        let mut records = Vec::new();
        journal::read(folder, |record| records.push(record)).unwrap();
        records
    }

    fn sum(records: &[Record]) -> u64 {
        let count = |record: &Record| match record.event.as_str() {
            "refused" => 1,
            "refused_more" => record.field("count").unwrap().parse().unwrap(),
            other => panic!("{other}"),
        };
        records.iter().map(count).sum()
    }

    fn refuse(counts: &RefusalCounts, kind: RefusalKind) {
        counts.take(kind, "cause", "id", || journal::record("refused"));
    }

    #[test]
    fn a1_refusals_are_whole_then_counted_and_counts_are_exact() {
        let folder = tempfile::tempdir().unwrap();
        let _clock = testing::stop();
        let journal = Arc::new(Journal::open(folder.path(), |_| {}).unwrap());
        let counts = RefusalCounts::new(Arc::clone(&journal), 3);
        for _ in 0..1000 {
            refuse(&counts, kind("a", "denied"));
            refuse(&counts, kind("b", "denied"));
        }
        refuse(&counts, kind("a", "stale"));
        testing::advance(std::time::Duration::from_secs(60));
        counts.write_ended(clock::now_ms());
        refuse(&counts, kind("a", "denied"));
        counts.write_all();
        drop((counts, journal));
        let records = records(folder.path());
        assert_eq!(sum(&records), 2002);
        let more: Vec<_> = records
            .iter()
            .filter(|record| record.event == "refused_more")
            .collect();
        assert_eq!(more.len(), 2, "one record for each kind and window");
        assert_eq!(records.len(), 3 + 3 + 1 + 2 + 1);
        assert_eq!(more[0].field("count"), Some("997"));
        assert_eq!(more[0].field("class"), Some("denied"));
        assert_eq!(more[0].field("last_reason"), Some("cause"));
    }

    /// Cheap refusals of many kinds do not hide what the caller tries after them.
    #[test]
    fn a1_the_first_refusal_of_each_kind_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(folder.path(), |_| {}).unwrap());
        let counts = RefusalCounts::new(Arc::clone(&journal), 3);
        for class in std::iter::repeat_n(["invalid", "rate", "overload", "stale", "busy"], 20) {
            class
                .into_iter()
                .for_each(|class| refuse(&counts, kind("a", class)));
        }
        refuse(&counts, kind("a", "binding"));
        counts.write_all();
        drop((counts, journal));
        let records = records(folder.path());
        let whole = records.iter().filter(|record| record.event == "refused");
        assert_eq!(whole.count(), 5 + 10 + 1);
        let counted = records
            .iter()
            .filter(|record| record.event == "refused_more");
        let mut classes = counted.filter_map(|record| record.field("class"));
        assert!(classes.all(|class| class != "binding"));
        assert_eq!(sum(&records), 101);
    }

    #[test]
    fn a1_however_many_callers_and_kinds_there_are_the_record_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(folder.path(), |_| {}).unwrap());
        let counts = RefusalCounts::new(Arc::clone(&journal), 3);
        for n in 0..10_000 {
            refuse(&counts, kind(&n.to_string(), "denied"));
        }
        assert!(counts.window().kinds.len() <= MOST_KINDS + 2);
        for class in std::iter::repeat_n(["x", "y", "z"], 100).flatten() {
            refuse(&counts, kind("0", class));
        }
        counts.write_all();
        drop((counts, journal));
        let records = records(folder.path());
        assert_eq!(sum(&records), 10_300);
        assert!(
            records.len() <= MOST_KINDS + 2 + 3 * 32,
            "{}",
            records.len()
        );
    }

    #[test]
    fn a1_one_caller_does_not_use_up_the_kinds_of_others() {
        let mut window = Window::default();
        const CLASSES: [&str; 40] = ["c"; 40];
        for (n, class) in CLASSES.iter().enumerate() {
            let rpc: &'static str = Box::leak(n.to_string().into_boxed_str());
            let kind = RefusalKind {
                rpc: Some(rpc),
                ..kind("loud", class)
            };
            window.take(kind, ("", ""), 3, true);
        }
        assert!(window.kinds.len() <= MOST_KINDS_OF_ONE + 1);
        assert!(window.take(kind("quiet", "denied"), ("", ""), 3, true));
    }
}
