//! Pseudorandom numbers that are the same in each run.

/// A source of pseudorandom numbers (xorshift64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Makes a source by a seed, which is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `sides`, which is above 0.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let sides = u64::try_from(sides).expect("64 bits");
        usize::try_from(self.0 % sides).expect("64 bits")
    }

    /// Returns whether one in so many came up.
    pub fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    /// Returns a byte.
    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).expect("a byte")
    }
}
