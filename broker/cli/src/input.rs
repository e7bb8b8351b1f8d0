//! Input of commands: bytes that are written in hexadecimal.

/// Returns the 32 bytes that 64 hexadecimal digits of either case stand for, or `None` for any
/// other text.
pub(crate) fn parse_hex_32(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse_hex_32;

    #[test]
    fn sixty_four_digits_of_either_case_are_thirty_two_bytes() {
        assert_eq!(parse_hex_32(&"aF".repeat(32)), Some([0xaf; 32]));
    }

    #[test]
    fn anything_but_sixty_four_digits_is_refused() {
        for bad in [
            String::new(),
            "0".repeat(63),
            "0".repeat(65),
            "0".repeat(62),
            "0".repeat(66),
            "+1".repeat(32),
            "0g".repeat(32),
            format!(" {}", "0".repeat(63)),
            "ä".repeat(32),
        ] {
            assert_eq!(parse_hex_32(&bad), None, "{bad}");
        }
    }
}
