//! Which files on this machine a model is made of: a GGUF, or a folder with a checkpoint or an adapter in safetensors.

use crate::exit::Failure;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Files of a checkpoint or an adapter beside its weights; those that are not there are not needed.
const BESIDE: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "adapter_config.json",
];
const WEIGHTS_END: &str = ".safetensors";
const INDEX_END: &str = ".safetensors.index.json";

/// The files of a folder: a checkpoint or an adapter when there are safetensors in it, else its only GGUF.
pub fn of_folder(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(Failure::file("read", folder))?;
    let name =
        |entry: std::io::Result<std::fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let names: BTreeSet<String> = entries.filter_map(name).collect();
    if !names.iter().any(|name| name.ends_with(WEIGHTS_END)) {
        return only_gguf(folder, &names).map(|path| vec![path]);
    }
    let index = names.iter().find(|name| name.ends_with(INDEX_END));
    let weights = match index {
        // Some repositories have the same weights twice: the index says which are meant.
        Some(index) => named_in(&folder.join(index))?,
        None => names.iter().filter(|name| name.ends_with(WEIGHTS_END)).cloned().collect(),
    };
    let beside = BESIDE.into_iter().filter(|name| names.contains(*name)).map(str::to_owned);
    Ok(weights
        .into_iter()
        .chain(index.cloned())
        .chain(beside)
        .map(|name| folder.join(name))
        .collect())
}

fn named_in(index: &Path) -> Result<BTreeSet<String>, Failure> {
    let text = std::fs::read_to_string(index).map_err(Failure::file("read", index))?;
    let wrong = || Failure::Usage(format!("`{}` names no files in `weight_map`", index.display()));
    let json: Value = serde_json::from_str(&text).map_err(|_| wrong())?;
    let map = json["weight_map"].as_object().ok_or_else(wrong)?;
    // A name with a folder in it is none of this folder's.
    let file = |value: &Value| Some(value.as_str().filter(|name| !name.contains('/'))?.to_owned());
    map.values().map(file).collect::<Option<_>>().ok_or_else(wrong)
}

fn only_gguf(folder: &Path, names: &BTreeSet<String>) -> Result<PathBuf, Failure> {
    let mut found = names.iter().filter(|name| name.to_ascii_lowercase().ends_with(".gguf"));
    let shown = folder.display();
    match (found.next(), found.count()) {
        (Some(name), 0) => Ok(folder.join(name)),
        (None, _) => Err(Failure::Usage(format!(
            "`{shown}` holds neither .safetensors nor .gguf files; expected a model"
        ))),
        (Some(_), others) => Err(Failure::Usage(format!(
            "`{shown}` holds {} .gguf files; name one of them in FROM",
            others + 1
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name =
            |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        of_folder(folder).expect("found").iter().map(name).collect()
    }

    #[test]
    fn a_folder_is_its_checkpoint_or_its_only_gguf() {
        let folder = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        assert!(of_folder(folder.path()).is_err());
        put("m.gguf", "x");
        assert_eq!(names(folder.path()), ["m.gguf"]);
        for name in ["config.json", "tokenizer.json", "README.md", "a.safetensors", "b.safetensors"]
        {
            put(name, "{}");
        }
        assert_eq!(
            names(folder.path()),
            ["a.safetensors", "b.safetensors", "config.json", "tokenizer.json"]
        );
        put(
            "model.safetensors.index.json",
            r#"{"weight_map": {"x": "b.safetensors", "y": "b.safetensors"}}"#,
        );
        let expected =
            ["b.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json"];
        assert_eq!(names(folder.path()), expected);
        for bad in [r#"{"weight_map": {"x": "../b.safetensors"}}"#, r#"{"weight_map": 1}"#, "{"] {
            put("model.safetensors.index.json", bad);
            assert!(matches!(of_folder(folder.path()), Err(Failure::Usage(_))), "{bad}");
        }
    }
}
