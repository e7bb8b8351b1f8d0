//! Hostile edits of evidence: of bits, and of the structure that a format has.

pub mod ber;
pub mod cbor;
pub mod fields;
pub mod json;

use crate::dice::Dice;

/// Returns the number of variants that a structural test makes of each kind of evidence: 2,000, or
/// what the environment has in `SUNDEW_VARIANTS`.
pub fn variants() -> usize {
    std::env::var("SUNDEW_VARIANTS").map_or(2000, |text| text.parse().expect("a number"))
}

/// Cuts the document at every length and flips one bit of each byte, or every bit if the
/// environment has `SUNDEW_ALL_BITS`. `taken` returns what a variant says if it is taken, and each
/// variant must be refused or say what the document says. Returns the positions of the bytes that
/// could be changed.
///
/// # Panics
/// If a variant says something else.
pub fn bits(document: &[u8], taken: impl Fn(&[u8]) -> Option<String>) -> Vec<usize> {
    let genuine = taken(document).expect("the document itself is taken");
    for length in 0..document.len() {
        // Zeros at the end mean nothing, so they alone may be missing.
        if let Some(said) = taken(&document[..length]) {
            let is_padding = document[length..].iter().all(|byte| *byte == 0);
            assert!(said == genuine && is_padding, "cut at {length} was taken");
        }
    }
    let all = std::env::var_os("SUNDEW_ALL_BITS").is_some();
    let (mut free, mut variant) = (Vec::new(), document.to_vec());
    for at in 0..document.len() {
        for bit in (0..8).filter(|bit| all || *bit == at % 8) {
            variant[at] ^= 1 << bit;
            if let Some(said) = taken(&variant) {
                assert_eq!(said, genuine, "byte {at}, bit {bit}");
                free.push(at);
            }
            variant[at] = document[at];
        }
    }
    free.dedup();
    free
}

/// The outcome of structural edits.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// The number of variants that differ from the genuine evidence.
    pub different: usize,
    /// The number of these that were taken, and so said the same.
    pub taken: usize,
}

/// Makes [`variants`] variants of evidence by `edit`, which gets the dice, and asserts that each is
/// refused or says what the genuine evidence says.
///
/// # Panics
/// If a variant says something else, or if fewer than half of the variants differ.
pub fn structural<T: Clone + PartialEq>(
    genuine: &T,
    seed: u64,
    mut edit: impl FnMut(&mut Dice) -> T,
    taken: impl Fn(&T) -> Option<String>,
) -> Outcome {
    let said = taken(genuine).expect("the genuine evidence is taken");
    let (mut dice, mut outcome) = (Dice::new(seed), Outcome::default());
    for round in 0..variants() {
        let variant = edit(&mut dice);
        if variant == *genuine {
            continue;
        }
        outcome.different += 1;
        if let Some(other) = taken(&variant) {
            assert_eq!(other, said, "seed {seed:#x}, round {round}");
            outcome.taken += 1;
        }
    }
    assert!(outcome.different > variants() / 2, "{outcome:?}");
    outcome
}

/// Changes bytes in place: flips, cuts, lengthens, empties, fills or replaces them.
pub fn bend(bytes: &mut Vec<u8>, dice: &mut Dice) {
    match dice.roll(8) {
        0..=2 if !bytes.is_empty() => {
            let at = dice.roll(bytes.len());
            bytes[at] ^= 1 << dice.roll(8);
        }
        3 => bytes.truncate(dice.roll(bytes.len() + 1)),
        4 => bytes.push(dice.byte()),
        5 => bytes.clear(),
        6 => bytes.fill(0),
        _ => bytes.fill_with(|| dice.byte()),
    }
}
