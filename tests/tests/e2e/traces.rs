//! Traces of calls over OTLP, as OpenTelemetry's own code in Go reads them (O3).

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::SanType;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use sundew_proto::v1::ChallengeRequest;
use sundew_tests::pki::{Ca, Svid, leaf, write_private};
use sundew_tests::until;
use sundew_tests::world::World;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tonic::Request;

const TOOL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../target/toolchains/bin/traces"
);
/// How long the collector may take to have a span.
const LIMIT: Duration = Duration::from_secs(15);

/// The tool of `tests/go/traces`, while it runs.
struct Collector {
    child: Child,
    address: String,
    lines: UnboundedReceiver<String>,
    /// Everything that was said.
    said: String,
}

impl Collector {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(TOOL)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{TOOL}: {e}; run `tests/toolchains` first"));
        let mut output = BufReader::new(child.stdout.take().expect("pipe")).lines();
        let address = output.next().expect("an address").expect("an address");
        let (sender, lines) = unbounded_channel();
        std::thread::spawn(move || {
            let mut output = output.map_while(Result::ok);
            output.try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            address,
            lines,
            said: String::new(),
        }
    }

    /// Waits for so many spans of this RPC; answers all spans until then, and the last headers.
    async fn spans_until(&mut self, rpc: &str, count: usize) -> (Vec<Value>, Value) {
        let mut spans: Vec<Value> = Vec::new();
        loop {
            let line = timeout(LIMIT, self.lines.recv()).await;
            let line = line.unwrap_or_else(|_| panic!("{rpc}: not within {LIMIT:?}: {spans:?}"));
            let line = line.expect("the collector runs");
            self.said.push_str(&line);
            let line: Value = serde_json::from_str(&line).expect("JSON");
            for of in array(&line["message"]["resourceSpans"]) {
                let resource = attribute(&of["resource"], "service.name");
                assert_eq!(resource, json!({ "stringValue": "sundew-broker" }));
                for scope in array(&of["scopeSpans"]) {
                    spans.extend(array(&scope["spans"]).iter().cloned());
                }
            }
            if spans.iter().filter(|span| span["name"] == rpc).count() >= count {
                return (spans, line["headers"].clone());
            }
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The value of an attribute, as the protocol has it.
fn attribute(of: &Value, key: &str) -> Value {
    let mut attributes = array(&of["attributes"]).iter();
    let found = attributes.find(|attribute| attribute["key"] == key);
    found.map_or(Value::Null, |found| found["value"].clone())
}

fn text(of: &Value, key: &str) -> String {
    let value = attribute(of, key)["stringValue"].clone();
    value.as_str().unwrap_or_default().to_owned()
}

fn section(endpoint: &str, more: &str) -> String {
    format!("[traces]\nendpoint = \"{endpoint}\"\n{more}\n")
}

/// P10, P11: the spans of a task name the caller, the task, and how each call ended; and nothing that
/// is secret or that somebody wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_a_span_of_each_call_names_the_task_and_nothing_secret() {
    let mut collector = Collector::start(&[]);
    let world = World::redis();
    let endpoint = format!("http://{}", collector.address);
    let broker = world.broker_with(&section(&endpoint, "")).await;
    world.register(&broker, "/agent", json!({})).await;
    let operator = world.operator(&broker);
    operator.put_secret("app/key", "canary-secret").await;
    let agent = world.caller(&broker, "/agent");
    let scopes = ["secret:app/*", "tool:github.create_pr"];
    let mut request = agent
        .request(&world.issuer, "/agent", &scopes)
        .await
        .expect("nonce");
    request.purpose = "canary-purpose".to_owned();
    request.instruction = "canary-instruction".to_owned();
    let shown = request.evidence[0].payload.clone();
    let begun = agent.send(request).await.expect("task");
    let minted = agent.mint(&begun.task).await.expect("token");
    agent.secret(&begun.task, "app/key").await.expect("secret");
    let refused = agent.secret(&begun.task, "canary/other").await;
    refused.expect_err("not allowed");
    let no_task = agent.complete("canary-task").await;
    no_task.expect_err("no task");
    assert!(
        operator
            .active(&begun.token, &agent.thumbprint())
            .await
            .expect("answer")
    );
    agent.complete(&begun.task).await.expect("completed");

    let (spans, _) = collector.spans_until("CompleteTask", 2).await;
    let named =
        |rpc: &str| -> Vec<&Value> { spans.iter().filter(|span| span["name"] == rpc).collect() };
    for rpc in [
        "BeginTask",
        "MintToken",
        "GetSecret",
        "Introspect",
        "CompleteTask",
    ] {
        let of_task = named(rpc)
            .into_iter()
            .find(|span| text(span, "sundew.task.id") == begun.task);
        let span = of_task.unwrap_or_else(|| panic!("{rpc}: {spans:?}"));
        assert_eq!(text(span, "rpc.method"), rpc);
        assert_eq!(span["kind"], "SPAN_KIND_SERVER");
        let caller = if rpc == "Introspect" {
            "operator"
        } else {
            "agent"
        };
        assert_eq!(
            text(span, "sundew.spiffe_id"),
            format!("spiffe://test.example/{caller}")
        );
        assert_eq!(
            attribute(span, "rpc.grpc.status_code"),
            json!({ "intValue": "0" })
        );
    }
    let span = named("GetSecret")
        .into_iter()
        .find(|span| !text(span, "sundew.reason").is_empty());
    let span = span.expect("the refused call");
    assert_eq!(text(span, "sundew.reason"), "policy");
    assert_eq!(
        attribute(span, "rpc.grpc.status_code"),
        json!({ "intValue": "7" })
    );
    assert_eq!(span["status"]["code"], "STATUS_CODE_ERROR");
    let correlation = text(span, "sundew.correlation_id");
    let records = broker.journal();
    let mut refusals = records.iter().filter(|record| record.event == "refused");
    let recorded = refusals.any(|record| record.field("correlation") == Some(&correlation));
    assert!(recorded, "{correlation}");

    let said = &collector.said;
    let shown = String::from_utf8(shown).expect("a token of the issuer");
    for secret in ["canary", &begun.token, &minted.token, &shown] {
        assert!(!said.contains(secret), "{secret}");
    }
    until("spans are counted", || async {
        let metrics = broker.http("/metrics").await.expect("metrics").1;
        !metrics.contains("sundew_spans_total{result=\"sent\"} 0")
    })
    .await;
}

/// W3C Trace Context: the call is a part of the caller's trace, and a caller who says so has no spans.
/// Nothing else that he sends with it is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_a_call_belongs_to_the_trace_of_its_caller() {
    let mut collector = Collector::start(&[]);
    let world = World::embedded();
    let endpoint = format!("http://{}", collector.address);
    let broker = world.broker_with(&section(&endpoint, "sample = 0.0")).await;
    world.register(&broker, "/agent", json!({})).await;
    let agent = world.caller(&broker, "/agent");
    let call = |parent: &'static str| {
        let agent = &agent;
        async move {
            let mut request = Request::new(ChallengeRequest {});
            let metadata = request.metadata_mut();
            metadata.insert("traceparent", parent.parse().expect("value"));
            metadata.insert("tracestate", "canary=1".parse().expect("value"));
            metadata.insert("baggage", "canary=2".parse().expect("value"));
            agent.agent().challenge(request).await.expect("challenge");
        }
    };
    call("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").await;
    call("canary").await;
    call("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").await;
    let (spans, _) = collector.spans_until("Challenge", 1).await;
    assert_eq!(spans.len(), 1, "{spans:?}");
    // In the JSON of protobuf, ids are in base64.
    assert_eq!(spans[0]["traceId"], "S/kvNXezTaajzpKdDg5HNg==");
    assert_eq!(spans[0]["parentSpanId"], "APBnqgupArc=");
    assert!(!collector.said.contains("canary"));
}

/// A certificate of a host, or of a client, in a folder.
fn files(svid: &Svid, ca: &Ca, folder: &std::path::Path) -> [String; 3] {
    svid.write(
        folder,
        std::slice::from_ref::<CertificateDer<'_>>(&ca.certificate),
    );
    ["svid.pem", "key.pem", "bundle.pem"].map(|name| folder.join(name).display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_traces_go_over_mutual_tls_with_the_headers_of_a_file() {
    let world = World::embedded();
    let mut host = leaf(&[]);
    host.subject_alt_names = vec![SanType::DnsName("localhost".try_into().expect("name"))];
    let host = world.ca.sign(host);
    let shown = files(&host, &world.ca, &world.folder().join("collector"));
    let mut collector = Collector::start(&shown.each_ref().map(String::as_str));
    let [certificate, key, ca] = files(&world.ca.svid("/x"), &world.ca, &world.folder().join("x"));
    let headers = world.folder().join("headers");
    write_private(&headers, "authorization=Bearer of-the-collector\n");
    let (_, port) = collector.address.rsplit_once(':').expect("port");
    let more = format!(
        "ca_file = \"{ca}\"\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n\
         headers_file = \"{}\"",
        headers.display()
    );
    let traces = section(&format!("https://localhost:{port}"), &more);
    let mut broker = world.broker_with(&traces).await;
    world
        .caller(&broker, "/agent")
        .nonce()
        .await
        .expect_err("not registered");
    let (spans, headers) = collector.spans_until("Challenge", 1).await;
    assert_eq!(text(&spans[0], "sundew.reason"), "unregistered");
    assert_eq!(headers["authorization"], json!(["Bearer of-the-collector"]));
    // The last spans are sent when a broker stops.
    world
        .caller(&broker, "/agent")
        .nonce()
        .await
        .expect_err("not registered");
    broker.signal(rustix::process::Signal::TERM);
    assert!(broker.wait().success());
    collector.spans_until("Challenge", 1).await;
    assert!(
        !broker.output().contains("of-the-collector"),
        "{}",
        broker.output()
    );
}

/// P12: a collector that hangs keeps nobody from anything, and what it does not take is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p12_o3_a_collector_that_hangs_holds_up_no_call() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let endpoint = format!("http://{}", silent.local_addr().expect("address"));
    let world = World::embedded();
    let broker = world.broker_with(&section(&endpoint, "")).await;
    world.register(&broker, "/agent", json!({})).await;
    let agent = world.caller(&broker, "/agent");
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        let task = agent
            .begin(&world.issuer, "/agent", &["exec:git"])
            .await
            .expect("task")
            .task;
        agent.complete(&task).await.expect("completed");
    }
    // A collector is given five seconds.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    until("the spans are counted as lost", || async {
        let metrics = broker.http("/metrics").await.expect("metrics").1;
        !metrics.contains("sundew_spans_total{result=\"unsent\"} 0")
            && metrics.contains("sundew_spans_total{result=\"sent\"} 0")
    })
    .await;
    assert!(
        broker
            .output()
            .contains("the collector of traces takes no spans")
    );
}
