//! Points on P-256 and P-384 (FIPS 186-5).
//!
//! ring looks at a point only when it verifies a signature. Others look at it when they read a key,
//! and refuse the whole document that it is in.

use x509_parser::num_bigint::BigUint;

/// The prime, and the constant `b` of the curve `y² = x³ - 3x + b`, in hexadecimal.
const P256: (&str, &str) = (
    "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
    "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
);
const P384: (&str, &str) = (
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
    "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
);

/// Returns whether the bytes are a point of P-256 or, if there are 97, of P-384, in its uncompressed
/// form (SEC 1, section 2.3.3).
pub(crate) fn has(point: &[u8]) -> bool {
    let Some((4, numbers)) = point.split_first() else {
        return false;
    };
    let (prime, b) = match numbers.len() {
        64 => P256,
        96 => P384,
        _ => return false,
    };
    let constant = |hex: &str| BigUint::parse_bytes(hex.as_bytes(), 16).unwrap_or_default();
    let (prime, b) = (constant(prime), constant(b));
    let (x, y) = numbers.split_at(numbers.len() / 2);
    let (x, y) = (BigUint::from_bytes_be(x), BigUint::from_bytes_be(y));
    if x >= prime || y >= prime {
        return false;
    }
    // Without a subtraction: numbers here have no sign.
    (&y * &y + &x * 3_u8) % &prime == (&x * &x * &x + b) % &prime
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

    use super::*;

    #[test]
    fn points_of_keys_are_on_their_curve_and_others_are_not() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
            for _ in 0..20 {
                let key = KeyPair::generate_for(algorithm).unwrap();
                let mut point = rcgen::PublicKeyData::der_bytes(&key).to_vec();
                assert!(has(&point));
                for at in [0, 1, point.len() / 2, point.len() - 1] {
                    point[at] ^= 1;
                    assert!(!has(&point));
                    point[at] ^= 1;
                }
                assert!(!has(&point[1..]));
            }
        }
        assert!(!has(&[&[4][..], &[0; 64]].concat()));
        assert!(!has(&[&[4][..], &[0xff; 64]].concat()));
        assert!(!has(&[]));
    }
}
