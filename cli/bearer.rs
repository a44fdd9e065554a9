//! What the client shows a server: an API key, or the access token of a login, refreshed when it is about to expire.

use crate::client::Client;
use crate::credentials::{Credentials, Entry, Secret};
use crate::exit::Failure;
use crate::host::Endpoint;
use crate::login;
use ollamamax_proto::Millis;
use serde_json::json;

/// How long before its end an access token is refreshed, in milliseconds.
const EARLY_MS: u64 = 30_000;

/// What there is to show.
#[derive(Debug)]
pub enum Credential {
    /// Nothing.
    None,
    /// An API key, as it is.
    Text(Secret),
    /// What is kept for the address that was given first.
    Kept(Entry),
}

impl Credential {
    /// `OLLAMA_API_KEY`, else what is kept for the first address.
    pub fn of(given: &[Endpoint]) -> Result<Self, Failure> {
        let key = std::env::var("OLLAMA_API_KEY").ok().filter(|key| !key.is_empty());
        if let Some(key) = key {
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                let text = "`OLLAMA_API_KEY` has characters that no header may have";
                return Err(Failure::Usage(text.to_owned()));
            }
            return Ok(Self::Text(Secret(key.into())));
        }
        let Some(first) = given.first() else { return Ok(Self::None) };
        Ok(Credentials::of_user().find(first)?.map_or(Self::None, Self::Kept))
    }
}

impl Client {
    /// What to show now.
    pub(crate) async fn bearer(&self) -> Result<Option<Secret>, Failure> {
        let mut credential = self.credential.lock().await;
        let (refresh_token, expires_at) = match &*credential {
            Credential::None => return Ok(None),
            Credential::Text(key) | Credential::Kept(Entry::Key { key }) => {
                return Ok(Some(key.clone()));
            }
            Credential::Kept(Entry::Login { refresh_token, expires_at, access_token, .. }) => {
                if Millis::now().plus(EARLY_MS).0 < *expires_at {
                    return Ok(Some(access_token.clone()));
                }
                (refresh_token.clone(), *expires_at)
            }
        };
        // Another command may have done it meanwhile.
        let kept = Credentials::of_user();
        if let Some(Entry::Login { access_token, expires_at: newer, refresh_token: next, user }) =
            kept.find(self.first())?
            && newer > expires_at
        {
            let answer = access_token.clone();
            *credential = Credential::Kept(Entry::Login {
                user,
                access_token,
                refresh_token: next,
                expires_at: newer,
            });
            return Ok(Some(answer));
        }
        let body = json!({"refresh_token": refresh_token.0.as_str()});
        let granted = match self.grant("/auth/refresh", &body).await {
            Ok(granted) => granted,
            Err(Failure::Refused { status: 401, .. }) => {
                kept.forget(self.first())?;
                *credential = Credential::None;
                return Err(Failure::Refused {
                    status: 401,
                    message: "the login is over; log in again with `ollamamax login`".to_owned(),
                });
            }
            Err(failure) => return Err(failure),
        };
        let entry = login::entry(&granted)?;
        kept.keep(self.first(), entry.clone())?;
        let Entry::Login { access_token, .. } = &entry else { return Ok(None) };
        let answer = access_token.clone();
        *credential = Credential::Kept(entry);
        Ok(Some(answer))
    }
}
