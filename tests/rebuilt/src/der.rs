//! Elements in DER (X.690, section 10), and the forms of BER that some platforms write.

/// Returns an element with a definite length.
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    let length = u32::try_from(content.len()).expect("short").to_be_bytes();
    match length {
        [0, 0, 0, short @ 0..0x80] => out.push(short),
        [0, 0, 0, long] => out.extend([0x81, long]),
        [0, 0, high, low] => out.extend([0x82, high, low]),
        [0, rest @ ..] => out.extend([&[0x83][..], &rest].concat()),
        all => out.extend([&[0x84][..], &all].concat()),
    }
    out.extend(content);
    out
}

/// Returns a constructed element of indefinite length, which is BER and not DER.
pub fn open(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[tag, 0x80][..], &parts.concat(), &[0, 0]].concat()
}

/// Returns an OBJECT IDENTIFIER, for instance of `1.2.840`.
pub fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u64> = dotted
        .split('.')
        .map(|arc| arc.parse().expect("a number"))
        .collect();
    let [first, second, rest @ ..] = arcs.as_slice() else {
        panic!("{dotted} has fewer than two arcs");
    };
    let mut content = Vec::new();
    for arc in [first * 40 + second].iter().chain(rest) {
        let groups = (64 - arc.max(&1).leading_zeros()).div_ceil(7);
        for group in (0..groups).rev() {
            let bits = u8::try_from((arc >> (7 * group)) & 0x7f).expect("seven bits");
            content.push(if group > 0 { bits | 0x80 } else { bits });
        }
    }
    element(6, &[&content])
}

/// Returns a non-negative INTEGER of big-endian bytes, without leading zeros but the one that keeps
/// it from being negative.
pub fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0);
    match start.and_then(|start| bytes.get(start..)) {
        None => element(2, &[&[0]]),
        Some(number) if number[0] >= 0x80 => element(2, &[&[0], number]),
        Some(number) => element(2, &[number]),
    }
}

/// Returns a SEQUENCE of an OBJECT IDENTIFIER and NULL.
pub fn algorithm(dotted: &str) -> Vec<u8> {
    element(0x30, &[&oid(dotted), &[5, 0]])
}
