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
    /// The file with what vouches for the nodes' certificate; `None`: plain HTTP.
    pub ca_file: Option<String>,
    /// The file with the first user's API key.
    pub key: Option<String>,
    /// What programs on this machine may do without a credential; `None`: nothing.
    pub anonymous: Option<String>,
}

impl Ready {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let Self { urls, workers, model, data_dir, ca_file, key, anonymous } = self;
        let ready = json!({"ready": true, "endpoints": urls, "workers": workers, "model": model,
                           "data_dir": data_dir, "ca_file": ca_file, "admin_key_file": key,
                           "anonymous": anonymous});
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
        text.push_str(&format!("  {:<10} {}\n", "data", self.data_dir));
        if let Some(file) = &self.ca_file {
            text.push_str(&format!("  {:<10} {file}  (`--cacert` of curl)\n", "authority"));
        }
        if let Some(key) = &self.key {
            text.push_str(&format!("  {:<10} {key}  (of user `admin`)\n", "key"));
        }
        text.push_str(&match &self.anonymous {
            Some(role) => format!(
                "\nPROGRAMS ON THIS MACHINE NEED NO CREDENTIAL: they have the role `{role}`.\n"
            ),
            None => "\nEvery request needs a credential, e.g. the key above in OLLAMA_API_KEY.\n"
                .to_owned(),
        });
        text.push_str("\nTry:\n");
        let first = self.urls.first().map_or("", String::as_str);
        // The command line knows by itself where there is HTTPS.
        let host = first.trim_start_matches("http://").trim_start_matches("https://");
        let trusting = self.ca_file.as_ref().map(|file| format!("--cacert {file} "));
        let trusting = trusting.unwrap_or_default();
        let option = if host == format!("127.0.0.1:{DEFAULT_PORT}") {
            String::new()
        } else {
            format!(" --host {host}")
        };
        match model {
            Some(model) => {
                let message = json!({"role": "user", "content": "Why is the sky blue?"});
                let body = json!({"model": model, "messages": [message]});
                text.push_str(&format!("  curl {trusting}{first}/api/chat -d '{body}'\n"));
                text.push_str(&format!("  ollamamax run{option} {model}\n"));
            }
            None => text.push_str(&format!("  ollamamax pull{option} {DEFAULT_MODEL}\n")),
        }
        text.push_str(&format!("  ollamamax cluster status{option}\n"));
        if let Some(key) = &self.key {
            text.push_str(&format!(
                "  ollamamax login{option} --key < {key}    # to administer, and not only to use\n"
            ));
        }
        text.push_str("\nCtrl-C stops everything.\n");
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
            ca_file: None,
            key: Some("/data/node-1/admin.key".to_owned()),
            anonymous: Some("developer".to_owned()),
        }
    }

    #[test]
    fn the_first_request_can_be_copied() {
        assert_eq!(
            ready(11434, Some("m:latest")).to_text(),
            "ready: 2 nodes, 1 worker\n\n  endpoints  http://127.0.0.1:11434\n             \
             http://127.0.0.1:2\n  model      m:latest\n  data       /data\n  key        /data/node-1/admin.key  \
             (of user `admin`)\n\nPROGRAMS ON THIS MACHINE NEED NO CREDENTIAL: they have the role `developer`.\n\n\
             Try:\n  \
             curl http://127.0.0.1:11434/api/chat -d '{\"model\":\"m:latest\",\"messages\":\
             [{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}]}'\n  \
             ollamamax run m:latest\n  ollamamax cluster status\n  \
             ollamamax login --key < /data/node-1/admin.key    # to administer, and not only to use\n\n\
             Ctrl-C stops everything.\n"
        );
    }

    #[test]
    fn https_is_told_with_what_vouches_for_it() {
        let ready = Ready {
            urls: vec!["https://127.0.0.1:1".to_owned()],
            ca_file: Some("/data/tls/ca.pem".to_owned()),
            ..ready(1, Some("m"))
        };
        let text = ready.to_text();
        assert!(
            text.contains("curl --cacert /data/tls/ca.pem https://127.0.0.1:1/api/chat"),
            "{text}"
        );
        assert!(text.contains("ollamamax run --host 127.0.0.1:1 m"), "{text}");
        assert!(ready.to_json().contains("\"ca_file\":\"/data/tls/ca.pem\""));
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
