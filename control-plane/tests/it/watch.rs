//! Watchers that rebuild the state and resume.

use crate::support::{Cluster, PATIENCE, eventually};
use ollamamax_core::{State, codec};
use ollamamax_proto::wire::control_client::ControlClient;
use ollamamax_proto::wire::{StateEvent, WatchStateRequest};
use tonic::Streaming;

fn absorb(state: &mut State, event: &StateEvent) {
    if !event.snapshot.is_empty() {
        *state = State::default();
    }
    for bytes in [&event.snapshot, &event.changes] {
        if !bytes.is_empty() {
            let changes = codec::decode_changes(bytes).expect("decodable");
            changes.iter().for_each(|change| state.evolve(change));
        }
    }
}

async fn follow(events: &mut Streaming<StateEvent>, state: &mut State, until: u64) -> usize {
    let mut snapshots = 0;
    while state.revision().0 < until {
        let event = tokio::time::timeout(PATIENCE, events.message()).await;
        let event = event.expect("in time").expect("no error").expect("no end");
        snapshots += usize::from(!event.snapshot.is_empty());
        absorb(state, &event);
        assert_eq!(state.revision().0, event.revision);
    }
    snapshots
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_rebuilds_the_state_and_resumes_where_it_was() {
    let cluster = Cluster::start(1).await;
    let mut client = ControlClient::new(cluster.channel(&cluster.node_tls(1), 1));
    // What the cluster does by itself at its start would come in between.
    let control = cluster.control(1);
    eventually("a key signs", || !control.state().access.signing_keys.is_empty()).await;
    for n in 0..10 {
        cluster.put(1, &format!("k/{n}"), "v").await.expect("accepted");
    }
    let mut state = State::default();
    let request = WatchStateRequest { from_revision: 0 };
    let mut events = client.watch_state(request).await.expect("watched").into_inner();
    let at = cluster.control(1).state().revision().0;
    assert_eq!(follow(&mut events, &mut state, at).await, 1, "the first event is a snapshot");
    for n in 0..10 {
        cluster.put(1, &format!("k/{n}"), "w").await.expect("accepted");
    }
    let at = cluster.control(1).state().revision().0;
    assert_eq!(follow(&mut events, &mut state, at).await, 0, "changes follow");
    assert_eq!(state, *cluster.control(1).state());
    drop(events);

    cluster.put(1, "while away", "1").await.expect("accepted");
    let request = WatchStateRequest { from_revision: state.revision().0 };
    let mut events = client.watch_state(request).await.expect("watched").into_inner();
    let at = cluster.control(1).state().revision().0;
    assert_eq!(follow(&mut events, &mut state, at).await, 0, "it goes on without a snapshot");
    assert_eq!(state, *cluster.control(1).state());
    cluster.stop().await;
}
