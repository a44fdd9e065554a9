//! The threads that compute: one pool, alive as long as its backend, woken some hundred times per token.
//!
//! A phase is [`Pool::for_each`]: items are claimed one by one from a counter, so a thread that was descheduled delays
//! only the item it holds. Which thread computes an item never changes its value. Between phases threads spin briefly,
//! since the next phase mostly follows within microseconds, and then park, since spinning longer takes the processor from
//! everything else on the machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// Turns of a spin loop before parking: some tens of microseconds.
const SPIN_TURNS: u32 = 2_000;

type Job = &'static (dyn Fn(usize) + Sync);

/// Threads that run phases together with the thread that owns the pool.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    job: Mutex<Option<(Job, Thread)>>,
    /// Counts phases; a change is the signal to start.
    phase: AtomicU64,
    /// Helpers that have not finished the phase.
    pending: AtomicUsize,
    asleep: Vec<AtomicBool>,
    caller_asleep: AtomicBool,
    /// Nothing follows for a while: helpers park at once.
    resting: AtomicBool,
    failed: AtomicBool,
    stop: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({} helpers)", self.asleep.len())
    }
}

impl Pool {
    /// A pool of `threads` in all, the caller of [`Pool::for_each`] included; fewer if the system refuses them.
    pub fn new(threads: usize) -> Self {
        let helpers = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            job: Mutex::new(None),
            phase: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
            caller_asleep: AtomicBool::new(false),
            resting: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let spawn = |helper: usize| {
            let shared = Arc::clone(&shared);
            let name = format!("compute-{}", helper + 1);
            std::thread::Builder::new().name(name).spawn(move || shared.serve(helper)).ok()
        };
        let threads = (0..helpers).map_while(spawn).collect();
        Self { shared, threads }
    }

    /// Threads in all.
    pub fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Whether a phase has ever panicked: results since then are worthless.
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Tells that no phase follows at once: helpers leave the processor to others instead of spinning.
    pub fn rest(&self) {
        self.shared.resting.store(true, Ordering::Relaxed);
    }

    /// Calls `work` once for every item; `scratch` has one entry per thread.
    pub fn for_each<T: Send, S: Send>(
        &self,
        scratch: &mut [S],
        items: &mut [T],
        work: impl Fn(usize, &mut T, &mut S) + Sync,
    ) {
        assert!(scratch.len() >= self.threads(), "one scratch per thread");
        let (count, next) = (items.len(), AtomicUsize::new(0));
        let (items, scratch) = (Base(items.as_mut_ptr()), Base(scratch.as_mut_ptr()));
        let job = |thread: usize| {
            // SAFETY: `thread` is below `threads()` and different for every caller of the job, so this entry of the
            // scratch, whose length was checked, is borrowed once.
            let scratch = unsafe { &mut *scratch.at(thread) };
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                // SAFETY: the counter gives every index to one claimant only, and `index` is inside the slice, which
                // stays mutably borrowed until `run` has seen all threads finish.
                work(index, unsafe { &mut *items.at(index) }, scratch);
            }
        };
        if count <= 1 {
            self.guarded(&job);
        } else {
            self.run(&job);
        }
    }

    fn guarded(&self, job: &(dyn Fn(usize) + Sync)) {
        if catch_unwind(AssertUnwindSafe(|| job(0))).is_err() {
            self.shared.failed.store(true, Ordering::Release);
        }
    }

    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() {
            return self.guarded(job);
        }
        // SAFETY: only the lifetime is changed. Helpers use the job between the change of `phase` and their decrement of
        // `pending`; this function returns only after `pending` is zero and the job is taken back.
        let job_for_helpers = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        let shared = &self.shared;
        shared.resting.store(false, Ordering::Relaxed);
        *lock(&shared.job) = Some((job_for_helpers, std::thread::current()));
        shared.pending.store(self.threads.len(), Ordering::Release);
        shared.phase.fetch_add(1, Ordering::SeqCst);
        for (thread, asleep) in self.threads.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                thread.thread().unpark();
            }
        }
        self.guarded(job);
        let finished = || shared.pending.load(Ordering::SeqCst) == 0;
        wait(finished, &shared.caller_asleep, || false);
        *lock(&shared.job) = None;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.phase.fetch_add(1, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A helper catches panics of its jobs: there is nothing to learn from its result.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, helper: usize) {
        let mut seen = 0;
        loop {
            let resting = || self.resting.load(Ordering::Relaxed);
            wait(|| self.phase.load(Ordering::SeqCst) != seen, &self.asleep[helper], resting);
            seen = self.phase.load(Ordering::SeqCst);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let Some((job, caller)) = lock(&self.job).clone() else { continue };
            if catch_unwind(AssertUnwindSafe(|| job(helper + 1))).is_err() {
                self.failed.store(true, Ordering::Release);
            }
            // The job is not touched any more; after the last decrement the caller may return.
            if self.pending.fetch_sub(1, Ordering::SeqCst) == 1
                && self.caller_asleep.load(Ordering::SeqCst)
            {
                caller.unpark();
            }
        }
    }
}

/// Spins, then parks, until `done`. Who makes `done` true looks at `asleep` afterwards and unparks: with both sides
/// sequentially consistent, either this thread sees the change or the other sees it asleep.
fn wait(done: impl Fn() -> bool, asleep: &AtomicBool, resting: impl Fn() -> bool) {
    for _ in 0..SPIN_TURNS {
        if done() {
            return;
        }
        if resting() {
            break;
        }
        std::hint::spin_loop();
    }
    asleep.store(true, Ordering::SeqCst);
    while !done() {
        std::thread::park();
    }
    asleep.store(false, Ordering::SeqCst);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while holding it, and its content is replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Base<T>(*mut T);

// SAFETY: a `Base` only hands out addresses; `for_each` gives each address to one thread, and `T: Send` there.
unsafe impl<T: Send> Sync for Base<T> {}

impl<T> Base<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_visited_once_in_every_phase() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            let mut counts = vec![0u64; threads];
            let mut items = vec![0u64; 37];
            for phase in 1..=2_000u64 {
                pool.for_each(&mut counts, &mut items, |_, item, count| {
                    *item += 1;
                    *count += 1;
                });
                assert!(items.iter().all(|item| *item == phase));
            }
            assert_eq!(counts.iter().sum::<u64>(), 2_000 * 37);
            assert!(!pool.failed());
        }
    }

    #[test]
    fn a_panic_marks_the_pool_and_nobody_hangs() {
        let pool = Pool::new(3);
        let mut items = [0; 64];
        let work = |index: usize, item: &mut i32, (): &mut ()| {
            assert!(index != 40, "on purpose");
            *item = 1;
        };
        pool.for_each(&mut [(); 3], &mut items, work);
        assert!(pool.failed());
        pool.for_each(&mut [(); 3], &mut items, |_, item, ()| *item = 2);
        assert!(items.iter().all(|item| *item == 2));
    }
}
