//! What a sequence has to say and its client has not taken yet.
//!
//! The engine's thread must never wait for a client, and a slow client must not make a queue grow: so what is not taken
//! yet is merged into one pending chunk, bounded by the sequence's own length. A fast client sees every step, a slow one
//! sees the same tokens in fewer pieces. A client that goes is noticed by [`Outbox::is_gone`] before the next step.
//!
//! ```text
//! runner thread: Outbox::push --> [one pending chunk] --> Inbox::next: gRPC stream
//!                Outbox::is_gone <------------------------ drop(Inbox)
//! ```

use ollamamax_proto::inference::TokenChunk;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tonic::Status;

#[derive(Debug, Default)]
struct Slot {
    pending: Option<TokenChunk>,
    end: Option<Result<(), Status>>,
    gone: bool,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    filled: Notify,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The runner's end. Dropping it without [`Outbox::end`] tells the client that the engine is gone.
#[derive(Debug)]
pub struct Outbox(Arc<Shared>);

/// The client's end. Dropping it cancels the sequence.
#[derive(Debug)]
pub struct Inbox(Arc<Shared>);

/// Two connected ends.
pub fn channel() -> (Outbox, Inbox) {
    let shared = Arc::new(Shared::default());
    (Outbox(Arc::clone(&shared)), Inbox(shared))
}

impl Outbox {
    /// Adds `chunk` to what the client has not taken yet.
    pub fn push(&self, chunk: TokenChunk) {
        let mut slot = self.0.slot();
        match &mut slot.pending {
            Some(pending) => merge(pending, chunk),
            empty => *empty = Some(chunk),
        }
        drop(slot);
        self.0.filled.notify_one();
    }

    /// Nothing more will come; an error says why the sequence is not complete.
    pub fn end(self, end: Result<(), Status>) {
        self.0.slot().end = Some(end);
    }

    /// Whether the client is gone.
    pub fn is_gone(&self) -> bool {
        self.0.slot().gone
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let lost = || Err(Status::unavailable("the engine stopped before the sequence ended"));
        self.0.slot().end.get_or_insert_with(lost);
        self.0.filled.notify_one();
    }
}

impl Inbox {
    /// The next chunk; `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<TokenChunk, Status>> {
        loop {
            {
                let mut slot = self.0.slot();
                if let Some(chunk) = slot.pending.take() {
                    return Some(Ok(chunk));
                }
                match &mut slot.end {
                    Some(Ok(())) => return None,
                    Some(end) => return std::mem::replace(end, Ok(())).err().map(Err),
                    None => {}
                }
            }
            self.0.filled.notified().await;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut slot = self.0.slot();
        slot.gone = true;
        slot.pending = None;
    }
}

fn merge(pending: &mut TokenChunk, chunk: TokenChunk) {
    // A chunk without tokens (the start, or held-back text) has no index of its own.
    if pending.tokens.is_empty() {
        pending.index = chunk.index;
    }
    pending.tokens.extend(chunk.tokens);
    pending.text.push_str(&chunk.text);
    pending.logprobs.extend(chunk.logprobs);
    pending.mu = chunk.mu.or(pending.mu);
    pending.started = pending.started.take().or(chunk.started);
    pending.done = pending.done.take().or(chunk.done);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollamamax_proto::inference::{Logprob, Started, TokenLogprob};

    fn tokens(index: u32, tokens: &[u32], text: &str) -> TokenChunk {
        TokenChunk { index, tokens: tokens.to_vec(), text: text.to_owned(), ..Default::default() }
    }

    #[tokio::test]
    async fn what_was_not_taken_comes_as_one_chunk() {
        let (outbox, mut inbox) = channel();
        outbox.push(TokenChunk { started: Some(Started::default()), ..Default::default() });
        outbox.push(tokens(4, &[7], "a"));
        outbox.push(tokens(5, &[8, 9], "bc"));
        let chunk = inbox.next().await.expect("a chunk").expect("no error");
        assert_eq!((chunk.index, chunk.tokens, chunk.text.as_str()), (4, vec![7, 8, 9], "abc"));
        assert!(chunk.started.is_some());
        outbox.push(tokens(7, &[1], "d"));
        outbox.end(Ok(()));
        assert_eq!(inbox.next().await.expect("a chunk").expect("no error").index, 7);
        assert!(inbox.next().await.is_none());
    }

    #[tokio::test]
    async fn each_log_probability_and_the_newest_state_survive_the_merge() {
        let told = |token: u32| TokenLogprob {
            chosen: Logprob { token, ..Logprob::default() },
            ..TokenLogprob::default()
        };
        let (outbox, mut inbox) = channel();
        for token in 0..3 {
            let (logprobs, mu) = (vec![told(token)], Some(f64::from(token)));
            outbox.push(TokenChunk { logprobs, mu, ..tokens(token, &[token], "") });
        }
        outbox.push(TokenChunk::default());
        let chunk = inbox.next().await.expect("a chunk").expect("no error");
        assert_eq!(chunk.logprobs, [told(0), told(1), told(2)]);
        assert_eq!((chunk.tokens, chunk.mu), (vec![0, 1, 2], Some(2.0)));
    }

    #[tokio::test]
    async fn a_lost_engine_is_an_error_after_what_it_said() {
        let (outbox, mut inbox) = channel();
        outbox.push(tokens(0, &[1], "a"));
        drop(outbox);
        assert!(inbox.next().await.expect("a chunk").is_ok());
        let status = inbox.next().await.expect("an end").expect_err("it was cut off");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(inbox.next().await.is_none());
    }

    #[tokio::test]
    async fn a_gone_client_is_seen() {
        let (outbox, inbox) = channel();
        assert!(!outbox.is_gone());
        drop(inbox);
        assert!(outbox.is_gone());
    }
}
