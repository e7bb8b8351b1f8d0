//! How often processes of the task ask (P12).

use std::collections::HashMap;

use crate::run::descendants::Process;

/// The most questions of one process in a second.
const OF_ONE: u32 = 50;
/// The most questions of all of them in a second.
const OF_ALL: u32 = 200;

/// The questions of this second.
#[derive(Default)]
pub(super) struct Pace {
    asked: HashMap<Process, u32>,
    all: u32,
}

impl Pace {
    /// Counts a question; tells whether it is one too many.
    pub(super) fn is_too_fast(&mut self, process: Process) -> bool {
        if self.all >= OF_ALL {
            return true;
        }
        let asked = self.asked.entry(process).or_default();
        if *asked >= OF_ONE {
            return true;
        }
        *asked = asked.saturating_add(1);
        self.all = self.all.saturating_add(1);
        false
    }

    /// Begins another second.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::descendants::ended_children;

    #[test]
    fn p12_one_process_leaves_something_to_the_others() {
        let children: Vec<_> = (0..5)
            .map(|_| std::process::Command::new("true").spawn().unwrap())
            .collect();
        let own = rustix::process::getpid();
        let mut processes = ended_children(own);
        while children.len() > processes.len() {
            processes = ended_children(own);
        }
        let mut pace = Pace::default();
        let mut taken: Vec<_> = processes
            .iter()
            .take(5)
            .map(|process| (0..100).filter(|_| !pace.is_too_fast(*process)).count())
            .collect();
        assert_eq!(taken.split_off(4), [0]);
        assert_eq!(taken, [50; 4]);
        pace.begin_anew();
        assert!(processes.iter().all(|process| !pace.is_too_fast(*process)));
        for mut child in children {
            child.wait().unwrap();
        }
    }
}
