//! A broker in this process, with its own CA, store and operator, for `sundew demo` and
//! `sundew dev`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use sundew_broker::ca::Ca;
use sundew_broker::serve::Server;
use sundew_broker::serve::config::Config;
use sundew_sdk::SpiffeId;

use crate::args::Connect;
use crate::root_key;
use crate::svid_files::write_svid;

/// Where a local broker listens; with port 0, on a free port.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) workloads: SocketAddr,
    pub(crate) operations: SocketAddr,
}

impl Places {
    /// Free ports of this machine.
    pub(crate) fn any() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            workloads: any,
            operations: any,
        }
    }
}

/// A local broker and the folder with its state.
pub(crate) struct Local {
    pub(crate) server: Server,
    folder: PathBuf,
    domain: &'static str,
}

impl Local {
    /// Starts a broker, and returns when it serves. State that is in the folder from an earlier run
    /// is used again.
    pub(crate) async fn start(folder: &Path, domain: &'static str, places: Places) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
        let folder = folder.canonicalize()?;
        make_root_key(&folder.join("root.key"))?;
        let config =
            Config::parse(&config_text(&folder, domain, places)).map_err(|e| anyhow!("{e}"))?;
        let server = Server::start(config).await?;
        let local = Self {
            server,
            folder,
            domain,
        };
        local.write_operator()?;
        local.server.ready().await;
        Ok(local)
    }

    fn ca(&self) -> Result<&Ca> {
        self.server.ca().context("the local broker has no CA")
    }

    /// Gives the operator of this broker a new SVID.
    pub(crate) fn write_operator(&self) -> Result<()> {
        self.write_svid_of("operator", &self.operator_dir())
    }

    /// Writes a new SVID of `/<name>` into a folder.
    pub(crate) fn write_svid_of(&self, name: &str, out: &Path) -> Result<()> {
        let id = SpiffeId::parse(&format!("spiffe://{}/{name}", self.domain))
            .map_err(|e| anyhow!("{e}"))?;
        let (svid, key) = self.ca()?.issue_own(&id, &[])?;
        write_svid(out, &svid.chain, key.expose(), &svid.bundle)
    }

    /// Returns half of the time for which an SVID of this broker is good.
    pub(crate) fn half_life(&self) -> Result<std::time::Duration> {
        Ok(self.ca()?.ttl().to_std() / 2)
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn operator_dir(&self) -> PathBuf {
        self.folder.join("operator")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.folder.join("workload.sock").display())
    }

    pub(crate) fn broker(&self) -> String {
        self.server.workloads().to_string()
    }

    /// Returns how to connect to this broker with the SVID in a folder.
    pub(crate) fn connect_with(&self, svid_dir: PathBuf) -> Connect {
        Connect {
            broker: Some(self.broker()),
            broker_id: Some(format!("spiffe://{}/sundew/broker", self.domain)),
            svid_dir: Some(svid_dir),
            endpoint_socket: None,
        }
    }
}

/// Makes a root key. A key that is there already stays, because it seals the secrets that are
/// stored.
fn make_root_key(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    root_key::write_new(path).map(drop)
}

fn config_text(folder: &Path, domain: &str, places: Places) -> String {
    let path = |name: &str| toml_string(&folder.join(name).display().to_string());
    format!(
        r#"
[listen]
workloads = "{workloads}"
operations = "{operations}"
workload_api = {socket}
reflection = true

[identity]
source = "embedded_ca"
trust_domain = "{domain}"
dns_names = ["localhost"]

[store]
url = {store}

[keys]
root_key_file = {key}

[journal]
directory = {journal}

[[operators]]
spiffe_id = "spiffe://{domain}/operator"
roles = ["registrar", "responder", "introspector"]
"#,
        workloads = places.workloads,
        operations = places.operations,
        socket = path("workload.sock"),
        store = toml_string(&format!("embedded:{}", folder.join("store.log").display())),
        key = path("root.key"),
        journal = path("journal"),
    )
}

/// Returns a text as a basic string of TOML.
fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use sundew_broker::serve::config::Config;

    use super::{Places, config_text, make_root_key, toml_string};

    #[test]
    fn the_configuration_is_valid_wherever_the_folder_is() {
        for folder in ["/tmp/state", "/tmp/a \"quoted\" \\ folder"] {
            Config::parse(&config_text(Path::new(folder), "dev.local", Places::any())).unwrap();
        }
    }

    #[test]
    fn a_text_with_quotes_is_one_string() {
        assert_eq!(toml_string(r#"a"b\c"#), r#""a\"b\\c""#);
    }

    #[test]
    fn the_root_key_is_private_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        make_root_key(&path).unwrap();
        let key = std::fs::read_to_string(&path).unwrap();
        assert_eq!(hex::decode(&key).unwrap().len(), 32);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        make_root_key(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), key);
    }
}
