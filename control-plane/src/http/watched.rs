//! A connection's bytes, watched: a head that has begun must end soon, what is written must be read, and what a client still
//! sends when it is over is thrown away for a moment, so that it sees the last answer.
//!
//! Deadlines live where the bytes do: whoever waits for bytes waits for the deadline too, in the same task.

use super::connection::Line;
use crate::config::ConnectionLimits;
use bytes::{Buf, Bytes};
use ollamamax_proto::limits;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

/// What a client is told whose head took too long.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A socket and its deadlines.
pub(super) struct Watched<IO> {
    io: IO,
    /// What was read before it was clear which HTTP it is.
    first: Bytes,
    /// Whether requests come one after the other, so that bytes between them are a head.
    heads: bool,
    line: Arc<Line>,
    header_timeout: Duration,
    write_stall: Duration,
    /// The deadline of a head, and how many requests there were when it began.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// The deadline of what is not taken.
    stall: Option<Pin<Box<Sleep>>>,
    /// Whether a head took too long: nothing is read of it any more.
    overdue: bool,
    /// Whether the client has sent its last byte.
    ended: bool,
    /// Our side is closed: until when the client may go on, and how many bytes it has sent since.
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Watched<IO> {
    pub(super) fn new(
        io: IO,
        first: Bytes,
        heads: bool,
        line: Arc<Line>,
        limits: &ConnectionLimits,
    ) -> Self {
        Self {
            io,
            first,
            heads,
            line,
            header_timeout: limits.header_timeout,
            write_stall: limits.write_stall,
            head: None,
            stall: None,
            overdue: false,
            ended: false,
            lingering: None,
        }
    }

    /// Bytes have come: between two requests they begin a head.
    fn heard(&mut self) {
        let requests = self.line.requests();
        if self.heads && requests.open == 0 && !self.in_head(requests.begun) {
            self.head = Some((requests.begun, Box::pin(sleep(self.header_timeout))));
        }
    }

    fn in_head(&self, begun: u64) -> bool {
        self.head.as_ref().is_some_and(|(since, _)| *since == begun)
    }

    /// No bytes have come: is a head overdue?
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let requests = self.line.requests();
        if requests.open > 0 || !self.in_head(requests.begun) {
            self.head = None;
        }
        self.head.as_mut().is_some_and(|(_, deadline)| deadline.as_mut().poll(cx).is_ready())
    }

    /// Ends with the client having seen why, if it looks.
    fn give_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_farewell(cx))?;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head took too long")))
    }

    /// Closes our side, and throws away for a moment what the client still sends: a socket that is closed with bytes unread
    /// takes back the last answer.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let polled = Pin::new(&mut self.io).poll_shutdown(cx);
            ready!(self.taken(cx, polled))?;
            if self.ended || self.line.requests().over {
                return Poll::Ready(Ok(()));
            }
        }
        let wait = Duration::from_millis(limits::CONNECTION_LINGER_MS);
        let start = || (Box::pin(sleep(wait)), 0);
        let (until, discarded) = self.lingering.get_or_insert_with(start);
        let mut piece = [0; 4_096];
        while *discarded < limits::CONNECTION_LINGER_BYTES {
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.io).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    *discarded += piece.filled().len();
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(until.as_mut().poll(cx));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What writing came to, or an error when it has come to nothing for too long.
    fn taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall = None;
            return polled;
        }
        let wait = self.write_stall;
        let deadline = self.stall.get_or_insert_with(|| Box::pin(sleep(wait)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.overdue {
            return this.give_up(cx);
        }
        if !this.first.is_empty() {
            let count = this.first.len().min(buf.remaining());
            buf.put_slice(&this.first[..count]);
            this.first.advance(count);
            this.heard();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => this.heard(),
            Poll::Ready(result) => {
                this.ended = true;
                return Poll::Ready(result);
            }
            Poll::Pending if this.is_overdue(cx) => {
                // Between requests nothing else is being written, unless it is stuck.
                if this.stall.is_none() {
                    let written = Pin::new(&mut this.io).poll_write(cx, TOO_SLOW);
                    let flushed = Pin::new(&mut this.io).poll_flush(cx);
                    tracing::trace!(?written, ?flushed, "told that its head took too long");
                }
                this.overdue = true;
                return this.give_up(cx);
            }
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.taken(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.taken(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.taken(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_farewell(cx)
    }
}

/// The same for a socket of its own: throws away what a client still sends, for a moment.
pub(super) async fn linger(io: &mut (impl AsyncRead + Unpin), wait: Duration) {
    let discard = async {
        let mut piece = [0; 4_096];
        let mut discarded = 0;
        while discarded < limits::CONNECTION_LINGER_BYTES {
            match io.read(&mut piece).await {
                Ok(count) if count > 0 => discarded += count,
                _ => break,
            }
        }
    };
    // However it ends, it is over.
    let _ = timeout(wait, discard).await;
}
