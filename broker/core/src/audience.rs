//! Audiences: the services that a token is meant for.
//!
//! P3: the audiences of a token or a grant only narrow those above it.

use crate::denial::Denial;

/// Returns whether a text can be an audience: 1 to 256 printable ASCII characters without spaces.
#[must_use]
pub fn is_audience(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Returns the audiences that a request gets under a ceiling (P3).
///
/// An empty ceiling sets no limit. A request that names no audience gets the whole ceiling. A
/// request that names an audience outside the ceiling is refused with [`Denial::Audience`].
pub(crate) fn narrow(ceiling: &[String], asked: Vec<String>) -> Result<Vec<String>, Denial> {
    if ceiling.is_empty() {
        return Ok(asked);
    }
    if asked.is_empty() {
        return Ok(ceiling.to_vec());
    }
    if asked.iter().all(|audience| ceiling.contains(audience)) {
        Ok(asked)
    } else {
        Err(Denial::Audience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_only_narrows() {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(narrow(&[], list(&["x"])), Ok(list(&["x"])));
        assert_eq!(narrow(&list(&["x", "y"]), vec![]), Ok(list(&["x", "y"])));
        assert_eq!(
            narrow(&list(&["x"]), list(&["x", "y"])),
            Err(Denial::Audience)
        );
    }
}
