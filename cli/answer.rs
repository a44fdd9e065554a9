//! How an answer looks: the text as it is in a pipe; on a terminal wrapped at words, with its Markdown styled, and the thoughts
//! set back before it.

use crate::markdown::Markdown;
use crate::wrap::{Style, Wrap, terminal_columns};
use crate::{human, out};
use serde_json::Value;
use std::io::IsTerminal;

const THINKING: &str = "Thinking...\n";
const THOUGHT: &str = "...done thinking.\n\n";

/// What stdout can show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// A person reads it.
    pub terminal: bool,
    /// It may have colours.
    pub colour: bool,
    /// Words go to the next line whole.
    pub wrap: bool,
    /// Thoughts are left out.
    pub hide_thinking: bool,
}

impl Look {
    /// As stdout is.
    pub fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { terminal, colour: terminal && out::colours(), wrap: terminal, hide_thinking: false }
    }

    fn columns(self) -> Option<usize> {
        if self.wrap { terminal_columns() } else { None }
    }
}

/// Turns records into what is shown.
#[derive(Debug)]
pub struct Printer {
    look: Look,
    wrap: Wrap,
    markdown: Markdown,
    thinking: bool,
    /// The last thought was the end of a line.
    line_ended: bool,
}

impl Printer {
    /// For one answer. Where a format is asked for, the answer is data and no Markdown.
    pub fn new(look: Look) -> Self {
        let wrap = Wrap::new(look.columns());
        Self { look, wrap, markdown: Markdown::default(), thinking: false, line_ended: false }
    }

    /// What a record adds to the output.
    pub fn show(&mut self, record: &Value) -> String {
        let mut shown = String::new();
        self.wrap.resize(self.look.columns());
        let thoughts = thinking_of(record);
        if !thoughts.is_empty() && !self.look.hide_thinking {
            if !self.thinking {
                self.thinking = true;
                self.plainly(&mut shown, THINKING, Style { bold: true, ..Style::DIM });
            }
            self.plainly(&mut shown, thoughts, Style::DIM);
            self.line_ended = thoughts.ends_with('\n');
        }
        let response = response_of(record);
        if self.thinking && (!response.is_empty() || record["done"] == true) {
            self.end_thoughts(&mut shown);
        }
        self.answer(&mut shown, response);
        if record["done"] == true && self.look.colour {
            let wrap = &mut self.wrap;
            self.markdown.finish(|c, style| wrap.push(&mut shown, c, style));
        }
        // Whoever stops reading here has a terminal as it was.
        self.wrap.rest(&mut shown);
        shown
    }

    /// A text of the assistant that was not streamed, with an empty line behind it.
    pub fn whole(look: Look, text: &str) -> String {
        let record = serde_json::json!({"response": text, "done": true});
        Self::new(look).show(&record) + "\n\n"
    }

    fn end_thoughts(&mut self, shown: &mut String) {
        self.thinking = false;
        if !self.line_ended {
            self.plainly(shown, "\n", Style::DIM);
        }
        self.plainly(shown, THOUGHT, Style { bold: true, ..Style::DIM });
    }

    fn plainly(&mut self, shown: &mut String, text: &str, style: Style) {
        let style = if self.look.colour { style } else { Style::PLAIN };
        for c in text.chars().filter(|c| !self.look.terminal || printable(*c)) {
            self.wrap.push(shown, c, style);
        }
    }

    fn answer(&mut self, shown: &mut String, text: &str) {
        if !self.look.colour {
            return self.plainly(shown, text, Style::PLAIN);
        }
        let Self { wrap, markdown, .. } = self;
        for c in text.chars().filter(|c| printable(*c)) {
            markdown.push(c, |c, style| wrap.push(shown, c, style));
        }
    }
}

/// The text of a record of `/api/chat` or `/api/generate`.
pub fn response_of(record: &Value) -> &str {
    let chat = record["message"]["content"].as_str();
    chat.or(record["response"].as_str()).unwrap_or_default()
}

/// The thoughts in it.
pub fn thinking_of(record: &Value) -> &str {
    let chat = record["message"]["thinking"].as_str();
    chat.or(record["thinking"].as_str()).unwrap_or_default()
}

/// A model's output must not move the cursor or recolour the terminal.
fn printable(c: char) -> bool {
    matches!(c, '\n' | '\t') || !c.is_control()
}

/// The timings as Ollama prints them.
pub fn timings(record: &Value) -> String {
    let number = |field: &str| record[field].as_u64().filter(|n| *n > 0);
    let mut lines = Vec::new();
    let mut put =
        |name: &str, value: String| lines.push(format!("{:<22}{value}", format!("{name}:")));
    for (name, field) in [("total duration", "total_duration"), ("load duration", "load_duration")]
    {
        if let Some(ns) = number(field) {
            put(name, human::nanoseconds(ns));
        }
    }
    for (name, prefix) in [("prompt eval", "prompt_eval"), ("eval", "eval")] {
        let count = number(&format!("{prefix}_count"));
        let ns = number(&format!("{prefix}_duration"));
        if let Some(count) = count {
            put(&format!("{name} count"), format!("{count} token(s)"));
        }
        if let Some(ns) = ns {
            put(&format!("{name} duration"), human::nanoseconds(ns));
            let rate = count.unwrap_or(0) as f64 / (ns as f64 / 1e9);
            put(&format!("{name} rate"), format!("{rate:.2} tokens/s"));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn show(look: Look, records: &[Value]) -> String {
        let mut printer = Printer::new(look);
        records.iter().map(|record| printer.show(record)).collect()
    }

    fn thoughtful() -> [Value; 4] {
        [
            json!({"message": {"content": "", "thinking": "hm"}}),
            json!({"message": {"content": "", "thinking": "m"}}),
            json!({"message": {"content": "**Yes"}}),
            json!({"response": "**.", "done": true}),
        ]
    }

    #[test]
    fn thoughts_are_set_apart_or_hidden() {
        let plain = Look::default();
        let shown = show(plain, &thoughtful());
        assert_eq!(shown, "Thinking...\nhmm\n...done thinking.\n\n**Yes**.");
        assert_eq!(show(Look { hide_thinking: true, ..plain }, &thoughtful()), "**Yes**.");
        let only = [json!({"thinking": "so\n"}), json!({"response": "", "done": true})];
        assert_eq!(show(plain, &only), "Thinking...\nso\n...done thinking.\n\n");
    }

    #[test]
    fn a_terminal_sees_thoughts_in_grey_and_emphasis_in_bold() {
        let look = Look { terminal: true, colour: true, ..Look::default() };
        let shown = show(look, &thoughtful());
        let mut terminal = vt100::Parser::new(10, 40, 0);
        terminal.process(shown.replace('\n', "\r\n").as_bytes());
        let screen = terminal.screen();
        let text = screen.contents();
        assert_eq!(text.trim_end(), "Thinking...\nhmm\n...done thinking.\n\n**Yes**.");
        let cell = |row, column| screen.cell(row, column).expect("a cell");
        assert_eq!(cell(1, 0).fgcolor(), vt100::Color::Idx(245));
        assert!(cell(4, 2).bold() && cell(4, 2).fgcolor() == vt100::Color::Default);
        assert!(!cell(4, 7).bold());
        // After each record, the terminal is as it was.
        assert!(show(look, &thoughtful()[..1]).ends_with("\x1b[0m"));
    }

    #[test]
    fn escapes_do_not_reach_a_terminal() {
        let look = Look { terminal: true, ..Look::default() };
        let hostile = [json!({"response": "a\x1b[31mb\n\tc\r\u{7}"})];
        assert_eq!(show(look, &hostile), "a[31mb\n\tc");
        assert_eq!(show(Look::default(), &hostile), "a\x1b[31mb\n\tc\r\u{7}");
    }

    #[test]
    fn timings_have_rates() {
        let record = json!({"total_duration": 2_500_000_000u64, "prompt_eval_count": 26,
            "prompt_eval_duration": 130_000_000, "eval_count": 10, "eval_duration": 1_000_000_000});
        assert_eq!(
            timings(&record),
            "total duration:       2.5s\nprompt eval count:    26 token(s)\nprompt eval duration: 130ms\n\
             prompt eval rate:     200.00 tokens/s\neval count:           10 token(s)\n\
             eval duration:        1s\neval rate:            10.00 tokens/s"
        );
    }
}
