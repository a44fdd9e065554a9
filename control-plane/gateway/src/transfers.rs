//! Pulls and pushes under way, and who listens to them.
//!
//! ```text
//! request -> join: is the same under way?  yes -> listen to that, from its first record
//!                                           no -> begin it, and listen
//! work    -> Steps: records, the last one of a layer in place -> everybody who listens
//! ```
//!
//! A transfer lives as long as somebody listens: when the last one has gone it is cut off where it is, and what has come of a file
//! waits for whoever asks again.

use crate::error::Failure;
use crate::stream;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use ollamamax_proto::{Digest, limits};
use serde::Serialize;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use utoipa::ToSchema;

/// How far a pull or a push is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct TransferProgress {
    /// The last says `success`.
    #[schema(examples("pulling manifest"))]
    status: String,
    /// Of the layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Bytes of the layer.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    total: u64,
    /// How many of them are there.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    completed: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What a transfer has told so far.
#[derive(Default)]
struct Told {
    records: Vec<TransferProgress>,
    outcome: Option<Result<(), Failure>>,
}

/// Where a transfer tells how far it is.
#[derive(Clone)]
pub(crate) struct Steps(watch::Sender<Told>);

impl Steps {
    /// Something is begun.
    pub fn step(&self, status: &str) {
        let record = TransferProgress { status: status.to_owned(), ..Default::default() };
        self.0.send_modify(|told| told.records.push(record));
    }

    /// So many bytes of a layer are there.
    pub fn bytes(&self, status: &str, digest: Option<Digest>, total: u64, completed: u64) {
        let digest = digest.map(|digest| digest.to_string());
        let record = TransferProgress { status: status.to_owned(), digest, total, completed };
        self.0.send_modify(|told| match told.records.last_mut() {
            Some(last) if last.status == record.status => {
                let completed = last.completed.max(record.completed);
                *last = TransferProgress { completed, ..record };
            }
            _ => told.records.push(record),
        });
    }
}

/// What tells one transfer from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// `pull` or `push`.
    pub what: &'static str,
    /// The name in the catalogue.
    pub name: String,
    /// What was asked for, as it was typed.
    pub of: String,
    /// Without TLS.
    pub insecure: bool,
}

/// A transfer under way; dropped by its last listener, it ends.
struct Work {
    told: watch::Receiver<Told>,
    task: JoinHandle<()>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All of one gateway.
#[derive(Default)]
pub(crate) struct Transfers {
    running: Mutex<HashMap<Key, Weak<Work>>>,
    /// One fetch of a blob at a time.
    turns: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transfers {
    /// Listens to a transfer, which is begun when it is not under way.
    ///
    /// # Errors
    /// When too many are.
    pub fn join<F>(&self, key: Key, begin: impl FnOnce(Steps) -> F) -> Result<Listener, Failure>
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let mut running = lock(&self.running);
        running.retain(|_, work| work.strong_count() > 0);
        let alive = |work: &Arc<Work>| work.told.borrow().outcome.is_none();
        if let Some(work) = running.get(&key).and_then(Weak::upgrade).filter(alive) {
            return Ok(Listener::new(work));
        }
        if running.len() >= limits::TRANSFERS_COUNT {
            let most = limits::TRANSFERS_COUNT;
            let reason = format!(
                "{most} models are pulled or pushed by this node; try again when one has come"
            );
            return Err(Failure::unavailable(reason));
        }
        let (sender, told) = watch::channel(Told::default());
        let steps = Steps(sender.clone());
        let work = begin(steps);
        let task = tokio::spawn(async move {
            let outcome = work.await;
            sender.send_modify(|told| told.outcome = Some(outcome));
        });
        let work = Arc::new(Work { told, task });
        running.insert(key, Arc::downgrade(&work));
        Ok(Listener::new(work))
    }

    /// The turn to fetch a blob.
    pub fn turn(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = turns.get(&digest).and_then(Weak::upgrade).unwrap_or_default();
        turns.insert(digest, Arc::downgrade(&turn));
        turn
    }
}

/// Somebody who listens to a transfer.
pub(crate) struct Listener {
    told: watch::Receiver<Told>,
    /// The record that is shown now.
    at: usize,
    /// What was last shown of it.
    shown: Option<TransferProgress>,
    _work: Arc<Work>,
}

/// What a listener hears.
enum Heard {
    Records(Vec<TransferProgress>),
    End(Result<(), Failure>),
}

impl Listener {
    fn new(work: Arc<Work>) -> Self {
        Self { told: work.told.clone(), at: 0, shown: None, _work: work }
    }

    /// What is new.
    async fn next(&mut self) -> Heard {
        loop {
            let (records, outcome) = self.new_records();
            if !records.is_empty() {
                return Heard::Records(records);
            }
            if let Some(outcome) = outcome {
                return Heard::End(outcome);
            }
            if self.told.changed().await.is_err() {
                return Heard::End(Err(Failure::Internal("the transfer broke off".to_owned())));
            }
        }
    }

    fn new_records(&mut self) -> (Vec<TransferProgress>, Option<Result<(), Failure>>) {
        let told = self.told.borrow_and_update();
        let mut out = Vec::new();
        while let Some(record) = told.records.get(self.at) {
            if self.shown.as_ref() != Some(record) {
                out.push(record.clone());
                self.shown = Some(record.clone());
            }
            if self.at + 1 == told.records.len() {
                break;
            }
            (self.at, self.shown) = (self.at + 1, None);
        }
        (out, told.outcome.clone())
    }

    /// The answer to whoever asked: records as they come, or the last.
    ///
    /// What fails before there is anything to tell but that it was begun has a status of its own.
    ///
    /// # Errors
    /// Then.
    pub async fn respond(mut self, streamed: bool) -> Result<Response, Failure> {
        if !streamed {
            loop {
                if let Heard::End(outcome) = self.next().await {
                    outcome?;
                    let status = "success".to_owned();
                    let last = TransferProgress { status, ..TransferProgress::default() };
                    return Ok(stream::ollama_json(&last));
                }
            }
        }
        let mut first = Vec::new();
        let wait = tokio::time::sleep(Duration::from_millis(limits::PULL_ANSWER_MS));
        tokio::pin!(wait);
        let mut end = None;
        while first.len() < 2 && end.is_none() {
            tokio::select! {
                heard = self.next() => match heard {
                    Heard::Records(records) => first.extend(records),
                    Heard::End(Err(failure)) => return Err(failure),
                    Heard::End(Ok(())) => end = Some(()),
                },
                () = &mut wait => break,
            }
        }
        let mut lines = Vec::new();
        first.iter().for_each(|record| stream::line(record, &mut lines));
        let head = futures_util::stream::iter([Bytes::from(lines)]);
        let listener = if end.is_none() { Some(self) } else { None };
        let rest = futures_util::stream::unfold(listener, async |listener| {
            let mut listener = listener?;
            // Records are for people: a few of them a second.
            tokio::time::sleep(Duration::from_millis(limits::PROGRESS_PERIOD_MS)).await;
            let mut lines = Vec::new();
            let listener = match listener.next().await {
                Heard::Records(records) => {
                    records.iter().for_each(|record| stream::line(record, &mut lines));
                    Some(listener)
                }
                Heard::End(outcome) => {
                    if let Err(failure) = outcome {
                        stream::line(&failure.ollama_body(), &mut lines);
                    }
                    None
                }
            };
            Some((Bytes::from(lines), listener))
        });
        let body = head.chain(rest).filter(|bytes| std::future::ready(!bytes.is_empty()));
        let body = Body::from_stream(body.map(Ok::<_, Infallible>));
        Ok(stream::typed("application/x-ndjson", body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        let (name, of) = ("m".to_owned(), "m".to_owned());
        Key { what: "pull", name, of, insecure: false }
    }

    async fn all(mut listener: Listener) -> (Vec<String>, Result<(), Failure>) {
        let mut lines = Vec::new();
        loop {
            match listener.next().await {
                Heard::Records(records) => lines.extend(
                    records.iter().map(|record| serde_json::to_string(record).expect("JSON")),
                ),
                Heard::End(outcome) => return (lines, outcome),
            }
        }
    }

    #[tokio::test]
    async fn whoever_joins_hears_everything_and_the_work_is_done_once() {
        let transfers = Transfers::default();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let digest = Digest::of(b"x");
        let first = transfers
            .join(key(), |steps| async move {
                steps.step("pulling manifest");
                steps.bytes("pulling x", Some(digest), 9, 0);
                let _ = gone.await;
                steps.bytes("pulling x", Some(digest), 9, 9);
                steps.step("success");
                Ok(())
            })
            .expect("begun");
        tokio::task::yield_now().await;
        let second = transfers
            .join(key(), |_| async { Err(Failure::invalid("begun twice")) })
            .expect("joined");
        let listening = tokio::spawn(all(first));
        tokio::task::yield_now().await;
        go.send(()).expect("it waits");
        let digest = digest.to_string();
        let last = [
            format!(r#"{{"status":"pulling x","digest":"{digest}","total":9,"completed":9}}"#),
            r#"{"status":"success"}"#.to_owned(),
        ];
        for (lines, outcome) in [listening.await.expect("heard"), all(second).await] {
            assert_eq!(lines[0], r#"{"status":"pulling manifest"}"#);
            assert_eq!(lines[lines.len() - 2..], last);
            assert_eq!(outcome, Ok(()));
        }
        let third = transfers.join(key(), |_| async { Ok(()) }).expect("it is over: begun again");
        assert_eq!(all(third).await, (Vec::new(), Ok(())));
    }

    #[tokio::test]
    async fn a_transfer_ends_with_its_last_listener() {
        struct Ended(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.take().map(|sender| sender.send(()));
            }
        }
        let transfers = Transfers::default();
        let (ended, has_ended) = tokio::sync::oneshot::channel();
        let ended = Ended(Some(ended));
        let begin = |steps: Steps| async move {
            let _ended = ended;
            steps.step("pulling manifest");
            std::future::pending().await
        };
        let first = transfers.join(key(), begin).expect("begun");
        let second = transfers.join(key(), |_| async { Ok(()) }).expect("joined");
        drop(first);
        let mut second = second;
        assert!(matches!(second.next().await, Heard::Records(_)), "it goes on for the other");
        drop(second);
        has_ended.await.expect("it is cut off");
    }

    #[tokio::test]
    async fn so_many_at_once_and_no_more() {
        let transfers = Transfers::default();
        let begin = |nth: usize| {
            let key = Key { of: nth.to_string(), ..key() };
            transfers.join(key, |_| std::future::pending())
        };
        let all: Vec<_> = (0..limits::TRANSFERS_COUNT).map(begin).collect();
        let refused = begin(limits::TRANSFERS_COUNT).err().expect("too many");
        assert_eq!(refused.status_code(), 503);
        drop(all);
        assert!(begin(0).is_ok());
    }
}
