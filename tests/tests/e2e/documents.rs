//! Documents say what is so: their commands are run, and what they show is what is printed (D6).

use std::path::{Path, PathBuf};

use sundew_tests::document::Document;

#[test]
fn d6_readme_can_be_followed_from_the_first_line_to_the_last() {
    let ran = Document::read("README.md").run("");
    match ran {
        Ok(ran) => assert!(ran >= 12, "{ran} blocks"),
        Err(why) => panic!("{why}"),
    }
}

fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
}

/// Also where a machine of another sort would be needed to run them: `deploy/manifest.md`, and all others.
#[test]
fn d6_every_command_in_a_document_is_one_that_sundew_knows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![root.join("README.md"), root.join("SECURITY.md")];
    documents(&root.join("deploy"), &mut found);
    let mut read = 0;
    for path in found {
        let path = path
            .strip_prefix(&root)
            .expect("below")
            .display()
            .to_string();
        match Document::read(&path).check() {
            Ok(count) => read += count,
            Err(why) => panic!("{why}"),
        }
    }
    assert!(read > 60, "{read} commands");
}

/// The runner itself: what it takes, and what it notices.
#[test]
fn d6_a_document_that_says_what_is_not_so_is_noticed() {
    let run = |text: &str| Document::parse("it", text).run("");
    let block = |how: &str, command: &str, shown: &str| {
        format!("# It\n{how}\n```sh\n{command}\n```\n\n```text\n{shown}\n```\n")
    };
    for (how, command, shown) in [
        ("", "echo a; echo b", "a\nb"),
        ("", "echo one two three", "one … three"),
        ("", "seq 5", "1\n…\n5"),
        ("", "seq 2", "…\n1\n2\n…"),
        ("", "if false; then :; fi; ! true || echo x", "x"),
        ("<!-- run: exits with 3 -->", "echo a; (exit 3)", "a"),
        (
            "<!-- run: beside, until ready -->",
            "echo ready; sleep 1000",
            "ready",
        ),
    ] {
        assert_eq!(run(&block(how, command, shown)), Ok(1), "{command}");
    }
    for (how, command, shown) in [
        ("", "echo a", "b"),
        ("", "echo a; echo b", "a"),
        ("", "seq 5", "1\n…\n6"),
        ("", "false; echo a", "a"),
        ("", "echo a | grep b || (exit 4)", "…"),
        ("", "exit 0", "…"),
        ("<!-- run: exits with 3 -->", "echo a", "a"),
        ("<!-- run: beside, until ready -->", "echo steady", "…"),
    ] {
        assert!(
            run(&block(how, command, shown)).is_err(),
            "{command}: {shown}"
        );
    }
    // One shell: what a block sets, the next one has. What is not run is read.
    let two = "```sh\nexport X=1; cd /tmp\n```\n  ```sh\n  echo $X $PWD\n  ```\n  ```text\n  1 /tmp\n  ```\n";
    assert_eq!(run(two), Ok(2));
    let unread = |command: &str| {
        let text = block("<!-- run: not here, no TPM -->", command, "");
        let document = Document::parse("it", &text);
        (document.run(""), document.check())
    };
    let long = "sundew revoke status rev-… --watch  # how far it is";
    assert_eq!(unread(long), (Ok(0), Ok(1)));
    let piped = "x=1 sundew run --task t --scope a:b \\\n  -- ./x --y | sundew secret put z > out";
    assert_eq!(unread(piped), (Ok(0), Ok(2)));
    assert!(unread("sundew revoke status rev-1 --wait").1.is_err());
    assert!(unread("sundew recall").1.is_err());
    let wrong = std::panic::catch_unwind(|| Document::parse("it", "<!-- run: never -->\n"));
    assert!(wrong.is_err(), "a note that says nothing");
}
