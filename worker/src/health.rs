//! How the GPU is, looked at beside everything else: the driver may take its time to answer.

use ollamamax_engine::cuda::nvml::Monitor;
use ollamamax_proto::limits;
use ollamamax_proto::placement::DeviceHealth;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

type Seen = Mutex<Option<DeviceHealth>>;

/// What was seen of a GPU last. It is looked at as long as a clone of this is there.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Seen>);

impl Health {
    /// Looks at the GPU at a PCI address from now on. Where nothing can be seen, that is said once.
    pub fn of(pci: &str) -> Self {
        let health = Self::default();
        match Monitor::open(pci) {
            Ok(monitor) => health.watch(monitor),
            Err(reason) => tracing::info!(%reason, "how the GPU is stays unknown"),
        }
        health
    }

    /// What was seen last.
    pub fn now(&self) -> Option<DeviceHealth> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, monitor: Monitor) {
        let seen = Arc::downgrade(&self.0);
        let work = move || look(monitor, &seen);
        let spawned = std::thread::Builder::new().name("health".to_owned()).spawn(work);
        if let Err(error) = spawned {
            tracing::warn!(%error, "how the GPU is stays unknown");
        }
    }
}

fn look(mut monitor: Monitor, seen: &Weak<Seen>) {
    let mut failure = None;
    while let Some(seen) = seen.upgrade() {
        let health = monitor.health();
        if health.xid != failure {
            failure = health.xid;
            tracing::error!(xid = failure, "the driver says that the GPU failed");
        }
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(health);
        drop(seen);
        std::thread::sleep(Duration::from_millis(limits::GPU_HEALTH_MS));
    }
}
