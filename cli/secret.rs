//! Secrets that daemons are given: in files that not everybody may read, or in the environment; never on the command line,
//! where every user of the machine sees them.

use crate::exit::Failure;
use ollamamax_control_plane::Headers;
use ollamamax_control_plane::config::{SealingKey, SealingSource};
use ollamamax_sources::Credentials;
use ollamamax_tls::JoinToken;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The text of a join token.
pub const JOIN_TOKEN: &str = "OLLAMAMAX_JOIN_TOKEN";
/// The text of the sealing key.
const SEALING_KEY: &str = "OLLAMAMAX_SEALING_KEY";
/// What receivers of the trail want to see: OpenTelemetry's own name for it.
const RECEIVER_HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// Where systemd puts what `LoadCredential=` names, and the name to use there.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
const SEALING_CREDENTIAL: &str = "ollamamax-sealing-key";
/// Longest file read.
const FILE_BYTES: u64 = 16 * 1024;

/// The join token of `file`, else of the environment. A data directory with a certificate needs none: what is missing or
/// broken then is only told.
pub fn join_token(file: Option<&Path>, data_dir: &Path) -> Result<Option<JoinToken>, Failure> {
    let read = || -> Result<Option<JoinToken>, Failure> {
        let text = match file {
            Some(path) => Some(read_file(path)?),
            None => variable(JOIN_TOKEN),
        };
        let token = text.map(|text| JoinToken::parse(&text)).transpose();
        token.map_err(|error| Failure::Daemon { message: error.to_string(), code: CONFIG })
    };
    match read() {
        Err(failure) if data_dir.join("identity/identity.pem").exists() => {
            tracing::debug!(%failure, "the join token is not needed");
            Ok(None)
        }
        read => read,
    }
}

/// Where the sealing key is: in `file`, in the environment, where systemd puts it, else in the data directory.
pub fn sealing(file: Option<PathBuf>) -> Result<SealingSource, Failure> {
    if let Some(path) = file {
        return Ok(SealingSource::File(path));
    }
    if let Some(text) = variable(SEALING_KEY) {
        let key = SealingKey::parse(&text);
        let wrong =
            |error| Failure::Daemon { message: format!("{SEALING_KEY}: {error}"), code: CONFIG };
        return key.map(SealingSource::Given).map_err(wrong);
    }
    let given = std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from);
    let given = given.map(|dir| dir.join(SEALING_CREDENTIAL)).filter(|path| path.exists());
    Ok(given.map_or(SealingSource::DataDir, SealingSource::File))
}

/// What receivers of the trail want to see.
pub fn receiver_headers() -> Result<Headers, Failure> {
    let Some(text) = variable(RECEIVER_HEADERS) else { return Ok(Headers::default()) };
    text.parse().map_err(|error| Failure::Daemon {
        message: format!("{RECEIVER_HEADERS}: {error}"),
        code: CONFIG,
    })
}

/// What registries want to see of who asks.
pub fn registries(path: &Path) -> Result<Credentials, Failure> {
    let text = read_file(path)?;
    Credentials::parse(&text).map_err(|why| Failure::Daemon {
        message: format!("`{}`: {why}", path.display()),
        code: CONFIG,
    })
}

const CONFIG: u8 = ollamamax_control_plane::error::EXIT_CONFIG;

fn variable(name: &str) -> Option<Zeroizing<String>> {
    std::env::var(name).ok().map(Zeroizing::new).filter(|text| !text.trim().is_empty())
}

/// What stands in a file that not everybody may read.
pub fn read_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let metadata = std::fs::metadata(path).map_err(Failure::file("read", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        let shown = path.display();
        let message =
            format!("everybody may read `{shown}` (mode {mode:03o}); run `chmod 600 {shown}`");
        return Err(Failure::Daemon { message, code: CONFIG });
    }
    if metadata.len() > FILE_BYTES {
        let message = format!("`{}` has more than {FILE_BYTES} bytes", path.display());
        return Err(Failure::Daemon { message, code: CONFIG });
    }
    let text = std::fs::read_to_string(path).map_err(Failure::file("read", path))?;
    Ok(Zeroizing::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_everybody_may_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        std::fs::write(&path, "omj_x").expect("written");
        let open = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
        open(0o644).expect("opened");
        let failure = join_token(Some(&path), directory.path()).expect_err("refused");
        assert!(failure.to_string().contains("chmod 600"), "{failure}");
        open(0o640).expect("closed");
        let failure = join_token(Some(&path), directory.path()).expect_err("no token");
        assert!(!failure.to_string().contains("omj_x"), "{failure}");
        std::fs::create_dir(directory.path().join("identity")).expect("made");
        std::fs::write(directory.path().join("identity/identity.pem"), "").expect("written");
        assert!(join_token(Some(&path), directory.path()).expect("not needed").is_none());
    }
}
