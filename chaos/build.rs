//! Collects `scenarios/*.toml` into one list, so that the binary brings them along and none can be forgotten.

use std::fmt::Write as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::var("CARGO_MANIFEST_DIR")?;
    let directory = Path::new(&root).join("scenarios");
    println!("cargo:rerun-if-changed=scenarios");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".toml").map(str::to_owned));
    }
    names.sort();
    let mut list = String::from("[\n");
    for name in names {
        let path = directory.join(format!("{name}.toml"));
        writeln!(list, "({name:?}, include_str!({:?})),", path.display().to_string())?;
    }
    list.push(']');
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("scenarios.rs"), list)?;
    Ok(())
}
