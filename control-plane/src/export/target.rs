//! Where a trail is exported to, as it is said on the command line: `file:PATH`, `stdout`, `otlp:URL`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file of JSON lines, to which is added.
    File(PathBuf),
    /// JSON lines.
    Stdout,
    /// A receiver of OpenTelemetry's protocol over gRPC, by its URL.
    Otlp(String),
}

/// A text that names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// Another kind.
    #[error("expected `file:PATH`, `stdout`, or `otlp:URL` such as `otlp:http://127.0.0.1:4317`")]
    Kind,
    /// A URL of another kind.
    #[error("the URL of an OTLP receiver begins with `http://` or `https://` and has a host")]
    Url,
    /// A URL that everybody sees in the list of processes.
    #[error(
        "a URL with a password does not belong in an argument; let the receiver ask for none, or put a proxy before it"
    )]
    Secret,
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        match text.split_once(':') {
            None if text == "stdout" => Ok(Self::Stdout),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            Some(("otlp", url)) => {
                let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
                let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
                if host.contains('@') {
                    return Err(InvalidTarget::Secret);
                }
                if host.is_empty() || url.parse::<tonic::codegen::http::Uri>().is_err() {
                    return Err(InvalidTarget::Url);
                }
                Ok(Self::Otlp(url.to_owned()))
            }
            _ => Err(InvalidTarget::Kind),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Stdout => f.write_str("stdout"),
            Self::Otlp(url) => write!(f, "otlp:{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_shown_and_others_refused() {
        for good in ["file:/var/log/audit.jsonl", "file:a:b", "stdout", "otlp:http://c:4317"] {
            assert_eq!(good.parse::<Target>().map(|t| t.to_string()), Ok(good.to_owned()));
        }
        for (wrong, why) in [
            ("", InvalidTarget::Kind),
            ("file:", InvalidTarget::Kind),
            ("stdout:", InvalidTarget::Kind),
            ("syslog:x", InvalidTarget::Kind),
            ("otlp:", InvalidTarget::Url),
            ("otlp:ftp://x", InvalidTarget::Url),
            ("otlp:http://", InvalidTarget::Url),
            ("otlp:http://a b", InvalidTarget::Url),
            ("otlp:https://user:word@host", InvalidTarget::Secret),
        ] {
            assert_eq!(wrong.parse::<Target>(), Err(why), "{wrong}");
        }
    }
}
