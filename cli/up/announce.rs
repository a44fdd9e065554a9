//! What is told once a cluster is ready: where it listens, and the first things to try.

use super::layout::DEFAULT_MODEL;
use crate::host::DEFAULT_PORT;
use serde_json::json;

/// A cluster that is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The nodes' APIs.
    pub urls: Vec<String>,
    /// How many workers there are.
    pub workers: usize,
    /// The model that is served.
    pub model: Option<String>,
    /// Where everything is kept.
    pub data_dir: String,
}

impl Ready {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let Self { urls, workers, model, data_dir } = self;
        let ready = json!({"ready": true, "endpoints": urls, "workers": workers, "model": model,
                           "data_dir": data_dir});
        format!("{ready}\n")
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (nodes, workers) = (count(self.urls.len(), "node"), count(self.workers, "worker"));
        let mut text = format!("ready: {nodes}, {workers}\n\n");
        for (index, url) in self.urls.iter().enumerate() {
            let title = if index == 0 { "endpoints" } else { "" };
            text.push_str(&format!("  {title:<10} {url}\n"));
        }
        let model = self.model.as_deref();
        text.push_str(&format!("  {:<10} {}\n", "model", model.unwrap_or("none")));
        text.push_str(&format!("  {:<10} {}\n\nTry:\n", "data", self.data_dir));
        let first = self.urls.first().map_or("", String::as_str);
        let host = first.trim_start_matches("http://");
        let option = if host == format!("127.0.0.1:{DEFAULT_PORT}") {
            String::new()
        } else {
            format!(" --host {host}")
        };
        match model {
            Some(model) => {
                let message = json!({"role": "user", "content": "Why is the sky blue?"});
                let body = json!({"model": model, "messages": [message]});
                text.push_str(&format!("  curl {first}/api/chat -d '{body}'\n"));
                text.push_str(&format!("  ollamamax run{option} {model}\n"));
            }
            None => text.push_str(&format!("  ollamamax pull{option} {DEFAULT_MODEL}\n")),
        }
        text.push_str(&format!("  ollamamax cluster status{option}\n\nCtrl-C stops everything.\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(port: u16, model: Option<&str>) -> Ready {
        Ready {
            urls: vec![format!("http://127.0.0.1:{port}"), "http://127.0.0.1:2".to_owned()],
            workers: 1,
            model: model.map(str::to_owned),
            data_dir: "/data".to_owned(),
        }
    }

    #[test]
    fn the_first_request_can_be_copied() {
        assert_eq!(
            ready(11434, Some("m:latest")).to_text(),
            "ready: 2 nodes, 1 worker\n\n  endpoints  http://127.0.0.1:11434\n             \
             http://127.0.0.1:2\n  model      m:latest\n  data       /data\n\nTry:\n  \
             curl http://127.0.0.1:11434/api/chat -d '{\"model\":\"m:latest\",\"messages\":\
             [{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}]}'\n  \
             ollamamax run m:latest\n  ollamamax cluster status\n\nCtrl-C stops everything.\n"
        );
    }

    #[test]
    fn another_port_is_named_in_every_command() {
        let text = ready(1, None).to_text();
        assert!(text.contains("ollamamax pull --host 127.0.0.1:1 smollm2:135m"), "{text}");
        assert!(text.contains("ollamamax cluster status --host 127.0.0.1:1"), "{text}");
        let line = ready(1, None).to_json();
        assert!(
            line.starts_with("{\"ready\":true,\"endpoints\":[\"http://127.0.0.1:1\""),
            "{line}"
        );
    }
}
