//! Patience with a source: how often it is asked again, and how slow it may be.

use crate::error::SourceError;
use crate::guard::shown;
use ollamamax_proto::backoff::delay_ms;
use ollamamax_proto::limits;
use reqwest::Url;
use std::time::{Duration, Instant};

/// Tries in a row that brought little.
#[derive(Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Waits for the next try, or gives up.
    pub async fn again(&mut self, error: SourceError, bytes: u64) -> Result<(), SourceError> {
        self.0 = if bytes >= limits::PULL_PACE_BYTES { 0 } else { self.0 + 1 };
        if self.0 >= limits::PULL_ATTEMPTS_COUNT {
            return Err(error);
        }
        tracing::debug!(%error, attempt = self.0, "a source is asked again");
        let (first, most) = (limits::PULL_RETRY_FIRST_MS, limits::PULL_RETRY_MOST_MS);
        let wait = delay_ms(self.0, first, most, rand::random());
        tokio::time::sleep(Duration::from_millis(wait)).await;
        Ok(())
    }
}

/// That bytes come at some pace: a byte now and then would hold a place for ever.
pub(super) struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    pub fn new() -> Self {
        Self { since: Instant::now(), bytes: 0 }
    }

    pub fn took(&mut self, bytes: u64, url: &Url) -> Result<(), SourceError> {
        self.bytes += bytes;
        if self.since.elapsed() < Duration::from_millis(limits::PULL_STALL_MS) {
            return Ok(());
        }
        if self.bytes < limits::PULL_PACE_BYTES {
            let why = "its bytes come too slowly".to_owned();
            return Err(SourceError::Broken { host: shown(url), why });
        }
        *self = Self::new();
        Ok(())
    }
}
