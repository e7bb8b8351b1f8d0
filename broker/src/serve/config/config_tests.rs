use super::*;

#[test]
fn t85_every_error_is_reported_by_key_and_at_once() {
    let text = "[listen]\nworkloads = \"x\"\nextra = 1\n[identity]\nsource = \"none\"\n[store]\nurl = \"http://x\"\n[other]\n[[issuers]]\nurl = \"http://i\"\naudience = \"\"\n[limits]\nconnections = 0\n";
    let errors = Config::parse(text).unwrap_err().0;
    for part in [
        "listen",
        "identity",
        "store.url",
        "keys: section is missing",
        "journal: section is missing",
        "other: unknown section",
        "audience must not be empty",
        "https only",
        "limits",
    ] {
        assert!(
            errors.iter().any(|e| e.contains(part)),
            "{part} is missing from {errors:#?}"
        );
    }
}

#[test]
fn redis_elsewhere_without_tls_is_refused() {
    let text = |url: &str| {
        format!(
            "[listen]\nworkloads = \"127.0.0.1:1\"\n[identity]\nsource = \"embedded_ca\"\ntrust_domain = \"a\"\n[store]\nurl = \"{url}\"\n[keys]\nroot_key_file = \"k\"\n[journal]\ndirectory = \"j\"\n"
        )
    };
    assert!(Config::parse(&text("redis://127.0.0.1:1")).is_ok());
    assert!(Config::parse(&text("rediss://redis.example:1")).is_ok());
    assert!(
        Config::parse(&text("redis://redis.example:1"))
            .unwrap_err()
            .to_string()
            .contains("TLS")
    );
}
