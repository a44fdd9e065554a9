//! Members know each other, and nobody else is let in; whatever is refused, the server goes on.

mod support;

use ollamamax_proto::{Millis, NodeId, WorkerId};
use ollamamax_tls::testing::TestCluster;
use ollamamax_tls::{Authority, Expect, Protocol, Tls, TlsError};
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use std::io::{Read, Write};
use std::sync::Arc;
use support::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn each_side_knows_who_the_other_is() {
    let cluster = TestCluster::new(CLUSTER);
    let (one, seven) = (cluster.node(1), cluster.worker(7));
    let (node_at, _outcomes) = serve(one.clone()).await;
    let (worker_at, _outcomes) = serve(seven.clone()).await;

    let stream = dial(&seven, &node_at, ANY_NODE).await.expect("a node");
    assert_eq!(stream.peer().map(|peer| peer.role), Some(node(1)));
    let certificate = one.identity().certificate().clone();
    assert_eq!(stream.peer().map(|peer| peer.fingerprint), Some(certificate.fingerprint()));
    assert_eq!(told(stream).await.expect("told"), worker(7).to_string());

    for expect in [ANY_WORKER, Expect::Worker(WorkerId(7))] {
        assert_eq!(known(&one, &worker_at, expect).await.expect("a worker"), "node 1");
    }
    let two = cluster.node(2);
    assert_eq!(known(&two, &node_at, Expect::Node(NodeId(1))).await.expect("node 1"), "node 2");
}

#[tokio::test]
async fn a_server_that_is_another_than_expected_is_refused() {
    let cluster = TestCluster::new(CLUSTER);
    let (node_at, _outcomes) = serve(cluster.node(1)).await;
    let (worker_at, _outcomes) = serve(cluster.worker(7)).await;
    let two = cluster.node(2);
    for (address, expect) in [
        (&node_at, Expect::Node(NodeId(3))),
        (&node_at, Expect::Worker(WorkerId(7))),
        (&node_at, ANY_WORKER),
        (&worker_at, Expect::Worker(WorkerId(8))),
        (&worker_at, Expect::Node(NodeId(1))),
        (&worker_at, ANY_NODE),
    ] {
        let error = two.dial(address, expect, Protocol::Grpc).await.expect_err("refused");
        assert!(matches!(error, TlsError::Handshake { .. }), "{expect}: {error}");
    }
    assert!(known(&two, &node_at, ANY_NODE).await.is_ok());
}

#[tokio::test]
async fn certificates_that_are_wrong_are_refused_on_both_sides() {
    let cluster = old_cluster();
    let good = cluster.node(1);
    let (address, mut outcomes) = serve(good.clone()).await;
    let now = Millis::now().0;
    let tls = |identity| Tls::new(identity).expect("usable");
    // The impostor is called like the cluster, and trusts it; it only has not its key.
    let impostor = Authority::create(cluster.0.cluster(), Millis(now)).expect("made");
    let wrong = [
        ("expired", tls(cluster.identity_at(node(2), Millis(now - 3 * DAY_MS)))),
        ("not yet valid", tls(cluster.identity_at(node(2), Millis(now + DAY_MS)))),
        ("another cluster", TestCluster::new("another").node(2)),
        ("an impostor", tls(identity(&impostor, node(2), &[&impostor, &cluster.0]))),
    ];
    for (what, tls) in wrong {
        assert!(known(&tls, &address, ANY_NODE).await.is_err(), "{what} was let in");
        assert!(soon(outcomes.recv()).await.expect("an outcome").is_err(), "{what} was let in");
        let (at, _outcomes) = serve(tls).await;
        let error = good.dial(&at, ANY_NODE, Protocol::Grpc).await.expect_err(what);
        assert!(matches!(error, TlsError::Handshake { .. }), "{what}: {error}");
        assert_eq!(known(&cluster.node(3), &address, ANY_NODE).await.as_deref(), Ok("node 3"));
        assert_eq!(soon(outcomes.recv()).await, Some(Ok(Some(node(3)))));
    }
}

#[tokio::test]
async fn who_has_no_certificate_is_nobody_and_who_signed_its_own_is_refused() {
    let cluster = TestCluster::new(CLUSTER);
    let (address, mut outcomes) = serve(cluster.node(1)).await;
    let stream = raw(&address, believing(&TLS13)).await.expect("let in");
    assert_eq!(told(stream).await.expect("told"), "nobody");
    assert_eq!(soon(outcomes.recv()).await, Some(Ok(None)));

    let key = rcgen::KeyPair::generate().expect("a key");
    let names = [format!("n1.{CLUSTER}.ollamamax"), format!("node.{CLUSTER}.ollamamax")];
    let own = rcgen::CertificateParams::new(names.to_vec()).expect("names");
    let own = own.self_signed(&key).expect("signed");
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer))
        .with_client_auth_cert(vec![own.der().clone()], key)
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = raw(&address, config).await.expect("the server is believed");
    assert!(told(stream).await.is_err());
    assert!(soon(outcomes.recv()).await.expect("an outcome").is_err());
}

#[tokio::test]
async fn what_is_not_our_protocol_is_refused() {
    let cluster = TestCluster::new(CLUSTER);
    let (address, mut outcomes) = serve(cluster.node(1)).await;
    let mut refused = async |what: &str| {
        let outcome = soon(outcomes.recv()).await.expect("an outcome");
        assert!(outcome.is_err(), "{what} was let in");
    };
    // TLS 1.2.
    assert!(raw(&address, believing(&TLS12)).await.is_err());
    refused("TLS 1.2").await;
    // Something else agreed, or nothing.
    let mut other = believing(&TLS13);
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(raw(&address, other).await.is_err());
    refused("another protocol").await;
    let mut none = believing(&TLS13);
    none.alpn_protocols.clear();
    assert!(told(raw(&address, none).await.expect("greeted")).await.is_err());
    refused("no protocol").await;
    // No TLS at all.
    for bytes in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"OLMXSTG1", b"\x16\x03\x01\xff\xff", b""]
    {
        let mut tcp = TcpStream::connect(&address).await.expect("connected");
        tcp.write_all(bytes).await.expect("written");
        tcp.shutdown().await.expect("ended");
        let mut answer = Vec::new();
        let _ = soon(tcp.read_to_end(&mut answer)).await;
        refused("plain text").await;
    }
    assert_eq!(known(&cluster.node(2), &address, ANY_NODE).await.as_deref(), Ok("node 2"));
}

#[tokio::test]
async fn a_server_without_tls_and_one_that_is_not_there_are_named() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("accepted");
        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let two = TestCluster::new(CLUSTER).node(2);
    let error = two.dial(&address, ANY_NODE, Protocol::Grpc).await.expect_err("refused");
    assert!(matches!(&error, TlsError::Handshake { address: at, .. } if *at == address), "{error}");
    let (listener, address) = listen().await;
    drop(listener);
    let error = two.dial(&address, ANY_NODE, Protocol::Grpc).await.expect_err("refused");
    assert!(matches!(&error, TlsError::Connect { address: at, .. } if *at == address), "{error}");
    // It listens and never says a word.
    let (_listener, address) = listen().await;
    let error = two.dial(&address, ANY_NODE, Protocol::Grpc).await.expect_err("too late");
    assert!(matches!(error, TlsError::Late { .. }), "{error}");
}

#[tokio::test]
async fn a_connection_goes_on_in_a_thread_with_what_was_read_ahead() {
    let cluster = TestCluster::new(CLUSTER);
    let (listener, address) = listen().await;
    let (seven, eight) = (cluster.worker(7), cluster.worker(8));
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.expect("accepted");
        let mut stream = seven.accept(tcp).await.expect("let in");
        assert_eq!(stream.protocol(), Protocol::Stage);
        // Seen, and left there.
        assert!(stream.fill_buf().await.expect("bytes").starts_with(b"OLMXSTG1"));
        let mut stream = stream.into_blocking().expect("blocking");
        tokio::task::spawn_blocking(move || {
            assert!(stream.has_unread().expect("no error"));
            assert_eq!(stream.peer().map(|peer| peer.role), Some(worker(8)));
            let mut bytes = vec![0; 8 + 1_000_000];
            stream.read_exact(&mut bytes).expect("read");
            stream.write_all(&bytes[8..]).expect("written");
            stream.flush().expect("flushed");
            stream.tcp().shutdown(std::net::Shutdown::Both).expect("ended");
        })
        .await
        .expect("done");
    });
    let expect = Expect::Worker(WorkerId(7));
    let stream = eight.dial(&address, expect, Protocol::Stage).await.expect("connected");
    let mut stream = stream.into_blocking().expect("blocking");
    let calling = tokio::task::spawn_blocking(move || {
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        stream.write_all(b"OLMXSTG1").expect("written");
        stream.write_all(&sent).expect("written");
        stream.flush().expect("flushed");
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).expect("read");
        assert!(back == sent);
        // It was cut off, which is not an end.
        let error = stream.read(&mut back).expect_err("cut off");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    });
    soon(calling).await.expect("done");
    soon(serving).await.expect("done");
}
