//! C5: what the task's socket answers, and that its description says so.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Place;
use super::socket::{ASK, sha256_of_certificate};
use crate::cli::text;

/// How long a slow machine may take for one of many questions.
const LONG: Duration = Duration::from_secs(60);

/// Asks all that a file has, one after the other, each on a connection of its own.
const ASK_ALL: &str = r#"
import http.client, json, os, socket, sys
class Task(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["SUNDEW_TASK_SOCKET"])
answers = []
for method, path, body in json.load(open(os.environ["FOLDER"] + "/questions")):
    task = Task("task")
    task.request(method, path, body)
    answer = task.getresponse()
    answers.append([answer.status, answer.getheader("content-type"), answer.read().decode()])
json.dump(answers, open(os.environ["FOLDER"] + "/answers", "w"))
"#;

/// Checks that an answer is one that the description has for the call.
fn check(description: &Value, question: &Value, answer: &Value) -> Option<String> {
    let (method, path) = (question[0].as_str()?.to_lowercase(), question[1].as_str()?);
    let (status, body) = (answer[0].to_string(), answer[2].as_str()?);
    assert_eq!(answer[1], "application/json", "{question} {answer}");
    let operation = &description["paths"][path][&method];
    let reference = if operation.is_null() {
        "#/components/schemas/Error"
    } else {
        let content = &operation["responses"][&status]["content"]["application/json"];
        content["schema"]["$ref"]
            .as_str()
            .unwrap_or_else(|| panic!("{question}: {answer}"))
    };
    let schema = json!({ "$ref": reference, "components": description["components"] });
    let validator = jsonschema::validator_for(&schema).expect("schema");
    let body: Value = serde_json::from_str(body).expect("JSON");
    if let Err(error) = validator.validate(&body) {
        panic!("{question}: {body}: {error}");
    }
    body["error"]["code"].as_str().map(str::to_owned)
}

/// The description is true, and plain HTTP clients do.
#[tokio::test]
async fn c5_the_description_of_the_socket_says_what_it_answers() {
    let registration = json!({ "attendance_grace": "60s", "bindings": ["certificate", "bearer"] });
    let place = Place::with(registration).await;
    place.put("app/key", b"s3cr3t");
    place.put("app/bytes", b"\xff\0");
    let token = |fields: Value| json!(["POST", "/v1/token", fields.to_string()]);
    let forged =
        json!({ "type": "certificate", "certificate": "x", "challenge": "x", "signature": "x" });
    let questions = [
        (json!(["GET", "/v1/task", null]), None),
        (json!(["POST", "/v1/challenge", null]), None),
        (json!(["POST", "/v1/challenge", "{}"]), None),
        (json!(["POST", "/v1/challenge", "[1]"]), Some("invalid")),
        (token(json!({ "binding": { "type": "bearer" } })), None),
        (
            token(
                json!({ "binding": { "type": "bearer" }, "ttl_ms": 5000, "scopes": ["exec:git"] }),
            ),
            None,
        ),
        (
            token(json!({ "binding": { "type": "bearer" }, "scopes": ["*"] })),
            Some("invalid"),
        ),
        (
            token(json!({ "binding": { "type": "bearer" }, "scopes": ["exec:rm"] })),
            Some("not_permitted"),
        ),
        (token(json!({ "binding": forged })), Some("invalid")),
        (token(json!({})), Some("invalid")),
        (
            json!(["POST", "/v1/secret", "{\"name\":\"app/key\"}"]),
            None,
        ),
        (
            json!(["POST", "/v1/secret", "{\"name\":\"app/bytes\"}"]),
            None,
        ),
        (
            json!(["POST", "/v1/secret", "{\"name\":\"other/key\"}"]),
            Some("not_permitted"),
        ),
        (
            json!(["POST", "/v1/secret", "x".repeat(70_000)]),
            Some("too_large"),
        ),
        (
            json!(["GET", "/v1/secret", null]),
            Some("method_not_allowed"),
        ),
        (json!(["GET", "/v2/task", null]), Some("not_found")),
    ];
    let asked: Vec<_> = questions.iter().map(|(question, _)| question).collect();
    std::fs::write(place.path("questions"), json!(asked).to_string()).expect("file");
    let mut run = place.run(&[], &["python3", "-c", ASK_ALL]);
    let output = run.output().expect("run");
    assert!(output.status.success(), "{}", text(&output));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/cli/task-socket.openapi.json");
    let description: Value =
        serde_json::from_slice(&std::fs::read(file).expect("file")).expect("JSON");
    let answers: Vec<Value> =
        serde_json::from_slice(&std::fs::read(place.path("answers")).expect("file")).expect("JSON");
    assert_eq!(answers.len(), questions.len());
    for ((question, code), answer) in questions.iter().zip(&answers) {
        let found = check(&description, question, answer);
        assert_eq!(found.as_deref(), *code, "{question}: {answer}");
    }
    for (path, operations) in description["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            let is_it = |question: &Value| {
                question[1] == *path && question[0].as_str() == Some(&method.to_uppercase())
            };
            assert!(
                asked.iter().any(|question| is_it(question)),
                "{method} {path}"
            );
        }
    }
}

/// A shell does with curl and openssl, and one process does not ask without end.
#[tokio::test]
async fn c5_a_shell_gets_a_token_for_a_key_of_its_own_and_too_many_questions_are_refused() {
    let place = Place::new().await;
    let script = format!(
        r#"{ASK} set -e; cd "$FOLDER"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=x \
            -keyout key -out cert 2>/dev/null
        ask /v1/challenge '{{}}' > challenge
        field() {{ python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]], end="")' "$@"; }}
        field challenge message > message
        python3 - "$(field challenge challenge)" "$(openssl dgst -sha256 -sign key message | base64 -w0)" > question <<'EOF'
import json, sys
print(json.dumps({{"binding": {{"type": "certificate", "certificate": open("cert").read(),
                               "challenge": sys.argv[1], "signature": sys.argv[2]}}}}))
EOF
        ask /v1/token @question > token
        ask /v1/token @question > again
        python3 -c '
import http.client, os, socket
codes = set()
class Task(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["SUNDEW_TASK_SOCKET"])
task = Task("task")
while 429 not in codes:
    task.request("GET", "/v1/task")
    answer = task.getresponse()
    answer.read()
    codes.add(answer.status)
assert codes == {{200, 429}}, codes
'"#
    );
    let run = async {
        let mut run = place.script(&[], &script);
        tokio::task::spawn_blocking(move || run.output().expect("run")).await
    };
    let output = tokio::time::timeout(LONG, run)
        .await
        .expect("in time")
        .expect("run");
    assert!(output.status.success(), "{}", text(&output));
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(place.path(name)).expect("file")).expect("JSON")
    };
    let token = read("token");
    let shown = sundew_attestation::hex(&sha256_of_certificate(&place.path("cert")));
    assert_eq!(token["certificate_sha256"], shown, "{token}");
    assert!(
        token["token"]
            .as_str()
            .is_some_and(|token| token.starts_with("sdw_"))
    );
    // P8: a challenge is good once.
    assert_eq!(read("again")["error"]["code"], "invalid");
    let journal = place.broker.journal();
    let minted = journal.iter().find(|record| record.event == "token_minted");
    let named = minted.and_then(|record| record.field("shown_certificate"));
    assert_eq!(named, Some(shown.as_str()));
}
