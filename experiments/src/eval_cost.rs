//! What evaluating a slice takes: foreseen before, measured meanwhile.

use std::time::Instant;

use heddle_hybrid::ModelConfig;
use heddle_tasks::{Slice, Split, Task};
use serde::{Deserialize, Serialize};

use crate::eval_error::{EvalError, size};
use crate::evaluate::Evaluator;
use crate::memory::{available_bytes, peak_bytes, resident_bytes, restart_peak};
use crate::passes::{Need, Passes};
use crate::progress;
use crate::result::SliceScore;

/// What the evaluation of a slice took: how it was read, and what the clock and the system said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SliceCost {
    /// Its name.
    slice: String,
    /// Tokens read, of all sequences.
    tokens: u64,
    /// Sequences read side by side.
    rows: usize,
    /// Tokens of each that went through the model at a time.
    chunk: usize,
    /// Seconds, the drawing of the sequences included.
    seconds: f64,
    /// Tokens read in a second.
    pub(crate) tokens_per_second: f64,
    /// The most bytes that the whole process held meanwhile, if the system tells.
    pub(crate) peak_bytes: Option<u64>,
    /// What it was expected to hold.
    expected_bytes: u64,
}

/// Scores every slice of the split, once it is sure that all of them fit the memory.
pub(crate) fn score(
    evaluator: &mut Evaluator<'_>,
    task: &dyn Task,
    split: Split,
    config: &ModelConfig,
    most: Option<u64>,
) -> Result<Vec<(SliceScore, SliceCost)>, EvalError> {
    let slices = task.slices(split);
    let needs = slices.iter().map(|slice| evaluator.need(config, slice)).collect::<Vec<_>>();
    for (slice, need) in slices.iter().zip(&needs) {
        fits(slice, need, most)?;
    }
    let bar = progress::bar(slices.iter().map(|slice| (slice.length * slice.examples) as u64).sum(), true);
    let mut scored = vec![];
    for (index, (slice, need)) in slices.iter().zip(needs).enumerate() {
        bar.set_message(slice.name.clone());
        let Passes { rows, chunk } = evaluator.passes(slice);
        let expected_bytes = resident_bytes().unwrap_or(0) + need.total();
        restart_peak();
        let start = Instant::now();
        let score = evaluator.score(split, index, &mut |tokens| bar.inc(tokens as u64));
        let (seconds, tokens) = (start.elapsed().as_secs_f64(), slice.length as u64 * score.examples);
        let cost = SliceCost {
            slice: slice.name.clone(),
            tokens,
            rows: rows.min(slice.examples),
            chunk: chunk.min(slice.length),
            seconds,
            tokens_per_second: tokens as f64 / seconds,
            peak_bytes: peak_bytes(),
            expected_bytes,
        };
        scored.push((score, cost));
    }
    bar.finish_and_clear();
    Ok(scored)
}

/// Whether a slice fits into the memory that may be used, or that there is.
fn fits(slice: &Slice, need: &Need, most: Option<u64>) -> Result<(), EvalError> {
    let held = resident_bytes().unwrap_or(0);
    let limit = most.or_else(|| available_bytes().map(|left| held + left)).unwrap_or(u64::MAX);
    if held + need.total() <= limit {
        return Ok(());
    }
    let mut states = need.states.clone();
    states.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let states = states.iter().map(|(name, bytes)| format!("state of `{name}`: {}", size(*bytes)));
    let rest = [("what passes between layers", need.working), ("tokens", need.data), ("the program", held)];
    let rest = rest.map(|(name, bytes)| format!("{name}: {}", size(bytes)));
    Err(EvalError::Memory {
        slice: slice.name.clone(),
        need: held + need.total(),
        parts: states.chain(rest).collect::<Vec<_>>().join(", "),
        most: limit,
        asked: most.is_some(),
    })
}
