//! What can be wrong with a published checkpoint.

use crate::ModelError;

/// A published checkpoint that cannot be read, and where the reason is.
///
/// ```
/// use heddle_hybrid::pretrained::Architecture;
///
/// let error = Architecture::parse(r#"{"model_type": "mistrel"}"#).unwrap_err();
/// let text = error.to_string();
/// assert!(text.starts_with("config.json: `model_type`: the family `mistrel` is not known; known: llama, mistral, "));
/// assert!(!error.is_failure());
/// ```
#[derive(Debug, thiserror::Error)]
pub enum PretrainedError {
    /// A key of `config.json`.
    #[error("config.json: `{key}`: {problem}; {remedy}")]
    Config {
        /// The key, dotted where it stands in a table.
        key: String,
        /// What is wrong with it.
        problem: String,
        /// What would be right.
        remedy: String,
    },
    /// A file as a whole.
    #[error("{file}: {problem}; {remedy}")]
    File {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        problem: String,
        /// What helps.
        remedy: &'static str,
    },
    /// A tensor that is missing, superfluous, or not as it should be.
    #[error("tensor `{name}`: {problem}; {remedy}")]
    Tensor {
        /// The tensor, as it is called in the file.
        name: String,
        /// What is wrong with it.
        problem: String,
        /// What helps.
        remedy: &'static str,
    },
    /// The config was understood, but no model can be built from it.
    #[error("config.json describes no possible model: {0}")]
    Model(#[from] ModelError),
    /// The system failed while a file was read.
    #[error("cannot read {file}: {source}")]
    Io {
        /// The file's name.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The remedy for a file that is not what it should be.
pub(super) const FETCH_AGAIN: &str = "fetch it again";

/// The remedy for tensors and a config that disagree.
pub(super) const SAME_MODEL: &str = "config.json and the weights must be of the same model";

impl PretrainedError {
    pub(super) fn config(key: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Config { key: key.into(), problem: problem.into(), remedy: remedy.into() }
    }

    pub(super) fn file(file: &str, problem: impl Into<String>) -> Self {
        Self::File { file: file.into(), problem: problem.into(), remedy: FETCH_AGAIN }
    }

    pub(super) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), problem: problem.into(), remedy: SAME_MODEL }
    }

    /// Whether the system failed, rather than the checkpoint being at fault.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}
