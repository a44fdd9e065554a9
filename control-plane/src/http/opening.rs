//! The first bytes of a connection: a TLS handshake where there is TLS, and which HTTP it will be.
//!
//! hyper-util's own detection waits for them for ever, so it is done here, against a deadline.

use super::Service;
use super::tls::Certificates;
use super::watched::linger;
use bytes::{Bytes, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// How every HTTP/2 connection begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The content type that every TLS handshake begins with (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;
const ALPN_HTTP2: &[u8] = b"h2";
/// What whoever speaks plain HTTP to a port with TLS is told.
const NEEDS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 49\r\nconnection: close\r\n\r\nthis port speaks HTTPS: ask again with https://\r\n";

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl Service {
    /// Serves one connection to its end.
    pub(super) async fn serve(&self, socket: TcpStream, peer: SocketAddr) {
        let Ok(local) = socket.local_addr() else { return };
        let patience = self.limits.header_timeout;
        match &self.tls {
            None => {
                let Ok(Ok(opened)) = timeout(patience, plain(socket)).await else { return };
                let Some((socket, protocol, first)) = opened else { return };
                self.talk(socket, protocol, first, peer, local).await;
            }
            Some(certificates) => {
                let opened = timeout(patience, encrypted(socket, certificates)).await;
                match opened {
                    Ok(Ok(Some((socket, protocol)))) => {
                        self.talk(socket, protocol, Bytes::new(), peer, local).await;
                    }
                    Ok(Ok(None)) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                }
            }
        }
    }
}

type Plain = (TcpStream, Protocol, Bytes);

/// Reads until it is clear which HTTP it is; what was read comes along. `None` when the client left before.
async fn plain(mut socket: TcpStream) -> io::Result<Option<Plain>> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    loop {
        let mut piece = (&mut socket).take((PREFACE.len() - first.len()) as u64);
        if piece.read_buf(&mut first).await? == 0 {
            return Ok(None);
        }
        if !PREFACE.starts_with(&first) {
            return Ok(Some((socket, Protocol::Http1, first.freeze())));
        }
        if first.len() == PREFACE.len() {
            return Ok(Some((socket, Protocol::Http2, first.freeze())));
        }
    }
}

type Encrypted = (tokio_rustls::server::TlsStream<TcpStream>, Protocol);

async fn encrypted(
    mut socket: TcpStream,
    certificates: &Certificates,
) -> io::Result<Option<Encrypted>> {
    let mut first = [0];
    if socket.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0] != HANDSHAKE {
        socket.write_all(NEEDS_TLS).await?;
        socket.shutdown().await?;
        linger(&mut socket, Duration::from_millis(ollamamax_proto::limits::CONNECTION_LINGER_MS))
            .await;
        return Ok(None);
    }
    let socket = TlsAcceptor::from(certificates.current()).accept(socket).await?;
    let protocol = match socket.get_ref().1.alpn_protocol() {
        Some(ALPN_HTTP2) => Protocol::Http2,
        _ => Protocol::Http1,
    };
    Ok(Some((socket, protocol)))
}
