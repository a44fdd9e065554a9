//! HTTPS of a local cluster: a certificate for this machine's names, made when there is none or it ends soon, and left for the
//! command line to find.
//!
//! ```text
//! <data-dir>/tls/   ca.pem: for clients   server.pem, server.key: for the nodes
//! ```

use super::layout::{Https, Layout};
use crate::exit::Failure;
use crate::host::Endpoint;
use crate::known_nodes::write_atomically;
use crate::trust;
use ollamamax_proto::{Millis, limits};
use ollamamax_tls::{LocalServer, private};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where it is kept.
#[derive(Clone, Debug)]
pub struct Files {
    /// What vouches for the certificate.
    pub authority: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

const KEY: &str = "server.key";

/// The files in a cluster's directory.
pub fn files(directory: &Path) -> Files {
    let below = directory.join("tls");
    Files {
        authority: below.join("ca.pem"),
        certificate: below.join("server.pem"),
        key: below.join(KEY),
    }
}

/// Makes a certificate where it is needed, and leaves its authority for the command line; without HTTPS, takes away what an
/// earlier run left.
pub fn prepare(directory: &Path, layout: &mut Layout) -> Result<(), Failure> {
    let endpoints = endpoints(layout);
    let Some(https) = &layout.https else { return trust::take_away(&endpoints) };
    let (files, names, now) = (files(directory), names(layout.listen.ip()), Millis::now());
    let all_there = [&files.authority, &files.certificate, &files.key].iter().all(|f| f.is_file());
    let lasts = https.until.since(now) > limits::TLS_LOCAL_RENEW_MS;
    if !all_there || !lasts || https.names != names {
        let made = LocalServer::create(&names, now);
        let made = made.map_err(|error| Failure::Other(error.to_string()))?;
        let failed = |error: private::PrivateError| Failure::Other(error.to_string());
        private::save(&directory.join("tls"), KEY, made.key.as_bytes()).map_err(failed)?;
        for (file, text) in
            [(&files.certificate, &made.certificate), (&files.authority, &made.authority)]
        {
            write_atomically(file, text.as_bytes()).map_err(Failure::file("write", file))?;
        }
        layout.https = Some(Https { names, until: made.until });
        layout.save(directory)?;
    }
    let authority = std::fs::read_to_string(&files.authority);
    let authority = authority.map_err(Failure::file("read", &files.authority))?;
    trust::leave(&endpoints, &authority)
}

/// By what programs on this machine reach the nodes.
fn endpoints(layout: &Layout) -> Vec<Endpoint> {
    let of = |index: usize| {
        let address = layout.reached(index);
        let ip = address.ip();
        let mut hosts = vec![ip.to_string()];
        if ip.is_loopback() {
            hosts.push("localhost".to_owned());
        }
        let port = address.port();
        hosts.into_iter().map(move |host| Endpoint {
            scheme: "https",
            host,
            port,
            path: String::new(),
        })
    };
    layout.members().into_iter().flat_map(of).collect()
}

/// The names of this machine that the certificate is for.
fn names(listen: IpAddr) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if listen.is_unspecified() {
        let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !host.is_empty() && host.chars().all(valid) {
            names.push(host);
        }
    } else {
        names.push(listen.to_string());
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}
