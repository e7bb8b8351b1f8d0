//! A cause as a text for the record and for operators: bounded, and without control characters.
//!
//! A1: parsers repeat in their errors what they could not read, and anybody may send that. So no
//! text of a cause is longer than [`MOST`] bytes, whatever was parsed.

use std::fmt::{Display, Write as _};

/// The longest cause, in bytes.
const MOST: usize = 200;
/// How much of the beginning of a longer cause is kept, in bytes; the rest is of its end.
const HEAD: usize = 110;
/// How much of its end is kept, in bytes.
const TAIL: usize = 60;

/// Returns a cause as a text of at most 200 bytes. Of a longer one, the beginning and the end are
/// kept. Control characters, and those that change how a line reads, are escaped.
pub(crate) fn cause_text(cause: impl Display) -> String {
    let whole = cause.to_string();
    // Escapes of what is cut off would be made for nothing.
    let text = if whole.len() <= MOST {
        escaped(&whole)
    } else {
        shortened(&whole)
    };
    if text.len() <= MOST {
        text
    } else {
        shortened(&text)
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character has no width of its own, or turns the direction of the line.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn shortened(text: &str) -> String {
    let (head, tail) = (beginning(text, HEAD), end(text, TAIL));
    let left_out = text.len().saturating_sub(head.len() + tail.len());
    let (head, tail) = (escaped(head), escaped(tail));
    // Escapes are longer than what they stand for.
    let (head, tail) = (beginning(&head, HEAD), end(&tail, TAIL));
    format!("{head}…({left_out} bytes)…{tail}")
}

fn beginning(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most))
        .unwrap_or_default()
}

fn end(text: &str, most: usize) -> &str {
    let from = text.ceil_char_boundary(text.len().saturating_sub(most));
    text.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a1_a_cause_repeats_at_most_200_bytes_of_what_was_parsed() {
        let parsed = serde_json::from_str::<document::Known>(&format!(
            "{{\"{}\":1}}",
            "x\u{1b}[31m".replace('\u{1b}', "\\u001b").repeat(10_000)
        ));
        let error = parsed.unwrap_err().to_string();
        assert!(error.len() > 60_000, "the parser repeats what it read");
        let text = cause_text(error);
        assert!(text.len() <= MOST, "{} bytes", text.len());
        assert!(text.starts_with("unknown field `x\\u{1b}[31m"), "{text}");
        assert!(text.contains("line 1 column"), "{text}");
        assert_eq!(cause_text("policy: no"), "policy: no");
        assert_eq!(cause_text("a\nb\u{202e}c"), "a\\nb\\u{202e}c");
    }

    mod document {
        /// A document of which one member is known.
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Known {
            #[expect(dead_code, reason = "read by the parser alone")]
            known: Option<u8>,
        }
    }

    proptest! {
        #[test]
        fn a1_every_cause_is_bounded_and_one_line(text in "\\PC*|(?s).{0,400}") {
            let text = cause_text(text);
            prop_assert!(text.len() <= MOST);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
