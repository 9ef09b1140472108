//! `extends`: run files that a run file is laid over.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{ConfigError, Problem};
use super::overlay::mismatch;
use super::source::{Data, Entry, Node, Place, parse_file, take};

/// The key; it stands for what the files say, so no resolved config has it.
pub(super) const KEY: &str = "extends";

/// More files than this behind one run file are a mistake.
const MOST_FILES: usize = 100;

/// What a run file says, behind what the files that it extends say, and those that they extend: the later wins.
///
/// # Errors
/// If a file cannot be read or is no TOML, or if one extends itself by way of others; drawn where it is named.
pub(super) fn layers(path: &Path, text: &str) -> Result<Vec<Vec<Entry>>, ConfigError> {
    let mut reader = Reader { layers: Vec::new(), open: vec![identity(path)] };
    reader.file(path, text)?;
    Ok(reader.layers)
}

/// The text of a run file.
///
/// # Errors
/// If the file cannot be read or is no text.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    if path.is_dir() {
        return Err(ConfigError::Directory { path: path.to_owned() });
    }
    let bytes = std::fs::read(path).map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::NotUtf8 { path: path.to_owned(), line }
    })
}

struct Reader {
    layers: Vec<Vec<Entry>>,
    /// The files from the outermost to the one that is being read.
    open: Vec<PathBuf>,
}

impl Reader {
    fn file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut entries = parse_file(path.display().to_string(), text)?;
        for (name, place) in names(take(&mut entries, KEY))? {
            self.base(&path.parent().unwrap_or(Path::new("")).join(name), place)?;
        }
        self.layers.push(entries);
        Ok(())
    }

    fn base(&mut self, path: &Path, place: Place) -> Result<(), ConfigError> {
        let refuse = |what: String| Problem::new(KEY, what).at(Some(place.clone()));
        let identity = identity(path);
        if self.open.contains(&identity) {
            let what = format!("`{KEY}` leads in a circle: {} is being read already", path.display());
            return Err(refuse(what).note("what two files share belongs in a third that both extend").into());
        }
        if self.layers.len() + self.open.len() > MOST_FILES {
            return Err(refuse(format!("`{KEY}` leads to more than {MOST_FILES} files")).into());
        }
        let text = read(path).map_err(|error| {
            let note = "the path is relative to the file that it is written in";
            ConfigError::from(refuse(format!("`{KEY}`: {error}")).note(note))
        })?;
        self.open.push(identity);
        self.file(path, &text)?;
        self.open.pop();
        Ok(())
    }
}

/// One path or a list of them.
fn names(extends: Option<Entry>) -> Result<Vec<(String, Place)>, ConfigError> {
    let Some(Entry { node, .. }) = extends else { return Ok(Vec::new()) };
    let name = |node: &Node| match &node.data {
        Data::Leaf(Value::String(name)) => Ok((name.clone(), node.place.clone())),
        _ => Err(mismatch(node, KEY, "a path or a list of paths").note("for example `extends = \"base.toml\"`").into()),
    };
    match &node.data {
        Data::Array(items) => items.iter().map(name).collect(),
        _ => Ok(vec![name(&node)?]),
    }
}

/// What tells a file from any other, however it is written.
fn identity(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
