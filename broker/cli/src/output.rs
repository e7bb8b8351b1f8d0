//! Output of commands: text for people, or JSON for machines.

use std::process::ExitCode;

use serde::Serialize;

/// The form in which results are printed: JSON, or lines of text.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one result to standard output: `value` as one line of JSON, or `lines` as they are.
    pub(crate) fn result(&self, value: &impl Serialize, lines: impl FnOnce() -> Vec<String>) {
        if self.json {
            println!("{}", serde_json::to_string(value).unwrap_or_default());
        } else {
            lines().iter().for_each(|line| println!("{line}"));
        }
    }
}

/// Returns the lines of a table: the heading and the rows, in columns as wide as their widest cell.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut heading.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines
}

/// Returns what a broker's word for a deletion means to people.
pub(crate) fn deletion(action: &str) -> &'static str {
    if action == "absent" {
        "was not there"
    } else {
        "deleted"
    }
}

/// Returns text that others wrote in a form that cannot move the cursor or forge a line.
///
/// After `longest` characters the text is cut, and an ellipsis stands for the rest. A character
/// that is escaped counts once.
pub(crate) fn escape(text: &str, longest: usize) -> String {
    let mut out: String = text
        .chars()
        .take(longest)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(longest).is_some() {
        out.push('…');
    }
    out
}

/// Returns the exit code of a command that looked at something: 0 if all is well, and 1 if not.
pub(crate) fn success_if(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::{escape, table};

    #[test]
    fn a_table_has_columns_as_wide_as_their_widest_cell_and_no_space_at_the_end() {
        let rows = [
            vec!["ä".to_owned(), "1".to_owned(), String::new()],
            vec!["longer".to_owned(), "2".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            table(&["A", "NUMBER", "C"], &rows),
            ["A       NUMBER  C", "ä       1", "longer  2       x"]
        );
    }

    #[test]
    fn a_table_without_rows_is_its_heading() {
        assert_eq!(table(&["A", "B"], &[]), ["A  B"]);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escape("a\nb\x1b[2Jc", 20), "a\\nb\\u{1b}[2Jc");
        assert_eq!(escape("\u{202e}\"'", 20), "\\u{202e}\\\"\\'");
    }

    #[test]
    fn text_is_cut_after_so_many_characters() {
        assert_eq!(escape("äöü", 3), "äöü");
        assert_eq!(escape("äöüß", 3), "äöü…");
        assert_eq!(escape("\n\n", 1), "\\n…");
        assert_eq!(escape("", 0), "");
    }
}
