//! One connection: its requests are counted, so that it ends when it has had none for long, when its node stops, and when
//! others need its place.

use super::Service;
use super::opening::Protocol;
use super::watched::Watched;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use ollamamax_gateway::edge::LocalAddress;
use ollamamax_proto::limits;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// What makes connections end.
#[derive(Clone)]
pub(super) struct Ending {
    stop: CancellationToken,
    cut: CancellationToken,
    room: Arc<Notify>,
}

impl Ending {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { stop, cut: CancellationToken::new(), room: Arc::default() }
    }

    /// Ends all connections that have no request.
    pub(super) fn make_room(&self) {
        self.room.notify_waiters();
    }

    /// Ends all connections now.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }
}

/// What a connection and its requests know of each other.
#[derive(Default)]
pub(super) struct Line {
    requests: Mutex<Requests>,
    quiet: Notify,
    /// Answers that have something to send, or may have, and since when nobody takes it: a client of HTTP/2 can read nothing of
    /// them and yet keep the connection alive.
    untaken: Mutex<BTreeMap<u64, Instant>>,
}

#[derive(Clone, Copy)]
pub(super) struct Requests {
    /// Requests that have come, ever.
    pub begun: u64,
    /// Requests whose answers are not all sent.
    pub open: usize,
    /// Since when there is none, if there is none.
    since: Instant,
    /// Whether it is over without anybody having waited for more.
    pub over: bool,
}

impl Default for Requests {
    fn default() -> Self {
        Self { begun: 0, open: 0, since: Instant::now(), over: false }
    }
}

impl Line {
    fn with<T>(&self, change: impl FnOnce(&mut Requests) -> T) -> T {
        change(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How it stands.
    pub(super) fn requests(&self) -> Requests {
        self.with(|requests| *requests)
    }

    fn begin(self: &Arc<Self>) -> Held {
        let number = self.with(|requests| {
            requests.begun += 1;
            requests.open += 1;
            requests.begun
        });
        Held { line: Arc::clone(self), number }
    }

    fn untaken<T>(&self, change: impl FnOnce(&mut BTreeMap<u64, Instant>) -> T) -> T {
        change(&mut self.untaken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves once something of an answer has not been taken for so long.
    async fn has_stalled(&self, patience: Duration) {
        loop {
            let oldest = self.untaken(|untaken| untaken.values().min().copied());
            let until = oldest.unwrap_or_else(Instant::now) + patience;
            if oldest.is_some() && until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Resolves once there has been no request for so long.
    async fn has_been_quiet(&self, idle: Duration) {
        loop {
            let Requests { open, since, .. } = self.requests();
            if open > 0 {
                self.quiet.notified().await;
            } else if since.elapsed() >= idle {
                return;
            } else {
                sleep_until(since + idle).await;
            }
        }
    }
}

/// One request, until its answer is sent or given up.
struct Held {
    line: Arc<Line>,
    /// Which of the connection's requests it is.
    number: u64,
}

impl Held {
    /// Whether there is something to send, for all we know.
    fn sends(&self, something: bool) {
        self.line.untaken(|untaken| match something {
            true => drop(untaken.insert(self.number, Instant::now())),
            false => drop(untaken.remove(&self.number)),
        });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.sends(false);
        self.line.with(|requests| {
            requests.open -= 1;
            requests.since = Instant::now();
        });
        self.line.quiet.notify_one();
    }
}

impl Service {
    pub(super) async fn talk<IO>(
        &self,
        io: IO,
        protocol: Protocol,
        first: Bytes,
        peer: SocketAddr,
        local: SocketAddr,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let line = Arc::new(Line::default());
        let heads = protocol == Protocol::Http1;
        let io = TokioIo::new(Watched::new(io, first, heads, Arc::clone(&line), &self.limits));
        let router = self.router.clone();
        let answers = Answers { router, peer, local, line: Arc::clone(&line) };
        let ended = match protocol {
            Protocol::Http1 => self.drive(http1().serve_connection(io, answers), &line).await,
            Protocol::Http2 => {
                let timeout = self.limits.header_timeout;
                self.drive(http2(timeout).serve_connection(io, answers), &line).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection ended in error");
        }
    }

    /// Runs a connection; asks it to end when it shall, and drops it when it does not.
    async fn drive<C: GracefulConnection>(
        &self,
        connection: C,
        line: &Line,
    ) -> Result<(), C::Error> {
        let mut connection = pin!(connection);
        let Ending { stop, cut, room } = &self.ending;
        let mut quiet = pin!(line.has_been_quiet(self.limits.idle));
        let mut stalled = pin!(line.has_stalled(self.limits.write_stall));
        loop {
            let because_idle = tokio::select! {
                ended = connection.as_mut() => return ended,
                () = cut.cancelled() => return Ok(()),
                () = &mut stalled => return Ok(()),
                () = stop.cancelled() => false,
                () = &mut quiet => true,
                () = room.notified() => {
                    if line.requests().open > 0 {
                        continue;
                    }
                    true
                }
            };
            line.with(|requests| requests.over = requests.open == 0);
            connection.as_mut().graceful_shutdown();
            return tokio::select! {
                ended = connection.as_mut() => ended,
                () = cut.cancelled() => Ok(()),
                // A stopping node cuts by itself. For the rest, a client that just sent something shall have its answer.
                () = at_rest(line, self.limits.header_timeout), if because_idle => Ok(()),
            };
        }
    }
}

/// Resolves when there is no request, and was none for so long.
async fn at_rest(line: &Line, after: Duration) {
    sleep(after).await;
    line.has_been_quiet(after).await;
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Deadlines are `Watched`'s: hyper knows only one, for a head that has begun and for one that never does.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(limits::HEADERS_COUNT)
        .max_header_size(limits::HEADER_BYTES)
        .max_buf_size(limits::CONNECTION_BUFFER_BYTES);
    builder
}

fn http2(timeout: Duration) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(timeout)
        .keep_alive_timeout(timeout)
        .max_header_list_size(limits::HEADER_BYTES as u32)
        .max_concurrent_streams(limits::HTTP2_STREAMS_COUNT)
        .max_pending_accept_reset_streams(limits::HTTP2_RESETS_COUNT)
        .max_local_error_reset_streams(limits::HTTP2_FAULTS_COUNT)
        .max_send_buf_size(limits::CONNECTION_BUFFER_BYTES)
        .initial_stream_window_size(limits::RPC_WINDOW_BYTES)
        .initial_connection_window_size(limits::RPC_WINDOW_BYTES);
    builder
}

/// Answers the requests of one connection.
struct Answers {
    router: Router,
    peer: SocketAddr,
    local: SocketAddr,
    line: Arc<Line>,
}

impl hyper::service::Service<Request<Incoming>> for Answers {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let held = self.line.begin();
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(LocalAddress(self.local));
        let answered = self.router.clone().oneshot(request);
        Box::pin(async move {
            let answered = answered.await?;
            held.sends(true);
            Ok(answered.map(|body| Answer { body, held }))
        })
    }
}

/// The body of an answer, whose request is open as long as it is there.
struct Answer {
    body: Body,
    held: Held,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.held.sends(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
