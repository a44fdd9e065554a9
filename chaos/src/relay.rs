//! One connection through a relay: each direction reads, waits as its link says, and writes.
//!
//! What is read waits in a queue with the time at which it may go on, so that a delay holds up every piece equally and does not
//! become a limit on how much is under way; the queue is bounded, and then the sender waits as it would for a full window.

use crate::net::Weather;
use rand::RngExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A piece is lost or comes as a whole; about a segment on a network with large ones.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces under way in one direction.
const PIECES_COUNT: usize = 64;
/// After which TCP sends again what was lost, at first.
const RETRANSMISSION_MS: u64 = 200;
/// Losses of one piece in a row.
const LOSSES_COUNT: u32 = 5;

/// Passes bytes in both directions until both have ended. A side that closes closes the other once its bytes have arrived.
pub async fn relay(
    near: TcpStream,
    far: TcpStream,
    there: Option<watch::Receiver<Weather>>,
    back: Option<watch::Receiver<Weather>>,
) {
    // Without it a packet can wait 40 ms for an acknowledgement.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(pass(near_in, far_out, there), pass(far_in, near_out, back));
}

async fn pass(from: OwnedReadHalf, to: OwnedWriteHalf, weather: Option<watch::Receiver<Weather>>) {
    // A link that nobody can change.
    let weather = weather.unwrap_or_else(|| watch::channel(Weather::default()).1);
    let (pieces, queue) = mpsc::channel(PIECES_COUNT);
    tokio::join!(take(from, pieces, weather.clone()), give(to, queue, weather));
}

async fn take(
    mut from: OwnedReadHalf,
    pieces: mpsc::Sender<(Instant, Vec<u8>)>,
    weather: watch::Receiver<Weather>,
) {
    let mut last = Instant::now();
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let Ok(read @ 1..) = from.read(&mut piece).await else { return };
        piece.truncate(read);
        let now = *weather.borrow();
        // Bytes of one connection never overtake each other.
        last = last.max(Instant::now() + Duration::from_millis(wait_ms(&now)));
        let micros = (read as u64 * 1_000_000).checked_div(now.bytes_per_s);
        last += Duration::from_micros(micros.unwrap_or(0));
        if pieces.send((last, piece)).await.is_err() {
            return;
        }
    }
}

/// How long a piece takes, however long it is.
fn wait_ms(weather: &Weather) -> u64 {
    let mut coin = rand::rng();
    let mut wait = weather.delay_ms;
    if weather.jitter_ms > 0 {
        wait += coin.random_range(0..=weather.jitter_ms);
    }
    for loss in 0..LOSSES_COUNT {
        if coin.random_range(0..100) >= weather.loss_percent {
            break;
        }
        wait += RETRANSMISSION_MS << loss;
    }
    wait
}

async fn give(
    mut to: OwnedWriteHalf,
    mut queue: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut weather: watch::Receiver<Weather>,
) {
    while let Some((at, piece)) = queue.recv().await {
        tokio::time::sleep_until(at).await;
        if weather.borrow().is_cut && weather.wait_for(|weather| !weather.is_cut).await.is_err() {
            return;
        }
        if to.write_all(&piece).await.is_err() {
            // The reader would wait for bytes that nobody wants.
            return;
        }
    }
    // It may be closed already.
    let _ = to.shutdown().await;
}
