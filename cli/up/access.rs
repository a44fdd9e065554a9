//! How `up` gets into its own cluster: with the key that the first node left in its directory. With it, it lets in the others.

use super::layout::{Layout, member_directory, node_name};
use crate::client::Client;
use crate::exit::Failure;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// The file in a node's directory.
const KEY: &str = "admin.key";
/// How long a process may take to use its join token.
const TOKEN_S: u64 = 900;
const POLL: Duration = Duration::from_millis(50);

/// Lets a process in.
pub struct Token {
    id: String,
    /// What the process is given.
    pub text: Zeroizing<String>,
}

/// Where the key is; the node that made it may have left since.
pub fn path(directory: &Path, layout: &Layout) -> Option<PathBuf> {
    let all = 0..layout.nodes.len();
    let mut paths = all.map(|index| member_directory(directory, &node_name(index)).join(KEY));
    paths.find(|path| path.exists())
}

/// The key, once the first node has made it. Of a cluster that was there before, it may have been put elsewhere.
pub async fn key(
    directory: &Path,
    layout: &Layout,
    deadline: Duration,
) -> Result<Zeroizing<String>, Failure> {
    let start = Instant::now();
    let is_new = !layout.nodes.iter().any(|node| node.joined);
    if !is_new && path(directory, layout).is_none() {
        let given = std::env::var("OLLAMA_API_KEY").ok().filter(|key| !key.is_empty());
        return given.map(Zeroizing::new).ok_or_else(|| {
            let text = format!(
                "{KEY} is not in the directory of any node; give `up` the API key of an administrator in OLLAMA_API_KEY"
            );
            Failure::Usage(text)
        });
    }
    loop {
        if let Some(path) = path(directory, layout) {
            let text = std::fs::read_to_string(&path).map(Zeroizing::new);
            match text {
                Ok(text) if !text.trim().is_empty() => {
                    return Ok(Zeroizing::new(text.trim().to_owned()));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Failure::file("read", path)(error));
                }
                _ => {}
            }
        }
        if start.elapsed() > deadline {
            let what = format!("{KEY} in the directory of a node");
            return Err(Failure::Timeout { what, seconds: deadline.as_secs() });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A token for so many of a kind.
pub async fn join_token(client: &Client, role: &str, uses: usize) -> Result<Token, Failure> {
    let body = json!({"role": role, "uses": uses, "lifetime_s": TOKEN_S});
    let answer = client.post("/admin/v1/join-tokens", &body).await?;
    match (answer["id"].as_str(), answer["token"].as_str()) {
        (Some(id), Some(text)) => {
            Ok(Token { id: id.to_owned(), text: Zeroizing::new(text.to_owned()) })
        }
        _ => Err(Failure::Other("the answer to a new join token holds none".to_owned())),
    }
}

/// Nobody needs it any more. When it was used up, it is gone already.
pub async fn revoke(client: &Client, token: &Token) {
    let _ = client.delete(&format!("/admin/v1/join-tokens/{}", token.id), None).await;
}
