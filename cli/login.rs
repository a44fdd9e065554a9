//! `login`, `logout`, `whoami`.

use crate::client::Client;
use crate::credentials::{Credentials, Entry, Secret, ask_secret};
use crate::exit::Failure;
use crate::list::text;
use crate::out;
use ollamamax_proto::Millis;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use zeroize::Zeroizing;

/// How to log in.
#[derive(Debug, clap::Args)]
pub struct Login {
    /// The user; asked for when absent
    #[arg(value_name = "USER")]
    user: Option<String>,
    /// Keep an API key instead; it is asked for, or read from stdin
    #[arg(long, conflicts_with = "user")]
    key: bool,
    /// Send the password over a network although the connection is not encrypted
    #[arg(long)]
    insecure: bool,
}

/// How to show who one is.
#[derive(Debug, clap::Args)]
pub struct WhoAmI {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Logs in and keeps what comes of it.
pub async fn login(client: &Client, args: &Login) -> Result<(), Failure> {
    let endpoint = client.first().clone();
    if endpoint.scheme == "http" && !endpoint.is_loopback() && !args.insecure {
        return Err(Failure::Usage(format!(
            "{endpoint} is not encrypted: whoever is on the way could read the password; name it as https://..., \
             or say `--insecure` if the network is yours alone"
        )));
    }
    let (entry, who) = if args.key {
        let key = ask_secret("API key: ")?;
        let key = Zeroizing::new(key.trim().to_owned());
        let probe = Client::with_key(endpoint.clone(), &key, client.trust())?;
        let me = probe.get("/auth/whoami").await?;
        (Entry::Key { key: Secret(key) }, text(&me, "actor"))
    } else {
        let user = match &args.user {
            Some(user) => user.clone(),
            None => ask("User: ")?,
        };
        let password = ask_secret("Password: ")?;
        let body = json!({"username": user, "password": password.as_str()});
        let granted = client.grant("/auth/token", &body).await?;
        (entry(&granted)?, format!("user:{user}"))
    };
    Credentials::of_user().keep(&endpoint, entry)?;
    out::line(&format!("logged in at {endpoint} as {who}"));
    Ok(())
}

/// An entry out of the answer that grants tokens.
pub fn entry(granted: &Value) -> Result<Entry, Failure> {
    let secret = |field: &str| {
        let value = granted[field].as_str().map(str::to_owned);
        let value =
            value.ok_or_else(|| Failure::Other(format!("the server's answer lacks `{field}`")));
        value.map(|value| Secret(Zeroizing::new(value)))
    };
    let seconds = granted["expires_in"].as_u64().unwrap_or(0);
    Ok(Entry::Login {
        user: text(granted, "user"),
        access_token: secret("access_token")?,
        refresh_token: secret("refresh_token")?,
        expires_at: Millis::now().plus(seconds.saturating_mul(1_000)).0,
    })
}

fn ask(prompt: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("name the user: `ollamamax login USER`".to_owned()));
    }
    let mut stderr = std::io::stderr().lock();
    let asked = stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush());
    let mut line = String::new();
    asked
        .and_then(|()| std::io::stdin().lock().read_line(&mut line))
        .map_err(Failure::file("read", "stdin"))?;
    Ok(line.trim().to_owned())
}

/// Ends the login, here and there.
pub async fn logout(client: &Client) -> Result<(), Failure> {
    let (endpoint, kept) = (client.first(), Credentials::of_user());
    let entry = kept.find(endpoint)?;
    // Forgotten here whatever the server says.
    if !kept.forget(endpoint)? {
        out::line(&format!("not logged in at {endpoint}"));
        return Ok(());
    }
    if let Some(Entry::Login { refresh_token, .. }) = entry {
        let body = json!({"token": refresh_token.0.as_str()});
        if let Err(failure) = client.grant("/auth/revoke", &body).await {
            out::say(&format!("forgotten here, but the server was not told: {failure}"));
            return Ok(());
        }
    }
    out::line(&format!("logged out at {endpoint}"));
    Ok(())
}

/// Shows who one is there, and what one may do.
pub async fn whoami(client: &Client, args: &WhoAmI) -> Result<(), Failure> {
    let me = client.get("/auth/whoami").await?;
    if args.json {
        out::json(&me);
        return Ok(());
    }
    let joined = |value: &Value| {
        let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        let texts: Vec<&str> = texts.collect();
        if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
    };
    let via = me["via"].as_str().filter(|via| !via.is_empty()).unwrap_or("no credential");
    out::text(&format!(
        "{} at {} (by {via})\nroles:       {}\npermissions: {}\n",
        text(&me, "actor"),
        client.first(),
        joined(&me["roles"]),
        joined(&me["permissions"]),
    ));
    Ok(())
}
