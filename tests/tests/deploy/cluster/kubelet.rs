//! A kubelet that reads the objects of files, and starts their containers on this machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sundew_tests::pod::{Pod, empty_volume, project};
use tempfile::TempDir;

use super::super::kubernetes::objects;

/// The token of each account.
pub(super) const TOKEN: &str = "eyJ.the-cluster-s-own.token";
/// The mode of files for which an object names none.
const DEFAULT_MODE: u64 = 0o644;

/// A pod of a StatefulSet: its number is that of its address.
pub(super) struct PodName {
    pub(super) name: String,
    set: String,
    address: String,
}

impl PodName {
    pub(super) fn new(set: &str, number: usize, address: &str) -> Self {
        Self {
            name: format!("{set}-{number}"),
            set: set.to_owned(),
            address: address.to_owned(),
        }
    }
}

/// The objects, and the containers that run.
pub(super) struct Kubelet {
    folder: TempDir,
    objects: Vec<Value>,
    running: Vec<(String, Child)>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Kubelet {
    /// Reads what the clients have sent into this folder. `ca` is the CA of the cluster.
    pub(super) fn new(folder: TempDir, hosts: &[(&str, &str)], ca: &str) -> Self {
        let mut yaml = std::fs::read_to_string(folder.path().join("chart.yaml")).expect("chart");
        for entry in std::fs::read_dir(folder.path()).expect("folder") {
            let path = entry.expect("entry").path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                yaml.push_str("\n---\n");
                yaml.push_str(&std::fs::read_to_string(path).expect("object"));
            }
        }
        let mut objects = objects(&yaml);
        objects.push(serde_json::json!({
            "kind": "ConfigMap",
            "metadata": { "name": "kube-root-ca.crt" },
            "data": { "ca.crt": ca },
        }));
        let lines: String = hosts
            .iter()
            .map(|(ip, name)| format!("{ip} {name}\n"))
            .collect();
        std::fs::write(folder.path().join("hosts"), lines).expect("hosts");
        std::fs::write(folder.path().join("nsswitch.conf"), "hosts: files\n").expect("nsswitch");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).expect("mode");
        Self {
            folder,
            objects,
            running: Vec::new(),
        }
    }

    fn object(&self, kind: &str, name: &Value) -> &Value {
        self.objects
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == *name)
            .unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    fn spec(&self, pod: &PodName) -> &Value {
        &self.object("StatefulSet", &pod.set.as_str().into())["spec"]["template"]["spec"]
    }

    /// Where the claim of a pod is.
    pub(super) fn claim(&self, pod: &PodName, name: &str) -> PathBuf {
        self.folder.path().join("claims").join(&pod.name).join(name)
    }

    /// Starts the containers of a pod.
    pub(super) fn start(&mut self, pod: &PodName) {
        let volumes = self.folder.path().join("pods").join(&pod.name);
        let _ = std::fs::remove_dir_all(volumes);
        let containers = self.spec(pod)["containers"].clone();
        for container in containers.as_array().expect("containers") {
            let (name, log) = self.names(pod, container);
            let log = std::fs::File::create(log).expect("log");
            let mut command = self.command(pod, container);
            command.args(words(&container["command"]));
            // An image without a command of the object has its own entry point.
            if container["command"].is_null() {
                command.arg("/sundew");
            }
            let child = command
                .args(words(&container["args"]))
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("log"))
                .stderr(log)
                .spawn()
                .expect("container");
            self.running.push((name, child));
        }
    }

    /// Kills all containers of a pod.
    pub(super) fn kill(&mut self, pod: &PodName) {
        let own = format!("{}/", pod.name);
        self.running.retain_mut(|(name, child)| {
            if !name.starts_with(&own) {
                return true;
            }
            child.kill().expect("killed");
            child.wait().expect("killed");
            false
        });
    }

    /// Runs a command in a container.
    pub(super) fn exec(&self, pod: &PodName, container: &str, words: &[&str]) -> Output {
        let containers = self.spec(pod)["containers"].as_array().expect("containers");
        let container = containers.iter().find(|found| found["name"] == container);
        let mut command = self.command(pod, container.expect("container"));
        command
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("run")
    }

    /// Whether a probe of all containers of a pod succeeds; fails if a container has ended.
    pub(super) fn probe(&mut self, pod: &PodName, which: &str) -> bool {
        let logs = self.logs();
        for (name, child) in &mut self.running {
            let ended = child.try_wait().expect("status");
            assert!(ended.is_none(), "{name} has ended: {ended:?}\n{logs}");
        }
        let containers = self.spec(pod)["containers"].as_array().expect("containers");
        containers.iter().all(|container| {
            let probe = &container[which];
            if let Some(exec) = probe.get("exec") {
                let words = words(&exec["command"]);
                let name = container["name"].as_str().expect("name");
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                return self.exec(pod, name, &words).status.success();
            }
            let get = &probe["httpGet"];
            let ports = container["ports"].as_array().expect("ports");
            let port = ports
                .iter()
                .find(|port| port["name"] == get["port"])
                .expect("port");
            let place = format!("{}:{}", pod.address, port["containerPort"]);
            is_answered(&place, get["path"].as_str().expect("path"))
        })
    }

    /// The end of what each container printed.
    pub(super) fn logs(&self) -> String {
        let mut all = String::new();
        for (name, _) in &self.running {
            let path = self
                .folder
                .path()
                .join(format!("{}.log", name.replace('/', ".")));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            all.push_str(&format!("== {name}\n{tail}\n"));
        }
        all
    }

    fn names(&self, pod: &PodName, container: &Value) -> (String, PathBuf) {
        let name = format!("{}/{}", pod.name, container["name"].as_str().expect("name"));
        let log = self
            .folder
            .path()
            .join(format!("{}.log", name.replace('/', ".")));
        (name, log)
    }

    /// A command that enters a container, with its environment.
    fn command(&self, pod: &PodName, container: &Value) -> Command {
        let spec = self.spec(pod);
        let rights = &spec["securityContext"];
        assert_eq!(rights["runAsUser"], rights["fsGroup"]);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        let group = u32::try_from(rights["fsGroup"].as_u64().expect("fsGroup")).expect("group");
        // It outlives the command, and goes with the kubelet's own.
        let root = tempfile::tempdir_in(self.folder.path())
            .expect("folder")
            .keep();
        let mut inside = Pod::within(root, group);
        for file in ["hosts", "nsswitch.conf"] {
            inside.mount(
                "ro",
                &self.folder.path().join(file),
                &format!("/etc/{file}"),
            );
        }
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            let name = mount["name"].as_str().expect("name");
            let way = if mount["readOnly"] == true {
                "ro"
            } else {
                "rw"
            };
            let from = self.volume(pod, name, group);
            inside.mount(way, &from, mount["mountPath"].as_str().expect("path"));
        }
        let mut command = inside.command();
        for variable in container["env"].as_array().into_iter().flatten() {
            let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
            let value = match field.as_str() {
                Some("metadata.name") => &pod.name,
                Some("status.podIP") => &pod.address,
                _ => variable["value"].as_str().expect("value"),
            };
            command.env(variable["name"].as_str().expect("name"), value);
        }
        command
    }

    /// Makes a volume of a pod when it is asked for first, and returns where it is.
    fn volume(&self, pod: &PodName, name: &str, group: u32) -> PathBuf {
        let volumes = self.spec(pod)["volumes"].as_array().expect("volumes");
        let Some(volume) = volumes.iter().find(|volume| volume["name"] == name) else {
            let claim = self.claim(pod, name);
            if !claim.exists() {
                empty_volume(&claim, group);
            }
            return claim;
        };
        let path = self.folder.path().join("pods").join(&pod.name).join(name);
        if path.exists() {
            return path;
        }
        if volume.get("emptyDir").is_some() {
            empty_volume(&path, group);
            return path;
        }
        let (sources, holder) = match volume.get("projected") {
            Some(projected) => (projected["sources"].as_array().cloned(), projected),
            None => {
                let holder = volume.get("configMap").or(volume.get("secret"));
                (
                    Some(vec![volume.clone()]),
                    holder.expect("a kind of volume"),
                )
            }
        };
        let mut files = BTreeMap::new();
        for source in sources.expect("sources") {
            self.add_files(&source, &mut files);
        }
        let mode = holder["defaultMode"].as_u64().unwrap_or(DEFAULT_MODE);
        let list: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(name, content)| (name.as_str(), content.as_slice()))
            .collect();
        project(&path, group, u32::try_from(mode).expect("mode"), &list);
        path
    }

    /// Adds the files of one source of a volume.
    fn add_files(&self, source: &Value, files: &mut BTreeMap<String, Vec<u8>>) {
        if let Some(token) = source.get("serviceAccountToken") {
            let path = token["path"].as_str().expect("path");
            files.insert(path.to_owned(), TOKEN.as_bytes().to_vec());
            return;
        }
        let (kind, holder) = match (source.get("configMap"), source.get("secret")) {
            (Some(map), _) => ("ConfigMap", map),
            (None, Some(secret)) => ("Secret", secret),
            (None, None) => panic!("{source} is not known here"),
        };
        let name = holder
            .get("name")
            .or(holder.get("secretName"))
            .expect("name");
        let data = self.object(kind, name)["data"].as_object().expect("data");
        let content = |key: &str| {
            let text = data.get(key).and_then(Value::as_str);
            let text = text.unwrap_or_else(|| panic!("{kind} {name} has no {key}"));
            match kind {
                "Secret" => STANDARD.decode(text).expect("base64"),
                _ => text.as_bytes().to_vec(),
            }
        };
        match holder["items"].as_array() {
            Some(items) => {
                for item in items {
                    let path = item["path"].as_str().expect("path").to_owned();
                    files.insert(path, content(item["key"].as_str().expect("key")));
                }
            }
            None => files.extend(data.keys().map(|key| (key.clone(), content(key)))),
        }
    }
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_array().into_iter().flatten();
    words
        .map(|word| word.as_str().expect("text").to_owned())
        .collect()
}

/// Whether a server answers a request by its address with success, as a kubelet asks.
fn is_answered(place: &str, path: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(place)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
