use super::*;

#[test]
fn t85_every_error_is_reported_by_key_and_at_once() {
    let text = "[listen]\nworkloads = \"x\"\nextra = 1\n[identity]\nsource = \"none\"\n[store]\nurl = \"http://x\"\n[other]\n[[issuers]]\nurl = \"http://i\"\naudience = \"\"\ntoken_file = \"t\"\n[limits]\nconnections = 0\n";
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
        "token_file is for jwks_url",
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

#[test]
fn i12_names_of_the_operations_listener_are_names_alone() {
    let parse = |names: &str| {
        Config::parse(&format!(
            "[listen]\nworkloads = \"127.0.0.1:1\"\noperations_hosts = {names}\n[identity]\nsource = \"embedded_ca\"\ntrust_domain = \"a\"\n[store]\nurl = \"embedded:s\"\n[keys]\nroot_key_file = \"k\"\n[journal]\ndirectory = \"j\"\n"
        ))
    };
    let good = parse("[\"broker.internal\", \"sundew\"]").unwrap();
    assert_eq!(good.listen.operations_hosts.len(), 2);
    for names in ["[\"*\"]", "[\"sundew\", \"sundew:9090\"]", "[\"\"]"] {
        let error = parse(names).unwrap_err().to_string();
        assert!(error.contains("listen.operations_hosts"), "{error}");
    }
}

#[test]
fn o1_rules_about_segments_are_checked_by_key() {
    let parse = |journal: &str| {
        Config::parse(&format!(
            "[listen]\nworkloads = \"127.0.0.1:1\"\n[identity]\nsource = \"embedded_ca\"\ntrust_domain = \"a\"\n[store]\nurl = \"embedded:s\"\n[keys]\nroot_key_file = \"k\"\n[journal]\ndirectory = \"j\"\n{journal}\n"
        ))
    };
    let rules = parse("").unwrap().journal.segments;
    assert!(rules.keep_for.is_none() && rules.keep_bytes.is_none() && rules.archive.is_none());
    let command = parse("keep_for = \"30d\"\narchive_command = [\"a\", \"b\"]").unwrap();
    let words = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(
        command.journal.segments.archive,
        Some(Archive::Command(words))
    );
    for (journal, problem) in [
        ("segment_size = \"1KiB\"", "journal.segment_size"),
        ("segment_age = \"10ms\"", "journal.segment_age"),
        ("keep_size = \"1MiB\"", "journal.keep_size"),
        ("archive_to = \"j\"", "journal.archive_to"),
        ("archive_command = []", "journal.archive_command"),
        ("archive_to = \"a\"\narchive_command = [\"b\"]", "excludes"),
    ] {
        let errors = parse(journal).unwrap_err().to_string();
        assert!(errors.contains(problem), "{journal}: {errors}");
    }
}

/// A configuration with this in the section of its identity, and this after all others.
fn with(identity: &str, more: &str) -> Result<Config, ConfigError> {
    Config::parse(&format!(
        "[listen]\nworkloads = \"127.0.0.1:1\"\n[identity]\n{identity}\n[store]\nurl = \"embedded:s\"\n[keys]\nroot_key_file = \"k\"\n[journal]\ndirectory = \"j\"\n{more}\n"
    ))
}

#[test]
fn i11_the_svid_of_a_workload_api_is_chosen_by_one_thing_at_most() {
    let api = |more: &str| {
        let text = format!("source = \"workload_api\"\nsocket = \"/s\"\n{more}");
        with(&text, "").map(|config| match config.identity {
            Identity::WorkloadApi { choice, .. } => choice,
            other @ (Identity::EmbeddedCa { .. } | Identity::Files { .. }) => panic!("{other:?}"),
        })
    };
    let id = SpiffeId::parse("spiffe://a/b").unwrap();
    assert_eq!(api("").unwrap(), SvidChoice::First);
    let hint = SvidChoice::Hint("core".to_owned());
    assert_eq!(api("hint = \"core\"").unwrap(), hint);
    assert_eq!(
        api("spiffe_id = \"spiffe://a/b\"").unwrap(),
        SvidChoice::Id(id)
    );
    for wrong in [
        "hint = \"core\"\nspiffe_id = \"spiffe://a/b\"",
        "hint = \"\"",
        "spiffe_id = \"a\"",
    ] {
        assert!(api(wrong).unwrap_err().to_string().starts_with("identity"));
    }
}

#[test]
fn i9_dns_names_of_the_broker_are_dns_names() {
    let own = |names: &str| {
        let text = format!("source = \"embedded_ca\"\ntrust_domain = \"a\"\ndns_names = {names}");
        with(&text, "")
    };
    assert!(own("[\"sundew.internal\", \"localhost\"]").is_ok());
    for wrong in [
        "[\"\"]",
        "[\"*.internal\"]",
        "[\"a b\"]",
        "[\"spiffe://a/b\"]",
    ] {
        assert!(own(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn i8_a_reload_takes_operators_and_trust_and_names_every_other_section() {
    let own = "source = \"embedded_ca\"\ntrust_domain = \"a\"";
    let trust = "[[trust]]\ntrust_domain = \"b\"\nbundle = \"b\"\n[[operators]]\nspiffe_id = \"spiffe://a/o\"\nroles = [\"registrar\"]";
    let issuer = "[[issuers]]\nurl = \"https://i\"\naudience = \"a\"";
    let before = with(own, "").unwrap();
    let others = |identity: &str, more: &str| {
        let next = with(identity, more).unwrap();
        before.sections_for_a_restart(&next).join(", ")
    };
    assert_eq!(others(own, trust), "");
    assert_eq!(others(own, issuer), "issuers");
    assert_eq!(others(own, "[limits]\nstreams = 100"), "limits");
    let files = "source = \"embedded_ca\"\ntrust_domain = \"b\"";
    assert_eq!(
        others(files, "[revocation]\nfreshness = \"2s\""),
        "identity, revocation and limits.max_task_ttl"
    );
}

#[test]
fn partners_are_configured_with_what_their_profile_needs() {
    let own = "source = \"embedded_ca\"\ntrust_domain = \"a\"";
    let parse = |domain: &str, more: &str| {
        let partner = format!("[[federation]]\ntrust_domain = \"{domain}\"\n{more}\n");
        let trust = "[[trust]]\ntrust_domain = \"file\"\nbundle = \"f\"\n";
        with(own, &format!("{partner}{trust}")).map(|config| config.federation)
    };
    let web = "url = \"https://p/x\"\nprofile = \"https_web\"";
    let spiffe = "url = \"https://p:1/x\"\nprofile = \"https_spiffe\"";
    let taken = [
        ("p", web.to_owned()),
        ("p", format!("{web}\nca_file = \"c\"")),
        (
            "p",
            format!("{spiffe}\nspiffe_id = \"spiffe://p/s\"\nbundle = \"b\""),
        ),
        ("p", format!("{spiffe}\nspiffe_id = \"spiffe://file/s\"")),
    ];
    for (domain, text) in taken {
        assert_eq!(parse(domain, &text).unwrap().len(), 1, "{text}");
    }
    let refused = [
        // Nobody but the CA and the file speaks for a trust domain that is theirs.
        ("a", web.to_owned()),
        ("file", web.to_owned()),
        ("p", "url = \"https://p/x\"".to_owned()),
        ("p", web.replace("https://p", "http://p")),
        ("p", web.replace("https://p", "https://u:p@p")),
        ("p", format!("{web}\nbundle = \"b\"")),
        ("p", spiffe.to_owned()),
        ("p", format!("{spiffe}\nspiffe_id = \"spiffe://p/s\"")),
        (
            "p",
            format!("{spiffe}\nspiffe_id = \"spiffe://q/s\"\nbundle = \"b\""),
        ),
        (
            "p",
            format!("{spiffe}\nspiffe_id = \"spiffe://q/s\"\nca_file = \"c\""),
        ),
    ];
    for (domain, text) in refused {
        let errors = parse(domain, &text).unwrap_err().to_string();
        assert!(errors.starts_with("federation"), "{text}: {errors}");
    }
}

/// I10: an emergency takes two persons, who are two.
#[test]
fn i10_an_emergency_names_two_persons_with_two_keys_and_an_operator() {
    let key = || {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        key.public_key_pem()
    };
    let (ann, bob) = (key(), key());
    let parse = |id: &str, persons: &[(&str, &str)]| {
        let persons = persons.iter();
        let persons: Vec<_> = persons
            .map(|(name, key)| format!("{{ name = \"{name}\", key = \"\"\"{key}\"\"\" }}"))
            .collect();
        let operator = "[[operators]]\nspiffe_id = \"spiffe://a/e\"\nroles = [\"responder\"]\n";
        let persons = persons.join(", ");
        let text =
            format!("{operator}[break_glass]\nspiffe_id = \"{id}\"\npersons = [{persons}]\n");
        with("source = \"embedded_ca\"\ntrust_domain = \"a\"", &text)
    };
    let both = [("ann", ann.as_str()), ("bob", bob.as_str())];
    let good = parse("spiffe://a/e", &both).unwrap();
    assert_eq!(good.break_glass.unwrap().persons.len(), 2);
    for (id, persons, problem) in [
        ("spiffe://a/other", &both[..], "one of the operators"),
        ("spiffe://b/e", &both, "trust domain of the embedded CA"),
        ("spiffe://a/e", &both[..1], "two persons at least"),
        ("spiffe://a/e", &[], "two persons at least"),
        (
            "spiffe://a/e",
            &[("ann", &ann), ("bob", &ann)],
            "a key that no other has",
        ),
        (
            "spiffe://a/e",
            &[("ann", &ann), ("ann", &bob)],
            "a key that no other has",
        ),
        ("spiffe://a/e", &[("ann", &ann), ("bob", "x")], "no P-256"),
    ] {
        let error = parse(id, persons).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn o4_a_role_is_a_word_or_a_table_that_says_each_of_its_bounds() {
    let parse = |roles: &str| {
        let text = format!("[[operators]]\nspiffe_id = \"spiffe://a/o\"\nroles = {roles}\n");
        with("source = \"embedded_ca\"\ntrust_domain = \"a\"", &text)
    };
    let good = parse(
        "[\"responder\", { role = \"registrar\", path_prefixes = [\"spiffe://a/team-a\"], \
         scopes = [\"tool:*\"], audiences = [\"*\"], secrets = [] }, \
         { role = \"introspector\", path_prefixes = [\"*\"], audiences = [\"https://x/*\"] }]",
    );
    let operators = good.unwrap().operators;
    let roles = operators.values().next().unwrap();
    assert_eq!(roles.get(&Role::Responder), Some(&Reach::Unbounded));
    let Some(Reach::Within(bounds)) = roles.get(&Role::Registrar) else {
        panic!("the registrar has no bounds");
    };
    assert_eq!(bounds.path_prefixes.to_strings(), ["spiffe://a/team-a"]);
    assert_eq!(bounds.audiences.to_strings(), ["*"]);
    assert_eq!(bounds.secrets.to_strings(), Vec::<String>::new());
    let registrar = "role = \"registrar\", path_prefixes = [\"spiffe://a/x\"], scopes = [], \
                     audiences = []";
    for (roles, problem) in [
        (
            "[\"nobody\"]".to_owned(),
            "operators.[0].roles[0]: unknown variant `nobody`",
        ),
        (
            "[7]".to_owned(),
            "a role, or a table with `role` and its bounds",
        ),
        (
            "[{ role = \"responder\" }]".to_owned(),
            "responder: path_prefixes is missing",
        ),
        (
            format!("[{{ {registrar} }}]"),
            "registrar: secrets is missing",
        ),
        (
            format!("[{{ {registrar}, secret = [] }}]"),
            "unknown field `secret`",
        ),
        (
            format!("[{{ {registrar}, secrets = [\"secret:x\"] }}]"),
            "registrar: secrets: secrets are named by `secrets`",
        ),
        (
            "[{ role = \"responder\", path_prefixes = [\"spiffe://a/x/*\"] }]".to_owned(),
            "path_prefixes: must be SPIFFE IDs",
        ),
        (
            "[{ role = \"responder\", path_prefixes = [\"*\"], scopes = [] }]".to_owned(),
            "responder: scopes is no bound of this role",
        ),
        (
            "[\"responder\", { role = \"responder\", path_prefixes = [\"spiffe://a/x\"] }]"
                .to_owned(),
            "responder: named twice, with other bounds",
        ),
    ] {
        let error = parse(&roles).unwrap_err().to_string();
        assert!(error.contains(problem), "{roles}: {error}");
    }
}

#[test]
fn ac_9d_a_dispatcher_is_bounded_runs_no_model_and_orders_in_no_circle() {
    let parse = |operators: &[(&str, &str)]| {
        let text: String = operators
            .iter()
            .map(|(id, roles)| {
                format!("[[operators]]\nspiffe_id = \"spiffe://a/{id}\"\nroles = {roles}\n")
            })
            .collect();
        let parsed = with("source = \"embedded_ca\"\ntrust_domain = \"a\"", &text);
        parsed
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let over = |path: &str, model: &str| {
        format!(
            "[{{ role = \"dispatcher\", path_prefixes = [\"spiffe://a/{path}\"], scopes = [], \
             secrets = []{model} }}]"
        )
    };
    let good = |path: &str| over(path, ", runs_no_model = true");
    assert_eq!(
        parse(&[("ci", &good("agents")), ("cron", &good("agents"))]),
        ""
    );
    let circle = "nobody orders for itself";
    for (operators, problem) in [
        (
            vec![("ci", "[\"dispatcher\"]".to_owned())],
            "must be a table with its bounds",
        ),
        (
            vec![("ci", over("agents", ""))],
            "runs_no_model: must be true",
        ),
        (
            vec![("ci", over("agents", ", runs_no_model = false"))],
            "runs_no_model: must be true",
        ),
        (vec![("ci", good("ci"))], circle),
        (vec![("a", good("b")), ("b", good("a"))], circle),
        (
            vec![("a", good("b")), ("b", good("c")), ("c", good("a"))],
            circle,
        ),
    ] {
        let operators: Vec<_> = operators
            .iter()
            .map(|(id, roles)| (*id, roles.as_str()))
            .collect();
        let said = parse(&operators);
        assert!(said.contains(problem), "{operators:?}: {said}");
    }
}
