//! Challenges by whose signature a process shows that it has a key. Each is good once, and for half
//! a minute to a minute.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};

/// The most challenges of half a minute.
const MOST: usize = 1024;

/// The challenges that were given out and not used.
#[derive(Default)]
pub(super) struct Challenges {
    new: HashSet<String>,
    old: HashSet<String>,
}

impl Challenges {
    /// Gives out another one, if there are not too many.
    pub(super) fn issue(&mut self) -> Option<String> {
        if self.new.len() >= MOST {
            return None;
        }
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let challenge = URL_SAFE_NO_PAD.encode(bytes);
        self.new.insert(challenge.clone());
        Some(challenge)
    }

    /// Takes a challenge back, whatever becomes of it; tells whether it was one.
    pub(super) fn consume(&mut self, challenge: &str) -> bool {
        self.new.remove(challenge) || self.old.remove(challenge)
    }

    /// Forgets those that were old at the last call.
    pub(super) fn age(&mut self) {
        self.old = std::mem::take(&mut self.new);
    }
}

/// Returns the text that is signed for a challenge. It is said there what it is for, so that no
/// other signature of the key is one.
pub(super) fn message(task: &str, challenge: &str) -> String {
    format!("sundew-task-token-v1:{task}:{challenge}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p8_a_challenge_is_good_once_and_not_for_long() {
        let mut challenges = Challenges::default();
        let (one, two) = (challenges.issue().unwrap(), challenges.issue().unwrap());
        assert_ne!(one, two);
        assert!(challenges.consume(&one) && !challenges.consume(&one));
        challenges.age();
        assert!(challenges.consume(&two));
        let three = challenges.issue().unwrap();
        challenges.age();
        challenges.age();
        assert!(!challenges.consume(&three) && !challenges.consume("none"));
    }

    #[test]
    fn p12_there_are_so_many_challenges_at_a_time() {
        let mut challenges = Challenges::default();
        assert_eq!((0..2000).filter_map(|_| challenges.issue()).count(), MOST);
        challenges.age();
        assert!(challenges.issue().is_some());
    }
}
