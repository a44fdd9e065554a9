//! Counters of the data path. What exports them is the process's choice.

/// One step ran: how many sequences were in it and how many tokens came out.
pub(crate) fn step(running: usize, tokens: usize) {
    metrics::counter!("ollamamax_worker_steps_total").increment(1);
    metrics::counter!("ollamamax_worker_tokens_total").increment(tokens as u64);
    metrics::histogram!("ollamamax_worker_batch_sequences").record(running as f64);
}

/// A sequence ended.
pub(crate) fn sequence_ended(how: &'static str) {
    metrics::counter!("ollamamax_worker_sequences_total", "how" => how).increment(1);
}

/// Bytes of blobs came over the network.
pub(crate) fn fetched(bytes: usize) {
    metrics::counter!("ollamamax_worker_fetched_bytes_total").increment(bytes as u64);
}
