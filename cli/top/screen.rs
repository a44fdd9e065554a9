//! What keys do to the screen: which pane, in which order, filtered by what.

use super::facts::{Facts, Pane, Row};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::cmp::Ordering;

/// How it is looked at.
#[derive(Clone, Debug)]
pub struct Screen {
    /// What there is to see.
    pub facts: Facts,
    /// Whom the answers are from, or why there are none.
    pub source: String,
    /// The pane that keys mean.
    pub pane: Pane,
    /// How each pane is sorted.
    pub order: [Order; 3],
    /// Rows must have this in one of their cells.
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    /// The help is shown.
    pub help: bool,
    /// First row shown of the pane that keys mean.
    pub scroll: usize,
}

/// By which column, and which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Counted from 0.
    pub column: usize,
    /// The largest first.
    pub down: bool,
}

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing but to draw again.
    Go,
    /// Leave.
    Quit,
    /// Look at once.
    Look,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            facts: Facts::default(),
            source: "asking".to_owned(),
            pane: Pane::Workers,
            order: [Order::default(); 3],
            filter: String::new(),
            typing: false,
            help: false,
            scroll: 0,
        }
    }
}

impl Screen {
    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Wish::Quit;
        }
        if self.typing {
            self.type_filter(key.code);
            return Wish::Go;
        }
        if self.help {
            self.help = false;
            return Wish::Go;
        }
        let order = &mut self.order[self.pane as usize];
        let columns = self.pane.columns().len();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc if self.filter.is_empty() => return Wish::Quit,
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char(' ') => return Wish::Look,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(2),
            KeyCode::Right | KeyCode::Char('>') => order.column = (order.column + 1) % columns,
            KeyCode::Left | KeyCode::Char('<') => {
                order.column = (order.column + columns - 1) % columns;
            }
            KeyCode::Char('r') => order.down = !order.down,
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        self.scroll = self.scroll.min(self.rows(self.pane).len().saturating_sub(1));
        Wish::Go
    }

    fn turn(&mut self, steps: usize) {
        self.pane = Pane::ALL[(self.pane as usize + steps) % Pane::ALL.len()];
        self.scroll = 0;
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.typing = false;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.len() < 60 => self.filter.push(c),
            _ => {}
        }
        self.scroll = 0;
    }

    /// The rows of a pane that pass the filter, in its order.
    pub fn rows(&self, pane: Pane) -> Vec<&Row> {
        let wanted = self.filter.to_lowercase();
        let passes =
            |row: &&Row| row.cells.iter().any(|cell| cell.to_lowercase().contains(&wanted));
        let mut rows: Vec<&Row> = self.facts.tables[pane as usize].iter().filter(passes).collect();
        let Order { column, down } = self.order[pane as usize];
        rows.sort_by(|a, b| {
            let ordered = by_column(a, b, column);
            if down { ordered.reverse() } else { ordered }
        });
        rows
    }
}

/// By number where both have one, else by text.
fn by_column(a: &Row, b: &Row, column: usize) -> Ordering {
    let key = |row: &Row| row.keys.get(column).copied().filter(|key| !key.is_nan());
    let cell = |row: &Row| row.cells.get(column).cloned().unwrap_or_default();
    match (key(a), key(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => cell(a).cmp(&cell(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::facts::tests::{answers, now};

    fn press(screen: &mut Screen, keys: &str) -> Wish {
        let codes = keys.chars().map(|c| match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\x1b' => KeyCode::Esc,
            c => KeyCode::Char(c),
        });
        codes.fold(Wish::Go, |_, code| screen.key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn names(screen: &Screen) -> Vec<&str> {
        screen.rows(screen.pane).iter().map(|row| row.cells[0].as_str()).collect()
    }

    fn screen() -> Screen {
        Screen { facts: Facts::of(&answers(), now()), ..Screen::default() }
    }

    #[test]
    fn rows_are_sorted_by_number_or_text_either_way() {
        let mut screen = screen();
        assert_eq!(names(&screen), ["gpu-a", "gpu-b"]);
        press(&mut screen, "r");
        assert_eq!(names(&screen), ["gpu-b", "gpu-a"]);
        // By what is busy, the largest first: per cent and tokens are both numbers.
        press(&mut screen, ">>>");
        assert_eq!(names(&screen), ["gpu-a", "gpu-b"]);
        // Unknown applied entries are the least.
        press(&mut screen, "\t\t>>>");
        assert_eq!(screen.pane, Pane::Nodes);
        assert_eq!(names(&screen), ["3", "1", "2"]);
    }

    #[test]
    fn a_filter_is_typed_kept_and_dropped() {
        let mut screen = screen();
        assert_eq!(press(&mut screen, "/GPU-Bq"), Wish::Go);
        assert_eq!(screen.filter, "GPU-Bq");
        screen.key(KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE));
        press(&mut screen, "\n");
        assert_eq!(names(&screen), ["gpu-b"]);
        assert_eq!(press(&mut screen, "\x1b"), Wish::Go);
        assert_eq!(names(&screen).len(), 2);
    }

    #[test]
    fn keys_leave_help_and_look() {
        let mut screen = screen();
        assert_eq!(press(&mut screen, "?"), Wish::Go);
        assert!(screen.help);
        // Any key leaves the help, and does nothing else.
        assert_eq!(press(&mut screen, "q"), Wish::Go);
        assert!(!screen.help);
        assert_eq!(press(&mut screen, " "), Wish::Look);
        assert_eq!(press(&mut screen, "q"), Wish::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.key(interrupt), Wish::Quit);
        press(&mut screen, "jjjjjj");
        assert_eq!(screen.scroll, 1);
    }
}
