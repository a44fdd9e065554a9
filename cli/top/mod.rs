//! `top`: the cluster on one screen, asked again every second.
//!
//! ```text
//! look (HTTP, any node that answers) -> facts -> screen <- keys
//!                                                  |
//!                                                draw
//! ```
//!
//! One node is asked for the whole; what each node counts, its `/metrics`, each is asked for itself. When the node that is asked
//! dies, the client goes on to the next.

mod draw;
mod facts;
mod look;
mod rates;
mod screen;

use crate::client::Client;
use crate::exit::Failure;
use crate::out;
use facts::Facts;
use look::{Look, Seen};
use ollamamax_proto::limits;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use screen::{Screen, Wish};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a key is waited for before the thread that reads them looks whether it is still wanted.
const KEY_WAIT: Duration = Duration::from_millis(200);

/// How to look.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {
    /// Print the tables once, without a screen of their own
    #[arg(long)]
    once: bool,
}

/// Shows it until the user leaves.
pub async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let mut look = Look::default();
    // A cluster that is not there is told of in the shell, not on a screen that is gone at once.
    let first = look.at(client).await?;
    client.learn().await;
    if args.once {
        out::text(&plain(&first.facts));
        return Ok(());
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        let text = "`top` needs a terminal; `ollamamax top --once` prints, `ollamamax cluster status --watch` follows";
        return Err(Failure::Usage(text.to_owned()));
    }
    let mut terminal = ratatui::try_init().map_err(broken)?;
    let shown = show(client, look, first, &mut terminal).await;
    ratatui::try_restore().map_err(broken)?;
    shown
}

fn broken(error: std::io::Error) -> Failure {
    Failure::Other(format!("cannot use the terminal: {error}"))
}

async fn show(
    client: &Client,
    mut look: Look,
    first: Seen,
    terminal: &mut DefaultTerminal,
) -> Result<(), Failure> {
    let colour = out::colours();
    let mut screen = Screen { facts: first.facts, source: first.source, ..Screen::default() };
    let mut events = read_events();
    let mut at_once = false;
    loop {
        let wait =
            if at_once { Duration::ZERO } else { Duration::from_millis(limits::WATCH_PERIOD_MS) };
        at_once = false;
        let asking = async {
            tokio::time::sleep(wait).await;
            look.at(client).await
        };
        tokio::pin!(asking);
        // Keys are answered while an answer is waited for.
        loop {
            terminal.draw(|frame| draw::draw(frame, &screen, colour)).map_err(broken)?;
            tokio::select! {
                seen = &mut asking => {
                    match seen {
                        Ok(seen) => (screen.facts, screen.source) = (seen.facts, seen.source),
                        Err(failure) => screen.source = format!("NO ANSWER: {failure}"),
                    }
                    break;
                }
                event = events.recv() => match event {
                    None => return Ok(()),
                    Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match screen.key(key) {
                        Wish::Quit => return Ok(()),
                        Wish::Look => at_once = true,
                        Wish::Go => {}
                    },
                    Some(_) => {}
                },
            }
            if at_once {
                break;
            }
        }
    }
}

/// Keys and new sizes, read on a thread of their own, which ends with the receiver.
fn read_events() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(KEY_WAIT) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_) => return,
            }
            let Ok(event) = event::read() else { return };
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The same without a screen.
fn plain(facts: &Facts) -> String {
    let mut text = format!("{}\n{}\n", facts.headline, facts.load);
    for (pane, rows) in facts::Pane::ALL.iter().zip(&facts.tables) {
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.cells.clone()).collect();
        text.push('\n');
        text.push_str(&crate::table::render(pane.columns(), &rows));
    }
    text
}
