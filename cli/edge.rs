//! How a node's API faces the network: TLS, names, origins, proxies, and how many may connect.

use crate::exit::Failure;
use ollamamax_control_plane::{Network, NodeConfig, TlsFiles};
use std::path::PathBuf;

/// Whom a node answers, and over what.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Serve HTTPS with this certificate (PEM, the chain in order); read again when it changes, and on SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve plain HTTP on an address that others reach, too: behind a proxy that does TLS, or in a network you trust
    #[arg(long, conflicts_with = "tls_cert")]
    insecure_http: bool,
    /// Name this node is reached by beside its addresses, `*.NAME` for all below one, `*` for any; may be given several times
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// Origin whose pages may use the API, e.g. https://chat.example.com; may be given several times
    #[arg(long, value_name = "ORIGIN", env = "OLLAMA_ORIGINS", value_delimiter = ',')]
    allowed_origin: Vec<String>,
    /// Proxy whose X-Forwarded-For is believed, e.g. 10.0.0.7 or 10.0.0.0/8; may be given several times
    #[arg(long, value_name = "NETWORK")]
    trusted_proxy: Vec<Network>,
    /// Connections one address may have at once
    #[arg(long, value_name = "N", env = "OLLAMAMAX_CONNECTIONS_PER_ADDRESS")]
    connections_per_address: Option<usize>,
}

impl Args {
    /// Puts it where a node reads it.
    pub fn apply(self, config: &mut NodeConfig) -> Result<(), Failure> {
        config.tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            _ => return Err(Failure::Usage("`--tls-cert` and `--tls-key` go together".to_owned())),
        };
        config.insecure_http = self.insecure_http;
        let edge = &mut config.gateway.edge;
        edge.allowed_hosts = self.allowed_host;
        let origins = self.allowed_origin.iter().map(|origin| origin.trim().to_owned());
        edge.allowed_origins = origins.filter(|origin| !origin.is_empty()).collect();
        edge.trusted_proxies = self.trusted_proxy;
        if let Some(count) = self.connections_per_address {
            config.connections.connections_per_address = count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn applied(line: &[&str]) -> Result<NodeConfig, String> {
        let line = [&["x"], line].concat();
        let args = Line::try_parse_from(line).map_err(|error| error.to_string())?.args;
        let mut config = NodeConfig::new("/tmp/x");
        args.apply(&mut config).map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn flags_reach_the_node() {
        let line = "--tls-cert c --tls-key k --allowed-host a --allowed-host *.b --allowed-origin https://x,http://y:* \
                    --trusted-proxy 10.0.0.0/8 --trusted-proxy ::1 --connections-per-address 9";
        let config = applied(&line.split_whitespace().collect::<Vec<_>>()).expect("sound");
        assert_eq!(config.tls, Some(TlsFiles { cert: "c".into(), key: "k".into() }));
        assert_eq!(config.gateway.edge.allowed_hosts, ["a", "*.b"]);
        assert_eq!(config.gateway.edge.allowed_origins, ["https://x", "http://y:*"]);
        assert_eq!(config.gateway.edge.trusted_proxies.len(), 2);
        assert_eq!(config.connections.connections_per_address, 9);
        assert!(applied(&["--insecure-http"]).expect("sound").insecure_http);
    }

    #[test]
    fn what_contradicts_itself_or_means_nothing_is_refused() {
        for line in [
            &["--tls-cert", "c"][..],
            &["--tls-key", "k"],
            &["--tls-cert", "c", "--tls-key", "k", "--insecure-http"],
            &["--trusted-proxy", "proxy"],
            &["--connections-per-address", "many"],
        ] {
            assert!(applied(line).is_err(), "{line:?}");
        }
    }
}
