//! How slowly a body may come. Only waiting for the client counts: what a slow disk costs is not its fault.

use crate::error::Failure;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Bounds on how a body comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Longest silence, and how long the average does not count.
    pub stall: Duration,
    /// Least average after that.
    pub bytes_per_s: u64,
}

impl Pace {
    /// How long the next piece may take.
    fn patience(self, bytes: u64, waited: Duration) -> Duration {
        let earned = Duration::from_millis(bytes.saturating_mul(1_000) / self.bytes_per_s.max(1));
        earned.max(self.stall).saturating_sub(waited).min(self.stall)
    }

    pub(super) fn failure(self) -> Failure {
        let (seconds, rate) = (self.stall.as_secs_f64(), self.bytes_per_s);
        Failure::SlowBody(format!(
            "the body came too slowly: nothing for {seconds} s, or below {rate} bytes a second after that"
        ))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it came too slowly")]
struct TooSlow;

/// A body that breaks off, and says so in `slow`, when it comes too slowly.
pub(super) fn paced(body: Body, pace: Pace, slow: Arc<AtomicBool>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let size = body.size_hint();
    let start = Some((body, 0_u64, Duration::ZERO));
    let pieces = futures_util::stream::unfold(start, move |state| {
        let slow = Arc::clone(&slow);
        async move {
            let (mut body, mut bytes, mut waited) = state?;
            loop {
                let began = Instant::now();
                let next = match timeout(pace.patience(bytes, waited), body.frame()).await {
                    Err(_) => {
                        slow.store(true, Ordering::Relaxed);
                        return Some((Err(axum::Error::new(TooSlow)), None));
                    }
                    Ok(next) => next?,
                };
                waited += began.elapsed();
                let piece: Bytes = match next.map(|frame| frame.into_data()) {
                    Ok(Ok(piece)) => piece,
                    // Trailers say nothing here.
                    Ok(Err(_)) => continue,
                    Err(error) => return Some((Err(error), None)),
                };
                bytes += piece.len() as u64;
                return Some((Ok(piece), Some((body, bytes, waited))));
            }
        }
    });
    Body::new(Announced { body: Body::from_stream(pieces), size })
}

/// A body of pieces that still knows how long the client said it is.
struct Announced {
    body: Body,
    size: SizeHint,
}

impl HttpBody for Announced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_a_silence_at_most_and_ends_with_the_average() {
        let pace = Pace { stall: Duration::from_secs(30), bytes_per_s: 1_024 };
        let seconds = |bytes, waited| pace.patience(bytes, Duration::from_secs(waited)).as_secs();
        assert_eq!(seconds(0, 0), 30);
        assert_eq!(seconds(29, 29), 1, "a byte a second ends after thirty");
        assert_eq!(seconds(1_024 * 60, 40), 20, "what came fast is a reserve");
        assert_eq!(seconds(1 << 40, 40), 30, "but no longer silence");
        assert_eq!(seconds(1_024 * 60, 61), 0);
    }

    #[tokio::test]
    async fn only_waiting_for_the_client_counts() {
        let pace = Pace { stall: Duration::from_millis(200), bytes_per_s: 1_024 };
        let slow = Arc::new(AtomicBool::new(false));
        let drip = |every_ms, pieces: u32| {
            futures_util::stream::unfold(0, move |n| async move {
                tokio::time::sleep(Duration::from_millis(every_ms)).await;
                (n < pieces).then_some((Ok::<_, axum::Error>(Bytes::from_static(b"x")), n + 1))
            })
        };
        let mut busy = paced(Body::from_stream(drip(0, 4)), pace, Arc::clone(&slow));
        while let Some(piece) = busy.frame().await {
            piece.expect("in time");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        assert!(!slow.load(Ordering::Relaxed));
        let dripping = paced(Body::from_stream(drip(20, 1_000)), pace, Arc::clone(&slow));
        let began = Instant::now();
        assert!(dripping.collect().await.is_err());
        assert!(slow.load(Ordering::Relaxed));
        assert!(began.elapsed() < Duration::from_secs(10), "long before its end");
    }
}
