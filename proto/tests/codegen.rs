//! The generated code that is committed is what the protos say.
//!
//! `SUNDEW_BLESS=1 cargo test -p sundew-proto --test codegen` writes it anew.

#![expect(clippy::disallowed_methods, reason = "a test reads its own switch")]
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::{env, fs};

const PROTOS: [&str; 9] = [
    "sundew/v1/access.proto",
    "sundew/v1/agent.proto",
    "sundew/v1/dispatch.proto",
    "sundew/v1/enrollment.proto",
    "sundew/v1/local.proto",
    "sundew/v1/registry.proto",
    "sundew/v1/response.proto",
    "spiffe/workload.proto",
    "envoy/secret.proto",
];

fn generate(out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let set = protox::compile(PROTOS.iter().map(|p| root.join(p)), [root]).expect("protos compile");
    fs::write(
        out.join("descriptor.bin"),
        prost::Message::encode_to_vec(&set),
    )
    .expect("write descriptor");
    tonic_prost_build::configure()
        .out_dir(out)
        .skip_debug([
            ".JWTSVID",
            ".ValidateJWTSVIDRequest",
            ".X509SVID",
            ".envoy.service.secret.v3.DataSource",
            ".envoy.service.secret.v3.DiscoveryResponse",
            ".sundew.v1.BeginTaskRequest",
            ".sundew.v1.CreateOrderResponse",
            ".sundew.v1.Evidence",
            ".sundew.v1.Token",
            ".sundew.v1.GetSecretResponse",
            ".sundew.v1.IntrospectRequest",
            ".sundew.v1.PutSecretRequest",
            ".sundew.v1.CreateJoinTokenResponse",
            ".sundew.v1.Lease",
            ".sundew.v1.PutEngineRequest",
            ".sundew.v1.Selector",
            ".sundew.v1.ActivateTpmKeyRequest",
            ".sundew.v1.EnrollRequest",
            ".sundew.v1.IssueEntryJwtResponse",
        ])
        .compile_fds(set)
        .expect("code is generated");
}

#[test]
fn committed_code_is_what_the_protos_say() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if env::var_os("SUNDEW_BLESS").is_some() {
        generate(&committed);
    }
    let fresh: PathBuf = env::temp_dir().join(format!("sundew-codegen-{}", std::process::id()));
    fs::create_dir_all(&fresh).expect("temporary folder");
    generate(&fresh);
    let mut files = 0;
    for entry in fs::read_dir(&fresh).expect("generated folder") {
        let name = entry.expect("entry").file_name();
        let new = fs::read(fresh.join(&name)).expect("generated file");
        let old = fs::read(committed.join(&name)).unwrap_or_default();
        assert!(new == old, "{} differs; bless it", name.display());
        files += 1;
    }
    fs::remove_dir_all(&fresh).expect("clean up");
    assert!(files >= 3, "only {files} files were generated");
}
