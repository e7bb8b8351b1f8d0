//! Tokens of clouds and of CI systems: the header, the claims and the lifetime that each platform
//! gives them, under an RSA key of 2048 bits, as all of them have.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::NOW_S;
use crate::edits::ber::{Node, parse};
use crate::key::{Algorithm, Key};

/// The audience of rebuilt tokens.
pub const AUDIENCE: &str = "https://broker.example";

const UUID: &str = "01234567-89ab-4cde-8f01-23456789abcd";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CERTIFICATE: &str = "ykNaY4qM_ta4k2TgZOCEYLkcYlA";

/// A token before it is signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The platform, and what is special about the token.
    pub name: &'static str,
    /// The header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
}

impl Token {
    /// Makes a token with these members of the header and claims besides those that all have, which
    /// was issued at [`NOW_S`] and lives for this time, in seconds.
    fn new(name: &'static str, header: Value, issuer: &str, life_s: i64, claims: Value) -> Self {
        let mut token = Self {
            name,
            header: json!({ "alg": "RS256", "kid": "k" }),
            claims: json!({
                "iss": issuer,
                "aud": AUDIENCE,
                "iat": NOW_S,
                "exp": NOW_S + life_s,
            }),
        };
        for (into, from) in [(&mut token.header, header), (&mut token.claims, claims)] {
            for (name, value) in from.as_object().expect("an object") {
                into[name] = value.clone();
            }
        }
        token
    }

    /// Returns the compact form, signed by this key.
    pub fn signed_by(&self, key: &Key) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", part(&self.header), part(&self.claims));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()));
        format!("{input}.{signature}")
    }
}

/// Makes the key of an issuer.
pub fn issuer_key() -> Key {
    Key::rsa(Algorithm::RsaPkcs1, 2048)
}

/// Returns the JWKS with this RSA key.
pub fn key_set(key: &Key) -> Vec<u8> {
    let numbers = match parse(key.public()).as_deref() {
        Some([Node::Tree(_, _, numbers)]) => numbers.clone(),
        other => panic!("not an RSAPublicKey: {other:?}"),
    };
    let number = |at: usize| match &numbers[at] {
        Node::Leaf(_, content) => {
            let start = usize::from(content.first() == Some(&0));
            URL_SAFE_NO_PAD.encode(&content[start..])
        }
        Node::Tree(..) => panic!("not a number"),
    };
    let key = json!({
        "kty": "RSA",
        "use": "sig",
        "alg": "RS256",
        "kid": "k",
        "n": number(0),
        "e": number(1),
    });
    json!({ "keys": [key] }).to_string().into_bytes()
}

/// Returns tokens of GitHub Actions, with each form of their subject.
pub fn github() -> Vec<Token> {
    let of = |name, sub: &str, event: &str, more: Value| {
        let mut claims = json!({
            "jti": UUID,
            "sub": sub,
            "ref": "refs/heads/main",
            "sha": COMMIT,
            "repository": "org/repo",
            "repository_owner": "org",
            "repository_owner_id": "65",
            "run_id": "30",
            "run_number": "10",
            "run_attempt": "2",
            "repository_visibility": "private",
            "repository_id": "74",
            "actor_id": "12",
            "actor": "octocat",
            "workflow": "deploy",
            "head_ref": "",
            "base_ref": "",
            "event_name": event,
            "ref_protected": "true",
            "ref_type": "branch",
            "workflow_ref": "org/repo/.github/workflows/deploy.yml@refs/heads/main",
            "workflow_sha": COMMIT,
            "job_workflow_ref": "org/repo/.github/workflows/deploy.yml@refs/heads/main",
            "job_workflow_sha": COMMIT,
            "runner_environment": "github-hosted",
            "nbf": NOW_S - 600,
        });
        for (name, value) in more.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        let header = json!({ "typ": "JWT", "x5t": CERTIFICATE });
        let issuer = "https://token.actions.githubusercontent.com";
        Token::new(name, header, issuer, 300, claims)
    };
    vec![
        of(
            "GitHub, a branch",
            "repo:org/repo:ref:refs/heads/main",
            "push",
            json!({}),
        ),
        of(
            "GitHub, a tag",
            "repo:org/repo:ref:refs/tags/v1",
            "push",
            json!({ "ref": "refs/tags/v1", "ref_type": "tag" }),
        ),
        of(
            "GitHub, an environment",
            "repo:org/repo:environment:production",
            "workflow_dispatch",
            json!({ "environment": "production", "environment_node_id": "EN_1" }),
        ),
        of(
            "GitHub, a pull request",
            "repo:org/repo:pull_request",
            "pull_request",
            json!({ "ref": "refs/pull/1/merge", "head_ref": "topic", "base_ref": "main" }),
        ),
        of(
            "GitHub, a template of the organization",
            "repository_owner_id:65:repository_id:74:job_workflow_ref:org/repo/.github/workflows/d.yml@refs/heads/main",
            "schedule",
            json!({ "enterprise": "e", "enterprise_id": "5" }),
        ),
    ]
}

/// Returns tokens of GitLab CI, with each form of their subject.
pub fn gitlab() -> Vec<Token> {
    let of = |name, kind: &str, reference: &str, more: Value| {
        let mut claims = json!({
            "jti": UUID,
            "sub": format!("project_path:group/project:ref_type:{kind}:ref:{reference}"),
            "nbf": NOW_S - 5,
            "namespace_id": "72",
            "namespace_path": "group",
            "project_id": "20",
            "project_path": "group/project",
            "user_id": "1",
            "user_login": "user",
            "user_email": "user@example.com",
            "user_access_level": "developer",
            "user_identities": [{ "provider": "saml", "extern_uid": "u" }],
            "job_project_id": "20",
            "job_project_path": "group/project",
            "job_namespace_id": "72",
            "job_namespace_path": "group",
            "pipeline_id": "574",
            "pipeline_source": "push",
            "job_id": "302",
            "ref": reference,
            "ref_type": kind,
            "ref_path": format!("refs/heads/{reference}"),
            "ref_protected": "true",
            "groups_direct": ["group", "group/sub"],
            "runner_id": 1,
            "runner_environment": "gitlab-hosted",
            "sha": COMMIT,
            "project_visibility": "public",
            "ci_config_ref_uri": "gitlab.example/group/project//.gitlab-ci.yml@refs/heads/main",
            "ci_config_sha": COMMIT,
        });
        for (name, value) in more.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        let header = json!({ "typ": "JWT" });
        Token::new(name, header, "https://gitlab.example", 3600, claims)
    };
    let environment = json!({
        "environment": "production",
        "environment_protected": "true",
        "deployment_tier": "production",
        "environment_action": "start",
    });
    vec![
        of("GitLab, a branch", "branch", "main", json!({})),
        of(
            "GitLab, a tag",
            "tag",
            "v1",
            json!({ "ref_path": "refs/tags/v1" }),
        ),
        of("GitLab, an environment", "branch", "main", environment),
    ]
}

/// Returns projected tokens of service accounts, by the issuers of EKS, GKE and AKS, and by a
/// cluster's own.
pub fn kubernetes() -> Vec<Token> {
    let account = json!({ "name": "agent", "uid": UUID });
    let of = |name, issuer: &str| {
        let claims = json!({
            "aud": [AUDIENCE],
            "jti": UUID,
            "nbf": NOW_S,
            "sub": "system:serviceaccount:prod:agent",
            "kubernetes.io": {
                "namespace": "prod",
                "node": { "name": "node-1", "uid": UUID },
                "pod": { "name": "agent-0", "uid": UUID },
                "serviceaccount": account,
                "warnafter": NOW_S + 3607,
            },
        });
        Token::new(name, json!({}), issuer, 3600, claims)
    };
    let mut old = of("Kubernetes before 1.29", "https://kubernetes.default.svc");
    let io = old.claims["kubernetes.io"].as_object_mut();
    io.expect("an object").remove("node");
    old.claims.as_object_mut().expect("an object").remove("jti");
    vec![
        of("Kubernetes", "https://kubernetes.default.svc.cluster.local"),
        old,
        of(
            "EKS",
            "https://oidc.eks.eu-west-2.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF",
        ),
        of(
            "GKE",
            "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c",
        ),
        of(
            "AKS",
            &format!("https://eastus.oic.prod-aks.azure.com/{UUID}/{UUID}/"),
        ),
    ]
}

/// Returns the token of an instance of Compute Engine in the `full` format.
pub fn compute_engine() -> Token {
    let engine = json!({
        "instance_creation_timestamp": NOW_S - 86_400,
        "instance_id": "152986662232938449",
        "instance_name": "vm",
        "license_id": ["1000204"],
        "project_id": "project",
        "project_number": 739_419_398_126_i64,
        "zone": "europe-west1-b",
        "instance_confidentiality": 1,
    });
    let claims = json!({
        "azp": "112345678901234567890",
        "sub": "112345678901234567890",
        "email": "1234-compute@developer.gserviceaccount.com",
        "email_verified": true,
        "google": { "compute_engine": engine },
    });
    let header = json!({ "typ": "JWT" });
    let issuer = "https://accounts.google.com";
    Token::new("Compute Engine", header, issuer, 3600, claims)
}

/// Returns the access token of a managed identity, versions 1.0 and 2.0: it is antedated by five
/// minutes, and lives for a day besides.
pub fn azure() -> Vec<Token> {
    let own = json!({
        "nbf": NOW_S - 300,
        "iat": NOW_S - 300,
        "aio": "E2ZgYNg",
        "idtyp": "app",
        "oid": UUID,
        "rh": "1.AL4A",
        "sub": UUID,
        "tid": UUID,
        "uti": "sdmF4KgzXUu6N0IKMbQBAA",
        "xms_mirid": "/subscriptions/s/resourcegroups/r/providers/Microsoft.Compute/virtualMachines/v",
    });
    let of = |name, issuer: String, more: Value| {
        let header = json!({ "typ": "JWT", "x5t": CERTIFICATE });
        let mut claims = own.clone();
        for (name, value) in more.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        Token::new(name, header, &issuer, 86_400, claims)
    };
    let first = json!({
        "appid": UUID,
        "appidacr": "2",
        "idp": format!("https://sts.windows.net/{UUID}/"),
        "ver": "1.0",
    });
    let second = json!({ "azp": UUID, "azpacr": "2", "ver": "2.0" });
    vec![
        of(
            "Azure 1.0",
            format!("https://sts.windows.net/{UUID}/"),
            first,
        ),
        of(
            "Azure 2.0",
            format!("https://login.microsoftonline.com/{UUID}/v2.0"),
            second,
        ),
    ]
}

/// Returns tokens of Buildkite, with the claim `pipeline_id` that a job has to ask for: of a branch, of
/// a tag, and of a step with a key.
pub fn buildkite() -> Vec<Token> {
    let of = |name, reference: &str, step: Value| {
        let key = step.as_str().unwrap_or_default();
        let claims = json!({
            "sub": format!("organization:org:pipeline:app:ref:{reference}:commit:{COMMIT}:step:{key}"),
            "nbf": NOW_S,
            "organization_slug": "org",
            "pipeline_slug": "app",
            "pipeline_id": UUID,
            "build_number": 5,
            "build_branch": "main",
            "build_commit": COMMIT,
            "step_key": step,
            "job_id": UUID,
            "agent_id": UUID,
            "build_source": "ui",
            "runner_environment": "self-hosted",
        });
        Token::new(name, json!({}), "https://agent.buildkite.com", 300, claims)
    };
    let mut of_tag = of("Buildkite, a tag", "refs/tags/v1", Value::Null);
    of_tag.claims["build_tag"] = json!("v1");
    vec![
        of("Buildkite, a branch", "refs/heads/main", Value::Null),
        of_tag,
        of("Buildkite, a step", "refs/heads/main", json!("build")),
    ]
}

/// Returns tokens of CircleCI, with both forms of their subject.
pub fn circleci() -> Vec<Token> {
    let of = |name, sub: String| {
        let claims = json!({
            "sub": sub,
            "oidc.circleci.com/project-id": UUID,
            "oidc.circleci.com/context-ids": [UUID],
            "oidc.circleci.com/ssh-rerun": false,
            "oidc.circleci.com/vcs-origin": "github.com/org/repo",
            "oidc.circleci.com/vcs-ref": "refs/heads/main",
        });
        let organization = format!("https://oidc.circleci.com/org/{UUID}");
        let header = json!({ "typ": "JWT" });
        Token::new(name, header, &organization, 3600, claims)
    };
    let first = format!("org/{UUID}/project/{UUID}/user/{UUID}");
    let second = format!("{first}/vcs-origin/github.com/org/repo/vcs-ref/refs/heads/main");
    vec![of("CircleCI", first), of("CircleCI, version 2", second)]
}

/// Returns tokens of HCP Terraform, of a plan and of an apply.
pub fn terraform() -> Vec<Token> {
    let of = |name, phase: &str| {
        let workspace = "organization:org:project:Default Project:workspace:w";
        let claims = json!({
            "sub": format!("{workspace}:run_phase:{phase}"),
            "nbf": NOW_S - 5,
            "jti": UUID,
            "terraform_organization_id": "org-1",
            "terraform_organization_name": "org",
            "terraform_project_id": "prj-1",
            "terraform_project_name": "Default Project",
            "terraform_workspace_id": "ws-1",
            "terraform_workspace_name": "w",
            "terraform_full_workspace": workspace,
            "terraform_run_id": "run-1",
            "terraform_run_phase": phase,
        });
        let header = json!({ "typ": "JWT" });
        Token::new(name, header, "https://app.terraform.io", 7200, claims)
    };
    vec![
        of("Terraform, a plan", "plan"),
        of("Terraform, an apply", "apply"),
    ]
}
