//! Waiting for a worker, but not forever.
//!
//! ```text
//! own deadline      this call alone has been silent for too long
//! silence           the whole placement has been silent for longer than it ever is: it hangs
//! down              its heartbeats have stopped
//! ```
//!
//! A stream may wait while its worker serves others, so short deadlines look at the worker, not at the stream.

use super::attempt::End;
use crate::Gateway;
use crate::workers::seat::Seat;
use ollamamax_proto::placement::WorkerStatus;
use std::pin::pin;
use tokio::time::{Duration, Instant};

/// How much longer a worker that is called down may stay silent: the call was made by heartbeats, its stream may still live.
const DOWN_PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// For this call.
    pub own: Duration,
    /// For any sign of life of its placement.
    pub silence: Duration,
}

impl Patience {
    /// The same for both: nothing is known of what the worker usually does.
    pub fn plain(wait: Duration) -> Self {
        Self { own: wait, silence: wait }
    }
}

/// Waits for work at a worker, as long as it deserves.
pub(super) async fn within<T>(
    gateway: &Gateway,
    seat: &Seat,
    patience: Patience,
    work: impl Future<Output = T>,
) -> Result<T, End> {
    let mut work = pin!(work);
    let mut revisions = gateway.control.revisions();
    let begun = Instant::now();
    let mut deadline = begun + patience.own;
    let mut down = false;
    let mut watching = true;
    loop {
        revisions.borrow_and_update();
        if !down && is_down(gateway, seat) {
            down = true;
            deadline = deadline.min(Instant::now() + DOWN_PATIENCE);
        }
        let heard = seat.meter.last_heard().map_or(begun, Instant::from_std).max(begun);
        let wake = deadline.min(heard + patience.silence);
        tokio::select! {
            biased;
            result = &mut work => return Ok(result),
            () = tokio::time::sleep_until(wake) => {
                let last = seat.meter.last_heard().map_or(begun, Instant::from_std).max(begun);
                if Instant::now() < deadline && Instant::now() < last + patience.silence {
                    continue; // others were heard of meanwhile
                }
                let why = if down { "it is down" } else { "it fell silent" };
                return Err(End::Broken(why.to_owned()));
            }
            changed = revisions.changed(), if watching && !down => watching = changed.is_ok(),
        }
    }
}

fn is_down(gateway: &Gateway, seat: &Seat) -> bool {
    let state = gateway.control.state();
    let known = &seat.candidate.worker;
    state.workers.get(&known.id).is_none_or(|worker| {
        worker.incarnation != known.incarnation || worker.status == WorkerStatus::Down
    })
}
