//! `ollamamax`: the one binary. This file reads the command line and calls; each command has a file of its own.
//!
//! ```text
//! up ----------- starts --> control-plane, worker      (daemons: the same binary, other processes)
//! run, list, ... -- HTTP -> any node                   (client, which goes on to the next node)
//! ```

#![forbid(unsafe_code)]

mod account;
mod adopt;
mod answer;
mod ask;
mod audit;
mod bearer;
mod bench;
mod chaos;
mod chat;
mod client;
mod cluster;
mod config;
mod control_plane;
mod copy;
mod create;
mod credentials;
mod daemon;
mod deploy;
mod doctor;
mod dumps;
mod edge;
mod embed;
mod environment;
mod exit;
mod generate;
mod host;
mod human;
mod join_token;
mod keys;
mod known_nodes;
mod list;
mod login;
mod markdown;
mod modelfile;
mod ndjson;
mod oidc;
mod out;
mod output;
mod pages;
mod placement;
mod progress;
mod ps;
mod pull;
mod push;
mod remove;
mod requests;
mod run;
mod secret;
mod serve;
mod show;
mod signing_keys;
mod source;
mod sources;
mod stop;
mod suggest;
mod synth;
mod table;
mod top;
mod trust;
mod up;
mod upload;
mod users;
mod version;
mod watch;
mod weights;
mod worker;
mod workers;
mod wrap;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use client::Client;
use exit::{EXIT_CODES_HELP, Failure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Many machines behind one Ollama- and OpenAI-compatible endpoint
#[derive(Debug, Parser)]
#[command(name = "ollamamax", after_help = EXIT_CODES_HELP, disable_version_flag = true)]
struct Cli {
    /// Node to talk to, or several with commas between: host[:port] or http[s]://host[:port][/path]
    #[arg(long, global = true, env = "OLLAMA_HOST", value_name = "HOST")]
    host: Option<String>,
    /// A file with authorities (PEM) that vouch for the server's certificate, beside those of the system
    #[arg(long, global = true, env = "OLLAMAMAX_CA_FILE", value_name = "PATH")]
    ca_file: Option<PathBuf>,
    /// Configuration file; else ollamamax.toml in the user's configuration directory or in /etc/ollamamax
    #[arg(long, global = true, env = "OLLAMAMAX_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The host comes from the configuration file: it is where commands go, not where `serve` listens.
    #[arg(skip)]
    host_is_configured: bool,
    /// Show the version and that of the server
    #[arg(short = 'v', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a local cluster, supervise it, and serve a model
    Up(up::Args),
    /// Start a local server, as Ollama's: `up` of one node and one worker, without a model
    #[command(visible_alias = "start")]
    Serve(up::Args),
    /// Run one control-plane node
    ControlPlane(Box<control_plane::Args>),
    /// Run one worker
    Worker(worker::Args),
    /// See and change the control plane's members
    #[command(subcommand)]
    Cluster(cluster::Args),
    /// See and change the workers
    #[command(subcommand)]
    Workers(workers::Args),
    /// Create and revoke what lets nodes and workers into the cluster
    #[command(subcommand)]
    JoinToken(join_token::Args),
    /// Load a model on so many workers, whole or split
    Deploy(Box<deploy::Args>),
    /// See who holds what, what the planner would do, and why
    #[command(subcommand)]
    Placement(placement::Args),
    /// Try what the cluster promises: each worker is drained and resumed while answers are compared
    Chaos(chaos::Args),
    /// Even out what the workers hold
    Rebalance(placement::Rebalance),
    /// Move a model from one worker to another
    Migrate(placement::Migrate),
    /// Run a model: one prompt, or a conversation
    Run(run::Args),
    /// Create a model from a Modelfile
    Create(create::Args),
    /// List models
    #[command(visible_alias = "ls")]
    List(list::Args),
    /// List models that are loaded
    Ps(ps::Args),
    /// Show what a model is
    Show(show::Args),
    /// Remove models
    Rm(remove::Args),
    /// Copy a model under another name
    Cp(copy::Args),
    /// Get a model from the catalogue, a file or a URL
    Pull(pull::Args),
    /// Give a model to a registry
    Push(push::Args),
    /// Ollama's account: there is none here, see `login`
    #[command(hide = true)]
    Signin,
    /// Ollama's account: there is none here, see `logout`
    #[command(hide = true)]
    Signout,
    /// Ollama's launcher: says how to point a program at this cluster
    #[command(hide = true)]
    Launch(account::Launch),
    /// Unload a model
    Stop(stop::Args),
    /// Log in, or keep an API key, for the commands that follow
    Login(login::Login),
    /// End the login
    Logout,
    /// Show who one is there, and what one may do
    Whoami(login::WhoAmI),
    /// See and change users
    #[command(subcommand)]
    Users(users::Args),
    /// See, create and revoke API keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// See and change roles
    #[command(subcommand)]
    Roles(keys::Roles),
    /// See and change how much may be asked for
    #[command(subcommand)]
    Quotas(keys::Quotas),
    /// See what runs and what ran lately, and end what shall not go on
    #[command(subcommand)]
    Requests(requests::Args),
    /// Void tokens
    #[command(subcommand)]
    Tokens(signing_keys::Tokens),
    /// See and rotate the keys that sign access tokens
    #[command(subcommand)]
    SigningKeys(signing_keys::Args),
    /// See, export and check the trail of who did what
    #[command(subcommand)]
    Audit(audit::Args),
    /// Measure this machine
    #[command(subcommand)]
    Bench(bench::Args),
    /// Write a model file of random weights, to measure a size that is not at hand
    Synth(synth::Args),
    /// Watch nodes, workers and models on one screen
    Top(top::Args),
    /// Find what is wrong, and what to do about it
    Doctor(doctor::Args),
    /// Check and show the configuration
    #[command(subcommand)]
    Config(config::Args),
    /// Print what a shell needs to complete commands: source it, or put it where your shell looks
    Completions(pages::Completions),
    /// Print the manual page, or write one for each command
    Man(pages::Man),
    /// Show the version and that of the server
    Version(version::Args),
}

fn main() -> ExitCode {
    let mut cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(failure) => return report(&failure),
    };
    if let Some(Command::Worker(args)) = &mut cli.command
        && let Err(failure) = args.confine()
    {
        return report(&failure);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::Other(format!("cannot start threads: {error}"))),
    };
    let done = runtime.block_on(dispatch(cli));
    // A blocking read of a terminal must not hold the process back.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// Reads the command line, with the configuration file behind it. Wrong usage ends the program here.
fn parse(argv: Vec<OsString>) -> Result<Cli, Failure> {
    let matches = config::command(Cli::command(), &argv)?.get_matches_from(argv);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let host_is_configured = matches.value_source("host") == Some(ValueSource::DefaultValue);
    Ok(Cli { host_is_configured, ..cli })
}

fn report(failure: &Failure) -> ExitCode {
    out::say(&format!("Error: {}", out::printable(&failure.to_string())));
    failure.exit_code()
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let host = Server { host: cli.host.as_deref(), ca_file: cli.ca_file.as_deref() };
    let Some(command) = cli.command else {
        if cli.version {
            return talk(host, async |client| {
                version::run(client, &version::Args::default()).await
            })
            .await;
        }
        return Err(Failure::Usage(
            "no command given; `ollamamax up` starts a cluster, `ollamamax help` lists everything"
                .to_owned(),
        ));
    };
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Serve(args) => {
            serve::run(args, host.host.filter(|_| !cli.host_is_configured)).await
        }
        Command::ControlPlane(args) => control_plane::run(*args).await,
        Command::Worker(args) => worker::run(args).await,
        Command::Cluster(cluster::Args::Join(args)) => control_plane::run((*args).into()).await,
        Command::Cluster(args) => talk(host, async |c| cluster::run(c, &args).await).await,
        Command::Workers(args) => talk(host, async |c| workers::run(c, &args).await).await,
        Command::JoinToken(args) => talk(host, async |c| join_token::run(c, &args).await).await,
        Command::Deploy(args) => talk(host, async |c| deploy::run(c, &args).await).await,
        Command::Placement(args) => talk(host, async |c| placement::run(c, &args).await).await,
        Command::Chaos(args) => {
            let host = args.against.as_deref().or(host.host);
            talk(Server { host, ca_file: cli.ca_file.as_deref() }, async |c| {
                chaos::run(c, &args).await
            })
            .await
        }
        Command::Rebalance(args) => {
            talk(host, async |c| placement::rebalance(c, &args).await).await
        }
        Command::Migrate(args) => talk(host, async |c| placement::migrate(c, &args).await).await,
        Command::Run(args) => talk(host, async |c| run::run(c, &args).await).await,
        Command::Create(args) => talk(host, async |c| create::run(c, &args).await).await,
        Command::List(args) => talk(host, async |c| list::run(c, &args).await).await,
        Command::Ps(args) => talk(host, async |c| ps::run(c, &args).await).await,
        Command::Show(args) => talk(host, async |c| show::run(c, &args).await).await,
        Command::Rm(args) => talk(host, async |c| remove::run(c, &args).await).await,
        Command::Cp(args) => talk(host, async |c| copy::run(c, &args).await).await,
        Command::Pull(args) => talk(host, async |c| pull::run(c, &args).await).await,
        Command::Push(args) => talk(host, async |c| push::run(c, &args).await).await,
        Command::Signin => Err(account::signin()),
        Command::Signout => Err(account::signout()),
        Command::Launch(args) => Err(account::launch(&args, host.host)),
        Command::Stop(args) => talk(host, async |c| stop::run(c, &args).await).await,
        Command::Login(args) => talk(host, async |c| login::login(c, &args).await).await,
        Command::Logout => talk(host, async |c| login::logout(c).await).await,
        Command::Whoami(args) => talk(host, async |c| login::whoami(c, &args).await).await,
        Command::Users(args) => talk(host, async |c| users::run(c, &args).await).await,
        Command::Keys(args) => talk(host, async |c| keys::keys(c, &args).await).await,
        Command::Roles(args) => talk(host, async |c| keys::roles(c, &args).await).await,
        Command::Requests(args) => talk(host, async |c| requests::run(c, &args).await).await,
        Command::Quotas(args) => talk(host, async |c| keys::quotas(c, &args).await).await,
        Command::Tokens(args) => talk(host, async |c| signing_keys::tokens(c, &args).await).await,
        Command::SigningKeys(args) => talk(host, async |c| signing_keys::run(c, &args).await).await,
        Command::Audit(args) => talk(host, async |c| audit::run(c, &args).await).await,
        Command::Bench(args) => bench::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Top(args) => talk(host, async |c| top::run(c, args).await).await,
        Command::Doctor(args) => talk(host, async |c| doctor::run(c, &args).await).await,
        Command::Config(args) => config::run(&args, cli.config.as_deref(), Cli::command()),
        Command::Completions(args) => {
            pages::completions(&args, Cli::command());
            Ok(())
        }
        Command::Man(args) => pages::man(&args, Cli::command()),
        Command::Version(args) => talk(host, async |c| version::run(c, &args).await).await,
    }
}

/// Which server a command talks to.
#[derive(Clone, Copy)]
struct Server<'a> {
    host: Option<&'a str>,
    ca_file: Option<&'a Path>,
}

/// Runs a command that talks to a server, and learns the cluster's addresses for the next one.
async fn talk(
    server: Server<'_>,
    command: impl AsyncFnOnce(&Client) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let client = Client::new(server.host, server.ca_file)?;
    let done = match command(&client).await {
        Err(failure) => Err(suggest::next(&client, failure).await),
        Ok(()) => Ok(()),
    };
    client.learn().await;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
