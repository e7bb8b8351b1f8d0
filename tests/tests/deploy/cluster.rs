//! What a cluster does with the chart, as far as one machine can: the quick start's own commands make
//! its secrets, and the containers run with the volumes, modes, users, roots, environments and probes
//! of the rendered objects, in a network of their own (D2).

mod kubelet;

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sundew_tests::issuer::TestIssuer;
use sundew_tests::pki::{Ca, leaf, pem};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::deploy;
use super::kubernetes::tool;
use kubelet::{Kubelet, PodName, TOKEN};

/// The address of each host of the cluster. Each is of this machine's loopback.
const HOSTS: [(&str, &str); 5] = [
    (
        "127.0.1.1",
        "sundew-redis-0.sundew-redis.sundew.svc.cluster.local",
    ),
    (
        "127.0.1.2",
        "sundew-redis-1.sundew-redis.sundew.svc.cluster.local",
    ),
    (
        "127.0.1.3",
        "sundew-redis-2.sundew-redis.sundew.svc.cluster.local",
    ),
    (
        "127.0.2.1",
        "sundew-0.sundew-brokers.sundew.svc.cluster.local",
    ),
    ("127.0.3.1", "kubernetes.default.svc"),
];

/// Runs something on a thread with a network of its own, which has loopback addresses alone.
pub(super) fn in_own_network(work: impl FnOnce() + Send + 'static) {
    let mut holder = Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-ec",
            "ip link set lo up; echo up; exec sleep 60",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests run as root");
    let mut up = [0; 3];
    let mut out = holder.stdout.take().expect("pipe");
    std::io::Read::read_exact(&mut out, &mut up).expect("a network; is iproute2 installed?");
    let network = std::fs::File::open(format!("/proc/{}/ns/net", holder.id())).expect("network");
    let done = std::thread::spawn(move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("tests run as root");
        work();
    })
    .join();
    holder.kill().expect("ended");
    holder.wait().expect("ended");
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

/// The blocks of shell in a section of the quick start.
fn commands(section: &str) -> String {
    let text = std::fs::read_to_string(deploy("quickstart/kubernetes.md")).expect("quick start");
    let from = text.find(&format!("\n## {section}\n")).expect("section");
    let rest = &text[from + 1..];
    let section = &rest[..rest[3..].find("\n## ").map_or(rest.len(), |end| end + 3)];
    let lines: Vec<&str> = section
        .lines()
        .map(|line| line.strip_prefix("   ").unwrap_or(line))
        .collect();
    lines
        .split(|line| *line == "```sh")
        .skip(1)
        .flat_map(|block| block.iter().take_while(|line| **line != "```"))
        .filter(|line| !line.contains(" get pods") && !line.contains(" exec "))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Runs the quick start's commands in a folder. What they send to the cluster is put into files there,
/// `made-*.json` and `chart.yaml`, by the real clients.
fn follow_the_quick_start(folder: &Path) {
    let programs = folder.join("bin");
    std::fs::create_dir(&programs).expect("folder");
    let script = |name: &str, text: String| {
        let path = programs.join(name);
        std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).expect("script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).expect("mode");
    };
    script(
        "kubectl",
        format!(
            "exec {} \"$@\" --dry-run=client --output=json > \"$(mktemp made-XXXXXX.json)\"",
            tool("bin/kubectl").display()
        ),
    );
    script(
        "helm",
        format!(
            "[ \"$1\" = install ] && shift && exec {} template \"$@\" > chart.yaml",
            tool("bin/helm").display()
        ),
    );
    std::os::unix::fs::symlink(sundew_tests::sundew(), programs.join("sundew")).expect("link");
    std::os::unix::fs::symlink(
        deploy("").canonicalize().expect("deploy"),
        folder.join("deploy"),
    )
    .expect("link");
    let text = std::fs::read_to_string(deploy("quickstart/kubernetes.md")).expect("quick start");
    let operators = text
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let operators = operators.expect("operators.toml").replace("\n   ", "\n");
    std::fs::write(folder.join("operators.toml"), operators).expect("file");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands("Install")])
        .current_dir(folder)
        .env("HOME", folder)
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()))
        .output()
        .expect("bash");
    assert!(
        output.status.success(),
        "{}",
        super::kubernetes::printed(&output)
    );
}

/// The API server, which gives the keys of its tokens to those that show one. Returns its CA, and how
/// often it has given them.
async fn serve_keys() -> (String, Arc<AtomicUsize>) {
    let ca = Ca::new("kubernetes");
    let mut params = leaf(&[]);
    params.subject_alt_names = vec![rcgen::SanType::DnsName(
        "kubernetes.default.svc".try_into().expect("name"),
    )];
    let server = ca.sign(params);
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(server.chain.clone(), server.private_key())
        .expect("server");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.3.1:443")
        .await
        .expect("port");
    let (given, keys) = (Arc::new(AtomicUsize::new(0)), TestIssuer::default().jwks());
    let counter = Arc::clone(&given);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).to_ascii_lowercase();
            let allowed = request.starts_with("get /openid/v1/jwks ")
                && request.contains(&format!(
                    "authorization: bearer {}\r\n",
                    TOKEN.to_lowercase()
                ));
            let (status, body) = if allowed {
                counter.fetch_add(1, Ordering::Relaxed);
                ("200 OK", keys.as_str())
            } else {
                ("403 Forbidden", "")
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (pem("CERTIFICATE", &ca.certificate), given)
}

/// Waits until something holds, for as long as a failover of Redis may take on a machine with much to
/// do.
fn wait(what: &str, kubelet: &mut Kubelet, mut holds: impl FnMut(&mut Kubelet) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds(kubelet) {
        assert!(
            Instant::now() < deadline,
            "{what}: not within 120 s\n{}",
            kubelet.logs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the Sentinel of a node of Redis answers, line by line.
fn sentinel(kubelet: &Kubelet, node: &PodName, question: &str) -> Vec<String> {
    let script = format!(
        "redis-cli --tls --cacert /tls/ca.crt -h $POD_IP -p 26379 sentinel {question} main"
    );
    let output = kubelet.exec(node, "sentinel", &["sh", "-c", &script]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// Who the primary is, as the Sentinel of a node says.
fn primary(kubelet: &Kubelet, node: &PodName) -> String {
    let answer = sentinel(kubelet, node, "get-master-addr-by-name");
    answer.into_iter().next().unwrap_or_default()
}

/// Whether the Sentinel of a node knows the two others and both replicas: before that, a failover has
/// no majority.
fn knows_all(kubelet: &Kubelet, node: &PodName) -> bool {
    let answer = sentinel(kubelet, node, "master");
    ["num-slaves", "num-other-sentinels"].iter().all(|name| {
        let at = answer.iter().position(|line| line == name);
        at.and_then(|at| answer.get(at + 1))
            .is_some_and(|count| count == "2")
    })
}

fn is_healthy(kubelet: &Kubelet, broker: &PodName) -> bool {
    let output = kubelet.exec(broker, "sundew", &["/sundew", "health", "--within", "2s"]);
    output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == "ready"
}

#[test]
fn d2_the_objects_of_the_chart_work_with_the_modes_users_and_roots_of_kubernetes() {
    sundew_tests::init();
    let folder = tempfile::tempdir().expect("folder");
    follow_the_quick_start(folder.path());
    in_own_network(move || {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let (ca, given) = runtime.block_on(serve_keys());
        let mut kubelet = Kubelet::new(folder, &HOSTS, &ca);
        let redis: Vec<PodName> = (0..3)
            .map(|number| PodName::new("sundew-redis", number, HOSTS[number].0))
            .collect();
        let broker = PodName::new("sundew", 0, HOSTS[3].0);
        for pod in redis.iter().chain([&broker]) {
            kubelet.start(pod);
        }
        for pod in redis.iter().chain([&broker]) {
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                wait(&format!("{probe} of {}", pod.name), &mut kubelet, |k| {
                    k.probe(pod, probe)
                });
            }
        }
        wait("the keys of the cluster's tokens", &mut kubelet, |_| {
            given.load(Ordering::Relaxed) > 0
        });
        wait("health", &mut kubelet, |k| is_healthy(k, &broker));
        for node in &redis {
            wait("the Sentinels know each other", &mut kubelet, |k| {
                knows_all(k, node)
            });
        }
        // A node of Redis is lost: the Sentinels choose another primary, and the broker follows.
        let first = HOSTS[0].1;
        assert_eq!(primary(&kubelet, &redis[1]), first);
        kubelet.kill(&redis[0]);
        wait("another primary", &mut kubelet, |k| {
            let now = primary(k, &redis[1]);
            !now.is_empty() && now != first && now == primary(k, &redis[2])
        });
        wait("health after the failover", &mut kubelet, |k| {
            is_healthy(k, &broker)
        });
        // It comes back on its volume, and does not think that it is the primary.
        kubelet.start(&redis[0]);
        wait("the node is back", &mut kubelet, |k| {
            k.probe(&redis[0], "readinessProbe")
        });
        let state = kubelet.claim(&redis[0], "data").join("redis.conf");
        wait("it is a replica", &mut kubelet, |_| {
            let text = std::fs::read_to_string(&state).unwrap_or_default();
            text.lines().any(|line| line.starts_with("replicaof "))
        });
        assert_ne!(primary(&kubelet, &redis[0]), first);
        wait("health after all", &mut kubelet, |k| is_healthy(k, &broker));
    });
}
