//! The last net for output that cannot be written: results go through `output`, which returns such
//! errors, but `println!` anywhere panics. C6: that is no fault of the program, and no backtrace
//! helps.

use std::any::Any;
use std::io::Write as _;
use std::panic;
use std::process;

/// The exit code if nobody reads any more, such as `head` that has enough.
const CLOSED: i32 = 0;
/// The exit code if output could not be written.
const UNWRITTEN: i32 = 1;
/// How the text of such a panic begins.
const PRINTING: &str = "failed printing to ";

/// Ends the process without a backtrace when its output cannot be written.
pub(crate) fn end_quietly() {
    let other = panic::take_hook();
    panic::set_hook(Box::new(move |info| match problem(info.payload()) {
        Some(text) if text.contains("Broken pipe") => process::exit(CLOSED),
        Some(text) => {
            // Where standard error is closed too, nobody can be told.
            let _ = writeln!(std::io::stderr(), "sundew: {text}");
            process::exit(UNWRITTEN)
        }
        None => other(info),
    }));
}

/// The text of a panic that is about output.
fn problem(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<String>()?;
    text.starts_with(PRINTING).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn only_a_panic_about_output_is_one() {
        let of = |text: &str| problem(&text.to_owned()).is_some();
        assert!(of("failed printing to stdout: Broken pipe (os error 32)"));
        assert!(!of("index out of bounds"));
        assert!(problem(&1_u8).is_none());
    }
}
