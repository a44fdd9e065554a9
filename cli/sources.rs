//! What a node pulls models from and pushes them to, as its operator says it.

use crate::exit::Failure;
use crate::secret;
use crate::trust::Trust;
use ollamamax_control_plane::NodeConfig;
use ollamamax_sources::Allowed;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Whom a node asks for models, and with what.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Host that models may be pulled from and pushed to wherever it is, and, with `--insecure`, without TLS; others only at public
    /// addresses and over HTTPS. May be given several times, or with commas
    #[arg(long, value_name = "HOST[:PORT]", env = "OLLAMAMAX_PULL_ALLOW", value_delimiter = ',')]
    pull_allow: Vec<Allowed>,
    /// A file with what registries want to see of who asks, as Docker keeps it: {"auths": {"HOST": {"auth": ...}}}
    #[arg(long, value_name = "FILE", env = "OLLAMAMAX_PULL_CREDENTIALS")]
    pull_credentials: Option<PathBuf>,
    /// A file with authorities (PEM) that vouch for registries, beside the system's
    #[arg(long, value_name = "FILE", env = "OLLAMAMAX_PULL_CA_FILE")]
    pull_ca_file: Option<PathBuf>,
    /// The package index that `pip:NAME==VERSION` is pulled from
    #[arg(long, value_name = "URL", env = "OLLAMAMAX_PIP_INDEX")]
    pip_index: Option<reqwest::Url>,
}

impl Args {
    /// Puts it where a node reads it.
    pub fn apply(self, config: &mut NodeConfig) -> Result<(), Failure> {
        let sources = &mut config.gateway.sources;
        sources.allowed = self.pull_allow;
        sources.index = self.pip_index;
        sources.authorities = Trust::of(self.pull_ca_file.as_deref()).certificates()?;
        if let Some(path) = &self.pull_credentials {
            sources.credentials = Arc::new(secret::registries(path)?);
        }
        Ok(())
    }

    /// The same as flags of another process.
    pub fn to_flags(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        for allowed in &self.pull_allow {
            flags.extend(["--pull-allow".into(), allowed.to_string().into()]);
        }
        for (flag, path) in
            [("--pull-credentials", &self.pull_credentials), ("--pull-ca-file", &self.pull_ca_file)]
        {
            flags.extend(path.iter().flat_map(|path| [flag.into(), path.into()]));
        }
        if let Some(index) = &self.pip_index {
            flags.extend(["--pip-index".into(), index.to_string().into()]);
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_reach_the_node_and_the_processes_of_a_local_cluster() {
        let line =
            ["x", "--pull-allow", "a.lan:5000,10.0.0.1", "--pip-index", "https://i.lan/simple/"];
        let args = Line::try_parse_from(line).expect("sound").args;
        let flags = args.to_flags();
        let again = std::iter::once("x".into()).chain(flags);
        let again = Line::try_parse_from(again).expect("sound").args;
        let mut config = NodeConfig::new("/tmp/x");
        again.apply(&mut config).expect("sound");
        let shown = config.gateway.sources.allowed.iter().map(ToString::to_string);
        assert_eq!(shown.collect::<Vec<_>>(), ["a.lan:5000", "10.0.0.1"]);
        assert_eq!(
            config.gateway.sources.index.map(String::from),
            Some("https://i.lan/simple/".into())
        );
        assert!(Line::try_parse_from(["x", "--pull-allow", "https://a.lan/b"]).is_err());
    }
}
