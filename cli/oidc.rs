//! An OpenID provider whose tokens a node believes.

use crate::exit::Failure;
use ollamamax_control_plane::{NodeConfig, OidcConfig};

/// Which provider, and what its groups are here.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Believe access tokens of this OpenID provider, e.g. https://id.example.com/realms/ml
    #[arg(long, value_name = "URL", requires = "oidc_role")]
    oidc_issuer: Option<String>,
    /// What its tokens must be meant for
    #[arg(long, value_name = "AUDIENCE", default_value = "ollamamax", requires = "oidc_issuer")]
    oidc_audience: String,
    /// Their claim that names groups or roles; a dot steps into an object: realm_access.roles
    #[arg(long, value_name = "CLAIM", default_value = "roles", requires = "oidc_issuer")]
    oidc_claim: String,
    /// Which of these is which role here; may be given several times
    #[arg(long, value_name = "GROUP=ROLE", requires = "oidc_issuer")]
    oidc_role: Vec<String>,
}

impl Args {
    /// Puts it where a node reads it.
    pub fn apply(self, config: &mut NodeConfig) -> Result<(), Failure> {
        let Some(issuer) = self.oidc_issuer else { return Ok(()) };
        let pair = |text: &String| {
            let (group, role) = text.split_once('=').ok_or_else(|| {
                Failure::Usage(format!("--oidc-role `{text}`: expected `group=role`"))
            })?;
            Ok((group.to_owned(), role.to_owned()))
        };
        let roles = self.oidc_role.iter().map(pair).collect::<Result<_, Failure>>()?;
        let (audience, roles_claim) = (self.oidc_audience, self.oidc_claim);
        let oidc = OidcConfig { issuer, audience, roles_claim, roles };
        let sound = oidc.validate();
        sound.map_err(|reason| Failure::Usage(format!("--oidc-issuer: {reason}")))?;
        config.gateway.oidc = Some(oidc);
        Ok(())
    }
}
