//! Who is at the other end: the certificates of a cluster, and the TLS connections made with them.
//!
//! A cluster has an [`Authority`]. Whoever joins makes a key, sends a [`Request`] together with the [`Credential`] of a
//! [`JoinToken`], and gets a [`Certificate`] that says what it is: a node or a worker, and which ([`Role`]). Key,
//! certificate and the trusted authorities are its [`Identity`]; [`Tls`] makes every connection with it:
//!
//! ```text
//!  JoinToken -> dial_pinned -> Request -> Authority::sign -> Certificate -> Identity -> Tls
//!                                                                                        |
//!     dial, channel: expects a certain node or worker, or any      ----------------------+
//!     accept, incoming: learns who calls (Peer)  ->  Allow: may that role call this?  ---+
//! ```
//!
//! Roles are DNS names in the certificate, so that the standard verification of names checks them. Only TLS 1.3 is
//! spoken, and no session is resumed: an identity that is replaced and a peer that is refused bite on the next
//! connection. Connections that stand go on; [`Allow`] asks again at every request.

#![forbid(unsafe_code)]

mod allow;
mod authority;
mod certificate;
mod config;
mod identity;
mod incoming;
mod joining;
mod key;
mod local;
mod pinned;
pub mod private;
mod request;
mod role;
mod source;
mod stream;
#[doc(hidden)]
pub mod testing;
mod tls;
mod token;

pub use allow::{Allow, Allowed, Who, removed, says_removed};
pub use authority::{Authority, AuthorityError, SignError};
pub use certificate::{Certificate, CertificateError};
pub use identity::{Identity, IdentityError, trust_mark};
pub use incoming::{Incoming, OnStage};
pub use joining::{JoinError, Joined, Joining, join};
pub use local::LocalServer;
pub use pinned::{PinError, dial_pinned};
pub use request::{Request, RequestError};
pub use role::{Cluster, InvalidCluster, Kind, Role};
pub use source::{dial_from, tcp};
pub use stream::{Blocking, ConnectInfo, Peer, Protocol, Stream};
pub use tls::{Expect, Tls, TlsError};
pub use token::{Credential, InvalidToken, JoinToken};
