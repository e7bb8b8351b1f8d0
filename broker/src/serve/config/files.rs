//! Every file that a configuration names, opened as a broker would open it, so that whoever checks a
//! configuration hears of all of them at once (C6).

use std::path::Path;

use toml::{Table, Value};

use super::{Config, ConfigError, Identity};
use crate::evidence::offline::Trusted;
use crate::peer::files::{FileError, read_bundle, read_identity, read_private, read_public};
use crate::serve::read_root_keys;

/// What a file holds.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Content {
    /// A secret, which others may not read.
    Private,
    Public,
}

/// The keys that name files: section, key, and what the file holds. A section may be a list of tables,
/// and a key a list of names.
const NAMED: [(&str, &str, Content); 22] = [
    ("identity", "certificate", Content::Public),
    ("identity", "key", Content::Private),
    ("trust", "bundle", Content::Public),
    ("bundle_endpoint", "certificate", Content::Public),
    ("bundle_endpoint", "key", Content::Private),
    ("federation", "ca_file", Content::Public),
    ("federation", "bundle", Content::Public),
    ("store", "password_file", Content::Private),
    ("store", "ca_file", Content::Public),
    ("store", "certificate_file", Content::Public),
    ("store", "key_file", Content::Private),
    ("keys", "root_key_file", Content::Private),
    ("keys", "other_root_key_files", Content::Private),
    ("issuers", "jwks_file", Content::Public),
    ("issuers", "ca_file", Content::Public),
    ("issuers", "token_file", Content::Private),
    ("trust_material", "file", Content::Public),
    ("trust_material", "ca_file", Content::Public),
    ("traces", "headers_file", Content::Private),
    ("traces", "ca_file", Content::Public),
    ("traces", "certificate_file", Content::Public),
    ("traces", "key_file", Content::Private),
];

impl Config {
    /// Says everything that is wrong with a configuration file and with the files that it names, one
    /// line each, by key; nothing if a broker can start with it.
    #[must_use]
    pub fn check(path: &Path) -> Vec<String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return vec![format!("cannot be read: {error}")],
        };
        let unopened = text
            .parse()
            .map_or_else(|_| Vec::new(), |table| unopened(&table));
        match Self::parse(&text) {
            // What cannot be opened needs no second word about its content.
            Ok(config) if unopened.is_empty() => config.wrong_content(),
            Ok(_) => unopened,
            Err(ConfigError(errors)) => [errors, unopened].concat(),
        }
    }

    /// What is wrong with the content of files that can be opened.
    fn wrong_content(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut note = |key: &str, result: Result<(), String>| {
            problems.extend(result.err().map(|error| format!("{key}: {error}")));
        };
        if let Identity::Files { certificate, key } = &self.identity {
            note("identity", text_of(read_identity(certificate, key)));
        }
        let endpoint = self.bundle_endpoint.as_ref();
        if let Some((certificate, key)) = endpoint.and_then(|e| e.certificate.as_ref()) {
            note("bundle_endpoint", text_of(read_identity(certificate, key)));
        }
        for (domain, path) in &self.trust {
            note("trust", text_of(read_bundle(domain, path)));
        }
        // The error names the key itself.
        problems.extend(read_root_keys(self).err().map(|error| error.to_string()));
        if problems.is_empty()
            && let Err(error) = Trusted::read(&self.trust_sources(), &[])
        {
            problems.push(format!("issuers or trust_material: {error}"));
        }
        problems
    }
}

fn text_of<T>(result: Result<T, FileError>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// The files that cannot be opened, by the keys that name them.
fn unopened(file: &Table) -> Vec<String> {
    let mut problems = Vec::new();
    for (section, key, content) in NAMED {
        for (place, table) in tables(file, section) {
            for path in table.get(key).map(names).unwrap_or_default() {
                let path = Path::new(path);
                let read = match content {
                    Content::Private => read_private(path).map(drop),
                    Content::Public => read_public(path).map(drop),
                };
                problems.extend(read.err().map(|error| format!("{place}.{key}: {error}")));
            }
        }
    }
    let directory = file
        .get("journal")
        .and_then(|journal| journal.get("directory"));
    for path in directory.map(names).unwrap_or_default() {
        let path = Path::new(path);
        if path.exists() && !path.is_dir() {
            problems.push(format!(
                "journal.directory: {}: is no folder",
                path.display()
            ));
        }
    }
    problems
}

/// The tables of a section, each with its name.
fn tables<'a>(file: &'a Table, section: &str) -> Vec<(String, &'a Table)> {
    let Some(value) = file.get(section) else {
        return Vec::new();
    };
    let one = value.as_table().map(|table| (section.to_owned(), table));
    let list = value.as_array().into_iter().flatten().enumerate();
    let numbered = |(number, value): (usize, &'a Value)| {
        let table = value.as_table()?;
        Some((format!("{section}[{number}]"), table))
    };
    one.into_iter().chain(list.filter_map(numbered)).collect()
}

/// The text of a value, or the texts of a list.
fn names(value: &Value) -> Vec<&str> {
    let list = value.as_array().into_iter().flatten();
    let texts = list.filter_map(Value::as_str);
    value.as_str().into_iter().chain(texts).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A configuration whose files are in a folder, with this in the place of some of its text.
    fn problems(write: impl FnOnce(&Path), from: &str, to: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let text = format!(
            "[listen]\nworkloads = \"127.0.0.1:1\"\n\
             [identity]\nsource = \"embedded_ca\"\ntrust_domain = \"a\"\n\
             [store]\nurl = \"rediss://r:1\"\npassword_file = \"{root}/password\"\n\
             ca_file = \"{root}/ca.pem\"\n\
             [keys]\nroot_key_file = \"{root}/root.key\"\n\
             [journal]\ndirectory = \"{root}/journal\"\n\
             [[trust]]\ntrust_domain = \"b\"\nbundle = \"{root}/b.pem\"\n",
            root = root.display()
        );
        write(root);
        let path = root.join("sundew.toml");
        fs::write(&path, text.replace(from, to)).unwrap();
        let problems = Config::check(&path);
        let short = |text: String| text.replace(&root.display().to_string(), "");
        problems.into_iter().map(short).collect()
    }

    fn private(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn c6_every_file_that_cannot_be_opened_is_told_at_once_by_its_key() {
        let none = "No such file or directory (os error 2)";
        let unopened = [
            format!("trust[0].bundle: /b.pem: {none}"),
            format!("store.password_file: /password: {none}"),
            format!("store.ca_file: /ca.pem: {none}"),
            format!("keys.root_key_file: /root.key: {none}"),
        ];
        assert_eq!(problems(|_| (), "", ""), unopened);
        // Also beside what is wrong with the configuration itself.
        let both = problems(|_| (), "[keys]\n", "[keys]\nverify = false\n");
        assert_eq!(both.len(), 1 + unopened.len(), "{both:?}");
        assert!(
            both[0].starts_with("keys.verify: unknown field"),
            "{both:?}"
        );
    }

    #[test]
    fn c6_a_secret_that_others_may_read_and_content_that_is_none_are_told() {
        let write = |mode: u32, key: &'static str| {
            move |root: &Path| {
                private(&root.join("password"), "p");
                private(&root.join("root.key"), key);
                fs::write(root.join("ca.pem"), "").unwrap();
                fs::write(root.join("b.pem"), "no bundle").unwrap();
                let mode = fs::Permissions::from_mode(mode);
                fs::set_permissions(root.join("password"), mode).unwrap();
            }
        };
        let open = problems(write(0o644, "short"), "", "");
        assert!(
            open[0].starts_with("store.password_file: /password: others may"),
            "{open:?}"
        );
        assert_eq!(open.len(), 1);
        let content = problems(write(0o600, "short"), "", "");
        assert!(content[0].starts_with("trust: /b.pem: "), "{content:?}");
        assert!(content[1].contains("keys.root_key_file"), "{content:?}");
        assert_eq!(content.len(), 2);
    }

    /// Whoever adds a key that names a file adds it here.
    #[test]
    fn c6_every_key_of_the_sections_that_names_a_file_is_known() {
        let sources = [
            include_str!("file.rs"),
            include_str!("trust.rs"),
            include_str!("../../material/mod.rs"),
            include_str!("../../material/issuers.rs"),
            include_str!("../../traces/config.rs"),
        ];
        for source in sources {
            let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
            for line in code
                .lines()
                .filter(|line| line.contains(": ") && line.contains("PathBuf"))
            {
                let name = line.split(": ").next().unwrap();
                let name = name.rsplit(' ').next().unwrap();
                // Folders, sockets, and pairs that are made of two keys.
                let is_other = [
                    "directory",
                    "archive_to",
                    "client",
                    "workload_api",
                    "socket",
                ]
                .contains(&name);
                let is_field = line.trim_start().starts_with("pub") || line.ends_with(',');
                let is_known = NAMED.iter().any(|(_, key, _)| *key == name);
                assert!(!is_field || is_other || is_known, "{line}");
            }
        }
    }
}
