//! `signin`, `signout` and `launch`: what they are in Ollama does not exist here, and what is meant does.

use crate::exit::Failure;

/// Which program to launch.
#[derive(Debug, clap::Args)]
pub struct Launch {
    /// The program
    program: Option<String>,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// Says what to do instead of `signin`.
pub fn signin() -> Failure {
    Failure::Usage(
        "there is no account at ollama.com here; `ollamamax login` logs in to your own cluster"
            .to_owned(),
    )
}

/// Says what to do instead of `signout`.
pub fn signout() -> Failure {
    Failure::Usage(
        "there is no account at ollama.com here; `ollamamax logout` ends the login at your own cluster"
            .to_owned(),
    )
}

/// Says what to do instead of `launch`.
pub fn launch(args: &Launch, host: Option<&str>) -> Failure {
    let url = match crate::host::parse(host.unwrap_or_default()) {
        Ok(nodes) => nodes.first().map(ToString::to_string).unwrap_or_default(),
        Err(failure) => return failure,
    };
    let program = args.program.as_deref().unwrap_or("the program");
    Failure::Usage(format!(
        "programs are not launched from here; start {program} yourself and point it at this cluster: \
         OLLAMA_HOST={url} for Ollama's API, OPENAI_BASE_URL={url}/v1 for OpenAI's, with a key from \
         `ollamamax keys create` where one is asked for"
    ))
}
