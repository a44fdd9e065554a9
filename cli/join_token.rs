//! `join-token`: what lets nodes and workers into the cluster.

use crate::client::Client;
use crate::deploy::key_value;
use crate::exit::Failure;
use crate::list::text;
use crate::output::{List, Output};
use crate::{human, out, table};
use ollamamax_proto::Millis;
use serde_json::{Map, Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Create a join token and print it; it is shown only now
    Create {
        /// What it lets in: worker or node
        #[arg(default_value = "worker")]
        role: String,
        /// How long it is good
        #[arg(long, value_name = "DURATION", default_value = "15m")]
        lifetime: String,
        /// How many it lets in
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// A label that workers get, `key=value`; may be given several times
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// The node only follows: it does not vote
        #[arg(long)]
        learner: bool,
        /// Write the token into this new file, which only its owner may read
        #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
        output: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the join tokens that are still good
    #[command(visible_alias = "ls")]
    List(Output),
    /// Have a join token let nobody in any more
    Revoke {
        /// Its id, as `join-token list` shows it
        id: String,
    },
}

/// Does it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    match args {
        Args::Create { role, lifetime, uses, labels, learner, output, json } => {
            let body = request(role, lifetime, *uses, labels, *learner)?;
            let answer = client.post("/admin/v1/join-tokens", &body).await?;
            if *json {
                out::json(&answer);
                return Ok(());
            }
            match output {
                None => out::line(&text(&answer, "token")),
                Some(path) => write(path, &text(&answer, "token"))?,
            }
            out::say(&format!(
                "lets in {uses} {role}{} within {lifetime}; give it in a file (--join-token-file) or as \
                 OLLAMAMAX_JOIN_TOKEN, not on a command line",
                if *uses == 1 { "" } else { "s" }
            ));
        }
        Args::List(output) => {
            let answer = client.get("/admin/v1/join-tokens").await?;
            let tokens = List { items: "join_tokens", name: "id" };
            output.print(&answer, tokens, |answer, _| list(answer, Millis::now()));
        }
        Args::Revoke { id } => {
            client.delete(&format!("/admin/v1/join-tokens/{id}"), None).await?;
            out::line(&format!("revoked {id}"));
        }
    }
    Ok(())
}

fn write(path: &Path, token: &str) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(Failure::file("write", path))?;
    writeln!(file, "{token}").map_err(Failure::file("write", path))
}

fn request(
    role: &str,
    lifetime: &str,
    uses: u32,
    labels: &[String],
    learner: bool,
) -> Result<Value, Failure> {
    let ms = human::parse_duration_ms(lifetime).and_then(|ms| u64::try_from(ms).ok());
    let ms = ms.ok_or_else(|| {
        Failure::Usage(format!("--lifetime `{lifetime}` is no duration; expected e.g. 15m or 2h"))
    })?;
    let mut body = json!({"role": role, "lifetime_s": ms.div_ceil(1_000), "uses": uses});
    if !labels.is_empty() {
        let pairs = labels.iter().map(|label| key_value(label));
        let pairs: Result<Vec<(&str, &str)>, Failure> = pairs.collect();
        let pairs = pairs?.into_iter().map(|(key, value)| (key.to_owned(), json!(value)));
        body["labels"] = Value::Object(pairs.collect::<Map<_, _>>());
    }
    if learner {
        body["voter"] = json!(false);
    }
    Ok(body)
}

fn list(answer: &Value, now: Millis) -> String {
    let row = |token: &Value| {
        let labels = token["labels"].as_object().into_iter().flatten();
        let labels: Vec<String> =
            labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("?"))).collect();
        vec![
            text(token, "id"),
            text(token, "role"),
            token["uses_left"].to_string(),
            token["expires_at"]
                .as_u64()
                .map_or("-".to_owned(), |end| human::duration(Millis(end).since(now) / 1_000)),
            labels.join(","),
        ]
    };
    let rows: Vec<_> = answer["join_tokens"].as_array().into_iter().flatten().map(row).collect();
    table::render(&["ID", "ROLE", "USES LEFT", "GOOD FOR", "LABELS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_as_the_api_has_it() {
        let labels = ["zone=a".to_owned()];
        let body = request("worker", "15m", 2, &labels, false).expect("good");
        assert_eq!(
            body,
            json!({"role": "worker", "lifetime_s": 900, "uses": 2, "labels": {"zone": "a"}})
        );
        let body = request("node", "90", 1, &[], true).expect("good");
        assert_eq!(body, json!({"role": "node", "lifetime_s": 90, "uses": 1, "voter": false}));
        assert!(request("node", "soon", 1, &[], false).is_err());
    }
}
