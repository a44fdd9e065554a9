//! What the operator of a node says of sources, and what comes of it.

use crate::credentials::Credentials;
use crate::error::SourceError;
use crate::guard::{Allowed, Guard, shown};
use crate::http::{Http, system_lookup};
use reqwest::{Certificate, Url};
use std::sync::Arc;

/// What was said at the start.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Hosts that are asked wherever they are.
    pub allowed: Vec<Allowed>,
    /// What they want to see of who asks.
    pub credentials: Arc<Credentials>,
    /// Authorities that are believed beside the system's.
    pub authorities: Vec<Certificate>,
    /// The package index.
    pub index: Option<Url>,
}

/// What can be asked, and with what.
#[derive(Clone, Debug)]
pub struct Reach {
    /// What makes requests.
    pub http: Http,
    /// What is shown of who asks.
    pub credentials: Arc<Credentials>,
    index: Option<Url>,
}

impl Settings {
    /// Makes ready what was said. The package index is the operator's own word: its host is allowed by that.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn reach(&self) -> Result<Reach, SourceError> {
        let mut allowed = self.allowed.clone();
        allowed.extend(self.index.as_ref().and_then(|index| shown(index).parse().ok()));
        let http = Http::new(Guard::new(allowed), self.authorities.clone(), system_lookup())?;
        let (credentials, index) = (Arc::clone(&self.credentials), self.index.clone());
        Ok(Reach { http, credentials, index })
    }
}

impl Reach {
    /// The package index.
    ///
    /// # Errors
    /// When there is none.
    pub fn index(&self) -> Result<&Url, SourceError> {
        self.index.as_ref().ok_or_else(|| {
            let text =
                "this node knows no package index; its operator names one with `--pip-index URL`";
            SourceError::Unsupported(text.to_owned())
        })
    }
}
