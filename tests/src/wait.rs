//! Waiting for a condition, never for time.

use crate::error::HarnessError;
use std::fmt::Display;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// Asks `condition` until it answers `Ok`. Its last `Err`, in words, is part of the failure.
pub async fn wait_until<T, W: Display>(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, W>,
) -> Result<T, HarnessError> {
    let start = Instant::now();
    let mut seen = String::new();
    loop {
        // A condition that hangs is a condition that does not hold.
        let left = deadline.saturating_sub(start.elapsed());
        let asked = tokio::time::timeout(left, condition()).await;
        match asked {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => seen = format!("; last: {why}"),
            Err(_) => seen.push_str("; the last look did not end"),
        }
        if start.elapsed() >= deadline {
            let what = what.to_owned();
            return Err(HarnessError::Deadline { what, waited: deadline, seen });
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_asked_until_it_holds() {
        let mut asked = 0;
        let answer = wait_until(Duration::from_secs(5), "three", async || {
            asked += 1;
            if asked == 3 { Ok(asked) } else { Err("not yet") }
        })
        .await;
        assert_eq!(answer.expect("it holds"), 3);
    }

    #[tokio::test]
    async fn a_condition_that_never_holds_or_hangs_ends_at_the_deadline() {
        let soon = Duration::from_millis(80);
        let never = wait_until(soon, "never", async || Err::<(), _>("still not")).await;
        let text = never.expect_err("it never holds").to_string();
        assert!(text.contains("still not"), "{text}");
        let hangs = wait_until(soon, "hangs", async || {
            std::future::pending::<()>().await;
            Ok::<(), String>(())
        });
        assert!(hangs.await.is_err());
    }
}
