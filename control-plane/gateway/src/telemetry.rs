//! Names of the metrics a gateway records, and the guards that keep gauges true.

use metrics::{counter, gauge, histogram};
use std::time::Duration;

/// Counts one answered HTTP request.
pub fn request(route: &str, method: &str, status: u16, took: Duration) {
    let labels = [("route", route.to_owned()), ("method", method.to_owned())];
    let status = [labels[0].clone(), labels[1].clone(), ("status", status.to_string())];
    counter!("ollamamax_http_requests_total", &status).increment(1);
    histogram!("ollamamax_http_response_seconds", &labels).record(took.as_secs_f64());
}

/// Counts one try at a worker and how it went: `done`, `broken`, `busy`, `stale`, `refused` or `cancelled`.
pub fn attempt(outcome: &'static str) {
    counter!("ollamamax_attempts_total", "outcome" => outcome).increment(1);
}

/// Counts one attempt made beside a slow one.
pub fn hedged() {
    counter!("ollamamax_hedges_total").increment(1);
}

/// Counts one retry that the budget did not allow.
pub fn retry_refused() {
    counter!("ollamamax_retries_refused_total").increment(1);
}

/// Counts one batch request that had to wait.
pub fn batch_waited() {
    counter!("ollamamax_batch_waits_total").increment(1);
}

/// Counts one placement that is left out as an outlier.
pub fn ejected() {
    counter!("ollamamax_ejections_total").increment(1);
}

/// Counts one stream that goes on at another worker.
pub fn resumed(model: &str) {
    counter!("ollamamax_resumes_total", "model" => model.to_owned()).increment(1);
}

/// Records a pause of a stream: how long until another worker was asked, and how long that took to go on.
pub fn paused(model: &str, noticed: Duration, replayed: Duration) {
    let pause =
        histogram!("ollamamax_pause_seconds", "model" => model.to_owned(), "part" => "noticed");
    pause.record(noticed.as_secs_f64());
    let pause =
        histogram!("ollamamax_pause_seconds", "model" => model.to_owned(), "part" => "replayed");
    pause.record(replayed.as_secs_f64());
}

/// Records the time from the request to its first text.
pub fn first_token(model: &str, took: Duration) {
    histogram!("ollamamax_ttft_seconds", "model" => model.to_owned()).record(took.as_secs_f64());
}

/// Counts the tokens of one answered request.
pub fn tokens(model: &str, prompt: u32, output: u32) {
    counter!("ollamamax_prompt_tokens_total", "model" => model.to_owned()).increment(prompt.into());
    counter!("ollamamax_output_tokens_total", "model" => model.to_owned()).increment(output.into());
}

/// A request for tokens in flight.
pub struct InFlight(());

impl InFlight {
    /// One more.
    pub fn new() -> Self {
        gauge!("ollamamax_generations_in_flight").increment(1.0);
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!("ollamamax_generations_in_flight").decrement(1.0);
    }
}
