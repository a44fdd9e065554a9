//! Why a model cannot be cut as asked, and what would work.

use super::map::{Form, Map};
use std::fmt;

/// A partition that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// No cut fits into what the workers have left.
    #[error(
        "as {form} it needs {needs_bytes} bytes, the {workers} workers open to it have {free_bytes} left{}",
        hint(*.needs_bytes, *.free_bytes)
    )]
    Memory {
        /// What was tried.
        form: Form,
        /// Bytes of weights and KV cache of one sequence.
        needs_bytes: u64,
        /// Bytes all workers have left together.
        free_bytes: u64,
        /// How many workers.
        workers: usize,
    },
    /// A stage has at least one layer.
    #[error("{asked} stages over {layers} layers; at most {layers} stages work")]
    Stages {
        /// How many were asked for.
        asked: u32,
        /// How many layers there are.
        layers: u32,
    },
    /// More workers are asked for than there are.
    #[error(
        "{asked} parts need as many workers, {have} can take one; {}",
        more(*.asked, *.have)
    )]
    Workers {
        /// How many.
        asked: u32,
        /// How many are open to it.
        have: u32,
    },
    /// The shards would tear key-value heads apart.
    #[error("{asked} shards over {heads} key-value heads; {} would work", list(.works))]
    Shards {
        /// How many were asked for.
        asked: u32,
        /// How many heads there are.
        heads: u32,
        /// How many shards would do.
        works: Vec<u32>,
    },
    /// The cuts between heads lie within blocks of quantised weights.
    #[error(
        "no cut between its {heads} key-value heads leaves whole blocks of {block} weights \
         ({quantization}, {columns} feed-forward columns); `layer` and `pipeline` need no such cut"
    )]
    Torn {
        /// The format.
        quantization: String,
        /// Weights in a block.
        block: u32,
        /// Key-value heads.
        heads: u32,
        /// Feed-forward columns.
        columns: u64,
    },
    /// The model's metadata does not say how its layers could be cut.
    #[error(
        "its metadata has no single `{field}` for all layers, so no layer can be cut; `layer` and `pipeline` work"
    )]
    Unknown {
        /// The entry.
        field: &'static str,
    },
    /// An encoder reads a text whole.
    #[error("an encoder is not split; `data` works")]
    Encoder,
    /// No ready worker has the label, or all of several.
    #[error("no worker has the label `{label}`; {}", values(.known))]
    Label {
        /// As `key=value`, with commas between several.
        label: String,
        /// The values that workers have under that key, or the labels of each.
        known: Vec<String>,
    },
}

fn hint(needs: u64, free: u64) -> String {
    match needs.checked_sub(free) {
        Some(short) if short > 0 => format!(": {short} more are needed"),
        _ => ", but no cut between layers fits into it".to_owned(),
    }
}

fn more(asked: u32, have: u32) -> String {
    let start = format!("start {} more", asked.saturating_sub(have));
    if have < 2 { start } else { format!("{start}, or ask for at most {have}") }
}

fn list(works: &[u32]) -> String {
    match works.split_last() {
        None => "no number of shards".to_owned(),
        Some((last, [])) => last.to_string(),
        Some((last, rest)) => {
            let rest: Vec<String> = rest.iter().map(u32::to_string).collect();
            format!("{} or {last}", rest.join(", "))
        }
    }
}

fn values(values: &[String]) -> String {
    if values.is_empty() {
        "no worker has that key".to_owned()
    } else {
        format!("workers have `{}`", values.join("`, `"))
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.stages, self.shards) {
            (0, 0) => write!(f, "`{}`", self.strategy),
            (1, 1) => f.write_str("one whole"),
            (stages, 0 | 1) => write!(f, "`{}` of {stages} stages", self.strategy),
            (0 | 1, shards) => write!(f, "`{}` of {shards} shards", self.strategy),
            (stages, shards) => write!(f, "{stages} stages of {shards} shards"),
        }
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = self.parts.len();
        let (latency, pace) = (self.latency_ns / 1_000, self.pace_ns / 1_000);
        let form = &self.form;
        write!(f, "{form} on {workers} workers, {latency} us a token, a step every {pace} us")
    }
}
