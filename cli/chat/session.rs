//! What a conversation is made of: settings, system prompt and messages; what `/set` does to it, and what it sends.

use super::help;
use crate::generate::Settings;
use crate::modelfile;
use serde_json::{Map, Value, json};

/// One conversation.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// What every request has in common.
    pub settings: Settings,
    /// The system prompt, where it is not the model's.
    pub system: Option<String>,
    /// Messages that are part of the model.
    pub seeds: Vec<Value>,
    /// What was said since, by turns.
    pub messages: Vec<Value>,
}

/// What `/set` came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Set {
    /// Done, or why not, in words.
    Said(String),
    /// Keep the history from now on, or do not.
    History(bool),
}

impl Session {
    /// The body of the request for the next answer.
    pub fn request(&self) -> Value {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<Value> = system.chain(self.messages.iter().cloned()).collect();
        self.settings.request(json!({"messages": messages}))
    }

    /// The body of the request that makes a model of this conversation.
    pub fn save_request(&self, name: &str) -> Map<String, Value> {
        let mut request = Map::new();
        let mut put = |name: &str, value: Value| request.insert(name.to_owned(), value);
        put("model", json!(name));
        put("from", json!(self.settings.model));
        if let Some(system) = &self.system {
            put("system", json!(system));
        }
        if !self.settings.options.is_empty() {
            put("parameters", Value::Object(self.settings.options.clone()));
        }
        // Messages of a new model replace those of the one it is made from.
        if !self.messages.is_empty() {
            put("messages", self.seeds.iter().chain(&self.messages).cloned().collect());
        }
        request
    }

    /// What was asked.
    pub fn ask(&mut self, text: String) {
        self.messages.push(json!({"role": "user", "content": text}));
    }

    /// What was heard of the answer. Nothing at all takes the question back, so that it can be asked again.
    pub fn heard(&mut self, text: String) {
        match text.is_empty() {
            true => drop(self.messages.pop()),
            false => self.messages.push(json!({"role": "assistant", "content": text})),
        }
    }

    /// Does what `/set words` says.
    pub fn set(&mut self, words: &[String]) -> Set {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let settings = &mut self.settings;
        Set::Said(match words[..] {
            ["history"] => return Set::History(true),
            ["nohistory"] => return Set::History(false),
            [mode @ ("wordwrap" | "nowordwrap")] => {
                settings.look.wrap = mode == "wordwrap";
                mode_set(mode)
            }
            [mode @ ("verbose" | "quiet")] => {
                settings.verbose = mode == "verbose";
                mode_set(mode)
            }
            [mode @ ("think" | "nothink")] => {
                settings.think = Some(json!(mode == "think"));
                mode_set(mode)
            }
            ["think", level] => {
                settings.think = Some(json!(level));
                format!("Set 'think' mode to '{level}'.")
            }
            ["format", "json"] => {
                settings.format = Some(json!("json"));
                "Set format to 'json' mode.".to_owned()
            }
            ["format", ..] => {
                "Invalid or missing format. For 'json' mode use '/set format json'".to_owned()
            }
            ["noformat"] => {
                settings.format = None;
                "Disabled format.".to_owned()
            }
            ["parameter", name, ref values @ ..] if !values.is_empty() => {
                match parameter(name, values) {
                    Err(error) => format!("Couldn't set parameter: {error}"),
                    Ok((known, value)) => {
                        settings.options.insert(known, value);
                        format!("Set parameter '{name}' to '{}'", values.join(", "))
                    }
                }
            }
            ["parameter", ..] => help::PARAMETERS.to_owned(),
            [] | ["system"] => help::SET.to_owned(),
            [other, ..] => format!("Unknown command '/set {other}'. Type /? for help"),
        })
    }

    /// What `/show parameters` tells of the model's and the user's.
    pub fn parameters(&self, of_model: &str) -> String {
        let mut text = "Model defined parameters:\n".to_owned();
        if of_model.trim().is_empty() {
            text += "  No additional parameters were specified for this model.\n";
        }
        for line in of_model.lines() {
            text += &format!("  {line}\n");
        }
        if !self.settings.options.is_empty() {
            text += "\nUser defined parameters:\n";
        }
        for (name, value) in &self.settings.options {
            text += &format!("  {name:<30} {value}\n");
        }
        text
    }
}

fn mode_set(mode: &str) -> String {
    format!("Set '{mode}' mode.")
}

/// Reads an option as a Modelfile's PARAMETER line would.
fn parameter(name: &str, values: &[&str]) -> Result<(String, Value), modelfile::ModelfileError> {
    let parameters = values.iter().map(|value| (name.to_lowercase(), (*value).to_owned()));
    let file = modelfile::Modelfile { parameters: parameters.collect(), ..Default::default() };
    let request = file.to_request("")?;
    Ok((name.to_lowercase(), request["parameters"][&name.to_lowercase()].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(session: &mut Session, line: &str) -> Set {
        session.set(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn settings_are_set_in_ollamas_words() {
        let mut session = Session::default();
        for (line, said) in [
            ("parameter seed 1", "Set parameter 'seed' to '1'"),
            ("parameter Temperature 0.5", "Set parameter 'Temperature' to '0.5'"),
            ("parameter stop a b", "Set parameter 'stop' to 'a, b'"),
            ("format json", "Set format to 'json' mode."),
            ("think high", "Set 'think' mode to 'high'."),
            ("verbose", "Set 'verbose' mode."),
            ("nowordwrap", "Set 'nowordwrap' mode."),
            ("format xml", "Invalid or missing format. For 'json' mode use '/set format json'"),
            ("nonsense", "Unknown command '/set nonsense'. Type /? for help"),
            ("parameter", help::PARAMETERS),
            ("", help::SET),
        ] {
            assert_eq!(set(&mut session, line), Set::Said(said.to_owned()), "{line}");
        }
        let wrong = set(&mut session, "parameter seed x");
        assert!(matches!(wrong, Set::Said(said) if said.starts_with("Couldn't set parameter")));
        assert_eq!(set(&mut session, "nohistory"), Set::History(false));
        let options = json!({"seed": 1, "temperature": 0.5, "stop": ["a", "b"]});
        assert_eq!(Value::Object(session.settings.options.clone()), options);
        assert_eq!(session.settings.format, Some(json!("json")));
        assert_eq!(session.settings.think, Some(json!("high")));
        assert!(session.settings.verbose && !session.settings.look.wrap);
        set(&mut session, "noformat");
        assert_eq!(session.settings.format, None);
    }

    #[test]
    fn a_saved_session_has_all_that_was_said() {
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let mut session = Session::default();
        session.settings.model = "m".to_owned();
        assert_eq!(Value::Object(session.save_request("n")), json!({"model": "n", "from": "m"}));
        session.seeds = vec![said("user", "0")];
        session.system = Some("Be brief.".to_owned());
        set(&mut session, "parameter seed 1");
        session.ask("1".to_owned());
        session.heard("2".to_owned());
        let seeds = [said("user", "0"), said("user", "1"), said("assistant", "2")];
        assert_eq!(
            Value::Object(session.save_request("n")),
            json!({"model": "n", "from": "m", "system": "Be brief.", "parameters": {"seed": 1},
                   "messages": seeds})
        );
        let request = session.request();
        assert_eq!(
            request["messages"],
            json!([said("system", "Be brief."), said("user", "1"), said("assistant", "2")])
        );
    }

    #[test]
    fn an_answer_of_which_nothing_was_heard_takes_its_question_back() {
        let mut session = Session::default();
        session.ask("1".to_owned());
        session.heard(String::new());
        assert!(session.messages.is_empty());
    }

    #[test]
    fn parameters_of_model_and_user_stand_apart() {
        let mut session = Session::default();
        assert_eq!(
            session.parameters(""),
            "Model defined parameters:\n  No additional parameters were specified for this model.\n"
        );
        set(&mut session, "parameter seed 7");
        assert_eq!(
            session.parameters("top_k    4"),
            format!(
                "Model defined parameters:\n  top_k    4\n\nUser defined parameters:\n  {:<30} 7\n",
                "seed"
            )
        );
    }
}
