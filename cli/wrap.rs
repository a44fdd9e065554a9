//! Text on its way to a terminal, character by character: words that do not fit go to the next line, and styles are switched
//! only where they change.
//!
//! An answer comes in pieces that end anywhere. Each character is shown at once; when a word turns out not to fit, what is
//! shown of it is wiped and written again on the next line, as Ollama does it.

use unicode_width::UnicodeWidthChar;

/// Wipes from the cursor to the end of the line.
const WIPE: &str = "\x1b[K";

/// How a character looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Strong emphasis and headings.
    pub bold: bool,
    /// Emphasis.
    pub italic: bool,
    /// Code.
    pub code: bool,
    /// Thoughts, and marks that are not text.
    pub dim: bool,
}

impl Style {
    /// As the terminal is.
    pub const PLAIN: Self = Self { bold: false, italic: false, code: false, dim: false };
    /// Set back.
    pub const DIM: Self = Self { dim: true, ..Self::PLAIN };

    /// What switches a terminal to this style, from whatever it has.
    fn sequence(self) -> String {
        let codes = [
            (self.bold, ";1"),
            (self.italic, ";3"),
            (self.code, ";36"),
            // A grey of its own: "faint" is not to be told from normal text on many terminals.
            (self.dim, ";38;5;245"),
        ];
        let codes: String = codes.iter().filter(|(on, _)| *on).map(|(_, code)| *code).collect();
        format!("\x1b[0{codes}m")
    }
}

/// Lays characters out.
#[derive(Debug)]
pub struct Wrap {
    /// Columns of the terminal; `None`: lines are left to it.
    columns: Option<usize>,
    column: usize,
    /// What is shown of the last word.
    word: Vec<(char, Style)>,
    style: Style,
}

impl Wrap {
    /// For so many columns.
    pub fn new(columns: Option<usize>) -> Self {
        Self { columns, column: 0, word: Vec::new(), style: Style::PLAIN }
    }

    /// The terminal has another width now.
    pub fn resize(&mut self, columns: Option<usize>) {
        self.columns = columns;
    }

    /// Adds a character to `shown`.
    pub fn push(&mut self, shown: &mut String, c: char, style: Style) {
        if c == '\n' {
            self.put(shown, c, style);
            self.column = 0;
            self.word.clear();
            return;
        }
        let width = if c == '\t' { 8 - self.column % 8 } else { c.width().unwrap_or(0) };
        let full = self.columns.is_some_and(|columns| self.column + width > columns);
        if full && c == ' ' {
            // The space at which a line ends is not shown.
            self.line_end(shown);
            return;
        }
        if full {
            self.carry_word(shown);
        }
        self.put(shown, c, style);
        self.column += width;
        match c {
            ' ' | '\t' => self.word.clear(),
            // Scripts written in wide characters break anywhere.
            _ if width > 1 => self.word.clear(),
            _ => self.word.push((c, style)),
        }
    }

    /// Leaves the terminal as it was.
    pub fn rest(&mut self, shown: &mut String) {
        self.switch(shown, Style::PLAIN);
    }

    /// Moves the word that has begun to the next line, unless it fills this one.
    fn carry_word(&mut self, shown: &mut String) {
        let word = std::mem::take(&mut self.word);
        let width: usize = word.iter().map(|(c, _)| c.width().unwrap_or(0)).sum();
        if width >= self.column {
            return self.line_end(shown);
        }
        if width > 0 {
            // Where the cursor is behind a full line differs; columns, counted from 1, do not.
            shown.push_str(&format!("\x1b[{}G{WIPE}", self.column - width + 1));
        }
        self.line_end(shown);
        for (c, style) in &word {
            self.put(shown, *c, *style);
        }
        self.column = width;
        self.word = word;
    }

    fn line_end(&mut self, shown: &mut String) {
        shown.push('\n');
        self.column = 0;
        self.word.clear();
    }

    fn put(&mut self, shown: &mut String, c: char, style: Style) {
        self.switch(shown, style);
        shown.push(c);
    }

    fn switch(&mut self, shown: &mut String, style: Style) {
        if self.style != style {
            shown.push_str(&style.sequence());
            self.style = style;
        }
    }
}

/// Columns of the terminal that stdout is, if it is one.
pub fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a terminal of so many columns shows of a text, line by line.
    fn screen(text: &str, columns: u16) -> Vec<String> {
        let mut wrap = Wrap::new(Some(usize::from(columns)));
        let mut shown = String::new();
        text.chars().for_each(|c| wrap.push(&mut shown, c, Style::PLAIN));
        let mut terminal = vt100::Parser::new(200, columns, 0);
        terminal.process(shown.replace('\n', "\r\n").as_bytes());
        let rows = terminal.screen().rows(0, columns);
        let rows: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        let used = rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1);
        rows[..used].to_vec()
    }

    #[test]
    fn words_that_do_not_fit_go_to_the_next_line() {
        let text = "the quick brown fox jumps";
        assert_eq!(screen(text, 10), ["the quick", "brown fox", "jumps"]);
        assert_eq!(screen(text, 9), ["the quick", "brown fox", "jumps"]);
        assert_eq!(screen("a\n\nbc", 10), ["a", "", "bc"]);
        // A word longer than a line is cut.
        assert_eq!(screen("abcdefghijkl mn", 5), ["abcde", "fghij", "kl mn"]);
        // Wide characters take two columns and break anywhere.
        assert_eq!(screen("漢字漢字", 5), ["漢字", "漢字"]);
    }

    #[test]
    fn without_a_width_lines_are_left_to_the_terminal() {
        let mut wrap = Wrap::new(None);
        let mut shown = String::new();
        "many many words".chars().for_each(|c| wrap.push(&mut shown, c, Style::PLAIN));
        assert_eq!(shown, "many many words");
    }

    #[test]
    fn styles_are_switched_where_they_change_and_end() {
        let mut wrap = Wrap::new(Some(80));
        let mut shown = String::new();
        let bold = Style { bold: true, ..Style::PLAIN };
        for (c, style) in [('a', Style::PLAIN), ('b', bold), ('c', bold)] {
            wrap.push(&mut shown, c, style);
        }
        wrap.rest(&mut shown);
        wrap.rest(&mut shown);
        assert_eq!(shown, "a\x1b[0;1mbc\x1b[0m");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_line_is_too_long(text in "[a-z漢 ]{0,120}", columns in 4u16..30) {
            let shown = screen(&text, columns);
            let bare = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(bare(&shown.concat()), bare(&text));
        }

        #[test]
        fn short_words_are_never_cut(words in proptest::collection::vec("[a-z]{1,6}", 1..30), columns in 6u16..30) {
            let shown = screen(&words.join(" "), columns).join(" ");
            prop_assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), words);
        }
    }
}
