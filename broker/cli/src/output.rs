//! Output of commands. A command makes one view of its result; the writer here renders the view as
//! lines for people or as JSON for machines, and says when it cannot be written (C6).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Whether results are JSON or lines of text.
pub(crate) struct Output {
    json: bool,
}

/// What a command tells. In JSON it is an object, whose member `kind` says which shape it has:
/// `schema/KIND.json` describes that.
pub(crate) trait View: Serialize {
    /// The name of the shape.
    const KIND: &'static str;

    /// The same for people, without line ends.
    fn lines(&self) -> Vec<String>;
}

/// One entry of a list.
pub(crate) trait Row: Serialize {
    /// The name of the list's shape.
    const KIND: &'static str;
    /// The heading of the table for people.
    const HEADING: &'static [&'static str];

    /// The row of the table, as many cells as the heading has.
    fn cells(&self) -> Vec<String>;
}

/// A list. JSON has its entries as `items`.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct List<R> {
    pub(crate) items: Vec<R>,
    /// Whether there are more that fit, beyond the limit of the list.
    pub(crate) more: bool,
    /// Counts beyond what is listed, by name.
    pub(crate) totals: BTreeMap<&'static str, u64>,
    /// What people should know beside the entries.
    pub(crate) notes: Vec<String>,
}

impl<R> List<R> {
    /// A list that has everything.
    pub(crate) fn whole(items: Vec<R>) -> Self {
        Self {
            items,
            more: false,
            totals: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    /// The entries after a name, `limit` of them at most, of all entries; by name.
    pub(crate) fn after(
        all: Vec<R>,
        name: impl Fn(&R) -> String,
        (after, limit): (Option<&str>, u32),
    ) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut items = all;
        items.sort_by_key(&name);
        items.retain(|item| after.is_none_or(|after| *name(item) > *after));
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().map(name).unwrap_or_default();
        let cut = format!("there are more: --after '{last}' shows what comes next");
        Self {
            items,
            more,
            totals: BTreeMap::new(),
            notes: more.then_some(cut).into_iter().collect(),
        }
    }

    /// A list that ends after `limit` entries.
    pub(crate) fn page(items: Vec<R>, more: bool) -> Self {
        let shown = items.len();
        let cut =
            format!("only the first {shown} are shown; --limit shows more, filters show fewer");
        Self {
            items,
            more,
            totals: BTreeMap::new(),
            notes: more.then_some(cut).into_iter().collect(),
        }
    }
}

impl<R: Row> View for List<R> {
    const KIND: &'static str = R::KIND;

    fn lines(&self) -> Vec<String> {
        let rows: Vec<_> = self.items.iter().map(Row::cells).collect();
        let mut lines = table(R::HEADING, &rows);
        lines.extend(self.notes.iter().map(|note| escape_prose(note, 1000)));
        lines
    }
}

/// Something that was deleted, or was not there.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DeletedView {
    pub(crate) deleted: String,
    /// `deleted`, or `absent` if there was nothing.
    pub(crate) action: String,
    /// What follows, for people.
    #[serde(skip)]
    pub(crate) remark: &'static str,
}

impl View for DeletedView {
    const KIND: &'static str = "deleted";

    fn lines(&self) -> Vec<String> {
        let done = deletion(&self.action);
        vec![format!("{} {done}{}", self.deleted, self.remark)]
    }
}

/// A view with its kind, as JSON has it.
#[derive(Serialize)]
struct Envelope<'a, T> {
    kind: &'static str,
    #[serde(flatten)]
    view: &'a T,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes a view to standard output: one line of JSON, or its lines.
    pub(crate) fn show<V: View>(&self, view: &V) -> Result<()> {
        self.show_to(&mut io::stdout().lock(), view)
    }

    fn show_to<V: View>(&self, out: &mut impl Write, view: &V) -> Result<()> {
        let text = if self.json {
            let kind = V::KIND;
            visible_json(&serde_json::to_string(&Envelope { kind, view })?) + "\n"
        } else {
            lines_of(&view.lines())
        };
        write_all(out, text.as_bytes())
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        write_all(&mut io::stdout().lock(), bytes)
    }
}

/// What could not be written, in errors.
const UNWRITTEN: &str = "standard output";

fn write_all(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .context(UNWRITTEN)
}

fn lines_of(lines: &[String]) -> String {
    let ended = lines.iter().map(|line| format!("{}\n", visible(line)));
    ended.collect()
}

/// Whether a character moves the cursor, hides, or turns the text around it.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Returns text as it is, but for characters that nobody sees, which are escaped. Lines stay lines.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            c if is_unseen(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// Returns one line of JSON that has the same meaning, and no character that nobody sees.
pub(crate) fn visible_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unseen(c) {
            // Whoever writes JSON escapes no more than it must (RFC 8259, section 7).
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns a cell of a table, or a value, as a part of one line.
fn in_line(text: &str) -> String {
    visible(text).replace('\n', "\\n")
}

/// Says something to people beside the result. Where standard error is closed nobody can be told,
/// and the command goes on.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", visible(text));
}

/// Says something like [`note`], and stays on the line.
pub(crate) fn note_part(text: &str) {
    let mut err = io::stderr().lock();
    let _ = write!(err, "{}", visible(text)).and_then(|()| err.flush());
}

/// Whether an error is that nobody reads the output any more, such as `head` that has enough.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    }) && error.to_string() == UNWRITTEN
}

/// Returns the lines of a table: the heading and the rows, in columns as wide as their widest cell.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let in_lines = |row: &Vec<String>| row.iter().map(|cell| in_line(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(in_lines).collect();
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
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

/// Returns lines of names and values, the values in one column.
pub(crate) fn fields(fields: &[(&str, String)]) -> Vec<String> {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or_default();
    let line = |(name, value): &(&str, String)| format!("{name:<width$}  {}", in_line(value));
    fields
        .iter()
        .map(|field| line(field).trim_end().to_owned())
        .collect()
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

/// Returns text that others wrote like [`escape`], for a line of prose, in which quotes do no harm.
pub(crate) fn escape_prose(text: &str, longest: usize) -> String {
    let mut out = String::new();
    for c in text.chars().take(longest) {
        match c {
            '"' | '\'' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
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
#[path = "output_tests.rs"]
mod tests;
