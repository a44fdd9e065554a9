//! What happens to the world from outside: faults, operators, and clients. A script is a list of these with their times; it
//! depends on the seed alone, never on the world, and every operation makes sense in every world, so any part of a script is a
//! script.

use crate::coin::Coin;
use std::fmt;

/// Nodes of the control plane, each with a gateway.
pub const NODES: u64 = 3;
/// Machines that may run a worker.
pub const WORKERS: u64 = 8;
/// Names of models.
pub const MODELS: u64 = 6;
/// Who asks.
pub const USERS: u64 = 4;

/// One thing that happens. Numbers name nodes, workers, models and users by index; others are sizes.
#[allow(missing_docs, reason = "fields name what the line above each variant speaks of")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Clients send requests to a node within a moment.
    Ask { node: u64, model: u64, user: u64, count: u64 },
    /// A worker's process starts where none runs.
    Start { worker: u64 },
    /// A worker's process is gone at once.
    Kill { worker: u64 },
    /// A worker's process stands still.
    Hang { worker: u64, ms: u64 },
    /// A worker's steps take so many times as long.
    Slow { worker: u64, times: u64 },
    /// A worker's process is told to end, and finishes what it runs.
    Stop { worker: u64 },
    /// The next loads of a worker fail.
    BadDisk { worker: u64, loads: u64 },
    /// A worker reaches nobody, and nobody reaches it.
    Cut { worker: u64 },
    /// A worker's network is whole again.
    Join { worker: u64 },
    /// A node crashes, and comes back after a while.
    Crash { node: u64, ms: u64 },
    /// Two nodes do not reach each other.
    Part { one: u64, other: u64 },
    /// All nodes reach each other.
    Heal,
    /// What a node hears of the log comes so much later.
    Lag { node: u64, ms: u64 },
    /// A node's clock jumps to so many milliseconds from the true time.
    Clock { node: u64, off_ms: i64 },
    /// The leader hands over.
    HandOver,
    /// A name is pointed at a version.
    Put { model: u64, size: u64 },
    /// A name gets a second name.
    Copy { model: u64, to: u64 },
    /// A name is removed.
    Delete { model: u64 },
    /// A model is wanted.
    Demand { model: u64, replicas: u64, keep_ms: i64 },
    /// A model is no longer wanted.
    Release { model: u64 },
    /// It is said how a model is spread.
    Deploy { model: u64, strategy: u64, min: u64, more: u64 },
    /// That is no longer said.
    Clear { model: u64 },
    /// A name goes over to a version.
    RollOut { model: u64, size: u64, weight: u64 },
    /// Its requests are shared otherwise.
    Shift { model: u64, weight: u64 },
    /// It goes back.
    Revert { model: u64 },
    /// An operator has a worker give away what it holds.
    Drain { worker: u64 },
    /// An operator lets it be used again.
    Resume { worker: u64 },
    /// A worker is forgotten.
    Remove { worker: u64 },
    /// A worker gets a label, or loses it.
    Label { worker: u64, zone: u64 },
    /// A model is moved.
    Migrate { model: u64, from: u64, to: u64 },
    /// A value is set, only at the revision at which somebody read it.
    Checkpoint { name: u64, value: u64 },
    /// A user gets a quota, or none.
    Quota { user: u64, per_minute: u64 },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// An operation and when it happens, in microseconds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// When.
    pub us: u64,
    /// What.
    pub op: Op,
}

/// Where a world gets its operations from.
#[derive(Clone, Debug)]
pub enum Script {
    /// From the seed, until the world has made so many steps.
    Seed {
        /// Steps after which nothing more comes.
        steps: u64,
    },
    /// These, in order.
    List(Vec<At>),
}

/// Mean time between two operations, in microseconds.
const MEAN_GAP_US: u64 = 60_000;

impl Op {
    /// The operation of a seed with this number, and how many microseconds after the one before.
    pub fn of(coin: Coin, nth: u64) -> (u64, Self) {
        let below = |purpose: u64, bound: u64| coin.below(&[1, nth, purpose], bound);
        let gap = below(0, 2 * MEAN_GAP_US);
        // Now and then nothing happens for a while: some things take seconds.
        let gap = if below(1, 40) == 0 { gap + below(2, 4_000_000) } else { gap };
        let (worker, node, model) = (below(3, WORKERS), below(4, NODES), below(5, MODELS));
        let (size, other) = (1 + below(6, 6), below(7, WORKERS));
        let op = match below(8, 200) {
            0..110 => Self::Ask { node, model, user: below(9, USERS), count: 1 + below(10, 10) },
            110..118 => Self::Start { worker },
            118..121 => Self::Kill { worker },
            121..124 => Self::Hang { worker, ms: 100 + below(9, 6_000) },
            124..127 => Self::Slow { worker, times: 1 + below(9, 2) * below(10, 12) },
            127..129 => Self::Stop { worker },
            129..130 => Self::BadDisk { worker, loads: 1 + below(9, 2) },
            130..132 => Self::Cut { worker },
            132..136 => Self::Join { worker },
            136..139 => Self::Crash { node, ms: 50 + below(9, 5_000) },
            139..141 => Self::Part { one: node, other: below(9, NODES) },
            141..145 => Self::Heal,
            145..148 => Self::Lag { node, ms: below(9, 3) * below(10, 700) },
            148..150 => Self::Clock { node, off_ms: below(9, 120_000) as i64 - 60_000 },
            150..152 => Self::HandOver,
            152..156 => Self::Put { model, size },
            156..157 => Self::Copy { model, to: below(9, MODELS) },
            157..158 => Self::Delete { model },
            158..165 => {
                let keep_ms = if below(9, 3) == 0 { -1 } else { 1_000 + below(10, 60_000) as i64 };
                Self::Demand { model, replicas: 1 + below(11, 3), keep_ms }
            }
            165..166 => Self::Release { model },
            166..171 => {
                let (min, more) = (1 + below(9, 2), below(10, 3));
                Self::Deploy { model, strategy: below(11, 5), min, more }
            }
            171..172 => Self::Clear { model },
            172..177 => {
                let weight = if below(9, 2) == 0 { 100 } else { 1 + below(10, 99) };
                Self::RollOut { model, size, weight }
            }
            177..180 => Self::Shift { model, weight: [0, 50, 100][below(9, 3) as usize] },
            180..181 => Self::Revert { model },
            181..183 => Self::Drain { worker },
            183..187 => Self::Resume { worker },
            187..188 => Self::Remove { worker },
            188..190 => Self::Label { worker, zone: below(9, 3) },
            190..193 => Self::Migrate { model, from: worker, to: other },
            193..197 => Self::Checkpoint { name: below(9, 3), value: below(10, 256) },
            _ => Self::Quota { user: below(9, USERS), per_minute: below(10, 4) * 30 },
        };
        (gap, op)
    }
}
