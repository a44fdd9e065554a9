//! The streams of this gateway that are kept, and the one task that writes what is new of them, once a second.

use super::{Form, Kept, StreamId};
use crate::Gateway;
use futures_util::future::join_all;
use ollamamax_core::Command;
use ollamamax_proto::{limits, wire};
use prost::Message;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::time::{Duration, Instant};

/// All streams of a gateway that are kept or may come to be.
#[derive(Debug, Default)]
pub struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    recordings: HashMap<StreamId, Arc<Recording>>,
    /// Whether the task runs.
    writing: bool,
}

/// What is known of one stream.
#[derive(Debug)]
pub struct Recording {
    id: StreamId,
    begun: Instant,
    page: Mutex<Page>,
}

#[derive(Debug)]
struct Page {
    record: wire::StreamRecord,
    changed: bool,
    written: bool,
    /// It has grown beyond what is kept of one.
    is_too_long: bool,
    /// Since when nobody writes to it any more.
    ended: Option<Instant>,
}

impl Recording {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It begins with another version of its model.
    pub fn switched(&self, request: wire::GenerateRequest) {
        let mut page = self.page();
        page.record.request = Some(request);
        page.changed = true;
    }

    /// More tokens, what they released, and where Mirostat stands after them.
    pub fn add(&self, tokens: &[u32], text: &str, mu: Option<f64>, resumes: u32) {
        let mut page = self.page();
        if page.is_too_long {
            return;
        }
        if let Some(request) = &mut page.record.request {
            request.resume.extend_from_slice(tokens);
            let options = request.options.as_mut();
            if let Some(mirostat) = options.and_then(|options| options.mirostat.as_mut()) {
                mirostat.mu = mu;
            }
        }
        page.record.text.push_str(text);
        page.record.resumes = resumes;
        page.changed = true;
    }
}

/// A run's hold on its recording: letting it go says that the stream has ended here, well or not.
#[derive(Debug)]
pub struct Hold(Arc<Recording>);

impl std::ops::Deref for Hold {
    type Target = Recording;

    fn deref(&self) -> &Recording {
        &self.0
    }
}

impl Hold {
    /// The stream is complete: what is kept of it is of use only until its client has read it.
    pub fn complete(&self) {
        self.0.page().ended = Some(Instant::now());
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gateway {
    /// Begins to keep a stream, from what is known of it.
    pub(crate) fn keep(
        self: &Arc<Self>,
        kept: &Kept,
        request: wire::GenerateRequest,
        text: String,
    ) -> Hold {
        let Kept { id, form } = kept;
        let record = wire::StreamRecord {
            request: Some(request),
            form_json: encode(form),
            text,
            resumes: 0,
        };
        let page = Page { record, changed: true, written: false, is_too_long: false, ended: None };
        let (id, begun, page) = (*id, Instant::now(), Mutex::new(page));
        let recording = Arc::new(Recording { id, begun, page });
        let mut pages = self.streams.pages();
        if pages.recordings.len() < limits::STREAMS_KEPT_COUNT {
            pages.recordings.insert(id, Arc::clone(&recording));
        }
        if !std::mem::replace(&mut pages.writing, true) {
            tokio::spawn(write(Arc::downgrade(self)));
        }
        Hold(recording)
    }
}

fn encode(form: &Form) -> String {
    serde_json::to_string(form).expect("forms have text keys and no failing serializers")
}

/// Looks between two writes: a stream is written first when it is old enough, not up to a period later.
const LOOKS: u32 = 4;

/// Writes what is new once a second, until there is nothing left to keep.
async fn write(gateway: Weak<Gateway>) {
    let period = Duration::from_millis(limits::STREAM_CHECKPOINT_MS);
    for look in (0..LOOKS).cycle() {
        tokio::time::sleep(period / LOOKS).await;
        let Some(gateway) = gateway.upgrade() else { return };
        let commands = {
            let mut pages = gateway.streams.pages();
            let mut commands = Vec::new();
            pages
                .recordings
                .retain(|_, recording| recording.turn(period, look == 0, &mut commands));
            if pages.recordings.is_empty() {
                pages.writing = false;
            }
            commands
        };
        // Together, so that they become one entry of the log. Without a quorum the next round has newer ones.
        let proposed = commands.into_iter().map(|command| gateway.control.propose(command));
        for failed in join_all(proposed).await.into_iter().filter_map(Result::err) {
            tracing::debug!(error = %failed, "a stream was not kept");
        }
        if !gateway.streams.pages().writing {
            return;
        }
    }
}

impl Recording {
    /// What is to be proposed now, of one that was written before only when it is `time`; whether it stays in the book.
    fn turn(self: &Arc<Self>, period: Duration, time: bool, commands: &mut Vec<Command>) -> bool {
        let mut page = self.page();
        // The book has one, the run the other.
        let abandoned = Arc::strong_count(self) == 1;
        if abandoned && page.ended.is_none() {
            page.ended = Some(Instant::now());
            // Its client is gone: it may come back, here or elsewhere.
            if self.begun.elapsed() >= period {
                commands.extend(page.put(self.id));
            }
            return false;
        }
        if let Some(ended) = page.ended {
            let linger = Duration::from_millis(limits::STREAM_LINGER_MS);
            if page.written && ended.elapsed() >= linger {
                let name = self.id.name();
                commands.push(Command::DeleteCheckpoint { name, expected: None });
                return false;
            }
            if !page.written {
                return false;
            }
        }
        if page.changed && self.begun.elapsed() >= period && (time || !page.written) {
            commands.extend(page.put(self.id));
        }
        page.written || !page.is_too_long
    }
}

impl Page {
    fn put(&mut self, id: StreamId) -> Option<Command> {
        if !std::mem::take(&mut self.changed) || self.is_too_long {
            return None;
        }
        // What is too long to be kept is not kept any more: what was kept before still leads to the same text.
        if self.record.encoded_len() > limits::CHECKPOINT_VALUE_BYTES {
            (self.is_too_long, self.record) = (true, wire::StreamRecord::default());
            return None;
        }
        let value = self.record.encode_to_vec();
        self.written = true;
        Some(Command::PutCheckpoint { name: id.name(), value, expected: None })
    }
}
