//! `signing-keys` and `tokens`: what signs access tokens, and tokens that shall be void.

use crate::client::Client;
use crate::credentials::ask_secret;
use crate::exit::Failure;
use crate::list::text;
use crate::output::{List, Output};
use crate::{human, out, table};
use ollamamax_proto::Millis;
use serde_json::{Value, json};

/// What to do with signing keys.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// List the keys that sign access tokens, did, or will
    #[command(visible_alias = "ls")]
    List(Output),
    /// Make a new one; the others are believed until what they signed has expired
    Rotate {
        /// A key is in wrong hands: drop the others at once, and with them every access token
        #[arg(long)]
        emergency: bool,
        /// What it signs with: RS256, ES256 or EdDSA; as the one before when absent
        #[arg(long, value_name = "ALG")]
        alg: Option<String>,
    },
}

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Tokens {
    /// Void an access token, a login (by its refresh token) or an API key, asked for or read from stdin
    Revoke,
}

/// Does something with signing keys.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    match args {
        Args::List(output) => {
            let answer = client.get("/admin/v1/signing-keys").await?;
            let keys = List { items: "signing_keys", name: "id" };
            output.print(&answer, keys, |answer, _| list(answer));
        }
        Args::Rotate { emergency, alg } => {
            let body = json!({"emergency": emergency, "algorithm": alg});
            let made = client.post("/admin/v1/signing-keys/rotate", &body).await?;
            let id = format!("{} ({})", text(&made, "id"), text(&made, "algorithm"));
            let wait = Millis(made["signs_from"].as_u64().unwrap_or(0)).since(Millis::now());
            let when = match wait / 1_000 {
                0 => "signs from now on".to_owned(),
                seconds => format!("signs in {}", human::duration(seconds)),
            };
            let others = if *emergency { "; every access token before it is void" } else { "" };
            out::line(&format!("{id} {when}{others}"));
        }
    }
    Ok(())
}

fn list(answer: &Value) -> String {
    let now = Millis::now();
    let row = |key: &Value| {
        let left = |field: &str| {
            let end = key[field].as_u64().map(Millis);
            end.map_or("-".to_owned(), |end| human::duration(end.since(now) / 1_000))
        };
        vec![text(key, "id"), text(key, "algorithm"), text(key, "state"), left("believed_until")]
    };
    let rows: Vec<_> = answer["signing_keys"].as_array().into_iter().flatten().map(row).collect();
    table::render(&["KEY", "ALGORITHM", "STATE", "BELIEVED FOR"], &rows)
}

/// Does something with tokens.
pub async fn tokens(client: &Client, args: &Tokens) -> Result<(), Failure> {
    let Tokens::Revoke = args;
    let token = ask_secret("Token: ")?;
    client.grant("/auth/revoke", &json!({"token": token.trim()})).await?;
    out::line("whatever it was good for, it is no more");
    Ok(())
}
