//! Whom this command line believes over HTTPS beside the system's authorities: the file that was named (`--ca-file`), and what
//! `up --tls` left for the addresses of its nodes, in the user's data directory, one small file for each.

use crate::exit::Failure;
use crate::host::Endpoint;
use crate::known_nodes::{data_directory, write_atomically};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Largest file read: a bundle of a few authorities.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Files with authorities.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    files: Vec<PathBuf>,
}

impl Trust {
    /// The system's authorities, and those of a file.
    pub fn of(file: Option<&Path>) -> Self {
        Self { files: file.map(Path::to_owned).into_iter().collect() }
    }

    /// And what was left for the addresses that are spoken to over HTTPS.
    #[must_use]
    pub fn and_left_for(mut self, endpoints: &[Endpoint]) -> Self {
        let encrypted = endpoints.iter().filter(|endpoint| endpoint.scheme == "https");
        for file in encrypted.filter_map(left_for) {
            if !self.files.contains(&file) {
                self.files.push(file);
            }
        }
        self
    }

    /// The authorities.
    pub fn certificates(&self) -> Result<Vec<reqwest::Certificate>, Failure> {
        let mut all = Vec::new();
        for file in &self.files {
            let size = std::fs::metadata(file).map_err(Failure::file("read", file))?.len();
            if size > FILE_BYTES_MAX {
                let text =
                    format!("`{}` has {size} bytes, at most {FILE_BYTES_MAX}", file.display());
                return Err(Failure::Usage(text));
            }
            let pem = std::fs::read(file).map_err(Failure::file("read", file))?;
            let read = reqwest::Certificate::from_pem_bundle(&pem);
            let read = read.ok().filter(|certificates| !certificates.is_empty());
            all.extend(read.ok_or_else(|| {
                let file = file.display();
                Failure::Usage(format!("`{file}` holds no certificates in PEM"))
            })?);
        }
        Ok(all)
    }
}

/// Whether a connection failed because the server is not believed.
pub fn is_doubt(cause: &str) -> bool {
    cause.to_lowercase().contains("certificate")
}

/// Why there is no connection, and what to do where that is a matter of trust.
pub fn explain(cause: String) -> String {
    match is_doubt(&cause) {
        true => format!("{cause}; name a file with the authority to believe with --ca-file"),
        false => cause,
    }
}

fn file(endpoint: &Endpoint) -> Option<PathBuf> {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let name: String = format!("{}_{}", endpoint.host, endpoint.port).chars().map(safe).collect();
    Some(data_directory()?.join("authorities").join(format!("{name}.pem")))
}

/// The authority that was left for an address.
pub fn left_for(endpoint: &Endpoint) -> Option<PathBuf> {
    file(endpoint).filter(|file| file.is_file())
}

/// Leaves the authority of nodes for the commands that follow.
pub fn leave(endpoints: &[Endpoint], authority: &str) -> Result<(), Failure> {
    for file in endpoints.iter().filter_map(file) {
        write_atomically(&file, authority.as_bytes()).map_err(Failure::file("write", file))?;
    }
    Ok(())
}

/// Takes away what was left: there is no HTTPS at these addresses any more.
pub fn take_away(endpoints: &[Endpoint]) -> Result<(), Failure> {
    for file in endpoints.iter().filter_map(file) {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Failure::file("remove", file)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
