//! Markdown on a terminal, while it comes: every character is shown as the model wrote it, and what it marks is styled.
//!
//! Marks stay, set back in grey. So nothing has to be drawn twice when a mark turns out to mean something else, what is copied
//! from the terminal is the answer itself, and no text is lost to a star that was meant as one.
//!
//! Known are headings, emphasis, code spans and fenced code. Emphasis follows the main rule of CommonMark (a mark opens before a
//! word and closes behind one) and ends with its line.

use crate::wrap::Style;

/// Fewest marks that fence code.
const FENCE_MARKS: usize = 3;
/// Most levels of headings.
const HEADING_MARKS: usize = 6;

/// Styles the characters of one answer.
#[derive(Debug, Default)]
pub struct Markdown {
    /// Marks that came last and may become more: which, and how many.
    run: Option<(char, usize)>,
    /// The character before the run.
    before: Option<char>,
    /// Only spaces since the line began.
    indent: bool,
    begun: bool,
    heading: bool,
    strong: bool,
    emphasis: bool,
    /// The marks of the code span that is open.
    span: Option<usize>,
    /// The mark of the code block that is open.
    fence: Option<char>,
    /// The rest of the line belongs to a fence.
    fence_line: bool,
}

impl Markdown {
    /// Takes the next character; hands on it and what was held back before.
    pub fn push(&mut self, c: char, mut show: impl FnMut(char, Style)) {
        if !self.begun {
            (self.begun, self.indent) = (true, true);
        }
        match self.run {
            Some((mark, count)) if mark == c => self.run = Some((mark, count + 1)),
            _ => {
                self.end_run(Some(c), &mut show);
                if self.is_mark(c) { self.run = Some((c, 1)) } else { self.text(c, &mut show) }
            }
        }
    }

    /// Hands on what is held back: the answer is over.
    pub fn finish(&mut self, mut show: impl FnMut(char, Style)) {
        self.end_run(None, &mut show);
    }

    fn is_mark(&self, c: char) -> bool {
        match c {
            '`' | '~' => true,
            _ if self.fence.is_some() || self.span.is_some() => false,
            '#' => self.indent,
            '*' | '_' => true,
            _ => false,
        }
    }

    fn style(&self) -> Style {
        let code = self.fence.is_some() || self.span.is_some();
        Style {
            bold: !code && (self.strong || self.heading),
            italic: !code && self.emphasis,
            code,
            dim: self.fence_line,
        }
    }

    fn text(&mut self, c: char, show: &mut impl FnMut(char, Style)) {
        show(c, self.style());
        self.before = Some(c);
        if c == '\n' {
            (self.indent, self.heading, self.fence_line) = (true, false, false);
            (self.strong, self.emphasis, self.span) = (false, false, None);
            self.before = None;
        } else if c != ' ' {
            self.indent = false;
        }
    }

    /// Decides what a run of marks means, now that what follows it is known.
    fn end_run(&mut self, next: Option<char>, show: &mut impl FnMut(char, Style)) {
        let Some((mark, count)) = self.run.take() else { return };
        let meant = match mark {
            '`' | '~' if self.indent && count >= FENCE_MARKS => self.fences(mark),
            '`' => self.spans(count),
            '#' => self.heads(count, next),
            '*' | '_' => self.emphasises(mark, count, next),
            _ => false,
        };
        let style = if meant { Style::DIM } else { self.style() };
        (0..count).for_each(|_| show(mark, style));
        self.before = Some(mark);
        self.indent = false;
    }

    fn fences(&mut self, mark: char) -> bool {
        match self.fence {
            None => self.fence = Some(mark),
            Some(open) if open == mark => self.fence = None,
            Some(_) => return false,
        }
        self.fence_line = true;
        true
    }

    fn spans(&mut self, count: usize) -> bool {
        match self.span {
            _ if self.fence.is_some() => return false,
            None => self.span = Some(count),
            Some(open) if open == count => self.span = None,
            Some(_) => return false,
        }
        true
    }

    fn heads(&mut self, count: usize, next: Option<char>) -> bool {
        self.heading = count <= HEADING_MARKS && next == Some(' ');
        self.heading
    }

    fn emphasises(&mut self, mark: char, count: usize, next: Option<char>) -> bool {
        let space = |c: Option<char>| c.is_none_or(char::is_whitespace);
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        // A `_` inside of a word is part of a name.
        let inside = mark == '_' && word(self.before) && word(next);
        let (opens, closes) = (!space(next) && !inside, !space(self.before) && !inside);
        let (strong, emphasis) = match count {
            1 => (false, true),
            2 => (true, false),
            3 => (true, true),
            _ => return false,
        };
        let closing = closes && strong <= self.strong && emphasis <= self.emphasis;
        let opening = opens && (!strong || !self.strong) && (!emphasis || !self.emphasis);
        if !closing && !opening {
            return false;
        }
        if strong {
            self.strong = !closing;
        }
        if emphasis {
            self.emphasis = !closing;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The text with a letter for each style: `b`old, `i`talic, `c`ode, `d`im, or `.`.
    fn styled(text: &str) -> (String, String) {
        let (mut shown, mut styles) = (String::new(), String::new());
        let mut show = |c: char, style: Style| {
            shown.push(c);
            styles.push(match style {
                Style { dim: true, .. } => 'd',
                Style { code: true, .. } => 'c',
                Style { bold: true, italic: true, .. } => 'x',
                Style { bold: true, .. } => 'b',
                Style { italic: true, .. } => 'i',
                _ => '.',
            });
        };
        let mut markdown = Markdown::default();
        text.chars().for_each(|c| markdown.push(c, &mut show));
        markdown.finish(&mut show);
        (shown, styles)
    }

    #[test]
    fn what_is_marked_is_styled() {
        for (text, styles) in [
            ("a **b** c", "..ddbdd.."),
            ("a *b* c", "..did.."),
            ("***ab***", "dddxxddd"),
            ("**a *b* c**", "ddbbdxdbbdd"),
            ("use `a*b*`.", "....dccccd."),
            ("``a`b``", "ddcccdd"),
            ("# Head\nx", "dbbbbbb."),
            ("  ## Head", "..ddbbbbb"),
            ("```sh\nls *\n```\nx", "ddddddcccccdddd."),
        ] {
            assert_eq!(styled(text), (text.to_owned(), styles.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn marks_that_mean_nothing_are_text() {
        for text in ["2 * 3 * 4", "* item", "a_name_of_it", "- x # y", "#tag", "~tilde", "a ** b"] {
            let (_, styles) = styled(text);
            assert_eq!(styles, ".".repeat(text.len()), "{text:?}");
        }
        // What is not closed ends with its line.
        assert_eq!(styled("**a\nb").1, "ddbb.");
        assert_eq!(styled("`a\nb").1, "dcc.");
    }

    proptest! {
        #[test]
        fn every_character_is_shown_once_and_in_order(text in "[a-c *_`#~\\n]{0,80}") {
            prop_assert_eq!(styled(&text).0, text);
        }
    }
}
