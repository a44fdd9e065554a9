//! Where the server is: `OLLAMA_HOST` or `--host`, read as Ollama reads it, plus several addresses with commas between.
//!
//! A bare host means port 11434; `http://` alone means 80 and `https://` 443; a path is kept; an address that only makes sense
//! for listening (`0.0.0.0`, `::`) is dialled as loopback.

use crate::exit::Failure;
use std::fmt;

/// Ollama's port, and therefore ours.
pub const DEFAULT_PORT: u16 = 11434;

/// One node's HTTP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host name or IP address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Empty, or `/prefix` without a slash at its end.
    pub path: String,
}

impl Endpoint {
    /// The URL of `path` (which starts with `/`) at this node.
    pub fn url(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// Whether it lies on this machine.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The same host some ports further, for nodes whose ports follow each other.
    pub fn neighbour(&self, steps: u16) -> Option<Self> {
        let port = self.port.checked_add(steps)?;
        Some(Self { port, ..self.clone() })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port, path } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}{path}")
        } else {
            write!(f, "{scheme}://{host}:{port}{path}")
        }
    }
}

/// Reads the value of `OLLAMA_HOST` or `--host`; empty means this machine.
pub fn parse(text: &str) -> Result<Vec<Endpoint>, Failure> {
    let text = text.trim().trim_matches(|c| c == '"' || c == '\'');
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Ok(vec![parse_one("127.0.0.1")?]);
    }
    parts.into_iter().map(parse_one).collect()
}

fn parse_one(text: &str) -> Result<Endpoint, Failure> {
    let error = |why: &str| {
        Failure::Usage(format!(
            "invalid host `{text}`: {why}; expected `host[:port]` or `http[s]://host[:port][/path]`"
        ))
    };
    let (scheme, rest, default_port) = match text.split_once("://") {
        None => ("http", text, DEFAULT_PORT),
        Some(("http", rest)) => ("http", rest, 80),
        Some(("https", rest)) => ("https", rest, 443),
        Some((other, _)) => return Err(error(&format!("unknown scheme `{other}`"))),
    };
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, path)| (a, path));
    let (host, port) = split_port(authority).map_err(&error)?;
    let port = match port {
        None | Some("") => default_port,
        Some(port) => port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| error("the port must be a number from 1 to 65535"))?,
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
    if !host.chars().all(valid) {
        return Err(error("the host has characters that no host has"));
    }
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "::1".to_owned(),
        host => host.to_owned(),
    };
    let path = match path.trim_matches('/') {
        "" => String::new(),
        path => format!("/{path}"),
    };
    Ok(Endpoint { scheme, host, port, path })
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("`[` without `]`")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("unexpected text after `]`"),
        };
    }
    // More than one colon without brackets can only be a bare IPv6 address.
    if authority.matches(':').count() > 1 {
        return Ok((authority, None));
    }
    Ok(authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_ollama_reads_them() {
        for (text, url) in [
            ("", "http://127.0.0.1:11434"),
            ("  ", "http://127.0.0.1:11434"),
            ("example.com", "http://example.com:11434"),
            ("example.com:56789", "http://example.com:56789"),
            (":56789", "http://127.0.0.1:56789"),
            ("1.2.3.4", "http://1.2.3.4:11434"),
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("0.0.0.0:1234", "http://127.0.0.1:1234"),
            ("http://0.0.0.0", "http://127.0.0.1:80"),
            ("http://example.com", "http://example.com:80"),
            ("https://example.com", "https://example.com:443"),
            ("https://example.com:8443/", "https://example.com:8443"),
            ("example.com/ollama", "http://example.com:11434/ollama"),
            ("https://example.com/a/b/", "https://example.com:443/a/b"),
            ("[::1]", "http://[::1]:11434"),
            ("[::1]:1337", "http://[::1]:1337"),
            ("::1", "http://[::1]:11434"),
            ("[::]:80", "http://[::1]:80"),
            ("\"quoted:1\"", "http://quoted:1"),
            ("example.com:", "http://example.com:11434"),
        ] {
            let parsed = parse(text).expect(text);
            assert_eq!(parsed.len(), 1, "{text}");
            assert_eq!(parsed[0].to_string(), url, "{text}");
        }
    }

    #[test]
    fn several_addresses_stay_in_order() {
        let parsed = parse("a:1, b , http://c/x").expect("valid");
        let urls: Vec<String> = parsed.iter().map(Endpoint::to_string).collect();
        assert_eq!(urls, ["http://a:1", "http://b:11434", "http://c:80/x"]);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["ftp://x", "x:99999", "x:0", "x:abc", "[::1", "[::1]x", "a b", "a\0b"] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_neighbour_past_the_last_port_does_not_exist() {
        let last = parse("127.0.0.1:65535").expect("valid").remove(0);
        assert_eq!(last.neighbour(1), None);
        assert_eq!(last.neighbour(0).map(|e| e.port), Some(65535));
    }
}
