//! Secrets as Kubernetes gives them: mode 0440, owned by root, with `fsGroup` as their group, in a
//! pod of a user without rights and with a root that cannot be written (D2).

use std::process::{Output, Stdio};

use sundew_tests::pki::{Ca, DOMAIN, pem};
use sundew_tests::pod::Pod;

/// The configuration of a broker with a store of its own.
const CONFIG: &str = r#"
[listen]
workloads = "127.0.0.1:0"
[identity]
source = "files"
certificate = "/etc/sundew/svid.pem"
key = "/etc/sundew/svid.key"
[[trust]]
trust_domain = "DOMAIN"
bundle = "/etc/sundew/bundle.pem"
[store]
url = "embedded:/var/lib/sundew/store.log"
[keys]
root_key_file = "/etc/sundew/root.key"
[journal]
directory = "/var/lib/sundew/journal"
[[operators]]
spiffe_id = "spiffe://DOMAIN/operator"
roles = ["registrar"]
"#;

/// A pod with a configuration and secrets of this mode.
fn pod(mode: u32) -> Pod {
    sundew_tests::init();
    let ca = Ca::new(DOMAIN);
    let svid = ca.svid("/sundew/broker");
    let chain: String = svid.chain.iter().map(|c| pem("CERTIFICATE", c)).collect();
    let config = CONFIG.replace("DOMAIN", DOMAIN);
    let mut pod = Pod::default();
    pod.project(
        "/etc/sundew",
        mode,
        &[
            ("sundew.toml", config.as_bytes()),
            ("bundle.pem", pem("CERTIFICATE", &ca.certificate).as_bytes()),
            ("svid.pem", chain.as_bytes()),
            ("svid.key", pem("PRIVATE KEY", &svid.key).as_bytes()),
            ("root.key", "7a".repeat(32).as_bytes()),
        ],
    );
    pod.volume("/var/lib/sundew");
    pod
}

fn check(pod: &Pod) -> (Output, String) {
    let output = pod
        .command()
        .args([
            "/sundew",
            "config",
            "check",
            "--config",
            "/etc/sundew/sundew.toml",
        ])
        .stdin(Stdio::null())
        .output()
        .expect("run");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output, text)
}

#[test]
fn d2_secrets_as_kubernetes_gives_them_under_fs_group_are_taken() {
    let (output, text) = check(&pod(0o440));
    assert!(output.status.success() && text.contains("valid"), "{text}");
}

/// The default mode of a Secret: everybody in the pod may read it, and on the node too.
#[test]
fn d2_secrets_with_the_default_mode_of_kubernetes_are_refused() {
    let (output, text) = check(&pod(0o644));
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains("/etc/sundew/root.key") && text.contains("`defaultMode: 0440`"),
        "{text}"
    );
}
