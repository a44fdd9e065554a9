//! The doors of a node: what is served on its two ports, and who may ask.

use crate::blobs::NodeBlobs;
use crate::config::NodeConfig;
use crate::error::{NodeFailure, StartError};
use crate::life::set_once;
use crate::node::Core;
use crate::raft::server::RaftServer;
use crate::service::blobs::BlobServer;
use crate::service::control::ControlServer;
use crate::service::join::JoinServer;
use crate::service::usage::UsageServer;
use crate::status::NodeControl;
use crate::telemetry;
use crate::workers::Workers;
use ollamamax_gateway::Gateway;
use ollamamax_proto::limits;
use ollamamax_proto::wire::blobs_server::BlobsServer as BlobsService;
use ollamamax_proto::wire::control_server::ControlServer as ControlService;
use ollamamax_proto::wire::join_server::JoinServer as JoinService;
use ollamamax_proto::wire::raft_server::RaftServer as RaftService;
use ollamamax_proto::wire::usage_server::UsageServer as UsageService;
use ollamamax_tls::{Allow, Tls, Who};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;
use tower::layer::util::Stack;

/// The gRPC services behind their guard.
type Services = Router<Stack<Allow, tower::layer::util::Identity>>;

impl Core {
    /// What is served on the gRPC port, and to whom.
    pub fn services(
        &self,
        workers: &Arc<Workers>,
        blobs: &Arc<NodeBlobs>,
        gateway: &Arc<Gateway>,
    ) -> Services {
        let (cluster, runtime) = (&self.identity.cluster, Handle::current());
        let raft = RaftServer::new(
            self.raft.clone(),
            self.opened.snapshots.clone(),
            Arc::clone(&self.peers),
            cluster,
            self.identity.node,
        );
        let control = ControlServer::new(
            self.client.clone(),
            Arc::clone(&self.published),
            Arc::clone(workers),
            Arc::clone(&self.credentials),
            cluster,
            runtime.clone(),
        );
        let join = JoinServer::new(
            self.client.clone(),
            Arc::clone(&self.published),
            Arc::clone(&self.credentials),
            Arc::clone(gateway),
            runtime.clone(),
        );
        let blobs = BlobServer::new(Arc::clone(blobs), runtime);
        let size = limits::RPC_MESSAGE_BYTES;
        tonic::transport::Server::builder()
            .initial_stream_window_size(limits::RPC_WINDOW_BYTES)
            .initial_connection_window_size(limits::RPC_WINDOW_BYTES)
            .http2_keepalive_interval(Some(Duration::from_millis(limits::HEADER_TIMEOUT_MS)))
            .layer(door(&self.credentials.tls))
            .add_service(
                RaftService::new(raft)
                    .max_decoding_message_size(size)
                    .max_encoding_message_size(size),
            )
            .add_service(
                ControlService::new(control)
                    .max_decoding_message_size(size)
                    .max_encoding_message_size(size),
            )
            .add_service(BlobsService::new(blobs))
            .add_service(
                UsageService::new(UsageServer::new(Arc::clone(gateway)))
                    .max_decoding_message_size(size),
            )
            .add_service(
                JoinService::new(join).max_decoding_message_size(limits::JOIN_MESSAGE_BYTES),
            )
    }

    pub fn serve_grpc(
        &self,
        threads: &Handle,
        listener: TcpListener,
        services: Services,
        stop: &CancellationToken,
        failed: watch::Sender<Option<NodeFailure>>,
    ) -> Result<(), StartError> {
        let _on_raft = threads.enter();
        // A listener belongs to the runtime that registered it.
        let listener = listener.into_std().map_err(StartError::Runtime)?;
        let listener = TcpListener::from_std(listener).map_err(StartError::Runtime)?;
        let incoming = self.credentials.tls.incoming(listener, None);
        let stop = stop.clone();
        threads.spawn(async move {
            let ended = stop.clone().cancelled_owned();
            let served = services.serve_with_incoming_shutdown(incoming, ended).await;
            if !stop.is_cancelled() {
                tracing::error!(?served, "the gRPC server has ended");
                failed.send_if_modified(|failure| set_once(failure, NodeFailure::Server("gRPC")));
            }
        });
        Ok(())
    }

    pub fn gateway(
        &self,
        config: &NodeConfig,
        control: &Arc<NodeControl>,
        blobs: &Arc<NodeBlobs>,
    ) -> Arc<Gateway> {
        let mut gateway_config = ollamamax_gateway::Config {
            metrics: telemetry::renderer(self.leadership.clone(), Arc::clone(&self.published)),
            sealing: self.credentials.sealing.clone(),
            tls: Some(self.credentials.tls.clone()),
            certificate_ms: config.timings.certificate_ms,
            authority_lead_ms: config.timings.authority_lead_ms,
            ..config.gateway.clone()
        };
        if let Some(roles) = &config.gateway.anonymous {
            let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
            tracing::warn!(
                roles = roles.join(","),
                "WHOEVER IS ON THIS MACHINE NEEDS NO CREDENTIAL: requests from loopback without one have these roles"
            );
        }
        let listened = control.addresses.http_local;
        let listened = Some(listened).filter(|address| !address.ip().is_unspecified());
        let own = listened.map(|address| address.to_string());
        let own = own.into_iter().chain([control.addresses.http.clone()]);
        gateway_config.edge.allowed_hosts.extend(own);
        let (control, blobs) = (Arc::clone(control), Arc::clone(blobs));
        Gateway::new(control, blobs, gateway_config)
    }
}

/// Who may call what on the gRPC port.
fn door(tls: &Tls) -> Allow {
    const CONTROL: &str = "ollamamax.v1.Control";
    Allow::new(tls.clone())
        .service("ollamamax.v1.Raft", Who::Node)
        .service(CONTROL, Who::Node)
        .method(CONTROL, "Register", Who::NodeOrWorker)
        .method(CONTROL, "Heartbeat", Who::NodeOrWorker)
        .method(CONTROL, "WatchAssignments", Who::NodeOrWorker)
        .method(CONTROL, "Renew", Who::NodeOrWorker)
        .service("ollamamax.v1.Usage", Who::Node)
        .service("ollamamax.v1.Blobs", Who::NodeOrWorker)
        .service("ollamamax.v1.Join", Who::Anyone)
}
