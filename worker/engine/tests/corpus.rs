//! The fuzz corpus, replayed: what fuzzing once looked at keeps being handled.

#[path = "../../../tests/fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(corpus).expect("a corpus") {
        run(&fs::read(entry.expect("an entry").path()).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

#[test]
fn model_files_of_the_corpus_are_refused_or_loaded() {
    replay("gguf", targets::gguf);
}

#[test]
fn texts_of_the_corpus_come_back() {
    replay("tokenizer", targets::tokenizer);
}

#[test]
fn templates_of_the_corpus_end() {
    replay("template", targets::template);
}
