//! The names this node has. A page whose name is made to point here (DNS rebinding) sends that name, and is not answered.

use std::net::IpAddr;

/// A host and perhaps a port, as a `Host` header or a URL has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// In lower case, without a dot at its end; IPv6 in brackets.
    pub name: String,
    /// The port, when one is named.
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `host` or `host:port`; credentials and anything else that has no business there make it none.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let end = inner.find(']')?;
                inner[..end].parse::<std::net::Ipv6Addr>().ok()?;
                text.split_at(end + 2)
            }
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse::<u16>().ok()?)
            }
            None if rest.is_empty() => None,
            _ => return None,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let sound = name.starts_with('[') || name.chars().all(allowed);
        (sound && !name.is_empty() && name.len() <= 253).then_some(Self { name, port })
    }

    /// The address it is, if it is one and no name.
    pub fn address(&self) -> Option<IpAddr> {
        let text = self.name.trim_start_matches('[').trim_end_matches(']');
        text.parse().ok().map(|address: IpAddr| address.to_canonical())
    }

    fn is_loopback(&self) -> bool {
        let named = self.name == "localhost" || self.name.ends_with(".localhost");
        named || self.address().is_some_and(|address| address.is_loopback())
    }
}

/// Whether a text is a name, `*.` and a name, or `*`.
pub fn is_pattern(text: &str) -> bool {
    text == "*" || Authority::parse(text.strip_prefix("*.").unwrap_or(text)).is_some()
}

/// The names that an operator has given.
pub(super) struct Hosts {
    names: Vec<String>,
    any: bool,
}

impl Hosts {
    pub(super) fn new(given: &[String]) -> Self {
        // A port with a name is what an advertised address has; it says nothing of what stands before it.
        let name = |text: &String| {
            let (star, name) = text.strip_prefix('*').map_or(("", text.as_str()), |n| ("*", n));
            let dot = if name.starts_with('.') { "." } else { "" };
            let authority = Authority::parse(name.strip_prefix('.').unwrap_or(name))?;
            Some(format!("{star}{dot}{}", authority.name))
        };
        Self { names: given.iter().filter_map(name).collect(), any: given.iter().any(|n| n == "*") }
    }

    /// Whether a request for this host is for this node: loopback, an address of the node that it came in on, a name given,
    /// or what a node of the cluster is reached by.
    pub(super) fn allow<'a>(
        &self,
        host: &Authority,
        local: Option<IpAddr>,
        mut nodes: impl Iterator<Item = &'a str>,
    ) -> bool {
        let local = local.map(|local| local.to_canonical());
        let address = host.address();
        // What listens everywhere is reached through `0.0.0.0` on this machine.
        let here = local.is_some_and(|local| local.is_loopback());
        let reached = address
            .is_some_and(|address| local == Some(address) || (here && address.is_unspecified()));
        let given = |name: &String| match name.strip_prefix('*') {
            Some(end) => host.name.len() > end.len() && host.name.ends_with(end),
            None => host.name == *name,
        };
        self.any
            || host.is_loopback()
            || reached
            || self.names.iter().any(given)
            || nodes.any(|node| Authority::parse(node).is_some_and(|node| node.name == host.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_answered_to() {
        let given = ["models.example.com", "*.lan", "10.1.1.1:80"].map(str::to_owned);
        let hosts = Hosts::new(&given);
        let local = Some("192.168.0.7".parse().expect("valid"));
        let allow = |text: &str| {
            let nodes = ["node2.internal:11434", "10.0.0.2:11434", "[fd00::2]:1"];
            let authority = Authority::parse(text);
            authority.is_some_and(|host| hosts.allow(&host, local, nodes.into_iter()))
        };
        for text in [
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "a.localhost",
            "127.0.0.1:11434",
            "127.9.9.9",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
            "192.168.0.7",
            "[::ffff:192.168.0.7]:1",
            "models.example.com:443",
            "Models.Example.COM.",
            "box.lan",
            "10.1.1.1",
            "node2.internal",
            "10.0.0.2:9",
            "[fd00::2]",
        ] {
            assert!(allow(text), "{text}");
        }
        for text in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "2130706433",
            "0x7f000001",
            "127.1",
            "192.168.0.8",
            "lan",
            ".lan",
            "models.example.com.evil",
            "",
            "a@localhost",
            "localhost:x",
            "localhost:99999",
            "local host",
            "0.0.0.0",
            "[::]",
            "[::1",
            "[::1]x",
            "localhost:80:80",
            "node2.internal.evil",
            "localhost\t",
        ] {
            assert!(!allow(text), "{text}");
        }
    }

    #[test]
    fn patterns_are_names() {
        for text in ["*", "*.example.com", "a", "10.0.0.1", "[::1]"] {
            assert!(is_pattern(text), "{text}");
        }
        for text in ["", "*.", "http://a", "a/b", "a b", "a*"] {
            assert!(!is_pattern(text), "{text}");
        }
        assert!(Hosts::new(&["*".to_owned()]).any);
    }
}
