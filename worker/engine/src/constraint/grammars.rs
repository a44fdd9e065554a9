//! Compiles formats for the tokenizer of one model. What that needs, a trie of all tokens and tables of the most common
//! strings, takes megabytes and is built when the first constrained request comes.
//!
//! The bounds are counts of work, not times, so that one worker refuses what another does. A compile runs on a thread of
//! its own: it recurses as deeply as definitions refer to each other, and an overflown stack ends the process. `llguidance`
//! does panic on some schemas; its own guard turns that into an error.

use super::{Constraint, schema};
use crate::tokenizer::Tokenizer;
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{Matcher, ParserFactory, panic_utils};
use ollamamax_proto::inference::OutputFormat;
use ollamamax_proto::limits;
use std::fmt::{self, Display};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

/// Strings of JSON, of which the tokens are looked up and not walked: without it each place in a string of bounded length
/// costs a walk over half of the trie.
const STRING: &str = r#"[^"\\\x00-\x1F\x7F]{1,30}"#;
/// Stack of the thread that compiles: the longest chain of definitions of [`limits::OUTPUT_FORMAT_BYTES`] takes a tenth.
const STACK_BYTES: usize = 64 * 1024 * 1024;
/// The trie keeps 22 bits for the size of a subtree.
const TRIE_BYTES: usize = 1 << 22;
/// The trie keeps ten bits for the depth of a node.
const TOKEN_BYTES: usize = 1 << 10;
/// Characters of a reason that is passed on; grammars are quoted in them.
const REASON_CHARS: usize = 300;

/// Why a format cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The schema or grammar itself.
    #[error("the output `{kind}` cannot be used: {reason}; change that part or leave it out")]
    Format {
        /// `schema` or `grammar`.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The model's vocabulary.
    #[error("the output cannot be constrained: {reason}; use another model or no format")]
    Vocabulary {
        /// What is wrong with it.
        reason: String,
    },
}

/// The compiler of one model's formats.
#[derive(Default)]
pub struct Grammars {
    shared: OnceLock<Result<Shared, ConstraintError>>,
}

struct Shared {
    factory: ParserFactory,
    ends: Arc<[u32]>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("built", &self.shared.get().is_some()).finish()
    }
}

impl Grammars {
    /// The constraint of a format, before the first token. `tokenizer` is always the same.
    pub fn compile(
        &self,
        tokenizer: &Tokenizer,
        format: &OutputFormat,
    ) -> Result<Constraint, ConstraintError> {
        let shared = self.shared.get_or_init(|| Shared::new(tokenizer));
        let shared = shared.as_ref().map_err(Clone::clone)?;
        let refused = |reason: String| ConstraintError::Format { kind: kind(format), reason };
        let compiled = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || shared.compile(format))
                .map_err(|error| format!("no thread to compile it: {error}"))?
                .join()
                .map_err(|_| "the compiler failed".to_owned())?
        });
        compiled.map_err(refused)
    }
}

fn kind(format: &OutputFormat) -> &'static str {
    match format {
        OutputFormat::Json | OutputFormat::Schema(_) => "schema",
        OutputFormat::Grammar(_) => "grammar",
    }
}

impl Shared {
    fn new(tokenizer: &Tokenizer) -> Result<Self, ConstraintError> {
        let malformed = |reason: String| ConstraintError::Vocabulary { reason };
        let (trie, ends) = trie(tokenizer)?;
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let capabilities = InferenceCapabilities::default();
        let mut factory = ParserFactory::new(&environment, capabilities, &[STRING.to_owned()])
            .map_err(|error| malformed(first_line(&error)))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_items_in_row: limits::CONSTRAINT_ROW_ITEMS_COUNT,
            step_max_items: limits::CONSTRAINT_STEP_ITEMS_COUNT,
            step_lexer_fuel: limits::CONSTRAINT_STEP_FUEL,
            initial_lexer_fuel: limits::CONSTRAINT_COMPILE_FUEL,
            max_lexer_states: limits::CONSTRAINT_LEXER_STATES_COUNT,
            max_grammar_size: limits::CONSTRAINT_SYMBOLS_COUNT,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory, ends })
    }

    fn compile(&self, format: &OutputFormat) -> Result<Constraint, String> {
        let grammar = match format {
            OutputFormat::Json => TopLevelGrammar::from_json_schema(schema::any_object()),
            OutputFormat::Schema(text) => TopLevelGrammar::from_json_schema(schema::read(text)?),
            OutputFormat::Grammar(text) => {
                // A schema in there would get around what is refused in schemas.
                if text.contains("%json") {
                    return Err("`%json` is not supported, give the schema as `format`".to_owned());
                }
                TopLevelGrammar::from_lark(text.clone())
            }
        };
        let compiled = panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(self.matcher(grammar))));
        let matcher = compiled.map_err(|error| first_line(&error))??;
        if let Some(error) = matcher.get_error() {
            return Err(first_line(&error));
        }
        let mut constraint = Constraint::new(matcher, Arc::clone(&self.ends));
        // What no text can satisfy is only found out by asking.
        constraint.allowed().map_err(|stuck| stuck.reason)?;
        Ok(constraint)
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let environment = self.factory.tok_env().clone();
        let limits = self.factory.limits().clone();
        let (grammar, lexer) = GrammarInit::Serialized(grammar)
            .to_internal(Some(environment), limits)
            .map_err(|error| first_line(&error))?;
        // The crate's own check is not made after the last repetition is written out.
        let (symbols, most) = (grammar.num_symbols(), limits::CONSTRAINT_SYMBOLS_COUNT);
        if symbols > most {
            return Err(format!("it takes {symbols} symbols, at most {most} are accepted"));
        }
        let init = GrammarInit::Internal(grammar, lexer);
        Ok(Matcher::new(self.factory.create_parser_from_init_default(init)))
    }
}

/// The bytes of all tokens as a trie, and the tokens that end a generation.
fn trie(tokenizer: &Tokenizer) -> Result<(TokTrie, Arc<[u32]>), ConstraintError> {
    let vocabulary = tokenizer.vocabulary();
    let count = vocabulary.tokens.len();
    let words: Vec<Vec<u8>> = (0..count as u32).map(|token| word(tokenizer, token)).collect();
    let bytes: usize = words.iter().map(Vec::len).sum();
    if bytes.max(count) >= TRIE_BYTES {
        let reason = format!("the vocabulary has {count} tokens of {bytes} bytes, too many");
        return Err(ConstraintError::Vocabulary { reason });
    }
    let ends: Arc<[u32]> = (0..count as u32).filter(|&token| tokenizer.is_end(token)).collect();
    let first = ends.first().copied().unwrap_or(INVALID_TOKEN);
    let trie = TokTrie::from(&TokRxInfo::new(count as u32, first), &words);
    Ok((if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) }, ends))
}

/// What the trie holds of a token: its text, or nothing where it has none. `llguidance` would let a grammar name control
/// tokens if they came with a mark; then patterns over bytes match them, too, and an output could hold any of them.
fn word(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let bytes = tokenizer.bytes(token);
    if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) || bytes.len() >= TOKEN_BYTES {
        return Vec::new();
    }
    bytes.to_vec()
}

/// An error in one line: grammars are quoted and states are dumped in what follows it. Of a regular expression the reason
/// comes last.
pub(super) fn first_line(error: &impl Display) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let last = text.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    let last = last.trim_start_matches("error:");
    first.chars().take(REASON_CHARS).chain(last.chars().take(REASON_CHARS)).collect()
}
