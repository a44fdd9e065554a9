//! A program on a terminal: a real pseudo-terminal, and what a person would see on it.

use crate::binary;
use ollamamax_tests::wait_until;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// An unoptimised build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary, running on a terminal. Dropping it kills it.
pub struct Terminal {
    screen: Arc<Mutex<vt100::Parser>>,
    writer: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    /// Starts it with a user's directories below `home`.
    pub fn start(
        args: &[&str],
        (rows, columns): (u16, u16),
        home: &Path,
        env: &[(&str, &str)],
    ) -> Self {
        let size = PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).expect("a pseudo-terminal");
        let mut command = CommandBuilder::new(binary());
        command.args(args);
        command.env_clear();
        command.env("HOME", home);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("TERM", "xterm-256color");
        env.iter().for_each(|(name, value)| command.env(name, value));
        let child = pair.slave.spawn_command(command).expect("the binary runs");
        let mut reader = pair.master.try_clone_reader().expect("a reader");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let seen = screen.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.process(&piece[..count]);
            }
        });
        let writer = pair.master.take_writer().expect("a writer");
        Self { screen, writer, child, master: pair.master }
    }

    /// What stands on the screen.
    pub fn text(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.screen().contents()
    }

    /// Whether the first character of a text on the screen is bold; `None`: the text is not there.
    pub fn is_bold(&self, text: &str) -> Option<bool> {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let screen = screen.screen();
        let (_, columns) = screen.size();
        let rows = screen.rows(0, columns).enumerate();
        let (row, column) = rows.filter_map(|(row, line)| Some((row, line.find(text)?))).next()?;
        let cell = screen.cell(u16::try_from(row).ok()?, u16::try_from(column).ok()?)?;
        Some(cell.bold())
    }

    /// Presses keys.
    pub fn keys(&mut self, keys: &str) {
        self.writer.write_all(keys.as_bytes()).expect("the terminal is there");
        self.writer.flush().expect("the terminal is there");
    }

    /// Types a line and ends it.
    pub fn line(&mut self, line: &str) {
        self.keys(line);
        self.keys("\r");
    }

    /// Gives the window another size.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 };
        self.screen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen_mut()
            .set_size(rows, columns);
        self.master.resize(size).expect("resized");
    }

    /// Waits until the screen satisfies a condition; what it shows then.
    pub async fn wait(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let look = async || {
            let text = self.text();
            if condition(&text) { Ok(text) } else { Err(format!("the screen shows\n{text}")) }
        };
        let seen = wait_until(PATIENCE, what, look).await;
        seen.inspect_err(|error| eprintln!("{error}")).expect("it is seen")
    }

    /// Waits until the screen shows a text.
    pub async fn shows(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contains(text)).await
    }

    /// Waits for its end; the exit code.
    pub async fn end(mut self) -> u32 {
        let child = &mut self.child;
        let ended = wait_until(PATIENCE, "its end", async || {
            let status = child.try_wait().map_err(|error| error.to_string())?;
            status.map(|status| status.exit_code()).ok_or_else(|| "it runs".to_owned())
        });
        let ended = ended.await;
        ended
            .inspect_err(|error| eprintln!("{error}; the screen shows\n{}", self.text()))
            .expect("it ends")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
