//! Manifests that are described, signed, verified and shown; by keys of every sort.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use sundew_core::client::manifest::{PAYLOAD_TYPE, SignedManifest as Envelope};

use super::key::{PublicKey, Signer};
use super::manifest;
use crate::args::{Cli, Command as Argument};
use crate::output::Output;

/// A folder with an agent.
fn agent() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("tools")).unwrap();
    for (name, text) in [
        ("agent.py", "print()"),
        ("prompt.txt", "Be kind."),
        ("tools/search.json", "{}"),
        ("github.json", "[]"),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Runs `sundew manifest …`; answers whether it exits with 0, or the error.
fn run(arguments: &[&str]) -> Result<bool, String> {
    let words = ["sundew", "manifest"].iter().chain(arguments);
    let Argument::Manifest(command) = Cli::try_parse_from(words).unwrap().command else {
        panic!("{arguments:?}");
    };
    match manifest(&Output::new(true), command) {
        Ok(code) => Ok(code == std::process::ExitCode::SUCCESS),
        Err(error) => Err(format!("{error:#}")),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Describes and signs the agent in a folder with everything that an agent may have.
fn signed(folder: &Path) -> PathBuf {
    let at = |name: &str| text(&folder.join(name));
    let (tool, mcp) = (at("tools/search.json"), at("github.json"));
    let init = run(&[
        "init",
        "--code",
        &at("agent.py"),
        "--model",
        "m-1",
        "--system-prompt",
        &at("prompt.txt"),
        "--tool",
        &format!("search={tool}"),
        "--mcp",
        &format!("github={mcp}"),
        "--valid-for",
        "90d",
        &at("manifest.toml"),
    ]);
    assert_eq!(init, Ok(true));
    assert_eq!(run(&["sign", &at("manifest.toml")]), Ok(true));
    folder.join("manifest.json")
}

#[test]
fn d6_what_was_described_is_signed_and_verifies_until_a_part_changes() {
    let folder = agent();
    let at = |name: &str| text(&folder.path().join(name));
    let manifest = text(&signed(folder.path()));
    for key in ["signer.pem", "signer.pub"] {
        assert_eq!(
            run(&["verify", "--key", &at(key), &manifest]),
            Ok(true),
            "{key}"
        );
    }
    for part in ["agent.py", "prompt.txt", "tools/search.json", "github.json"] {
        let before = fs::read(folder.path().join(part)).unwrap();
        fs::write(folder.path().join(part), "other").unwrap();
        let verify = ["verify", "--key", &at("signer.pub"), &manifest];
        assert_eq!(run(&verify), Ok(false), "{part}");
        let only = [
            "verify",
            "--signatures-only",
            "--key",
            &at("signer.pub"),
            &manifest,
        ];
        assert_eq!(run(&only), Ok(true), "{part}");
        fs::write(folder.path().join(part), before).unwrap();
    }
    let envelope: Envelope = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let payload = String::from_utf8(envelope.unverified_payload().unwrap()).unwrap();
    for word in [
        "tool:search",
        "mcp:github",
        "system-prompt",
        "\"m-1\"",
        "tools/search.json",
    ] {
        assert!(payload.contains(word), "{word}: {payload}");
    }
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(at("signer.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn d6_another_key_or_one_that_signs_twice_is_not_enough() {
    let folder = agent();
    let at = |name: &str| text(&folder.path().join(name));
    let manifest = text(&signed(folder.path()));
    Signer::write_new(&folder.path().join("other.pem")).unwrap();
    let (own, other) = (at("signer.pem"), at("other.pem"));
    assert_eq!(run(&["verify", "--key", &other, &manifest]), Ok(false));
    let both = [
        "verify",
        "--threshold",
        "2",
        "--key",
        &own,
        "--key",
        &other,
        &manifest,
    ];
    assert_eq!(run(&["sign", "--key", &own, &manifest]), Ok(true));
    assert_eq!(run(&both), Ok(false), "one key twice (T33)");
    assert_eq!(run(&["sign", "--key", &other, &manifest]), Ok(true));
    assert_eq!(run(&both), Ok(true));
}

#[test]
fn d6_nothing_is_overwritten_and_nothing_is_left_half_done() {
    let folder = agent();
    let at = |name: &str| text(&folder.path().join(name));
    let outside = agent();
    let code = text(&outside.path().join("agent.py"));
    let error = run(&["init", "--code", &code, &at("manifest.toml")]).unwrap_err();
    assert!(error.contains("must lie in"), "{error}");
    assert!(
        !folder.path().join("signer.pem").exists(),
        "no key without a description"
    );
    signed(folder.path());
    let again = ["init", "--code", &at("agent.py"), &at("manifest.toml")];
    assert!(run(&again).unwrap_err().contains("is there already"));
    fs::remove_file(at("prompt.txt")).unwrap();
    let before = fs::read(at("manifest.json")).unwrap();
    let error = run(&["sign", &at("manifest.toml")]).unwrap_err();
    assert!(error.contains("prompt.txt"), "{error}");
    assert_eq!(fs::read(at("manifest.json")).unwrap(), before);
}

/// Runs a tool that must succeed.
fn tool(line: &str, folder: &Path) -> String {
    let mut command = Command::new("sh");
    let output = command
        .args(["-ec", line])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Keys of the people's own tools are read, and what they signed verifies under the public half that
/// those tools say.
#[test]
fn d6_keys_of_openssl_and_openssh_sign() {
    let folder = tempfile::tempdir().unwrap();
    for (name, make, public) in [
        (
            "ed",
            "openssl genpkey -algorithm ed25519 -out ed",
            "openssl pkey -in ed -pubout",
        ),
        (
            "ec",
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec",
            "openssl pkey -in ec -pubout",
        ),
        (
            "sec1",
            "openssl ecparam -name secp384r1 -genkey -noout -out sec1",
            "openssl ec -in sec1 -pubout",
        ),
        (
            "rsa",
            "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa",
            "openssl pkey -in rsa -pubout",
        ),
        (
            "ssh-ed",
            "ssh-keygen -q -t ed25519 -N '' -f ssh-ed",
            "cat ssh-ed.pub",
        ),
        (
            "ssh-ec",
            "ssh-keygen -q -t ecdsa -b 256 -N '' -f ssh-ec",
            "cat ssh-ec.pub",
        ),
        (
            "ssh-ec384",
            "ssh-keygen -q -t ecdsa -b 384 -N '' -f ssh-ec384",
            "cat ssh-ec384.pub",
        ),
    ] {
        tool(make, folder.path());
        let signer = Signer::read(&folder.path().join(name)).unwrap();
        let said = folder.path().join(format!("{name}.said"));
        fs::write(&said, tool(public, folder.path())).unwrap();
        let public = PublicKey::read(&said).unwrap();
        assert_eq!(&public, signer.public(), "{name}");
        let mut envelope = Envelope::unsigned(PAYLOAD_TYPE, b"{}");
        super::add_signature(&mut envelope, &signer).unwrap();
        let keys = [public.verifying().unwrap()];
        assert_eq!(
            envelope.verify(PAYLOAD_TYPE, &keys, 1).unwrap(),
            b"{}",
            "{name}"
        );
    }
    // Our own key is one that OpenSSL reads.
    Signer::write_new(&folder.path().join("own")).unwrap();
    let own = tool("openssl pkey -in own -pubout", folder.path());
    let signer = Signer::read(&folder.path().join("own")).unwrap();
    assert_eq!(own.split_whitespace().collect::<String>(), {
        let pem = signer.public().pem();
        pem.split_whitespace().collect::<String>()
    });
}

#[test]
fn d6_a_key_that_cannot_sign_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (make, hint) in [
        (
            "ssh-keygen -q -t ed25519 -N secret -f key",
            "ssh-keygen -p -N '' -f",
        ),
        (
            "openssl genpkey -algorithm ed25519 -aes256 -pass pass:secret -out key",
            "openssl pkey -in KEY",
        ),
        ("ssh-keygen -q -t rsa -b 2048 -N '' -f key", "take Ed25519"),
        ("umask 077; echo no key > key", "PEM"),
        (
            "openssl genpkey -algorithm ed25519 -out key; chmod 644 key",
            "chmod 600",
        ),
        ("mkfifo -m 600 key", "is no regular file"),
    ] {
        tool(&format!("rm -f key key.pub; {make}"), folder.path());
        let error = Signer::read(&folder.path().join("key"))
            .map(drop)
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains(hint) && error.contains("key"),
            "{make}: {error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }
}
