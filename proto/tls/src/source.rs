//! Where this process connects from: on a machine with several addresses, the one it was told to use.
//!
//! It is a property of the process, as its routes are, and so it is kept once; connections to an address of another family
//! (IPv4 or IPv6) leave it to the system, as all do when nothing was said.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use tokio::net::{TcpSocket, TcpStream, lookup_host};

static SOURCE: OnceLock<IpAddr> = OnceLock::new();

/// Makes every later connection to nodes and workers come from `source`. Only the first call counts.
pub fn dial_from(source: IpAddr) {
    let _ = SOURCE.set(source);
}

/// Connects to `host:port` from where this process was told to.
///
/// # Errors
/// That of the last address that was tried.
pub async fn tcp(address: &str) -> io::Result<TcpStream> {
    match SOURCE.get() {
        None => TcpStream::connect(address).await,
        Some(source) => tcp_from(*source, address).await,
    }
}

async fn tcp_from(source: IpAddr, address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for remote in lookup_host(address).await? {
        let socket = match remote {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if source.is_ipv4() == remote.is_ipv4() {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        match socket.connect(remote).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_connection_comes_from_the_address_that_was_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let source: IpAddr = "127.0.0.1".parse().expect("an address");
        let (stream, accepted) = tokio::join!(tcp_from(source, &address), listener.accept());
        assert_eq!(stream.expect("connected").local_addr().expect("local").ip(), source);
        assert_eq!(accepted.expect("accepted").1.ip(), source);
        // Of the other family: the system chooses.
        let other: IpAddr = "::1".parse().expect("an address");
        assert!(tcp_from(other, &address).await.is_ok());
        drop(listener);
        assert!(tcp_from(source, &address).await.is_err());
    }
}
