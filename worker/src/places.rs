//! Places for requests of one runner, running and waiting: bounded in all, and so that one caller cannot take them all.

use ollamamax_proto::limits;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places of one runner.
#[derive(Debug)]
pub struct Places {
    taken: Mutex<HashMap<String, usize>>,
    count: usize,
    per_caller: usize,
}

/// Held by a request from its submission to its end.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    caller: String,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// Every place is taken.
    #[error("the queue of this worker is full ({count} requests); try again later")]
    Full {
        /// How many places there are.
        count: usize,
    },
    /// The caller has its share already.
    #[error(
        "this caller has {count} requests here already, and the other places are for others; try again later"
    )]
    Share {
        /// How many places a caller may hold.
        count: usize,
    },
}

impl Places {
    /// Places for `running` sequences and a queue. A caller may hold all but a part of the queue.
    pub fn new(running: usize) -> Arc<Self> {
        let count = running + limits::WORKER_WAITING_COUNT;
        let per_caller = count - limits::WORKER_OTHERS_COUNT;
        Arc::new(Self { taken: Mutex::default(), count, per_caller })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().values().sum()
    }

    /// Takes a place for a request of `caller`.
    pub fn take(self: &Arc<Self>, caller: &str) -> Result<Place, NoPlace> {
        let mut taken = self.lock();
        if taken.values().sum::<usize>() >= self.count {
            return Err(NoPlace::Full { count: self.count });
        }
        let own = taken.get(caller).copied().unwrap_or_default();
        if own >= self.per_caller {
            return Err(NoPlace::Share { count: self.per_caller });
        }
        taken.insert(caller.to_owned(), own + 1);
        Ok(Place { places: Arc::clone(self), caller: caller.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(own) = taken.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_places_to_others_and_all_come_back() {
        let places = Places::new(4);
        let mut held = Vec::new();
        let refused = loop {
            match places.take("greedy") {
                Ok(place) => held.push(place),
                Err(refused) => break refused,
            }
        };
        let share = places.count() - limits::WORKER_OTHERS_COUNT;
        assert_eq!((held.len(), refused), (share, NoPlace::Share { count: share }));
        for other in 0..limits::WORKER_OTHERS_COUNT {
            held.push(places.take(&other.to_string()).expect("a place for others"));
        }
        let full = NoPlace::Full { count: places.count() };
        assert_eq!(places.take("late").expect_err("full"), full);
        assert_eq!(places.taken(), places.count());
        held.clear();
        assert_eq!(places.taken(), 0);
        assert!(places.lock().is_empty(), "callers that are gone are forgotten");
    }
}
