//! The story that the demo tells: its steps, each with what was found and what it proves.

use serde::Serialize;

use crate::output::Output;

#[derive(Serialize)]
pub(super) struct Step {
    step: &'static str,
    held: bool,
    found: String,
    proves: &'static str,
}

/// The steps so far. People see each step when it is told, machines all of them at the end.
pub(super) struct Story<'a> {
    pub(super) output: &'a Output,
    pub(super) steps: Vec<Step>,
}

impl<'a> Story<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        Self {
            output,
            steps: Vec::new(),
        }
    }

    /// Tells whether every step held.
    pub(super) fn held(&self) -> bool {
        self.steps.iter().all(|step| step.held)
    }

    pub(super) fn tell(
        &mut self,
        step: &'static str,
        held: bool,
        found: String,
        proves: &'static str,
    ) {
        let step = Step {
            step,
            held,
            found,
            proves,
        };
        if !self.output.is_json() {
            println!("{}", step.text());
        }
        self.steps.push(step);
    }
}

impl Step {
    /// Returns two lines: what was found, and below it what it proves.
    fn text(&self) -> String {
        format!(
            "{} {:<18} {}\n  {:<18} {}",
            if self.held { "✓" } else { "✗" },
            self.step,
            self.found,
            "",
            self.proves
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Story;
    use crate::output::Output;

    #[test]
    fn a_story_holds_while_each_of_its_steps_does() {
        let output = Output::new(true);
        let mut story = Story::new(&output);
        assert!(story.held());
        story.tell("token", true, "active".to_owned(), "it can be asked");
        assert!(story.held());
        assert_eq!(
            story.steps[0].text(),
            "✓ token              active\n                     it can be asked"
        );
        story.tell("secret", false, "gone".to_owned(), "nothing");
        assert!(!story.held());
        assert!(story.steps[1].text().starts_with("✗ secret"));
    }
}
