//! Identities, authorities and members are replaced and refused while the cluster runs.

mod support;

use ollamamax_proto::Millis;
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{Authority, Protocol, TlsError};
use support::*;

#[tokio::test]
async fn an_identity_is_replaced_without_a_failed_dial() {
    let cluster = TestCluster::new(CLUSTER);
    let (one, two) = (cluster.node(1), cluster.node(2));
    let (address, _outcomes) = serve(one.clone()).await;
    let dialing = tokio::spawn({
        let two = two.clone();
        async move {
            for round in 0..100 {
                let heard = known(&two, &address, ANY_NODE).await;
                assert_eq!(heard.as_deref(), Ok("node 2"), "round {round}");
            }
            address
        }
    });
    while !dialing.is_finished() {
        one.replace(cluster.identity(node(1))).expect("replaced");
        two.replace(cluster.identity(node(2))).expect("replaced");
        tokio::task::yield_now().await;
    }
    let address = soon(dialing).await.expect("every dial succeeded");
    let fresh = one.identity().certificate().fingerprint();
    let stream = dial(&two, &address, ANY_NODE).await.expect("connected");
    assert_eq!(stream.peer().map(|peer| peer.fingerprint), Some(fresh));
}

#[tokio::test]
async fn an_identity_becomes_no_other_member() {
    let cluster = TestCluster::new(CLUSTER);
    let one = cluster.node(1);
    let other = TestCluster::new("other").identity(node(1));
    for identity in [cluster.identity(node(2)), cluster.identity(worker(1)), other] {
        let error = one.replace(identity).expect_err("refused");
        assert!(matches!(error, TlsError::OtherMember { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_authority_is_replaced_without_a_failed_dial_and_the_old_one_is_believed_no_more() {
    let cluster = TestCluster::new(CLUSTER);
    let old = &cluster.0;
    let new = &Authority::create(old.cluster(), Millis::now()).expect("made");
    let (one, seven, late) = (cluster.node(1), cluster.worker(7), cluster.node(3));
    let (node_at, _outcomes) = serve(one.clone()).await;
    let (worker_at, _outcomes) = serve(seven.clone()).await;
    let both_ways = async |step: &str| {
        let heard = known(&seven, &node_at, ANY_NODE).await;
        assert_eq!(heard.as_deref(), Ok(worker(7).to_string().as_str()), "{step}");
        let heard = known(&one, &worker_at, ANY_WORKER).await;
        assert_eq!(heard.as_deref(), Ok("node 1"), "{step}");
    };
    both_ways("at first").await;
    for tls in [&one, &seven] {
        let trusting = tls.identity().with_trusted(certificates(&[old, new])).expect("both");
        tls.replace(trusting).expect("replaced");
        both_ways("one after the other trusts the new authority").await;
    }
    one.replace(identity(new, node(1), &[old, new])).expect("replaced");
    both_ways("the node has a new certificate").await;
    seven.replace(identity(new, worker(7), &[old, new])).expect("replaced");
    both_ways("the worker has a new certificate").await;
    assert!(known(&late, &node_at, ANY_NODE).await.is_err(), "it does not trust the new one yet");
    late.replace(late.identity().with_trusted(certificates(&[old, new])).expect("both"))
        .expect("replaced");
    assert_eq!(known(&late, &node_at, ANY_NODE).await.as_deref(), Ok("node 3"));
    for tls in [&one, &seven] {
        let trusting = tls.identity().with_trusted(certificates(&[new])).expect("the new one");
        tls.replace(trusting).expect("replaced");
        both_ways("one after the other forgets the old authority").await;
    }
    assert!(known(&late, &node_at, ANY_NODE).await.is_err(), "an old certificate was believed");
    let (late_at, _outcomes) = serve(late).await;
    assert!(dial(&one, &late_at, ANY_NODE).await.is_err(), "an old certificate was believed");
}

#[tokio::test]
async fn who_was_removed_is_refused_on_both_sides() {
    let cluster = TestCluster::new(CLUSTER);
    let (one, seven, eight) = (cluster.node(1), cluster.worker(7), cluster.worker(8));
    let (node_at, mut outcomes) = serve(one.clone()).await;
    let (worker_at, _outcomes) = serve(seven.clone()).await;
    assert!(known(&seven, &node_at, ANY_NODE).await.is_ok());
    assert_eq!(soon(outcomes.recv()).await, Some(Ok(Some(worker(7)))));

    one.refuse(|peer| peer.role == worker(7));
    let _ = known(&seven, &node_at, ANY_NODE).await;
    let outcome = soon(outcomes.recv()).await.expect("an outcome");
    assert!(outcome.expect_err("refused").contains("was removed from the cluster"));
    let error = one.dial(&worker_at, ANY_WORKER, Protocol::Stage).await.expect_err("refused");
    assert!(matches!(error, TlsError::Refused { role, .. } if role == worker(7)), "{error}");
    assert!(known(&eight, &node_at, ANY_NODE).await.is_ok(), "others are not refused");

    one.refuse(|_| false);
    assert!(known(&seven, &node_at, ANY_NODE).await.is_ok());
}

#[tokio::test]
async fn no_session_is_resumed() {
    let (address, _outcomes) = serve(TestCluster::new(CLUSTER).node(1)).await;
    // This client would resume: clones share what it remembers.
    let config = believing(&rustls::version::TLS13);
    for _ in 0..3 {
        let mut stream = raw(&address, config.clone()).await.expect("let in");
        assert_eq!(told(&mut stream).await.expect("told"), "nobody");
        let (_, session) = stream.get_ref();
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}
