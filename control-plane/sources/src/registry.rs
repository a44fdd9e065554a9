//! A registry that speaks Docker's version 2 as Ollama does: manifests by tag, blobs by digest and range, tokens on demand.

use crate::credentials::{Challenge, Credentials, header};
use crate::download::Origin;
use crate::error::SourceError;
use crate::guard::shown;
use crate::http::{self, Ask, Http};
use crate::manifest::{Layer, MANIFEST_TYPE, Manifest};
use crate::reference::Repository;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ollamamax_proto::{Digest, limits};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// One model of one registry, as somebody asks for it.
pub struct Registry {
    http: Http,
    credentials: Arc<Credentials>,
    repository: Repository,
    insecure: bool,
    /// What is wanted of the model, for tokens: `pull`, `pull,push`.
    actions: &'static str,
    /// What the registry was last told of who asks, and the origin that it is for.
    told: Mutex<Option<HeaderValue>>,
}

/// What a token endpoint answers; registries call it either way.
#[derive(Deserialize)]
struct Token {
    #[serde(default, alias = "access_token")]
    token: Option<String>,
}

impl Registry {
    /// For fetching.
    pub fn new(
        http: &Http,
        credentials: &Arc<Credentials>,
        repository: Repository,
        insecure: bool,
    ) -> Self {
        let told = Mutex::new(credentials.token(repository.host()));
        let (http, credentials) = (http.clone(), Arc::clone(credentials));
        Self { http, credentials, repository, insecure, actions: "pull", told }
    }

    /// For pushing, too.
    #[must_use]
    pub fn writable(mut self) -> Self {
        self.actions = "pull,push";
        self
    }

    /// Whom it asks.
    pub fn host(&self) -> &str {
        self.repository.host()
    }

    /// Whether it may be asked at all, before anything is sent.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self) -> Result<(), SourceError> {
        self.http.check(&self.repository.url(self.insecure, "")?, self.insecure)
    }

    /// Where something of the model is.
    ///
    /// # Errors
    /// When the host is none.
    pub fn url(&self, rest: &str) -> Result<Url, SourceError> {
        self.repository.url(self.insecure, rest)
    }

    /// The manifest of the tag.
    ///
    /// # Errors
    /// When it is not there, or is none that can be used.
    pub async fn manifest(&self) -> Result<Manifest, SourceError> {
        let url = self.url(&format!("manifests/{}", self.repository.tag()))?;
        let mut ask = Ask::get(url.clone(), self.insecure);
        ask.headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPE));
        let answer = self.ask(ask).await?;
        if answer.status() != StatusCode::OK {
            return Err(http::refused(&url, answer.status()));
        }
        let bytes = http::read(answer, limits::MANIFEST_BYTES, "the manifest").await?;
        Manifest::parse(self.host(), &bytes)
    }

    /// A small layer whole.
    ///
    /// # Errors
    /// When it is not what the manifest says.
    pub async fn text(&self, layer: &Layer) -> Result<Vec<u8>, SourceError> {
        let url = self.url(&format!("blobs/{}", layer.digest))?;
        let answer = self.ask(Ask::get(url.clone(), self.insecure)).await?;
        if answer.status() != StatusCode::OK {
            return Err(http::refused(&url, answer.status()));
        }
        let bytes = http::read(answer, layer.bytes, "a layer").await?;
        let got = Digest::of(&bytes);
        if got != layer.digest {
            return Err(SourceError::Mismatch { expected: layer.digest, got });
        }
        Ok(bytes)
    }

    /// The bytes of a layer, by range.
    ///
    /// # Errors
    /// When the host is none.
    pub fn blob(self: &Arc<Self>, digest: Digest) -> Result<Arc<dyn Origin>, SourceError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        Ok(Arc::new(Blob { registry: Arc::clone(self), url }))
    }

    /// Sends a request with what the registry wants to see; asked for more, it gets a token and sends the request once more.
    ///
    /// # Errors
    /// As [`Http::send`].
    pub async fn ask(&self, mut ask: Ask<'_>) -> Result<Response, SourceError> {
        // What leads to another origin (an upload that goes elsewhere) hears nothing of who asks.
        let own = self.url("")?.origin();
        if let Some(told) = self.told().filter(|_| ask.url.origin() == own) {
            ask.headers.insert(AUTHORIZATION, told);
        }
        let (method, url, body, insecure) =
            (ask.method.clone(), ask.url.clone(), ask.body, ask.insecure);
        let mut headers = ask.headers.clone();
        let answer = self.http.send(ask).await?;
        // Neither is the challenge of somebody else answered.
        if answer.status() != StatusCode::UNAUTHORIZED || answer.url().origin() != own {
            return Ok(answer);
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
        let challenges = challenges.iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenges.filter_map(Challenge::parse).next() else {
            return Ok(answer);
        };
        let Some(told) = self.answer(challenge).await? else { return Ok(answer) };
        self.told.lock().unwrap_or_else(PoisonError::into_inner).replace(told.clone());
        headers.insert(AUTHORIZATION, told);
        self.http.send(Ask { method, url, headers, body, insecure }).await
    }

    fn told(&self) -> Option<HeaderValue> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a challenge is answered with.
    async fn answer(&self, challenge: Challenge) -> Result<Option<HeaderValue>, SourceError> {
        let (realm, service, scope) = match challenge {
            Challenge::Basic => return Ok(self.credentials.password(self.host())),
            Challenge::Bearer { realm, service, scope } => (realm, service, scope),
        };
        // A realm that is no URL is for whoever has a token already.
        let Ok(mut url) = Url::parse(&realm) else { return Ok(None) };
        let own = format!("repository:{}:{}", self.repository.path(), self.actions);
        let scope = scope.unwrap_or(own);
        {
            let mut query = url.query_pairs_mut();
            service.map(|service| query.append_pair("service", &service).finish());
        }
        scope.split(' ').for_each(|scope| {
            url.query_pairs_mut().append_pair("scope", scope);
        });
        let mut ask = Ask::get(url.clone(), self.insecure);
        if let Some(password) = self.credentials.password(&shown(&url)) {
            ask.headers.insert(AUTHORIZATION, password);
        }
        let answer = self.http.send(ask).await?;
        if answer.status() != StatusCode::OK {
            return Err(http::refused(&url, answer.status()));
        }
        let bytes = http::read(answer, limits::TOKEN_ANSWER_BYTES, "the token").await?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|token| header("Bearer", &token.token?));
        let none = || SourceError::Lied { host: shown(&url), what: "sends no token".to_owned() };
        token.ok_or_else(none).map(Some)
    }

    /// Whether plain HTTP will do.
    pub fn insecure(&self) -> bool {
        self.insecure
    }

    /// The repository that is asked for.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }
}

struct Blob {
    registry: Arc<Registry>,
    url: Url,
}

impl Origin for Blob {
    fn url(&self) -> &Url {
        &self.url
    }

    fn get(&self, range: Range<u64>) -> BoxFuture<'_, Result<Response, SourceError>> {
        let ask =
            Ask { headers: ranged(&range), ..Ask::get(self.url.clone(), self.registry.insecure) };
        self.registry.ask(ask).boxed()
    }
}

/// The header that asks for a range.
pub fn ranged(range: &Range<u64>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(RANGE, value);
    }
    headers
}

/// A file behind a URL.
pub struct File {
    http: Http,
    url: Url,
    insecure: bool,
    told: Option<HeaderValue>,
}

impl File {
    /// At `url`, with what the operator has filed for its host.
    pub fn new(http: &Http, credentials: &Credentials, url: Url, insecure: bool) -> Self {
        let host = shown(&url);
        let told = credentials.token(&host).or_else(|| credentials.password(&host));
        Self { http: http.clone(), url, insecure, told }
    }

    /// Whether it may be asked at all, before anything is sent.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self) -> Result<(), SourceError> {
        self.http.check(&self.url, self.insecure)
    }

    /// Reads all of a small answer.
    ///
    /// # Errors
    /// When it fails or is larger than `limit`.
    pub async fn read(&self, accept: &'static str, limit: u64) -> Result<Vec<u8>, SourceError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let answer = self.send(headers).await?;
        if answer.status() != StatusCode::OK {
            return Err(http::refused(&self.url, answer.status()));
        }
        http::read(answer, limit, "the answer").await
    }

    async fn send(&self, mut headers: HeaderMap) -> Result<Response, SourceError> {
        headers.extend(self.told.clone().map(|told| (AUTHORIZATION, told)));
        let (method, url, insecure) = (Method::GET, self.url.clone(), self.insecure);
        self.http.send(Ask { method, url, headers, body: None, insecure }).await
    }
}

impl Origin for File {
    fn url(&self) -> &Url {
        &self.url
    }

    fn get(&self, range: Range<u64>) -> BoxFuture<'_, Result<Response, SourceError>> {
        self.send(ranged(&range)).boxed()
    }
}
