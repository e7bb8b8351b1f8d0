//! C5: what a command is given, and in which ways.

use std::process::Output;

use serde_json::json;

use super::Place;
use crate::cli::text;

fn output(place: &Place, options: &[&str], words: &[&str]) -> Output {
    place.run(options, words).output().expect("run")
}

fn script(place: &Place, options: &[&str], script: &str) -> String {
    let output = output(place, options, &["dash", "-c", script]);
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

#[tokio::test]
async fn c5_secrets_of_any_kind_and_size_reach_the_command() {
    let place = Place::new().await;
    let binary: Vec<u8> = (0..=255).collect();
    let large = vec![b'x'; 200_000];
    place.put("app/binary", &binary);
    place.put("app/large", &large);
    let check = |variable: &str, open: &str| {
        format!(
            "{open} cat > \"$FOLDER/copy\" && cmp \"$FOLDER/copy\" \"$FOLDER/{variable}\" && \
             rm \"$FOLDER/copy\""
        )
    };
    std::fs::write(place.path("BINARY"), &binary).expect("file");
    std::fs::write(place.path("LARGE"), &large).expect("file");
    let options = |way| [way, "BINARY=app/binary", way, "LARGE=app/large"];
    let files = [
        check("BINARY", "<\"$BINARY\""),
        check("LARGE", "<\"$LARGE\""),
    ]
    .join(" && ");
    let mode = "test \"$(stat -c %a \"$BINARY\")\" = 400 && echo \"$BINARY\"";
    let shown = script(
        &place,
        &options("--secret-file"),
        &format!("{files} && {mode}"),
    );
    let path = std::path::Path::new(shown.trim());
    assert!(path.is_absolute() && !path.exists(), "{shown} is left");
    assert!(!path.parent().expect("folder").exists());
    let descriptors = [
        check("BINARY", "eval \"exec 9<&$BINARY\"; <&9"),
        check("LARGE", "eval \"exec 8<&$LARGE\"; <&8"),
    ];
    script(&place, &options("--secret-fd"), &descriptors.join(" && "));
}

#[tokio::test]
async fn c5_a_secret_that_the_environment_cannot_hold_is_named() {
    let place = Place::new().await;
    place.put("app/binary", b"a\0b");
    place.put("app/large", &vec![b'x'; 200_000]);
    for name in ["app/binary", "app/large"] {
        let options = ["--secret", &format!("KEY={name}")];
        let refused = output(&place, &options, &["true"]);
        let said = text(&refused);
        assert_eq!(refused.status.code(), Some(125), "{said}");
        assert!(
            said.contains(name) && said.contains("--secret-file"),
            "{said}"
        );
        assert!(!said.contains("xxx"), "{said}");
    }
    assert_eq!(place.outcomes(), ["canceled", "canceled"]);
}

/// A supervisor that is killed leaves no secret behind.
#[tokio::test]
async fn c5_a_file_with_a_secret_goes_with_its_supervisor() {
    let place = Place::new().await;
    place.put("app/key", b"s3cr3t");
    let words = "cat \"$KEY\" && echo \"$KEY\" && kill -9 $PPID; sleep 600";
    let killed = output(
        &place,
        &["--secret-file", "KEY=app/key"],
        &["sh", "-c", words],
    );
    let said = text(&killed);
    assert_eq!(killed.status.code(), Some(137), "{said}");
    let path = said.lines().next().expect("path").strip_prefix("s3cr3t");
    assert!(
        !std::path::Path::new(path.expect("secret")).exists(),
        "{said}"
    );
}

/// P9: what is left of the command is given time to end, and no secret with it.
#[tokio::test]
async fn c5_a_file_with_a_secret_goes_when_the_command_ends_and_not_with_what_it_left_behind() {
    let place = Place::new().await;
    place.put("app/key", b"s3cr3t");
    // The grace is half a second, which is enough for a loop without a process in it.
    let left = "trap '' TERM; while test -e \"$KEY\"; do :; done; echo gone";
    let words = format!("({left}) & cat \"$KEY\"");
    let options = ["--secret-file", "KEY=app/key"];
    assert_eq!(script(&place, &options, &words), "s3cr3tgone\n");
}

#[tokio::test]
async fn c5_the_token_has_a_descriptor_that_every_shell_can_name() {
    let place = Place::new().await;
    let read = "test -z \"$SUNDEW_TOKEN\" && test \"$SUNDEW_TOKEN_FD\" -lt 10 && \
                eval \"read -r token <&$SUNDEW_TOKEN_FD\"; echo \"${token%%_*}\"";
    assert_eq!(script(&place, &["--token", "fd"], read), "sdw\n");
    let again = "cat /dev/fd/$SUNDEW_TOKEN_FD | cut -c1-4; ls /proc/self/fd | wc -l";
    assert!(script(&place, &["--token", "fd"], again).starts_with("sdw_\n"));
}

/// The command has what it was given and nothing of the supervisor's.
#[tokio::test]
async fn c5_the_command_inherits_no_descriptor_of_the_supervisors() {
    let place = Place::new().await;
    let list = "for fd in /proc/$$/fd/*; do echo \"${fd##*/}\"; done";
    // What the caller lets through is the caller's affair.
    let mut own = std::process::Command::new("dash");
    own.args(["-c", list]);
    let own = text(
        &own.stdin(std::process::Stdio::null())
            .output()
            .expect("dash"),
    );
    assert_eq!(script(&place, &[], list), own);
    let with_token = script(&place, &["--token", "fd"], list);
    assert_eq!(with_token.lines().count(), own.lines().count() + 1);
}

#[tokio::test]
async fn c5_a_file_of_variables_names_secrets_and_holds_none() {
    let place = Place::new().await;
    place.put("app/key", b"s3cr3t");
    let file = place.path("env");
    let lines = "# for the agent\nURL=redis://:{{secret:app/key}}@h/0\nPLAIN='x'\n";
    std::fs::write(&file, lines).expect("file");
    let option = file.display().to_string();
    let shown = script(&place, &["--env-file", &option], "echo \"$URL $PLAIN\"");
    assert_eq!(shown, "redis://:s3cr3t@h/0 'x'\n");
    std::fs::write(&file, "URL={{secret:app/none}}\n").expect("file");
    let refused = output(&place, &["--env-file", &option], &["true"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused).contains("app/none"), "{}", text(&refused));
}

#[tokio::test]
async fn c5_what_is_asked_for_and_not_given_is_said() {
    let place = Place::with(json!({ "max_task_ttl": "5m", "max_token_ttl": "5m" })).await;
    let clamped = output(&place, &["--ttl", "1h"], &["true"]);
    let said = text(&clamped);
    assert!(clamped.status.success(), "{said}");
    assert!(
        said.contains("the task may take ") && said.contains(", not 1h"),
        "{said}"
    );
    let within = output(&place, &["--ttl", "1m"], &["true"]);
    assert_eq!(text(&within), "");
}

#[tokio::test]
async fn c5_audiences_and_a_grant_are_those_of_the_task() {
    let audiences = json!(["https://a.example/*"]);
    let place = Place::with(json!({
        "audiences": audiences, "max_delegation_depth": 1, "attendance_grace": "60s",
    }))
    .await;
    place
        .world
        .register(
            &place.broker,
            "/parent",
            json!({
                "audiences": audiences, "max_delegation_depth": 1,
            }),
        )
        .await;
    let options = ["--audience", "https://a.example/x"];
    assert!(output(&place, &options, &["true"]).status.success());
    let other = ["--audience", "https://b.example/x"];
    assert_eq!(output(&place, &other, &["true"]).status.code(), Some(125));
    let parent = place.world.caller(&place.broker, "/parent");
    let scopes = ["exec:git", "secret:app/*"];
    let task = parent.begin(&place.world.issuer, "/parent", &scopes);
    let task = task.await.expect("task").task;
    let agent = "spiffe://test.example/agent";
    let grant = parent.delegate(&task, agent, &scopes, 0);
    let grant = grant.await.expect("grant");
    let options = ["--grant", &grant, "--audience", "https://a.example/x"];
    let child = output(&place, &options, &["sh", "-c", "test -z \"$SUNDEW_GRANT\""]);
    assert!(child.status.success(), "{}", text(&child));
    let journal = place.broker.journal();
    let mut begun = journal.iter().filter(|r| r.event == "task_begun");
    assert!(
        begun
            .next_back()
            .expect("task")
            .field("ancestors")
            .is_some()
    );
    let nonsense = output(&place, &["--grant", "nonsense"], &["true"]);
    assert_eq!(nonsense.status.code(), Some(125));
}
