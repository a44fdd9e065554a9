//! `serve`, as Ollama's: a server on this machine that listens where `OLLAMA_HOST` says and waits for models. It is `up` of one
//! node and one worker, which brings no model of its own.

use crate::exit::Failure;
use crate::{host, up};
use std::net::{IpAddr, SocketAddr};

/// Starts it, and serves until it is told to stop.
pub async fn run(args: up::Args, given: Option<&str>) -> Result<(), Failure> {
    let listen = match given.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => Some(address(text)?),
        None => None,
    };
    up::run(args.serving(listen)).await
}

/// Where to listen: `OLLAMA_HOST` as an address of this machine.
fn address(text: &str) -> Result<SocketAddr, Failure> {
    // What the client dials as loopback is meant here as it stands.
    let everywhere = [("0.0.0.0", "0.0.0.0"), ("[::]", "::"), ("::", "::")];
    let bare = text.rsplit("://").next().unwrap_or(text);
    let node = host::parse(text)?.into_iter().next();
    let Some(node) = node else { return Err(wrong(text)) };
    let named = everywhere.iter().find(|(written, _)| {
        bare.strip_prefix(written)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    });
    let ip = match named {
        Some((_, ip)) => ip.parse::<IpAddr>().ok(),
        None if node.host == "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        None => node.host.parse().ok(),
    };
    ip.map(|ip| SocketAddr::new(ip, node.port)).ok_or_else(|| wrong(text))
}

fn wrong(text: &str) -> Failure {
    Failure::Usage(format!(
        "cannot listen on `{text}`: expected an address of this machine, e.g. 127.0.0.1:11434; for a client, OLLAMA_HOST \
         may be a name, but `serve` needs a number"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_where_ollama_would() {
        for (text, listens) in [
            ("127.0.0.1", "127.0.0.1:11434"),
            (":9000", "127.0.0.1:9000"),
            ("0.0.0.0", "0.0.0.0:11434"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("http://0.0.0.0:81", "0.0.0.0:81"),
            ("[::]:82", "[::]:82"),
            ("[::1]:83", "[::1]:83"),
            ("localhost:84", "127.0.0.1:84"),
        ] {
            assert_eq!(address(text).expect(text).to_string(), listens, "{text}");
        }
        assert!(address("gpu.example.com").is_err());
    }
}
