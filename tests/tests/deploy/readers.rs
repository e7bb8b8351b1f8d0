//! Every file under `deploy/` has a reader among these tests: the program that reads it in production.

use std::collections::BTreeSet;
use std::process::Command;

use super::deploy;

/// Path, or folder with a slash at its end, to the program that reads it and the file of the test in
/// which it does.
const READERS: &[(&str, &str, &str)] = &[
    ("container/Dockerfile", "BuildKit's parser", "container.rs"),
    (
        "container/compose.yaml",
        "Docker Compose's loader",
        "container.rs",
    ),
    ("container/sundew.toml", "sundew serve", "package.rs"),
    ("engines.md", "sundew secret engine put", "main.rs"),
    ("envoy-sds.yaml", "envoy", "../e2e/envoy_secrets.rs"),
    ("first-operator.md", "bash", "../e2e/first_operator.rs"),
    ("helm/sundew/", "helm", "kubernetes.rs"),
    ("kubernetes/", "kubeconform", "kubernetes.rs"),
    ("manifest.md", "sundew, and bash", "../e2e/documents.rs"),
    (
        "manifest.schema.json",
        "jsonschema",
        "../e2e/first_steps.rs",
    ),
    ("monitoring/", "promtool, and Prometheus", "monitoring.rs"),
    ("operations.md", "bash", "../e2e/operations_guide.rs"),
    ("package/", "dpkg-deb", "package.rs"),
    ("quickstart/", "sundew, and bash", "main.rs"),
    ("redis.acl", "redis-server", "acl.rs"),
    ("sundew.toml", "sundew's configuration", "main.rs"),
    ("systemd/", "systemd-analyze", "systemd.rs"),
];

#[test]
fn ac_c1_every_file_under_deploy_has_a_reader() {
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--cached", "--others"])
        .arg("--exclude-standard")
        .current_dir(deploy(""))
        .output()
        .expect("git");
    let mut used = BTreeSet::new();
    for path in String::from_utf8(listed.stdout).expect("paths").lines() {
        let reader = READERS.iter().find(|(place, ..)| {
            path == *place || (place.ends_with('/') && path.starts_with(place))
        });
        let (place, ..) = reader.unwrap_or_else(|| panic!("deploy/{path} has no reader"));
        used.insert(*place);
    }
    for (place, program, test) in READERS {
        assert!(used.contains(place), "there is no deploy/{place}");
        let path = deploy("../tests/tests/deploy").join(test);
        let text = std::fs::read_to_string(&path).expect("test");
        // A folder is listed by its own name, and a file by its path or its name.
        let name = place
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .expect("name");
        assert!(
            text.contains(name),
            "{} does not read {place} ({program})",
            path.display()
        );
    }
}
