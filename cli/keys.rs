//! `keys`, `roles` and `quotas`: what programs get in with, what people may do, and how much.

use crate::client::Client;
use crate::exit::Failure;
use crate::list::text;
use crate::output::{List, Output};
use crate::{human, out, table};
use ollamamax_proto::Millis;
use serde_json::{Map, Value, json};

/// What to do with API keys.
#[derive(Debug, clap::Subcommand)]
pub enum Keys {
    /// List the keys: one's own, or all of them for who may see them
    #[command(visible_alias = "ls")]
    List(Output),
    /// Create a key; it is printed once, alone on stdout
    Create {
        /// Whose it is; one's own when absent
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        label: String,
        /// What it may be used for, e.g. `inference:run@llama3:*`; several are given one by one. All its owner may do when absent
        #[arg(long, value_name = "GRANT")]
        scope: Vec<String>,
        /// How long it works, e.g. 24h; until it is revoked when absent
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
    },
    /// Revoke a key, by its id or its visible prefix
    #[command(visible_alias = "rm")]
    Revoke {
        /// The key's id
        id: String,
    },
}

/// What to do with roles.
#[derive(Debug, clap::Subcommand)]
pub enum Roles {
    /// List the roles and what they grant
    #[command(visible_alias = "ls")]
    List(Output),
    /// Create a role or change it
    Set {
        /// Its name
        name: String,
        /// What it grants, e.g. `model:manage@team/*`, or denies: `!inference:run@secret*`
        #[arg(long, value_name = "GRANT")]
        grant: Vec<String>,
        /// A role whose grants it has, too
        #[arg(long, value_name = "ROLE")]
        inherit: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Remove a role that nobody has
    Rm {
        /// Its name
        name: String,
    },
}

/// What to do with quotas.
#[derive(Debug, clap::Subcommand)]
pub enum Quotas {
    /// List the quotas
    #[command(visible_alias = "ls")]
    List(Output),
    /// Set a quota, replacing the one there was; what is not named is not limited; what is made, as usual
    Set {
        /// `key:ID`, `user:NAME`, `model:NAME`, or `anybody`
        of: String,
        /// Requests per minute
        #[arg(long, value_name = "N")]
        requests_per_minute: Option<u32>,
        /// Tokens of prompts per minute
        #[arg(long, value_name = "N")]
        prompt_tokens_per_minute: Option<u32>,
        /// Tokens of answers per minute
        #[arg(long, value_name = "N")]
        output_tokens_per_minute: Option<u32>,
        /// Tokens of both per day
        #[arg(long, value_name = "N")]
        tokens_per_day: Option<u64>,
        /// Answers under way at once
        #[arg(long, value_name = "N")]
        streams: Option<u32>,
        /// Models created or copied per day; 1000 where nothing is set
        #[arg(long, value_name = "N")]
        models_per_day: Option<u32>,
        /// Bytes uploaded per day; 4 TiB where nothing is set
        #[arg(long, value_name = "N")]
        blob_bytes_per_day: Option<u64>,
    },
    /// Remove a quota
    Rm {
        /// Whose
        of: String,
    },
}

/// Does something with API keys.
pub async fn keys(client: &Client, args: &Keys) -> Result<(), Failure> {
    match args {
        Keys::List(output) => {
            let answer = client.get("/admin/v1/keys").await?;
            let keys = List { items: "keys", name: "id" };
            output.print(&answer, keys, list_keys);
        }
        Keys::Create { owner, label, scope, expires } => {
            let mut body = json!({"label": label});
            if let Some(owner) = owner {
                body["owner"] = json!(owner);
            }
            if !scope.is_empty() {
                body["scope"] = json!(scope);
            }
            if let Some(expires) = expires {
                let ms = human::parse_duration_ms(expires).filter(|ms| *ms > 0);
                let ms = ms.ok_or_else(|| {
                    Failure::Usage(format!(
                        "--expires `{expires}` is no duration; expected e.g. 24h"
                    ))
                })?;
                body["lifetime_s"] = json!(ms / 1_000);
            }
            let made = client.post("/admin/v1/keys", &body).await?;
            out::say(&format!(
                "key {} of {}: it is not shown again",
                text(&made, "prefix"),
                text(&made, "owner")
            ));
            out::line(&text(&made, "key"));
        }
        Keys::Revoke { id } => {
            let answer = client.delete(&format!("/admin/v1/keys/{id}"), None).await?;
            out::line(&format!("revoked {}", text(&answer, "id")));
        }
    }
    Ok(())
}

fn joined(value: &Value, none: &str) -> String {
    let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    let texts: Vec<&str> = texts.collect();
    if texts.is_empty() { none.to_owned() } else { texts.join(",") }
}

fn list_keys(answer: &Value, wide: bool) -> String {
    let now = Millis::now();
    let row = |key: &Value| {
        let expires = match key["expires_at"].as_u64().map(Millis) {
            None => "never".to_owned(),
            Some(end) if end <= now => "expired".to_owned(),
            Some(end) => format!("in {}", human::duration(end.since(now) / 1_000)),
        };
        let scope = joined(&key["scope"], "all of its owner's");
        let shown = [text(key, "prefix"), text(key, "owner"), text(key, "label"), scope, expires];
        shown.into_iter().chain(wide.then(|| text(key, "id"))).collect()
    };
    let rows: Vec<_> = answer["keys"].as_array().into_iter().flatten().map(row).collect();
    let header = ["KEY", "OWNER", "LABEL", "SCOPE", "EXPIRES", "ID"];
    table::render(&header[..if wide { 6 } else { 5 }], &rows)
}

fn list_roles(answer: &Value) -> String {
    let row = |role: &Value| {
        let grants = joined(&role["grants"], "");
        vec![text(role, "name"), joined(&role["inherits"], ""), grants, text(role, "description")]
    };
    let rows: Vec<_> = answer["roles"].as_array().into_iter().flatten().map(row).collect();
    table::render(&["ROLE", "INHERITS", "GRANTS", "FOR"], &rows)
}

fn list_quotas(answer: &Value) -> String {
    let fields = [
        "requests_per_minute",
        "prompt_tokens_per_minute",
        "output_tokens_per_minute",
        "tokens_per_day",
        "streams",
        "models_per_day",
        "blob_bytes_per_day",
    ];
    let row = |quota: &Value| {
        let cell = |field: &str| {
            quota["quota"][field].as_u64().map_or("-".to_owned(), |number| number.to_string())
        };
        std::iter::once(text(quota, "of")).chain(fields.map(cell)).collect()
    };
    let rows: Vec<_> = answer["quotas"].as_array().into_iter().flatten().map(row).collect();
    let header = [
        "OF",
        "REQUESTS/MIN",
        "PROMPT TOKENS/MIN",
        "OUTPUT TOKENS/MIN",
        "TOKENS/DAY",
        "STREAMS",
        "MODELS/DAY",
        "BLOB BYTES/DAY",
    ];
    table::render(&header, &rows)
}

/// Does something with roles.
pub async fn roles(client: &Client, args: &Roles) -> Result<(), Failure> {
    match args {
        Roles::List(output) => {
            let answer = client.get("/admin/v1/roles").await?;
            let roles = List { items: "roles", name: "name" };
            output.print(&answer, roles, |answer, _| list_roles(answer));
        }
        Roles::Set { name, grant, inherit, description } => {
            let body = json!({"grants": grant, "inherits": inherit, "description": description});
            client.put(&format!("/admin/v1/roles/{name}"), &body).await?;
            out::line(&format!("role {name} is set"));
        }
        Roles::Rm { name } => {
            client.delete(&format!("/admin/v1/roles/{name}"), None).await?;
            out::line(&format!("removed role {name}"));
        }
    }
    Ok(())
}

/// Does something with quotas.
pub async fn quotas(client: &Client, args: &Quotas) -> Result<(), Failure> {
    match args {
        Quotas::List(output) => {
            let answer = client.get("/admin/v1/quotas").await?;
            let quotas = List { items: "quotas", name: "of" };
            output.print(&answer, quotas, |answer, _| list_quotas(answer));
        }
        Quotas::Set {
            of,
            requests_per_minute,
            prompt_tokens_per_minute,
            output_tokens_per_minute,
            tokens_per_day,
            streams,
            models_per_day,
            blob_bytes_per_day,
        } => {
            let mut body = Map::new();
            let mut set = |name: &str, value: Option<u64>| {
                body.insert(name.to_owned(), value.map_or(Value::Null, Value::from));
            };
            set("requests_per_minute", requests_per_minute.map(u64::from));
            set("prompt_tokens_per_minute", prompt_tokens_per_minute.map(u64::from));
            set("output_tokens_per_minute", output_tokens_per_minute.map(u64::from));
            set("tokens_per_day", *tokens_per_day);
            set("streams", streams.map(u64::from));
            set("models_per_day", models_per_day.map(u64::from));
            set("blob_bytes_per_day", *blob_bytes_per_day);
            client.put(&format!("/admin/v1/quotas/{of}"), &Value::Object(body)).await?;
            out::line(&format!("{of} has a quota"));
        }
        Quotas::Rm { of } => {
            client.delete(&format!("/admin/v1/quotas/{of}"), None).await?;
            out::line(&format!("{of} has no quota any more"));
        }
    }
    Ok(())
}
