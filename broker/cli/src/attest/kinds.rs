//! `sundew attest kinds`: the kinds of evidence, for people who choose among them.

use std::process::ExitCode;

use sundew_core::client::about::{About, KINDS};

use crate::output::Output;

pub(super) fn kinds(output: &Output) -> ExitCode {
    output.result(&KINDS, || KINDS.iter().flat_map(lines).collect());
    ExitCode::SUCCESS
}

fn lines(about: &About) -> Vec<String> {
    let mut lines = vec![
        about.kind.to_owned(),
        format!("  proves  {}", about.proves),
        format!("  needs   {}", about.needs),
    ];
    let proven = about.proven.iter();
    lines
        .extend(proven.map(|p| format!("  {:<11} {}", format!("{}:", p.against.as_str()), p.what)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_says_what_it_was_proven_against() {
        for about in &KINDS {
            let lines = lines(about);
            assert_eq!(lines[0], about.kind);
            assert_eq!(lines.len(), 3 + about.proven.len());
        }
        let json = serde_json::to_value(KINDS).unwrap();
        assert_eq!(json[0]["proven"][0]["against"], "rebuilt");
    }
}
