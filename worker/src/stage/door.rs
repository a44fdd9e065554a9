//! Where connections for one assignment come in, for the thread that waits for them.

use super::links::Incoming;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections that may wait: those of a few tries to close a ring.
const WAITING: usize = 4 * ollamamax_proto::limits::REPLICA_STAGES_COUNT;

/// The end that takes connections.
#[derive(Debug)]
pub struct Door(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None` once closed.
    queue: Option<SyncSender<Incoming>>,
    session: u64,
    /// What the thread may be waiting for now.
    used: Vec<TcpStream>,
}

impl Door {
    /// The two ends.
    pub fn new() -> (Arc<Self>, Receiver<Incoming>) {
        let (sender, receiver) = sync_channel(WAITING);
        let state = State { queue: Some(sender), session: 0, used: Vec::new() };
        (Arc::new(Self(Mutex::new(state))), receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection. One of a newer session ends what the thread is doing for an older: its driver has given that up.
    /// One of an older session is dropped, which closes it.
    pub fn take(&self, incoming: Incoming) {
        let mut state = self.state();
        let session = incoming.greeting.session;
        if session < state.session {
            return;
        }
        if session > state.session {
            state.session = session;
            state.interrupt();
        }
        if let Some(queue) = &state.queue {
            // With so many waiting, closing one more is all that can be done.
            let _ = queue.try_send(incoming);
        }
    }

    /// Notes what the thread may wait for in `session`; closed at once when that is over already.
    pub fn using<'a>(&self, session: u64, streams: impl Iterator<Item = &'a TcpStream>) {
        let mut state = self.state();
        state.used.extend(streams.filter_map(|stream| stream.try_clone().ok()));
        if session < state.session || state.queue.is_none() {
            state.interrupt();
        }
    }

    /// The thread uses none any more.
    pub fn unused(&self) {
        self.state().used.clear();
    }

    /// Nothing comes in any more, and what the thread waits for ends.
    pub fn close(&self) {
        let mut state = self.state();
        state.queue = None;
        state.interrupt();
    }
}

impl State {
    fn interrupt(&mut self) {
        for stream in self.used.drain(..) {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
