//! Alert rules and dashboard, by promtool and by a Prometheus that scrapes a real broker (O3).

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sundew_proto::v1::PutEngineRequest;
use sundew_tests::broker::Broker;
use sundew_tests::world::World;

use super::{deploy, text};

const RULES: &str = "monitoring/alerts.yaml";
const TESTS: &str = "monitoring/alerts_test.yaml";
const GUIDE: &str = "operations.md";
/// How long a Prometheus may take to start and to scrape everything, on a busy machine.
const SCRAPED_WITHIN: Duration = Duration::from_secs(60);

fn promtool(arguments: &[&str]) -> Output {
    let output = Command::new("promtool").args(arguments).output();
    output.expect("promtool, of Debian's package prometheus")
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The values of a key that stands alone on its line, in the order of the file.
fn values(yaml: &str, key: &str) -> Vec<String> {
    let lines = yaml.lines().filter_map(|line| {
        let rest = line.trim_start().trim_start_matches("- ");
        rest.strip_prefix(key)?.strip_prefix(": ")
    });
    lines
        .map(|value| value.trim_matches('\'').replace("''", "'"))
        .collect()
}

fn alerts() -> Vec<String> {
    values(&text(RULES), "alert")
}

/// The queries of the dashboard, as Grafana sends them for all brokers.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&text("monitoring/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let sent = |target: &Value| {
        let query = target["expr"].as_str().expect("expr");
        query
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
    };
    targets.map(sent).collect()
}

/// The metrics of ours that an expression names.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("sundew_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn o3_promtool_takes_the_alert_rules_and_each_alert_fires_in_its_test() {
    let path = deploy(RULES).display().to_string();
    let checked = promtool(&["check", "rules", "--lint-fatal", &path]);
    assert!(checked.status.success(), "{}", said(&checked));
    let tested = promtool(&["test", "rules", &deploy(TESTS).display().to_string()]);
    assert!(tested.status.success(), "{}", said(&tested));
    let alerts = alerts();
    assert!(alerts.len() > 20, "{alerts:?}");
    // The first test is that of a healthy broker, where each is looked at and none fires.
    assert_eq!(values(&text(TESTS), "name")[1..], alerts);
    for alert in &alerts {
        let looked_at = values(&text(TESTS), "alertname");
        assert_eq!(looked_at.iter().filter(|name| *name == alert).count(), 2);
    }
}

/// The rows of the guide's table of alarms: the alert, and what to do.
#[test]
fn o3_each_alert_has_its_line_in_the_operators_guide_and_no_line_is_of_none() {
    let guide = text(GUIDE);
    let rows: Vec<Vec<&str>> = guide
        .lines()
        .filter(|line| line.starts_with("| `Sundew"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let of_guide: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(of_guide, alerts());
    for row in rows {
        assert_eq!(row.len(), 3, "{row:?}");
        assert!(row.iter().all(|cell| cell.len() > 5), "{row:?}");
    }
}

#[test]
fn o3_the_dashboard_is_one_that_grafana_reads() {
    let dashboard: Value = serde_json::from_str(&text("monitoring/dashboard.json")).expect("JSON");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|v| v >= 36));
    let variables = dashboard["templating"]["list"].as_array().expect("list");
    let variables: Vec<_> = variables.iter().map(|v| v["name"].as_str()).collect();
    assert_eq!(variables, [Some("datasource"), Some("instance")]);
    let panels = dashboard["panels"].as_array().expect("panels");
    let (mut ids, mut places) = (BTreeSet::new(), Vec::<[u64; 4]>::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("id")), "{panel}");
        assert!(!panel["title"].as_str().expect("title").is_empty());
        let kind = panel["type"].as_str().expect("type");
        assert!(["row", "stat", "timeseries"].contains(&kind), "{panel}");
        let at = |side: &str| panel["gridPos"][side].as_u64().expect("gridPos");
        let place = [at("x"), at("y"), at("w"), at("h")];
        assert!(place[0] + place[2] <= 24, "{panel}");
        let apart = |other: &[u64; 4]| {
            other[0] + other[2] <= place[0]
                || place[0] + place[2] <= other[0]
                || other[1] + other[3] <= place[1]
                || place[1] + place[3] <= other[1]
        };
        assert!(places.iter().all(apart), "one panel over another: {panel}");
        places.push(place);
        if kind == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "$datasource", "{panel}");
        let targets = panel["targets"].as_array().expect("targets");
        let refs: BTreeSet<_> = targets.iter().map(|t| t["refId"].as_str()).collect();
        assert!(
            !targets.is_empty() && refs.len() == targets.len(),
            "{panel}"
        );
    }
}

/// A Prometheus that scrapes one broker, as a child process.
struct Prometheus {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(broker: &Broker) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n\
             - job_name: sundew\n  static_configs: [{{targets: ['{}']}}]\n",
            deploy(RULES).canonicalize().expect("rules").display(),
            broker.operations()
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("config");
        let port = sundew_tests::free_port();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data(folder.path())))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus, of Debian's package of that name");
        Self {
            child,
            url: format!("http://127.0.0.1:{port}"),
            _folder: folder,
        }
    }

    /// What an expression gives at this moment, a line for each series.
    fn query(&self, expression: &str) -> Result<String, String> {
        let answer = promtool(&["query", "instant", &self.url, expression]);
        match answer.status.success() {
            true => Ok(String::from_utf8_lossy(&answer.stdout).into_owned()),
            false => Err(said(&answer)),
        }
    }
}

fn data(folder: &Path) -> String {
    folder.join("data").display().to_string()
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets a broker have something to tell of everything: a root that it cannot use, a task that ended,
/// a refusal, and an engine whose target is not there.
async fn eventful() -> (World, Broker) {
    let world = World::redis();
    let bundle = world.folder().join("bundle.pem");
    let mut bundle = std::fs::File::options()
        .append(true)
        .open(bundle)
        .expect("bundle");
    let unusable = "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n";
    bundle.write_all(unusable.as_bytes()).expect("bundle");
    let (broker, agent) = world.broker_and_agent().await;
    let begun = agent.begin(&world.issuer, "/agent", &["exec:git"]).await;
    agent
        .complete(&begun.expect("task").task)
        .await
        .expect("completed");
    world
        .caller(&broker, "/stranger")
        .nonce()
        .await
        .expect_err("refused");
    let document = json!({
        "name": "cache/main",
        "target": { "kind": "redis", "host": "127.0.0.1", "port": 1 },
        "roles": { "reader": { "grants": ["~app:*", "+get", "+ping"] } },
    });
    let request = PutEngineRequest {
        document: document.to_string(),
        password: b"x".to_vec(),
        unchecked: true,
    };
    world
        .operator(&broker)
        .registry()
        .put_engine(request)
        .await
        .expect("engine");
    (world, broker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_a_prometheus_takes_from_a_broker_every_metric_that_rules_and_dashboard_name() {
    let (_world, broker) = eventful().await;
    let prometheus = Prometheus::start(&broker);
    let expressions = [values(&text(RULES), "expr"), queries()].concat();
    let names: BTreeSet<_> = expressions.iter().flat_map(|e| named(e)).collect();
    assert!(names.len() > 30, "{names:?}");
    let is_there = |name: &str| {
        prometheus
            .query(name)
            .is_ok_and(|series| !series.is_empty())
    };
    let (mut missing, deadline) = (names, Instant::now() + SCRAPED_WITHIN);
    loop {
        missing.retain(|name| !is_there(name));
        if missing.is_empty() && prometheus.query("up").is_ok_and(|up| up.contains("=> 1")) {
            break;
        }
        assert!(Instant::now() < deadline, "not told: {missing:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for expression in &expressions {
        prometheus
            .query(expression)
            .unwrap_or_else(|error| panic!("{expression}: {error}"));
    }
    // The guide names no metric that there is not.
    for name in named(&text(GUIDE)) {
        let series = prometheus.query(&name).expect("an answer");
        assert!(!series.is_empty(), "{name}");
    }
}
