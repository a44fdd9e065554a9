//! What `login` keeps for the next commands: one entry for each address, in `$XDG_CONFIG_HOME/ollamamax/credentials.json`,
//! which only its owner may read.
//!
//! ```text
//! OLLAMA_API_KEY, else the entry for the address: an API key, or a login (access token, refreshed when it is about to expire)
//! ```
//!
//! A credential is sent to the address it was kept for and to the nodes that the cluster there named, to nobody else.

use crate::exit::Failure;
use crate::host::Endpoint;
use crate::known_nodes::user_directory;
use ollamamax_tls::private;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use zeroize::Zeroizing;

const FILE: &str = "credentials.json";
/// Largest file read back: some hundred logins.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// A text that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What is kept for one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Entry {
    /// An API key.
    Key {
        /// The key.
        key: Secret,
    },
    /// A login.
    Login {
        /// Whose.
        user: String,
        /// Good until `expires_at`.
        access_token: Secret,
        /// Replaced each time it is used.
        refresh_token: Secret,
        /// In milliseconds since the epoch.
        expires_at: u64,
    },
}

/// Where they are kept.
#[derive(Clone, Debug)]
pub struct Credentials {
    directory: Option<PathBuf>,
}

impl Credentials {
    /// In the user's configuration directory; nowhere when there is none.
    pub fn of_user() -> Self {
        Self { directory: user_directory("XDG_CONFIG_HOME", ".config") }
    }

    /// In a directory of the caller's choice.
    #[cfg(test)]
    pub fn at(directory: &std::path::Path) -> Self {
        Self { directory: Some(directory.to_owned()) }
    }

    /// What is kept for an address.
    pub fn find(&self, endpoint: &Endpoint) -> Result<Option<Entry>, Failure> {
        Ok(self.read()?.remove(&endpoint.to_string()))
    }

    /// Keeps it for an address.
    pub fn keep(&self, endpoint: &Endpoint, entry: Entry) -> Result<(), Failure> {
        let mut all = self.read()?;
        all.insert(endpoint.to_string(), entry);
        self.write(&all)
    }

    /// Forgets what is kept for an address; whether there was anything.
    pub fn forget(&self, endpoint: &Endpoint) -> Result<bool, Failure> {
        let mut all = self.read()?;
        let was_there = all.remove(&endpoint.to_string()).is_some();
        if was_there {
            self.write(&all)?;
        }
        Ok(was_there)
    }

    fn read(&self) -> Result<BTreeMap<String, Entry>, Failure> {
        let Some(directory) = &self.directory else { return Ok(BTreeMap::new()) };
        let bytes = private::load(directory, FILE, FILE_BYTES_MAX)
            .map_err(|error| Failure::Other(error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(BTreeMap::new()) };
        serde_json::from_slice(&bytes).map_err(|error| {
            // The error of the parser may quote what it read.
            let (line, path) = (error.line(), directory.join(FILE));
            Failure::Other(format!(
                "`{}` cannot be read from line {line} on; delete it and log in again",
                path.display()
            ))
        })
    }

    fn write(&self, all: &BTreeMap<String, Entry>) -> Result<(), Failure> {
        let directory = self.directory.as_ref().ok_or_else(|| {
            Failure::Other(
                "there is no home directory to keep credentials in; set `HOME`, or use `OLLAMA_API_KEY`"
                    .to_owned(),
            )
        })?;
        let text = serde_json::to_vec_pretty(all).map(Zeroizing::new);
        let text = text.map_err(|error| Failure::Other(error.to_string()))?;
        private::save(directory, FILE, &text).map_err(|error| Failure::Other(error.to_string()))
    }
}

/// Reads a secret: hidden from a terminal, else the first line of stdin.
pub fn ask_secret(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    use std::io::{IsTerminal, Read};
    let read = if std::io::stdin().is_terminal() {
        rpassword::prompt_password(prompt)
    } else {
        let mut text = String::new();
        std::io::stdin().take(64 * 1024).read_to_string(&mut text).map(|_| text)
    };
    let text = Zeroizing::new(read.map_err(Failure::file("read", "stdin"))?);
    let line = Zeroizing::new(text.lines().next().unwrap_or_default().to_owned());
    if line.is_empty() {
        return Err(Failure::Usage("nothing was typed or piped in".to_owned()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn credentials_are_kept_for_their_owner_and_their_address_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("config");
        let kept = Credentials::at(&directory);
        let nodes = host::parse("127.0.0.1:1,127.0.0.1:2").expect("valid");
        assert_eq!(kept.find(&nodes[0]).expect("nothing yet"), None);
        let key = Secret(Zeroizing::new("omk_secret".into()));
        let entry = Entry::Key { key };
        kept.keep(&nodes[0], entry.clone()).expect("kept");
        assert_eq!(kept.find(&nodes[0]).expect("read"), Some(entry.clone()));
        assert_eq!(kept.find(&nodes[1]).expect("read"), None);
        assert!(!format!("{entry:?}").contains("secret"));
        let file = directory.join(FILE);
        let mode = std::fs::metadata(&file).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("changed");
        let error = kept.find(&nodes[0]).expect_err("others could read it").to_string();
        assert!(error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("changed");
        assert!(kept.forget(&nodes[0]).expect("forgotten"));
        assert!(!kept.forget(&nodes[0]).expect("not there"));
        std::fs::write(&file, b"{\"a\": omk_secret}").expect("written");
        let error = kept.find(&nodes[0]).expect_err("no JSON").to_string();
        assert!(error.contains("log in again") && !error.contains("omk_"), "{error}");
    }
}
