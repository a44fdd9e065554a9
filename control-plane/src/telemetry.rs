//! Metrics: one recorder per process, rendered by the gateway's `/metrics`.

use crate::leader::Leadership;
use crate::watch::Published;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use ollamamax_gateway::config::RenderMetrics;
use openraft::ServerState;
use std::sync::{Arc, OnceLock};

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the process's recorder when first called.
fn recorder() -> PrometheusHandle {
    RECORDER
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed; `/metrics` stays empty");
            }
            handle
        })
        .clone()
}

/// What `/metrics` answers: Raft's gauges as of now, and whatever was recorded.
pub fn renderer(leadership: Leadership, published: Arc<Published>) -> RenderMetrics {
    let handle = recorder();
    Arc::new(move || {
        record(&leadership, &published);
        // Histograms are folded when rendered or on upkeep; nobody else calls it.
        handle.run_upkeep();
        handle.render()
    })
}

fn record(leadership: &Leadership, published: &Published) {
    let raft = leadership.metrics();
    let index = |at: Option<u64>| at.unwrap_or(0) as f64;
    metrics::gauge!("ollamamax_raft_term").set(raft.current_term as f64);
    metrics::gauge!("ollamamax_raft_leader").set(index(raft.current_leader));
    let leads = if raft.state == ServerState::Leader { 1.0 } else { 0.0 };
    metrics::gauge!("ollamamax_raft_is_leader").set(leads);
    metrics::gauge!("ollamamax_raft_last_log_index").set(index(raft.last_log_index));
    metrics::gauge!("ollamamax_raft_applied_index").set(published.applied() as f64);
    metrics::gauge!("ollamamax_raft_snapshot_index").set(index(raft.snapshot.map(|id| id.index)));
    let state = published.state();
    metrics::gauge!("ollamamax_state_revision").set(state.revision().0 as f64);
    metrics::gauge!("ollamamax_models").set(state.models.len() as f64);
    metrics::gauge!("ollamamax_workers").set(state.workers.len() as f64);
    metrics::gauge!("ollamamax_placements").set(state.placements.len() as f64);
}
