//! The book of a gateway: which requests use which model, and which models are released when the last one ends.

use crate::Gateway;
use ollamamax_proto::ModelName;
use ollamamax_proto::audit::Note;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// What a gateway remembers about the wishes of its requests.
#[derive(Default)]
pub struct Demands {
    book: Mutex<Book>,
}

#[derive(Default)]
pub(super) struct Book {
    /// Models whose renewal is under way.
    pub(super) renewing: HashSet<ModelName>,
    /// Requests by model that have not ended.
    pub(super) in_use: HashMap<ModelName, usize>,
    /// Models to release when the last of their requests here ends, and who asked for that last.
    pub(super) release_when_idle: HashMap<ModelName, Note>,
    /// Requests by model that wait for their first text.
    pub(super) waiting: HashMap<ModelName, usize>,
}

/// A request in the book; it leaves when dropped.
pub struct Use {
    pub(super) gateway: Arc<Gateway>,
    pub(super) model: ModelName,
    pub(super) waiting: bool,
}

impl Use {
    /// The request has its first text and waits no longer.
    pub fn started(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.gateway.demands.leave_queue(&self.model);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.started();
        if let Some(note) = self.gateway.demands.leave(&self.model) {
            let (gateway, model) = (Arc::clone(&self.gateway), self.model.clone());
            tokio::spawn(async move {
                if let Err(error) = gateway.release(&model, note).await {
                    tracing::warn!(%model, error = %error, "could not release the idle model");
                }
            });
        }
    }
}

impl Demands {
    pub(super) fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_queue(&self, model: &ModelName) {
        decrement(&mut self.book().waiting, model);
    }

    /// Who wanted the model released, if this was its last request.
    fn leave(&self, model: &ModelName) -> Option<Note> {
        let mut book = self.book();
        let last = decrement(&mut book.in_use, model);
        last.then(|| book.release_when_idle.remove(model)).flatten()
    }
}

/// Counts one down; tells whether none is left.
fn decrement(counts: &mut HashMap<ModelName, usize>, model: &ModelName) -> bool {
    let Some(count) = counts.get_mut(model) else { return true };
    *count = count.saturating_sub(1);
    let none_left = *count == 0;
    if none_left {
        counts.remove(model);
    }
    none_left
}
