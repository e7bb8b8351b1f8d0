//! What the user sees: text for people, JSON for machines.

use serde::Serialize;

/// How to print.
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

    /// One result: as JSON, or the lines for people.
    pub(crate) fn result(&self, value: &impl Serialize, lines: impl FnOnce() -> Vec<String>) {
        if self.json {
            println!("{}", serde_json::to_string(value).unwrap_or_default());
        } else {
            lines().iter().for_each(|line| println!("{line}"));
        }
    }
}

/// Rows under a heading, in columns as wide as they need.
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

/// Text that others wrote, so that it cannot move the cursor or forge a line.
pub(crate) fn quoted(text: &str, longest: usize) -> String {
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
