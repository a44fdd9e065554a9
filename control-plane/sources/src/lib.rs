//! Where models come from and where they go: registries that speak Ollama's protocol, files behind a URL, wheels of a package index.
//!
//! ```text
//! text -> Reference (a name, and a Source)
//!           |
//!           v
//!         Registry / File / wheel  ->  Http (guard, redirects, credentials)  ->  the network
//!           |                                    ^
//!           v                                    |
//!         download: ranges at once -> staging: a file, hashed on the way, and a journal -> Staged, verified
//! ```
//!
//! What a client names is fetched by a machine that reaches what the client may not, so nothing here believes anybody: addresses
//! are checked when they are resolved and at every redirect, sizes are bounded before the first byte and while they come, and
//! nothing gets the name of a digest but bytes that have it. The crate knows no catalogue and no blob store: it leaves verified
//! files in a directory.

#![forbid(unsafe_code)]

pub mod credentials;
pub mod download;
pub mod error;
pub mod guard;
pub mod http;
pub mod manifest;
pub mod pip;
pub mod push;
pub mod ranges;
pub mod reference;
pub mod registry;
pub mod settings;
pub mod staging;

pub use credentials::Credentials;
pub use download::{Origin, Wanted};
pub use error::SourceError;
pub use guard::{Allowed, Guard};
pub use http::Http;
pub use manifest::{Kind, Layer, Manifest};
pub use reference::{Reference, Repository, Source};
pub use registry::Registry;
pub use settings::{Reach, Settings};
pub use staging::Staged;
