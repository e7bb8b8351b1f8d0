//! A filter that makes requests of gRPC's C library readable.
//!
//! The C library, and so the SPIFFE clients of Python and others, sends the percent-encoded path of
//! a Unix socket as `:authority`. That is no authority (RFC 3986, section 3.2), so the HTTP/2
//! library refuses the stream. On a Unix socket the authority means nothing, so the filter replaces
//! it.
//!
//! The filter runs over the bytes that a client sends (RFC 9113), and looks at complete HEADERS
//! frames only. In them, the value of each literal `:authority` (RFC 7541, section 6.2) becomes one
//! character. An entry of the dynamic table gets smaller by that, never larger, so every index that
//! the client uses is still there. Bytes that are not understood are passed on unchanged.

/// Length of the connection preface, in bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Length of a frame header, in bytes (RFC 9113, section 4.1).
const FRAME_HEADER: usize = 9;
/// The type of HEADERS frames, and three of their flags (RFC 9113, section 6.2).
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Largest frame that is looked at, in bytes: the default limit of HTTP/2.
const MAX_FRAME: usize = 16 << 10;
/// Index of `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;
/// The name of the header field where it is not an index.
const SPELLED: &[u8] = b":authority";
/// The value that every `:authority` gets.
const REPLACEMENT: u8 = b'a';

/// The filter of one connection. Bytes are put in as they come from the client, and taken out as
/// they go to the HTTP/2 library.
pub(crate) struct AuthorityFilter {
    /// Bytes of a frame that is not complete yet.
    raw: Vec<u8>,
    /// Bytes that may be taken out.
    ready: Vec<u8>,
    /// The number of bytes to come that are passed on unchanged.
    pass: usize,
}

impl AuthorityFilter {
    /// A filter at the beginning of a connection.
    pub(crate) fn new() -> Self {
        Self {
            raw: Vec::new(),
            ready: Vec::new(),
            pass: PREFACE,
        }
    }

    /// Puts bytes in. An empty slice means that the client has sent everything; the HTTP/2 library
    /// then gets the rest of an incomplete frame, and refuses it.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.raw.extend(bytes);
        if bytes.is_empty() {
            self.ready.append(&mut self.raw);
        }
        self.advance();
    }

    /// Takes at most `most` bytes out.
    pub(crate) fn take(&mut self, most: usize) -> Vec<u8> {
        let rest = self.ready.split_off(self.ready.len().min(most));
        std::mem::replace(&mut self.ready, rest)
    }

    /// Moves bytes from `raw` to `ready` for as long as whole frames, or bytes to pass, are there.
    fn advance(&mut self) {
        loop {
            let now = self.pass.min(self.raw.len());
            self.ready.extend(self.raw.drain(..now));
            self.pass = self.pass.saturating_sub(now);
            let Some((header, rest)) = self
                .raw
                .split_first_chunk::<FRAME_HEADER>()
                .filter(|_| self.pass == 0)
            else {
                return;
            };
            let [a, b, c, kind, flags, stream @ ..] = *header;
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            if kind != HEADERS || flags & END_HEADERS == 0 || length > MAX_FRAME {
                self.pass = length.saturating_add(FRAME_HEADER);
                continue;
            }
            let Some(payload) = rest.get(..length) else {
                return;
            };
            match replaced(flags, payload)
                .and_then(|new| Some((u32::try_from(new.len()).ok()?.to_be_bytes(), new)))
            {
                Some(([_, a, b, c], new)) => {
                    self.ready.extend([a, b, c, kind, flags]);
                    self.ready.extend(stream);
                    self.ready.extend(new);
                    self.raw.drain(..length.saturating_add(FRAME_HEADER));
                }
                None => self.pass = length.saturating_add(FRAME_HEADER),
            }
        }
    }
}

/// The payload of a HEADERS frame with another authority; `None` if the payload has no authority,
/// or cannot be read.
fn replaced(flags: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let padding = if flags & PADDED == 0 {
        0
    } else {
        usize::from(*payload.first()?)
    };
    let front = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    let end = payload.len().checked_sub(padding)?;
    let mut block = payload.get(front..end)?;
    let mut out = payload.get(..front)?.to_vec();
    let mut found = false;
    while let [first, ..] = *block {
        let before = block;
        // RFC 7541, section 6: indexed, literal with indexing, size update, literals without.
        let bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(&mut block, bits)?;
        if (0x20..0x40).contains(&first) || first >= 0x80 {
            out.extend(before.get(..before.len() - block.len())?);
            continue;
        }
        // The C library spells the name out.
        let spelled = if index == 0 {
            string(&mut block)? == SPELLED
        } else {
            false
        };
        let name = before.len() - block.len();
        let value = string(&mut block)?;
        if (index == AUTHORITY || spelled) && !value.is_empty() {
            out.extend(before.get(..name)?);
            out.extend([1, REPLACEMENT]);
            found = true;
        } else {
            out.extend(before.get(..before.len() - block.len())?);
        }
    }
    out.extend(payload.get(end..)?);
    found.then_some(out)
}

/// Reads an integer with a prefix of `bits` bits (RFC 7541, section 5.1).
fn integer(from: &mut &[u8], bits: u32) -> Option<usize> {
    let (first, mut rest) = from.split_first()?;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        for shift in [0, 7, 14, 21] {
            let (next, after) = rest.split_first()?;
            rest = after;
            value = value.checked_add(usize::from(next & 0x7f) << shift)?;
            if next & 0x80 == 0 {
                *from = rest;
                return Some(value);
            }
        }
        return None;
    }
    *from = rest;
    Some(value)
}

/// Reads a string literal (RFC 7541, section 5.2). A Huffman-coded one stays coded.
fn string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = integer(from, 7)?;
    let (value, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Passes bytes through a filter in pieces of this size.
    fn through(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut filter = AuthorityFilter::new();
        let mut out = Vec::new();
        for piece in bytes.chunks(piece).chain([&[][..]]) {
            filter.put(piece);
            out.extend(filter.take(usize::MAX));
        }
        out
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn an_authority_is_replaced_and_nothing_else_is_touched() {
        let path = b"%2Frun%2Fsundew.sock";
        let preface = [b'p'; PREFACE];
        // :method POST, :authority with indexing, :path without, a name of its own, a size update.
        let block = |authority: &[u8]| {
            let length = u8::try_from(authority.len()).unwrap_or(0);
            [
                &[0x83, 0x41, length],
                authority,
                &[0x04, 2, b'/', b'x', 0x00, 1, b'n', 1, b'v', 0x20],
            ]
            .concat()
        };
        for flags in [
            END_HEADERS,
            END_HEADERS | PADDED,
            END_HEADERS | PRIORITY,
            END_HEADERS | PADDED | PRIORITY,
        ] {
            let wrapped = |block: Vec<u8>| {
                let front: &[u8] = if flags & PADDED == 0 { &[] } else { &[3] };
                let priority: &[u8] = if flags & PRIORITY == 0 {
                    &[]
                } else {
                    &[0, 0, 0, 0, 16]
                };
                let back: &[u8] = if flags & PADDED == 0 { &[] } else { &[0, 0, 0] };
                frame(HEADERS, flags, &[front, priority, &block, back].concat())
            };
            let data = frame(0, 1, &[7; 100]);
            let sent = [
                &preface[..],
                &wrapped(block(path)),
                &data,
                &wrapped(block(path)),
            ]
            .concat();
            let expected = [
                &preface[..],
                &wrapped(block(b"a")),
                &data,
                &wrapped(block(b"a")),
            ]
            .concat();
            for piece in [1, 7, 4096] {
                assert_eq!(through(&sent, piece), expected);
            }
        }
        let spelled = |authority: &[u8]| {
            let length = u8::try_from(authority.len()).unwrap_or(0);
            frame(
                HEADERS,
                END_HEADERS,
                &[&[0x40, 10], SPELLED, &[length], authority, &[0x83]].concat(),
            )
        };
        assert_eq!(
            through(&[&preface[..], &spelled(path)].concat(), 3),
            [&preface[..], &spelled(b"a")].concat()
        );
        // Indexed, absent, or split over CONTINUATION frames: as it is.
        for sent in [
            frame(HEADERS, END_HEADERS, &[0x83, 0x81, 0x86]),
            frame(HEADERS, 0, &block(path)),
            frame(9, END_HEADERS, &block(path)),
        ] {
            let sent = [&preface[..], &sent].concat();
            assert_eq!(through(&sent, 5), sent);
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_passed_on_whole(bytes in prop::collection::vec(any::<u8>(), 0..600), flags in any::<u8>(), piece in 1_usize..50) {
            let sent = [&[b'p'; PREFACE][..], &frame(HEADERS, flags | END_HEADERS, &bytes), &frame(0, 0, b"after")].concat();
            let passed = through(&sent, piece);
            prop_assert!(passed.len() <= sent.len());
            prop_assert!(passed.ends_with(&frame(0, 0, b"after")));
        }
    }
}
