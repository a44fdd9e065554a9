//! A connection after its handshake: who is at the other end, and what is spoken.
//!
//! What is spoken is agreed in the handshake (ALPN), so one port serves gRPC and stages, and bytes meant for one never
//! reach the other.

use crate::role::Role;
use ollamamax_proto::{Digest, Millis};
use rustls::Connection;
use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/2.
    Grpc,
    /// Frames between the stages of a replica.
    Stage,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Grpc, Self::Stage];

    pub(crate) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Grpc => b"h2",
            Self::Stage => b"ollamamax-stage",
        }
    }

    pub(crate) fn agreed(alpn: Option<&[u8]>) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| alpn == Some(protocol.alpn()))
    }
}

/// Who is at the other end, as its certificate says and the handshake has proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Which member of our cluster.
    pub role: Role,
    /// SHA-256 of its certificate.
    pub fingerprint: Digest,
    /// The last moment of its certificate. The connection may outlive it.
    pub not_after: Millis,
}

/// What a gRPC server knows of a connection; every request carries it in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct ConnectInfo {
    /// Where the other end is.
    pub remote: SocketAddr,
    /// Who it is; `None` when it showed no certificate.
    pub peer: Option<Peer>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Stream {
    io: TlsStream<TcpStream>,
    info: ConnectInfo,
    protocol: Protocol,
    end: Option<End>,
}

/// When a connection ends whatever is going on, and what is given back with it.
struct End {
    sleep: Pin<Box<Sleep>>,
    _place: Box<dyn Send + Sync>,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("End").field(&self.sleep.deadline()).finish()
    }
}

impl Stream {
    pub(crate) fn new(io: TlsStream<TcpStream>, info: ConnectInfo, protocol: Protocol) -> Self {
        Self { io, info, protocol, end: None }
    }

    /// From then on reading fails; `place` is dropped with the connection.
    pub(crate) fn end_after(&mut self, time: Duration, place: Box<dyn Send + Sync>) {
        self.end = Some(End { sleep: Box::pin(sleep(time)), _place: place });
    }

    /// Who is at the other end; `None` when it showed no certificate.
    pub fn peer(&self) -> Option<&Peer> {
        self.info.peer.as_ref()
    }

    /// Where the other end is.
    pub fn remote(&self) -> SocketAddr {
        self.info.remote
    }

    /// What is spoken.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// For threads that wait. What was decrypted already is kept.
    pub fn into_blocking(self) -> io::Result<Blocking> {
        let (tcp, connection) = match self.io {
            TlsStream::Client(stream) => {
                let (tcp, connection) = stream.into_inner();
                (tcp, Connection::Client(connection))
            }
            TlsStream::Server(stream) => {
                let (tcp, connection) = stream.into_inner();
                (tcp, Connection::Server(connection))
            }
        };
        let tcp = tcp.into_std()?;
        tcp.set_nonblocking(false)?;
        Ok(Blocking { tcp, connection, info: self.info })
    }
}

impl Connected for Stream {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.end
            && end.sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

/// Shows decrypted bytes without taking them.
impl AsyncBufRead for Stream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().io).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        Pin::new(&mut self.io).consume(amount);
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// A connection for threads that wait. One thread reads and writes it: what is read decides what may be written.
///
/// Flush after writing. Deadlines are those of [`Blocking::tcp`]; a read or write that met its deadline may be tried
/// again, nothing is lost. An end without goodbye is an error (`UnexpectedEof`), so what was cut off is not taken for
/// complete.
pub struct Blocking {
    tcp: std::net::TcpStream,
    connection: Connection,
    info: ConnectInfo,
}

impl std::fmt::Debug for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocking").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Blocking {
    /// Who is at the other end; `None` when it showed no certificate.
    pub fn peer(&self) -> Option<&Peer> {
        self.info.peer.as_ref()
    }

    /// Where the other end is.
    pub fn remote(&self) -> SocketAddr {
        self.info.remote
    }

    /// The socket below: for deadlines, and for ending the connection from another thread (`try_clone`, `shutdown`).
    /// Bytes read from it or written to it break the connection.
    pub fn tcp(&self) -> &std::net::TcpStream {
        &self.tcp
    }

    /// Whether decrypted bytes are here that no read has taken.
    pub fn has_unread(&mut self) -> io::Result<bool> {
        let state = self.connection.process_new_packets().map_err(io::Error::other)?;
        Ok(state.plaintext_bytes_to_read() > 0)
    }
}

impl Read for Blocking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.connection {
            Connection::Client(side) => rustls::Stream::new(side, &mut self.tcp).read(buf),
            Connection::Server(side) => rustls::Stream::new(side, &mut self.tcp).read(buf),
        }
    }
}

impl Write for Blocking {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.connection {
            Connection::Client(side) => rustls::Stream::new(side, &mut self.tcp).write(buf),
            Connection::Server(side) => rustls::Stream::new(side, &mut self.tcp).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.connection {
            Connection::Client(side) => rustls::Stream::new(side, &mut self.tcp).flush(),
            Connection::Server(side) => rustls::Stream::new(side, &mut self.tcp).flush(),
        }
    }
}
