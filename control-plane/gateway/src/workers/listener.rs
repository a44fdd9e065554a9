//! Listening to what workers say of their caches: one stream for each placement, as long as anybody here cares.

use super::Workers;
use super::caches::identity;
use super::meter::Meter;
use super::route::Kept;
use super::seat::Seat;
use ollamamax_proto::wire::inference_client::InferenceClient;
use ollamamax_proto::{limits, wire};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tonic::transport::Channel;

/// Listens to the worker of a seat in the background, where there is a runtime to do it in.
pub(super) fn listen(workers: &Workers, seat: &Seat, kept: &Arc<Kept>) {
    let candidate = &seat.candidate;
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let Ok(client) = workers.client(&candidate.worker) else { return };
    let assignment = &candidate.placement.assignment;
    let request = wire::CacheEventsRequest {
        assignment: assignment.id.0,
        generation: assignment.generation.0,
        blob: assignment.blob.to_string(),
    };
    let owner = identity(candidate);
    let (cares, kept) = (Arc::downgrade(&seat.meter), Arc::downgrade(kept));
    runtime.spawn(async move {
        // A worker that cannot be asked is asked again: what it has cached is worth a call every other second.
        while follow(client.clone(), &request, &cares, &kept, owner).await.is_some() {
            tokio::time::sleep(RETRY).await;
        }
    });
}

const RETRY: Duration = Duration::from_millis(limits::CACHE_NEWS_RETRY_MS);

/// Takes news in until the stream breaks; `None` when nobody cares any more.
async fn follow(
    mut client: InferenceClient<Channel>,
    request: &wire::CacheEventsRequest,
    cares: &Weak<Meter>,
    kept: &Weak<Kept>,
    owner: super::caches::Identity,
) -> Option<()> {
    cares.upgrade()?;
    let Ok(stream) = client.cache_events(request.clone()).await else { return Some(()) };
    let mut stream = stream.into_inner();
    loop {
        // A cache may have no news for long; whether anybody cares is looked at meanwhile.
        let news = tokio::time::timeout(RETRY, stream.message()).await;
        cares.upgrade()?;
        match news {
            Err(_) => {}
            Ok(Ok(Some(news))) => kept.upgrade()?.caches(|caches| caches.heard(owner, &news)),
            Ok(Ok(None) | Err(_)) => return Some(()),
        }
    }
}
