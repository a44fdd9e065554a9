//! Where requests may go that somebody else has named: to public addresses, over HTTPS, and beyond that only where the operator
//! of the node has said so.
//!
//! A name is judged by all addresses it has at the moment the connection is made, and the connection goes to one of these: a
//! name that means something else a moment later (DNS rebinding) gains nothing. Each redirect is judged as the first request was.

use crate::error::SourceError;
use ipnet::Ipv6Net;
use reqwest::Url;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A host that may be asked wherever it is, by the operator's word: `host` or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    host: String,
    port: Option<u16>,
}

/// A text that names no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host: expected `HOST` or `HOST:PORT`, IPv6 addresses in brackets")]
pub struct NoHost(String);

impl FromStr for Allowed {
    type Err = NoHost;

    fn from_str(text: &str) -> Result<Self, NoHost> {
        let url = Url::parse(&format!("none://{text}")).map_err(|_| NoHost(text.to_owned()))?;
        // As an address is written in a URL of HTTP, whatever its form.
        let http = Url::parse(&format!("http://{text}")).map_err(|_| NoHost(text.to_owned()))?;
        let plain = url.path().is_empty() && url.query().is_none() && url.fragment().is_none();
        match http.host_str() {
            Some(host) if plain && url.username().is_empty() && url.password().is_none() => {
                Ok(Self { host: plain_host(host), port: url.port() })
            }
            _ => Err(NoHost(text.to_owned())),
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

fn plain_host(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// How a URL may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// At public addresses alone.
    Public,
    /// Wherever it is: the operator said so.
    Allowed,
}

/// The judge.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<Allowed>,
    open: bool,
}

impl Guard {
    /// Lets requests go to public addresses, and to `allowed` hosts wherever they are.
    pub fn new(allowed: Vec<Allowed>) -> Self {
        Self { allowed, open: false }
    }

    /// Lets requests go everywhere: for a program that fetches for the user who started it.
    pub fn open() -> Self {
        Self { allowed: Vec::new(), open: true }
    }

    /// Whether the operator has named the host and port of this URL.
    pub fn allows(&self, url: &Url) -> bool {
        let Some(host) = url.host_str().map(plain_host) else { return false };
        let port = url.port_or_known_default();
        let names = |allowed: &Allowed| {
            allowed.host == host && allowed.port.is_none_or(|of| Some(of) == port)
        };
        self.open || self.allowed.iter().any(names)
    }

    /// How a URL may be asked; `insecure`: whoever asks wants it without TLS.
    ///
    /// # Errors
    /// When it may not be asked at all.
    pub fn check(&self, url: &Url, insecure: bool) -> Result<Way, SourceError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let refused = |why: String| Err(SourceError::Refused { host: shown(url), why });
        if host.is_empty() || !url.username().is_empty() || url.password().is_some() {
            return refused("the URL has no host, or names a user".to_owned());
        }
        let allowed = self.allows(url);
        match url.scheme() {
            "https" => {}
            "http" if allowed && (insecure || self.open) => {}
            "http" if allowed => {
                return refused("it is asked without TLS only with `insecure`".to_owned());
            }
            "http" => {
                return refused(format!(
                    "plain HTTP is for hosts alone that the operator of the node allows (`--pull-allow {}`)",
                    shown(url)
                ));
            }
            other => return refused(format!("`{other}` is not fetched; expected https")),
        }
        if allowed {
            return Ok(Way::Allowed);
        }
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>();
        match literal {
            Ok(address) if !is_public(address) => Err(not_public(&shown(url))),
            _ => Ok(Way::Public),
        }
    }
}

/// The host of a URL, and its port where that is not the usual one.
pub fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What is said of a host that is not out in the world.
pub fn not_public(host: &str) -> SourceError {
    SourceError::Refused {
        host: host.to_owned(),
        why: format!(
            "it is no public address, and such are fetched from only where the operator of the node allows it \
             (`--pull-allow {host}`)"
        ),
    }
}

/// Whether an address is one of the public internet: neither of this machine nor of any network of its own, in whichever way it
/// is written (IANA's registries of special-purpose addresses).
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    // What stands for an IPv4 address is as public as that: mapped, translated (NAT64), 6to4.
    if [a, b, c, d, e] == [0; 5] && f == 0xffff {
        return is_public_v4(v4(g, h));
    }
    if [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_public_v4(v4(g, h));
    }
    if a == 0x2002 {
        return is_public_v4(v4(b, c));
    }
    const GLOBAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
    const PROTOCOLS: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23);
    const EXAMPLES: [Ipv6Net; 2] = [
        Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
        Ipv6Net::new_assert(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    ];
    GLOBAL.contains(&address)
        && !PROTOCOLS.contains(&address)
        && !EXAMPLES.iter().any(|net| net.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect(text)
    }

    #[test]
    fn addresses_that_are_not_public_are_known_in_every_writing() {
        for text in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "3fff::1",
        ] {
            assert!(!is_public(text.parse().expect(text)), "{text}");
        }
        for text in
            ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "2a00::1"]
        {
            assert!(is_public(text.parse().expect(text)), "{text}");
        }
    }

    #[test]
    fn a_url_leads_nowhere_inside_however_it_is_written() {
        let guard = Guard::new(Vec::new());
        for text in [
            "https://127.0.0.1/x",
            "https://2130706433/x",
            "https://0x7f.1/x",
            "https://0177.0.0.1/x",
            "https://[::1]/x",
            "https://[::ffff:10.0.0.1]/x",
            "https://169.254.169.254/latest",
            "https://user@example.com/x",
            "https://user:secret@example.com/x",
            "http://example.com/x",
            "ftp://example.com/x",
            "file:///etc/passwd",
        ] {
            for insecure in [false, true] {
                let refused = guard.check(&url(text), insecure);
                assert!(matches!(refused, Err(SourceError::Refused { .. })), "{text}: {refused:?}");
            }
        }
        assert_eq!(guard.check(&url("https://example.com/x"), false).expect("may"), Way::Public);
        assert_eq!(guard.check(&url("https://1.1.1.1/x"), false).expect("may"), Way::Public);
    }

    #[test]
    fn what_the_operator_allows_is_exactly_that() {
        let all = ["10.0.0.7:5000", "Registry.lan.", "[::1]:8443"].map(|text| text.parse());
        let guard = Guard::new(all.into_iter().collect::<Result<_, _>>().expect("hosts"));
        for (text, insecure, may) in [
            ("https://10.0.0.7:5000/x", false, true),
            ("http://10.0.0.7:5000/x", true, true),
            ("http://10.0.0.7:5000/x", false, false),
            ("https://10.0.0.7/x", false, false),
            ("https://10.0.0.8:5000/x", false, false),
            ("https://registry.lan:1234/x", false, true),
            ("https://REGISTRY.lan/x", false, true),
            ("http://registry.lan/x", true, true),
            ("https://[::1]:8443/x", false, true),
            ("https://[::1]:8444/x", false, false),
        ] {
            let way = guard.check(&url(text), insecure);
            assert_eq!(way.is_ok(), may, "{text}: {way:?}");
        }
        for text in ["", "a/b", "http://a", "a:b", "u@a", "a?b", "a b"] {
            assert!(text.parse::<Allowed>().is_err(), "{text}");
        }
    }
}
