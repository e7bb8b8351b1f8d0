//! Edits of structures with fields at fixed offsets.

use crate::dice::Dice;

/// Returns a structure with one to three of its fields, given by offset and length in bytes,
/// changed.
pub fn edited(document: &[u8], fields: &[(usize, usize)], dice: &mut Dice) -> Vec<u8> {
    let mut out = document.to_vec();
    for _ in 0..=dice.roll(3) {
        let (at, length) = fields[dice.roll(fields.len())];
        let (from, other) = fields[dice.roll(fields.len())];
        match dice.roll(7) {
            0 => out[at..at + length].fill(0),
            1 => out[at..at + length].fill(0xff),
            2 => out[at..at + length].fill_with(|| dice.byte()),
            3 => {
                let short = length.min(other);
                out.copy_within(from..from + short, at);
            }
            4 => out[at] = out[at].wrapping_add(1),
            5 => out[at] = out[at].wrapping_sub(1),
            _ => out[at + dice.roll(length)] ^= 1 << dice.roll(8),
        }
    }
    out
}
