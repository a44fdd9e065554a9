//! A receiver of logs, as OpenTelemetry's protocol has it (OTLP 1, over gRPC): each record of the trail is a log record.
//!
//! ```text
//! leader:    send -> taken? -> the cluster remembers how far (now and then) -> send ...
//! another one leads: it goes on from what the cluster remembers; a few records may come twice, with the same number and hash
//! ```
//!
//! At least once: a receiver that wants each once keeps those whose `audit.number` it does not have.

use super::ExportError;
use super::cursor::Last;
use super::headers::Headers;
use super::piece::Piece;
use crate::client::Client;
use crate::leader::Leadership;
use ollamamax_core::access::AccessCommand;
use ollamamax_core::{Command, State};
use ollamamax_proto::audit::{Gap, Line, Record};
use ollamamax_proto::{Digest, Millis, limits};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

/// A receiver.
pub(super) struct OtlpSink {
    /// By what the cluster knows it.
    id: String,
    channel: Channel,
    headers: Headers,
    leadership: Leadership,
    client: Client,
    /// What it has taken from this node.
    sent: Option<u64>,
    told_at: Instant,
}

impl OtlpSink {
    /// For the receiver at `url`; nothing is sent yet.
    pub fn new(
        url: &str,
        id: String,
        (leadership, client): (Leadership, Client),
        headers: &Headers,
    ) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| error.to_string())?;
        let mut endpoint = endpoint
            .connect_timeout(Duration::from_millis(limits::TLS_DIAL_MS))
            .timeout(Duration::from_millis(limits::AUDIT_EXPORT_TIMEOUT_MS));
        if url.starts_with("https://") {
            let tls = ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint.tls_config(tls).map_err(|error| error.to_string())?;
        }
        if !url.starts_with("https://") && !headers.is_empty() {
            tracing::warn!(url, "what the receiver wants to see is sent to it without encryption");
        }
        let (channel, headers) = (endpoint.connect_lazy(), headers.clone());
        Ok(Self { id, channel, headers, leadership, client, sent: None, told_at: Instant::now() })
    }

    /// How far the receiver is; the outer `None`: that is another node's business, since that leads.
    pub fn last(&self, state: &State) -> Option<Option<Last>> {
        if !self.leadership.leads() {
            return None;
        }
        let known = state.access.exported.get(&self.id).copied();
        Some(known.max(self.sent).map(|number| (number, None)))
    }

    /// Sends a piece.
    pub async fn send(&mut self, state: &State, piece: Piece) -> Result<(), ExportError> {
        let (last, _) = piece.last();
        let mut request = tonic::Request::new(request(state, &piece));
        self.headers.add(request.metadata_mut());
        let mut receiver = LogsServiceClient::new(self.channel.clone());
        let taken = receiver.export(request).await.map_err(|status| ExportError::Receiver {
            code: status.code(),
            message: status.message().to_owned(),
        })?;
        // To be sent no more, by the protocol: it would be refused again.
        if let Some(partial) = taken.into_inner().partial_success
            && partial.rejected_log_records > 0
        {
            let (records, why) = (partial.rejected_log_records, partial.error_message);
            tracing::error!(
                records,
                up_to = last,
                why,
                "the receiver refuses records of the trail"
            );
        }
        self.sent = Some(last);
        if self.told_at.elapsed() >= Duration::from_millis(limits::AUDIT_CURSOR_MS) {
            self.tell(last).await;
        }
        Ok(())
    }

    /// Has the cluster remember how far the receiver is, when it does not yet.
    pub async fn remember(&mut self, state: &State) {
        if let Some(sent) = self.sent
            && state.access.exported.get(&self.id).is_none_or(|known| *known < sent)
        {
            self.tell(sent).await;
        }
    }

    async fn tell(&mut self, number: u64) {
        self.told_at = Instant::now();
        let command = AccessCommand::Exported { sink: self.id.clone(), number };
        if let Err(error) = self.client.propose(Command::Access(Box::new(command))).await {
            tracing::debug!(%error, "the cluster does not know yet how far the trail is exported");
        }
    }
}

fn request(state: &State, piece: &Piece) -> ExportLogsServiceRequest {
    let now = nanos(Millis::now());
    let cluster = state.cluster.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let attributes = vec![
        attribute("service.name", "ollamamax".to_owned()),
        attribute("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        attribute("ollamamax.cluster.id", text(cluster.map(|cluster| &cluster.id))),
        attribute("ollamamax.cluster.name", text(cluster.map(|cluster| &cluster.name))),
    ];
    let log = |line: &Line| match line {
        Line::Record(record) => of_record(record, now),
        Line::Gap(gap) => of_gap(gap, now),
    };
    let scope = InstrumentationScope {
        name: "ollamamax.audit".to_owned(),
        ..InstrumentationScope::default()
    };
    let logs = ScopeLogs {
        scope: Some(scope),
        log_records: piece.0.iter().map(log).collect(),
        ..ScopeLogs::default()
    };
    let resource = Resource { attributes, ..Resource::default() };
    let logs = ResourceLogs {
        resource: Some(resource),
        scope_logs: vec![logs],
        ..ResourceLogs::default()
    };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

fn of_record(record: &Record, now: u64) -> LogRecord {
    let note = &record.note;
    let (severity, name) = match note.outcome.starts_with("refused") {
        true => (SeverityNumber::Warn, "WARN"),
        false => (SeverityNumber::Info, "INFO"),
    };
    let body = format!("{} {} {}: {}", note.actor, note.action, note.object, note.outcome);
    LogRecord {
        time_unix_nano: nanos(record.at),
        observed_time_unix_nano: now,
        severity_number: severity.into(),
        severity_text: name.to_owned(),
        body: Some(string(body)),
        attributes: vec![
            number("audit.number", record.number),
            // The trail's own clock, to check the hash by.
            number("audit.at", record.at.0),
            attribute("audit.actor", note.actor.clone()),
            attribute("audit.via", note.via.clone()),
            attribute("audit.from", note.from.clone()),
            attribute("audit.request", note.request.clone()),
            attribute("audit.action", note.action.clone()),
            attribute("audit.object", note.object.clone()),
            attribute("audit.outcome", note.outcome.clone()),
            attribute("audit.hash", Digest(record.hash).hex()),
        ],
        event_name: "ollamamax.audit.record".to_owned(),
        ..LogRecord::default()
    }
}

fn of_gap(gap: &Gap, now: u64) -> LogRecord {
    let Gap { from, to, noticed_at } = *gap;
    let body = format!("records {from} to {to} were forgotten before they could be exported");
    LogRecord {
        time_unix_nano: nanos(noticed_at),
        observed_time_unix_nano: now,
        severity_number: SeverityNumber::Error.into(),
        severity_text: "ERROR".to_owned(),
        body: Some(string(body)),
        attributes: vec![number("audit.missing_from", from), number("audit.missing_to", to)],
        event_name: "ollamamax.audit.gap".to_owned(),
        ..LogRecord::default()
    }
}

fn nanos(at: Millis) -> u64 {
    at.0.saturating_mul(1_000_000)
}

fn string(text: String) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text)) }
}

fn attribute(key: &str, text: String) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(string(text)), ..KeyValue::default() }
}

fn number(key: &str, number: u64) -> KeyValue {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    let value = Some(AnyValue { value: Some(Value::IntValue(number)) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}
