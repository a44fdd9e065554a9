//! What lines ask for: messages, several lines between `"""`, and commands that start with `/`.

/// What begins and ends several lines.
const QUOTE: &str = "\"\"\"";
/// A command whose text may take several lines, too.
const SYSTEM: &str = "/set system ";

/// What a line, or several between quotes, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    Empty,
    /// More lines belong to it.
    More,
    /// Something for the model.
    Message(String),
    /// `/name words`.
    Command(String, Vec<String>),
    /// A system prompt.
    System(String),
}

/// Puts lines together.
#[derive(Debug, Default)]
pub struct Reader {
    open: Option<Open>,
}

/// A text that goes on.
#[derive(Debug)]
struct Open {
    text: String,
    is_system: bool,
}

impl Reader {
    /// Takes the next line.
    pub fn line(&mut self, line: &str) -> Input {
        if let Some(open) = self.open.take() {
            return self.goes_on(open, line);
        }
        let line = line.trim();
        let (is_system, rest) = match line.strip_prefix(SYSTEM) {
            Some(text) => (true, text.trim_start()),
            None => (false, line),
        };
        if let Some(rest) = rest.strip_prefix(QUOTE) {
            return self.goes_on(Open { text: String::new(), is_system }, rest);
        }
        if is_system {
            return Input::System(rest.to_owned());
        }
        if line.is_empty() {
            return Input::Empty;
        }
        match line.strip_prefix('/') {
            // A path is more likely than a command of that name.
            Some(rest) if !rest.starts_with('/') => {
                let mut words = rest.split_whitespace().map(str::to_owned);
                Input::Command(words.next().unwrap_or_default(), words.collect())
            }
            _ => Input::Message(line.to_owned()),
        }
    }

    fn goes_on(&mut self, mut open: Open, line: &str) -> Input {
        let Some((last, _)) = line.split_once(QUOTE) else {
            open.text.push_str(line);
            open.text.push('\n');
            self.open = Some(open);
            return Input::More;
        };
        open.text.push_str(last);
        let text = open.text.trim_matches('\n').to_owned();
        match (open.is_system, text.is_empty()) {
            (true, _) => Input::System(text),
            (false, true) => Input::Empty,
            (false, false) => Input::Message(text),
        }
    }

    /// Whether a text of several lines is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Forgets an open text.
    pub fn cancel(&mut self) {
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_messages_and_commands() {
        let mut reader = Reader::default();
        let message = |text: &str| Input::Message(text.to_owned());
        assert_eq!(reader.line("  "), Input::Empty);
        assert_eq!(reader.line(" hello there "), message("hello there"));
        assert_eq!(reader.line("/bye"), Input::Command("bye".into(), vec![]));
        assert_eq!(
            reader.line("/set parameter seed 1"),
            Input::Command("set".into(), vec!["parameter".into(), "seed".into(), "1".into()])
        );
        assert_eq!(reader.line("//not a command"), message("//not a command"));
        assert_eq!(reader.line("\"\"\"one line\"\"\""), message("one line"));
        assert_eq!(reader.line("\"\"\"\"\"\""), Input::Empty);
        assert_eq!(reader.line("\"\"\"first"), Input::More);
        assert!(reader.is_open());
        assert_eq!(reader.line("  /bye"), Input::More);
        assert_eq!(reader.line("last\"\"\""), message("first\n  /bye\nlast"));
        assert!(!reader.is_open());
        assert_eq!(reader.line("pasted\nin one piece"), message("pasted\nin one piece"));
    }

    #[test]
    fn a_system_prompt_may_take_several_lines() {
        let mut reader = Reader::default();
        let system = |text: &str| Input::System(text.to_owned());
        assert_eq!(reader.line("/set system  Be brief, \"Ada\"."), system("Be brief, \"Ada\"."));
        assert_eq!(reader.line("/set system \"\"\"Be brief.\"\"\""), system("Be brief."));
        assert_eq!(reader.line("/set system \"\"\"Be"), Input::More);
        assert_eq!(reader.line("brief.\"\"\""), system("Be\nbrief."));
        assert_eq!(reader.line("/set system"), Input::Command("set".into(), vec!["system".into()]));
    }
}
