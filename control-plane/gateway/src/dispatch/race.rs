//! Hedging: a second try beside the first one when that takes longer for its first token than hardly ever, and the budget has
//! room for it.
//!
//! ```text
//! opening A ----------(hedge time)----------> tokens? A goes on, B is dropped
//!                          \-- opening B ---> tokens? B goes on, A is dropped
//! ```
//!
//! Only before the first token: what a client has seen goes on with one stream, by resuming.

use super::attempt::End;
use super::opening::{Opened, Opening, Unopened, millis};
use super::{Run, telemetry};
use crate::error::Failure;
use crate::workers::seat::{Outstanding, Seat};
use futures_util::future::{BoxFuture, Either, select};
use ollamamax_proto::Millis;
use std::sync::Arc;
use tokio::time::{Duration, Instant};

type Try = BoxFuture<'static, Result<Opened, Unopened>>;

/// Begins at a seat, and at a second one if that is worth it. The inner error is of a try that failed, after which the next
/// may be made; the outer one is for the client.
pub(super) async fn open(
    run: &mut Run,
    seat: Arc<Seat>,
    work: Outstanding,
) -> Result<Result<Opened, Unopened>, Failure> {
    let begun = Instant::now();
    let hedge_at = hedge_time(run, &seat).map(|wait| begun + wait);
    let first = begin(run, &seat, work);
    let Some(hedge_at) = hedge_at else { return Ok(first.await) };
    let wait = std::pin::pin!(tokio::time::sleep_until(hedge_at));
    let first = match select(first, wait).await {
        Either::Left((opened, _)) => return Ok(opened),
        Either::Right(((), first)) => first,
    };
    let Some((other, work)) = second(run) else { return Ok(first.await) };
    telemetry::hedged();
    tracing::debug!(slow = %seat.candidate.worker.id, beside = %other.candidate.worker.id, "hedging");
    let second = begin(run, &other, work);
    let (ended, left) = match select(first, second).await {
        Either::Left((ended, left)) | Either::Right((ended, left)) => (ended, left),
    };
    match ended {
        Ok(opened) => {
            if opened.seat.candidate.identity() == other.candidate.identity() {
                // It did not fail, but what it showed of itself counts.
                seat.meter.waited_in_vain(begun.elapsed());
            }
            Ok(Ok(opened))
        }
        Err(Unopened { seat, end }) => {
            let refused = matches!(end, End::Refused(_));
            match run.tries.failed(&run.gateway, &seat, end) {
                Err(failure) if refused => Err(failure),
                // The other one runs still, be it the last.
                _ => Ok(left.await),
            }
        }
    }
}

fn begin(run: &mut Run, seat: &Arc<Seat>, work: Outstanding) -> Try {
    let attempt = run.tries.begin();
    let opening = Opening {
        gateway: Arc::clone(&run.gateway),
        route: run.gateway.workers.route(&run.gateway.control.state(), &run.job.model),
        seat: Arc::clone(seat),
        work,
        request: run.request(seat, attempt),
    };
    Box::pin(opening.go())
}

/// When a second try is worth it; never for a stream that has begun.
fn hedge_time(run: &Run, seat: &Seat) -> Option<Duration> {
    let begun = !run.tokens.is_empty();
    let last_attempt = run.tries.attempts() + 1 >= run.gateway.config.attempts;
    if begun || last_attempt || !run.gateway.config.hedging {
        return None;
    }
    let wait = seat.meter.pace().hedge_ms(seat.outstanding_tokens())?;
    // Beyond the longest wait there is no use in it.
    (wait < millis(run.gateway.config.load_timeout)).then(|| Duration::from_millis(wait))
}

/// Another seat, if there is one that is no worse off and the budget allows it.
fn second(run: &mut Run) -> Option<(Arc<Seat>, Outstanding)> {
    let state = run.gateway.control.state();
    let route = run.gateway.workers.route(&state, &run.job.model);
    if route.seats().len() < 2 || !route.budget(|budget| budget.take(Millis::now())) {
        return None;
    }
    run.tries.untried(&route, &run.ask)
}
