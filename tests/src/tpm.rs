//! A TPM of its own: Debian's swtpm, provisioned with tpm2-tools.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sundew_sdk::Settings;
use tempfile::TempDir;

/// Persistent handle of the attestation key.
const KEY: &str = "0x81010002";
/// The handle of another attestation key below the same endorsement key.
const OTHER_KEY: &str = "0x81010003";

/// A TPM emulator with an endorsement key and an attestation key below it.
pub struct Tpm {
    folder: TempDir,
    child: Option<Child>,
}

impl Tpm {
    /// Makes a TPM with an attestation key of this kind: what `tpm2_createak` takes for `-G`, `-g` and `-s`,
    /// such as `ecc`, `sha256`, `ecdsa`.
    pub fn new(key: &str, hash: &str, scheme: &str) -> Self {
        Self::with("rsa", [key, hash, scheme], None)
    }

    /// Makes a TPM that holds a certificate of this maker for its endorsement key of 2048-bit RSA.
    pub fn made_by(maker: &Maker) -> Self {
        Self::with("rsa", ["ecc", "sha256", "ecdsa"], Some(maker))
    }

    /// Makes a TPM with an endorsement key on P-256, which nobody has certified.
    pub fn on_p256() -> Self {
        Self::with("ecc", ["ecc", "sha256", "ecdsa"], None)
    }

    fn with(endorsement: &str, [key, hash, scheme]: [&str; 3], maker: Option<&Maker>) -> Self {
        let mut tpm = Self {
            folder: TempDir::new().expect("folder"),
            child: None,
        };
        std::fs::create_dir(tpm.state()).expect("state folder");
        if let Some(maker) = maker {
            maker.manufacture(&tpm.state());
        }
        let port = crate::free_ports(2);
        tpm.start(&[
            format!("--server=type=tcp,port={port},disconnect"),
            format!("--ctrl=type=tcp,port={}", port + 1),
        ]);
        tpm.wait(|| std::net::TcpStream::connect(("127.0.0.1", port + 1)).is_ok());
        let run = |command: &str| {
            let mut words = command.split_whitespace();
            let output = Command::new(words.next().expect("command"))
                .args(words)
                .current_dir(tpm.folder.path())
                .env(
                    "TPM2TOOLS_TCTI",
                    format!("swtpm:host=127.0.0.1,port={port}"),
                )
                .output()
                .expect("tpm2-tools are installed");
            assert!(
                output.status.success(),
                "{command}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        match maker {
            Some(_) => run("tpm2_readpublic -c 0x81010001 -o ek.pub"),
            None => run(&format!(
                "tpm2_createek -c 0x81010001 -G {endorsement} -u ek.pub"
            )),
        }
        run("tpm2_readpublic -c 0x81010001 -f der -o ek.der");
        run(&format!(
            "tpm2_createak -C 0x81010001 -c ak.ctx -G {key} -g {hash} -s {scheme} -u ak.pub"
        ));
        run("tpm2_flushcontext -t");
        run(&format!("tpm2_evictcontrol -C o -c ak.ctx {KEY}"));
        run(&format!(
            "tpm2_createak -C 0x81010001 -c other.ctx -G {key} -g {hash} -s {scheme}"
        ));
        run("tpm2_flushcontext -t");
        run(&format!("tpm2_evictcontrol -C o -c other.ctx {OTHER_KEY}"));
        tpm.restart();
        tpm
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("tpm.sock")
    }

    fn start(&mut self, arguments: &[String]) {
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg(format!("--tpmstate=dir={}", self.state().display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm is installed");
        self.child = Some(child);
    }

    fn wait(&self, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < deadline, "swtpm did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            crate::process::signal(child.id(), rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }

    /// Switches the machine off and on, after which its PCRs are zero and its reset count is higher.
    pub fn restart(&mut self) {
        self.stop();
        let _ = std::fs::remove_file(self.socket());
        self.start(&[format!(
            "--server=type=unixio,path={}",
            self.socket().display()
        )]);
        let socket = self.socket();
        self.wait(|| UnixStream::connect(&socket).is_ok());
    }

    /// Copies the state of the TPM to a folder; the TPM is off meanwhile.
    pub fn save(&mut self, to: &Path) {
        self.stop();
        copy(&self.state(), to);
        self.restart();
    }

    /// Sets the TPM back to a state that was copied.
    pub fn restore(&mut self, from: &Path) {
        self.stop();
        copy(from, &self.state());
        self.restart();
    }

    /// Returns the attestation key as `sundew trust add tpm2_ak` reads it.
    pub fn registered(&self) -> Value {
        let file = |name: &str| {
            STANDARD.encode(std::fs::read(self.folder.path().join(name)).expect("public area"))
        };
        json!({ "key": file("ak.pub"), "parent": file("ek.pub") })
    }

    /// Returns the path that `sundew attest activate` takes as its TPM.
    pub fn device(&self) -> PathBuf {
        self.socket()
    }

    /// Returns the SubjectPublicKeyInfo of the endorsement key in DER.
    pub fn endorsement_key(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("ek.der")).expect("key")
    }

    /// Returns the settings with which the SDK quotes these PCRs, such as `0+7`.
    pub fn settings(&self, pcrs: &str) -> Settings {
        self.settings_with(KEY, pcrs)
    }

    fn settings_with(&self, key: &str, pcrs: &str) -> Settings {
        Settings {
            tpm2: Some(format!("{},{key},{pcrs}", self.socket().display())),
            ..Settings::default()
        }
    }

    /// Returns evidence like [`Tpm::evidence`], by the TPM's other attestation key.
    pub async fn other_evidence(&self, pcrs: &str, binding: [u8; 32]) -> Result<Vec<u8>, String> {
        let settings = self.settings_with(OTHER_KEY, pcrs);
        sundew_sdk::collect(&settings, "tpm2", binding, "", None)
            .await
            .map_err(|e| e.to_string())
    }

    /// Returns a quote of these PCRs as evidence that is bound to these bytes.
    pub async fn evidence(&self, pcrs: &str, binding: [u8; 32]) -> Result<Vec<u8>, String> {
        sundew_sdk::collect(&self.settings(pcrs), "tpm2", binding, "", None)
            .await
            .map_err(|e| e.to_string())
    }

    /// Extends a PCR of the SHA-256 bank (TPM2_PCR_Extend).
    pub fn extend(&self, pcr: u32, digest: &[u8; 32]) {
        let mut body = pcr.to_be_bytes().to_vec();
        body.extend(9_u32.to_be_bytes());
        body.extend([0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
        body.extend(1_u32.to_be_bytes());
        body.extend(0x000b_u16.to_be_bytes());
        body.extend(digest);
        let mut command = 0x8002_u16.to_be_bytes().to_vec();
        command.extend(
            u32::try_from(body.len() + 10)
                .expect("length")
                .to_be_bytes(),
        );
        command.extend(0x0000_0182_u32.to_be_bytes());
        command.extend(body);
        for _ in 0..100 {
            let mut stream = UnixStream::connect(self.socket()).expect("TPM");
            stream.write_all(&command).expect("command");
            let mut header = [0; 10];
            stream.read_exact(&mut header).expect("answer");
            match header[6..] {
                [0, 0, 0, 0] => return,
                // It asks for the command again.
                [0, 0, 0x09, 0x22] => std::thread::sleep(Duration::from_millis(20)),
                _ => panic!("PCR_Extend: {header:x?}"),
            }
        }
        panic!("the TPM stays busy");
    }
}

/// A maker of TPMs: swtpm's tools with a CA of their own.
pub struct Maker(TempDir);

impl Maker {
    /// Makes a maker with a new CA.
    pub fn new() -> Self {
        let folder = TempDir::new().expect("folder");
        let (name, ca) = (folder.path().display(), folder.path().join("ca"));
        std::fs::create_dir(&ca).expect("folder");
        let ca = ca.display();
        let write = |file: &str, text: String| {
            std::fs::write(folder.path().join(file), text).expect("file")
        };
        write(
            "ca.conf",
            format!(
                "statedir = {ca}\nsigningkey = {ca}/key.pem\nissuercert = {ca}/issuer.pem\ncertserial = {ca}/serial\n"
            ),
        );
        write(
            "options",
            "--platform-manufacturer Example --platform-version 1 --platform-model Test\n"
                .to_owned(),
        );
        write(
            "setup.conf",
            format!(
                "create_certs_tool=swtpm_localca\ncreate_certs_tool_config={name}/ca.conf\ncreate_certs_tool_options={name}/options\n"
            ),
        );
        Self(folder)
    }

    fn manufacture(&self, state: &Path) {
        let output = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--tpmstate"])
            .arg(state)
            .arg("--config")
            .arg(self.0.path().join("setup.conf"))
            .stdin(Stdio::null())
            .output()
            .expect("swtpm-tools are installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }

    /// Returns the root of the maker and what the root has signed, in PEM. They exist once the maker has
    /// made a TPM.
    pub fn certificates(&self) -> String {
        let read = |name: &str| {
            std::fs::read_to_string(self.0.path().join("ca").join(name)).expect("certificate")
        };
        read("swtpm-localca-rootca-cert.pem") + &read("issuer.pem")
    }
}

impl Default for Maker {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("folder") {
        let entry = entry.expect("entry");
        if entry.file_type().expect("type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
        }
    }
}
