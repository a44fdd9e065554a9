//! Questions beside the usual ones: long ones, texts, and one node in particular.

use crate::client::{Body, Client, Kind, cause_of, read_json};
use crate::exit::Failure;
use crate::host::{self, Endpoint};
use crate::list::{elements, text};
use crate::ndjson::Records;
use reqwest::Method;
use serde_json::Value;

/// Everything at a glance, as the node that is asked sees it: it answers without a quorum, too.
pub const CLUSTER: &str = "/admin/v1/cluster?consistency=local";

/// Where a node is that a cluster's status names by its HTTP address, spoken to as the one that told of it.
pub fn node_endpoint(http: &str, told_by: Option<&Endpoint>) -> Option<Endpoint> {
    let endpoint = host::parse(http).ok()?.into_iter().next()?;
    Some(Endpoint { scheme: told_by.map_or("http", |node| node.scheme), ..endpoint })
}

/// The HTTP address of the leader. It alone knows whom nobody reaches, and how workers are.
pub fn leader_of(cluster: &Value) -> Option<String> {
    let leader = cluster["leader"].as_u64()?;
    let node = elements(&cluster["nodes"]).iter().find(|node| node["id"] == leader)?;
    Some(text(node, "http"))
}

impl Client {
    /// As [`Client::post`], for an answer that takes as long as it takes.
    pub async fn ask_long(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.send(Method::POST, path, Body::Json(body), Kind::Long).await?;
        read_json(answer, path).await
    }

    /// An answer whose node is gone, from the next node, from so many bytes of its text on.
    pub async fn resume(&self, stream_id: &str, from_bytes: usize) -> Result<Records, Failure> {
        let path = format!("/api/streams/{stream_id}?from={from_bytes}");
        let answer = self.send(Method::GET, &path, Body::None, Kind::Long).await?;
        Ok(Records::new(answer.response, answer.node.to_string()))
    }

    /// Text from GET, and when the node that gave it said it was (`Date`).
    pub async fn text(&self, path: &str) -> Result<(String, Option<String>), Failure> {
        let answer = self.send(Method::GET, path, Body::None, Kind::Read).await?;
        let node = answer.node.to_string();
        let date = answer.response.headers().get(reqwest::header::DATE);
        let date = date.and_then(|date| date.to_str().ok()).map(str::to_owned);
        let text = answer.response.text().await;
        let text = text.map_err(|error| Failure::BrokenOff { node, cause: cause_of(&error) })?;
        Ok((text, date))
    }

    /// The same cluster through one node of it and no other, with the credential of this client.
    pub async fn only(&self, node: Endpoint) -> Result<Self, Failure> {
        let trust = self.trust().and_left_for(std::slice::from_ref(&node));
        match self.bearer().await? {
            Some(bearer) => Self::with_key(node, bearer.0.as_str(), trust),
            None => Self::alone(node, trust),
        }
    }
}
