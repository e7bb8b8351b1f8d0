//! RSA keys that are broken whatever their length.

/// The primes that the fingerprint looks at: all odd ones up to 167.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
/// The generator from which the affected library made its primes.
const GENERATOR: u32 = 65537;

/// Returns whether a modulus, big-endian, has the fingerprint of keys whose private part can be
/// computed (ROCA, CVE-2017-15361), as chips of TPMs and smart cards made them: modulo each small
/// prime, it is a power of 65537. Of other keys, one in many millions has it by chance.
pub(crate) fn is_roca(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest: u32, byte| {
            ((rest << 8) | u32::from(*byte)) % prime
        });
        let mut power = 1;
        (0..*prime).any(|_| {
            power = (power * (GENERATOR % prime)) % prime;
            power == rest
        })
    })
}

/// Returns whether a key is strong enough to be trusted and small enough to be verified cheaply (T08,
/// T09): 2048 to 4096 bits.
pub(crate) fn is_acceptable(modulus: &[u8], exponent: &[u8]) -> bool {
    bits(modulus) <= 4096 && is_sound(modulus, exponent)
}

/// Returns whether a key has at least 2048 bits, not the fingerprint of ROCA, and the form that every
/// library takes: a modulus and an exponent that are odd, and an exponent of 3 to 2³² - 1.
pub(crate) fn is_sound(modulus: &[u8], exponent: &[u8]) -> bool {
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    let exponent = stripped(exponent);
    bits(modulus) >= 2048
        && is_odd(modulus)
        && is_odd(exponent)
        && exponent.len() <= 4
        && exponent != [1]
        && !is_roca(modulus)
}

/// Returns the number of bits of a number, big-endian.
fn bits(number: &[u8]) -> u32 {
    let number = stripped(number);
    let first = number.first().map_or(0, |first| first.leading_zeros());
    let bits = u32::try_from(number.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(8);
    bits.saturating_sub(first)
}

/// Returns a number, big-endian, without leading zeros, which DER, TPMs and some writers of JWKs
/// add.
pub(crate) fn stripped(number: &[u8]) -> &[u8] {
    number
        .iter()
        .position(|byte| *byte != 0)
        .and_then(|at| number.get(at..))
        .unwrap_or_default()
}

/// Returns a modulus of 2049 bits with the fingerprint: a power of 65537.
#[cfg(test)]
pub(crate) fn roca_modulus() -> Vec<u8> {
    let mut number = vec![1_u8];
    while number.len() < 257 {
        // Times 65537, with the lowest byte first.
        let shifted = [&[0, 0][..], &number].concat();
        number.resize(shifted.len(), 0);
        let mut carry = 0;
        for (digit, other) in number.iter_mut().zip(shifted) {
            let sum = u16::from(*digit) + u16::from(other) + carry;
            *digit = u8::try_from(sum & 0xff).unwrap_or_default();
            carry = sum >> 8;
        }
    }
    number.reverse();
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e13_the_fingerprint_of_roca_is_found_and_is_rare() {
        let power = stripped(&[0, 0, 1, 0, 1]).to_vec();
        assert!(is_roca(&power));
        assert!(is_roca(&[&[0; 3][..], &roca_modulus()].concat()));
        let mut other = roca_modulus();
        let mut found = 0;
        for at in 0..other.len() {
            other[at] ^= 0x5a;
            found += usize::from(is_roca(&other));
        }
        assert_eq!(found, 0);
    }
}
