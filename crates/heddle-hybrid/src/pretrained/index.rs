//! Which file holds which tensor, where a checkpoint is split.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::error::PretrainedError;

/// The content of `model.safetensors.index.json`: the file of each tensor.
///
/// ```
/// use heddle_hybrid::pretrained::ShardIndex;
///
/// let index = ShardIndex::parse(r#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#).unwrap();
/// assert_eq!(index.files().collect::<Vec<_>>(), ["model-00001-of-00002.safetensors"]);
/// assert!(ShardIndex::parse(r#"{"weight_map": {"a": "../elsewhere.safetensors"}}"#).is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// What the file of an index is called.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";

impl ShardIndex {
    /// Reads an index.
    ///
    /// # Errors
    /// If it is no index, or names a file that does not lie in the index's own directory.
    pub fn parse(text: &str) -> Result<Self, PretrainedError> {
        let index: Self = serde_json::from_str(text)
            .map_err(|error| PretrainedError::file(INDEX_FILE, format!("it cannot be read: {error}")))?;
        for (tensor, file) in &index.weight_map {
            if !is_plain_name(file) {
                let problem = format!("it names {file:?} as the file of `{tensor}`, which is outside the directory");
                let remedy = "a shard lies beside its index and is named without a path";
                return Err(PretrainedError::File { file: INDEX_FILE.into(), problem, remedy });
            }
        }
        Ok(index)
    }

    /// The files, each once.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.weight_map.values().map(String::as_str).collect::<BTreeSet<_>>().into_iter()
    }

    /// Each tensor and its file.
    pub fn tensors(&self) -> impl Iterator<Item = (&String, &String)> {
        self.weight_map.iter()
    }
}

/// Whether a name is a file's and no path, on any system.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && ![".", ".."].contains(&name) && !name.contains(['/', '\\', ':', '\0'])
}
