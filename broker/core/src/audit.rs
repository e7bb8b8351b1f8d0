//! Audit records, and their only encoding (P10, AC-71).
//!
//! ```text
//! version: u8 ‖ at_ms: i64 ‖ event ‖ count: u32 ‖ (name ‖ value)*
//! ```
//!
//! Numbers are big-endian. Each string has its length in bytes as a `u32` before it. Names are in
//! ascending order, and each occurs once.

use std::borrow::Cow;

use serde::Serialize;

/// The longest value that is kept, in bytes (T78).
const MAX_VALUE: usize = 64 << 10;

/// An audit record: an event with its circumstances.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Record {
    /// The time of the event, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The name of the event.
    pub event: String,
    /// The circumstances of the event: names, in ascending order, and values.
    pub fields: Vec<(Cow<'static, str>, String)>,
}

impl Record {
    /// Makes the record of an event at this time, in milliseconds since the epoch.
    #[must_use]
    pub fn new(event: &str, at_ms: i64) -> Self {
        Self {
            at_ms,
            event: event.to_owned(),
            fields: Vec::new(),
        }
    }

    /// Returns the record with a circumstance, if there is one.
    #[must_use]
    pub fn with_some(
        self,
        name: impl Into<Cow<'static, str>>,
        value: Option<impl ToString>,
    ) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Returns the record with a circumstance. A value over 64 KiB is cut at a character. A name
    /// that is there already keeps its first value.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        let name = name.into();
        let mut value = value.to_string();
        if value.len() > MAX_VALUE {
            let end = (0..=MAX_VALUE)
                .rev()
                .find(|i| value.is_char_boundary(*i))
                .unwrap_or(0);
            value.truncate(end);
        }
        if let Err(index) = self.fields.binary_search_by(|(n, _)| n.cmp(&name)) {
            self.fields.insert(index, (name, value));
        }
        self
    }

    /// Returns the value of a circumstance.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the only encoding of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.at_ms.to_be_bytes());
        put(&mut out, &self.event);
        out.extend_from_slice(&length(self.fields.len()));
        for (name, value) in &self.fields {
            put(&mut out, name);
            put(&mut out, value);
        }
        out
    }

    /// Reads the bytes that [`Record::encode`] returns, and returns `None` for any others.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (at_ms, mut rest) = rest.split_first_chunk::<8>()?;
        if *version != 1 {
            return None;
        }
        let event = take(&mut rest)?.to_owned();
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        let mut fields: Vec<(Cow<'static, str>, String)> = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            let name = take(&mut rest)?.to_owned();
            let field = (Cow::Owned(name), take(&mut rest)?.to_owned());
            // Another order, or a name twice, would be a second encoding of the same record.
            if fields.last().is_some_and(|(name, _)| *name >= field.0) {
                return None;
            }
            fields.push(field);
        }
        rest.is_empty().then_some(Self {
            at_ms: i64::from_be_bytes(*at_ms),
            event,
            fields,
        })
    }
}

/// What [`glance`] finds in an encoded record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Glance<'a> {
    /// The time of the event, in milliseconds since the epoch.
    pub at_ms: i64,
    /// The name of the event.
    pub event: &'a str,
    /// The value of the circumstance that was asked for.
    pub value: Option<&'a str>,
}

/// Reads the bytes that [`Record::encode`] returns, and keeps only the event and the value of one
/// circumstance, for whoever looks at many records. Returns `None` for any other bytes.
#[must_use]
pub fn glance<'a>(bytes: &'a [u8], name: &str) -> Option<Glance<'a>> {
    let (version, rest) = bytes.split_first()?;
    let (at_ms, mut rest) = rest.split_first_chunk::<8>()?;
    if *version != 1 {
        return None;
    }
    let event = take(&mut rest)?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut value = None;
    let mut last = None;
    for _ in 0..u32::from_be_bytes(*count) {
        let (found, its_value) = (take(&mut rest)?, take(&mut rest)?);
        // Another order, or a name twice, would be a second encoding of the same record.
        if last.replace(found).is_some_and(|last| last >= found) {
            return None;
        }
        if found == name {
            value = Some(its_value);
        }
    }
    rest.is_empty().then_some(Glance {
        at_ms: i64::from_be_bytes(*at_ms),
        event,
        value,
    })
}

fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&length(text.len()));
    out.extend_from_slice(text.as_bytes());
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (size, tail) = rest.split_first_chunk::<4>()?;
    let (text, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ac_71_a_record_has_one_encoding(
            at_ms: i64,
            event in ".{0,9}",
            fields in proptest::collection::btree_map(".{0,4}", ".{0,9}", 0..4),
        ) {
            let empty = Record { at_ms, event, fields: vec![] };
            let record = fields.iter().fold(empty, |r, (n, v)| r.with(n.clone(), v));
            let bytes = record.encode();
            prop_assert_eq!(Record::decode(&bytes), Some(record));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes: Vec<u8>) {
            prop_assert_eq!(glance(&bytes, "").is_some(), Record::decode(&bytes).is_some());
            if let Some(record) = Record::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes);
            }
        }

        #[test]
        fn a_glance_sees_what_the_record_has(
            at_ms: i64,
            event in ".{0,9}",
            fields in proptest::collection::btree_map("[a-c]", ".{0,9}", 0..4),
        ) {
            let empty = Record { at_ms, event, fields: vec![] };
            let record = fields.iter().fold(empty, |r, (n, v)| r.with(n.clone(), v));
            let bytes = record.encode();
            let seen = glance(&bytes, "b").unwrap();
            prop_assert_eq!((seen.at_ms, seen.event), (at_ms, record.event.as_str()));
            prop_assert_eq!(seen.value, record.field("b"));
        }
    }
}
