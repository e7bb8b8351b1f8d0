//! Tests of the writer.

use super::*;

#[derive(Serialize)]
struct Named {
    name: String,
}

impl Row for Named {
    const KIND: &'static str = "names";
    const HEADING: &'static [&'static str] = &["NAME"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

fn list(more: bool) -> List<Named> {
    let name = "a\nb".to_owned();
    List::page(vec![Named { name }], more)
}

fn shown(json: bool, more: bool) -> String {
    let mut out = Vec::new();
    Output::new(json).show_to(&mut out, &list(more)).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn c6_a_list_has_one_shape_in_json_and_says_when_it_is_cut() {
    assert_eq!(
        shown(true, false),
        "{\"kind\":\"names\",\"items\":[{\"name\":\"a\\nb\"}],\"more\":false,\"totals\":{},\"notes\":[]}\n"
    );
    assert_eq!(
        shown(false, true),
        "NAME\na\\nb\nonly the first 1 are shown; --limit shows more, filters show fewer\n"
    );
}

/// DEL, C1, bidirectional marks, line separators, what has no width, and tags.
#[test]
fn c6_what_nobody_sees_is_escaped_in_json_and_in_text_whoever_wrote_the_view() {
    let unseen = "\u{7f}\u{9b}\u{202e}\u{2066}\u{2028}\u{200b}\u{e0041}\x1b\t\r";
    let name = format!("a{unseen}ü\u{301}b");
    let show = |json| {
        let mut out = Vec::new();
        let list = List::whole(vec![Named { name: name.clone() }]);
        Output::new(json).show_to(&mut out, &list).unwrap();
        String::from_utf8(out).unwrap()
    };
    for json in [false, true] {
        let text = show(json);
        let raw = |c: &char| *c != '\n' && is_unseen(*c);
        assert_eq!(text.chars().find(raw), None, "{text:?}");
        assert!(text.contains("ü\u{301}b"), "{text:?}");
    }
    let read: serde_json::Value = serde_json::from_str(&show(true)).unwrap();
    assert_eq!(read["items"][0]["name"], name.as_str());
}

#[test]
fn c6_a_list_by_name_goes_on_after_the_name_with_which_it_ended() {
    let all = || {
        ["c", "a", "d", "b"].map(|name| Named {
            name: name.to_owned(),
        })
    };
    let name = |one: &Named| one.name.clone();
    let mut shown = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let list = List::after(all().into(), name, (after.as_deref(), 3));
        shown.extend(list.items.iter().map(name));
        after = list.items.last().map(name);
        if !list.more {
            assert!(list.notes.is_empty());
            break;
        }
        assert_eq!(
            list.notes,
            ["there are more: --after 'c' shows what comes next"]
        );
    }
    assert_eq!(shown, ["a", "b", "c", "d"]);
}

/// A writer that takes nothing.
struct Refusing(io::ErrorKind);

impl Write for Refusing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn c6_what_cannot_be_written_is_an_error_and_a_closed_pipe_is_known() {
    let show = |kind| {
        let output = Output::new(false);
        output
            .show_to(&mut Refusing(kind), &list(false))
            .unwrap_err()
    };
    assert!(is_closed_pipe(&show(io::ErrorKind::BrokenPipe)));
    let full = show(io::ErrorKind::StorageFull);
    assert!(!is_closed_pipe(&full));
    assert!(format!("{full:#}").starts_with("standard output: "));
    // A connection that breaks is no output.
    let other = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
    assert!(!is_closed_pipe(&other.context("broker")));
}

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
fn fields_have_their_values_in_one_column() {
    let some = [("a", "1".to_owned()), ("long", String::new())];
    assert_eq!(fields(&some), ["a     1", "long"]);
}

#[test]
fn control_characters_are_escaped() {
    assert_eq!(escape("a\nb\x1b[2Jc", 20), "a\\nb\\u{1b}[2Jc");
    assert_eq!(escape("\u{202e}\"'", 20), "\\u{202e}\\\"\\'");
}

#[test]
fn c6_quotes_stay_in_prose_and_control_characters_do_not() {
    assert_eq!(
        escape_prose("at most \"1s\"\x1b[2J\n", 20),
        "at most \"1s\"\\u{1b}[2J\\n"
    );
    assert_eq!(escape_prose("abc", 2), "ab…");
}

#[test]
fn text_is_cut_after_so_many_characters() {
    assert_eq!(escape("äöü", 3), "äöü");
    assert_eq!(escape("äöüß", 3), "äöü…");
    assert_eq!(escape("\n\n", 1), "\\n…");
    assert_eq!(escape("", 0), "");
}
