//! What `heddle eval` refuses.

use std::path::PathBuf;

use heddle_tasks::TaskError;

use crate::report::format::bytes;

/// What cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EvalError {
    /// A directory without a finished run.
    #[error("{} holds no finished run: it has no result.json; give a run's directory, runs/NAME/HASH, or finish it with `heddle run`", .0.display())]
    NotFinished(PathBuf),
    /// A task of more tokens than the model has.
    #[error("the task has {task} tokens and the model knows {model}; lower the task's vocabulary with `--set`")]
    Vocabulary { task: usize, model: usize },
    /// A task that needs another read-out.
    #[error(
        "'{0}' asks for items in another way than the task that this model was trained on: only models trained on \
         'compression' read many out of one state, and they read nothing else; train one on '{0}'"
    )]
    Readout(String),
    /// Sequences longer than the model can read.
    #[error(
        "the slice {slice} is {length} tokens long, and the model reads {longest} at most, where its learned positions end; use \
         shorter `--lengths`, or train it with a larger `max_length` or with `positions` that have no end"
    )]
    Length { slice: String, length: usize, longest: usize },
    /// A model that computes something else in chunks.
    #[error(
        "`--chunk`: `{0}` is not causal: in chunks it computes something else than at once; leave `--chunk` out, or use a \
         length of at most the chunk's"
    )]
    NotCausal(String),
    /// Lengths that the task does not have.
    #[error(
        "`--lengths`: '{kind}' has no such slice: {source}; leave the length out, or set with `--set` what it needs"
    )]
    Scale { kind: String, source: Box<TaskError> },
    /// More memory than there is.
    #[error(
        "the slice {slice} would take {} ({parts}), and {}; use shorter `--lengths`, a smaller `--chunk`, or a model whose \
         state does not grow", size(*.need), limit(*.most, *.asked)
    )]
    Memory { slice: String, need: u64, parts: String, most: u64, asked: bool },
    /// Slices without a length.
    #[error("`--lengths`: the slices of '{0}' have no length of their own; set what they have with `--set`")]
    NoLength(String),
}

impl EvalError {
    /// Whether the fault lies in what was asked for, not in what the machine has.
    pub(crate) fn is_usage(&self) -> bool {
        !matches!(self, Self::Memory { .. })
    }
}

fn limit(most: u64, asked: bool) -> String {
    match asked {
        true => format!("`--max-memory` is {}", size(most)),
        false => format!("{} are left of this machine's memory", size(most)),
    }
}

pub(crate) fn size(amount: u64) -> String {
    bytes(amount as f64)
}
