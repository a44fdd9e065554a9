//! `/api/show` of a model of an adopted server: what the server tells where it is an Ollama, else the little that is known.

use super::place::read;
use super::tries::request;
use crate::Gateway;
use crate::error::Failure;
use crate::stream::{ollama_json, timestamp_of, typed};
use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;
use ollamamax_core::adopted::ServerKind;
use ollamamax_proto::{ModelName, limits};
use serde_json::{Map, Value, json};

impl Gateway {
    /// Shows a model that adopted servers offer.
    pub(super) async fn show_offered(
        &self,
        name: &ModelName,
        asked: &str,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let Some((server, offered)) = self.offered().remove(name) else {
            return Err(Failure::unknown_model(asked));
        };
        if server.record.kind == ServerKind::Ollama {
            let wait = self.adopted.pace.look;
            let asked = async {
                let call = server.place.request(&self.adopted.http, Method::POST, "/api/show");
                let response = request(call, body).send().await.ok()?;
                if !response.status().is_success() {
                    return None;
                }
                read(response, limits::ADOPTED_ANSWER_BYTES).await.ok()
            };
            if let Ok(Some(bytes)) = tokio::time::timeout(wait, asked).await {
                return Ok(typed("application/json; charset=utf-8", bytes));
            }
        }
        let details = &offered.details;
        let family = if details.family.is_empty() { "unknown" } else { details.family.as_str() };
        let mut info = Map::new();
        info.insert("general.architecture".to_owned(), family.into());
        if details.context_length > 0 {
            let tokens: Value = details.context_length.into();
            info.insert(format!("{family}.context_length"), tokens);
        }
        Ok(ollama_json(&json!({
            "modelfile": format!("# {} at adopted server {}\n", offered.id, server.record.name),
            "template": "",
            "details": details,
            "model_info": info,
            "capabilities": offered.capabilities,
            "modified_at": timestamp_of(offered.modified_at),
        })))
    }
}
