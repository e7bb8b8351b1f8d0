//! The hash slots of a Redis Cluster.

/// Returns the hash slot of a key: the CRC-16/XMODEM of what stands between the first braces,
/// modulo 16384 (Redis Cluster specification, "Key distribution model").
pub(super) fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(key);
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    });
    crc % 16384
}

#[cfg(test)]
mod tests {
    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(super::slot("123456789"), 0x31c3);
        assert_eq!(super::slot("foo{bar}zap"), super::slot("bar"));
        assert_eq!(super::slot("foo{}{bar}"), super::slot("foo{}{bar}"));
    }
}
