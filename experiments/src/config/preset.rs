//! `model.preset`: a published model that the rest of a run file is laid over.

use heddle_hybrid::{PRESETS, preset_text};
use serde_json::Value;

use super::error::{ConfigError, Problem, nearest};
use super::overlay::{did_you_mean, mismatch};
use super::source::{Data, Entry, Node, parse_file, take};

/// The key; it stands for other keys, so no resolved config has it.
pub(super) const KEY: &str = "model.preset";

/// Takes the preset's name out of what is written, if there is one.
///
/// # Errors
/// If there is no preset of that name.
pub(super) fn take_preset(entries: &mut [Entry]) -> Result<Option<String>, ConfigError> {
    let model = entries.iter_mut().find(|entry| entry.name == "model");
    let Some(Entry { node: Node { data: Data::Table(model), .. }, .. }) = model else { return Ok(None) };
    let Some(Entry { node, .. }) = take(model, "preset") else { return Ok(None) };
    let Data::Leaf(Value::String(name)) = &node.data else {
        return Err(mismatch(&node, KEY, "a string").note(one_of()).into());
    };
    match preset_text(name) {
        Some(_) => Ok(Some(name.clone())),
        None => {
            let hint = nearest(name, PRESETS.iter().copied()).map(did_you_mean);
            let problem = Problem::new(KEY, format!("`{KEY}` names no preset: {name:?}"));
            Err(problem.at(Some(node.place)).note(one_of()).hint(hint).into())
        }
    }
}

/// What the preset says of a run: its table `model`.
pub(super) fn entries(name: &str) -> Result<Vec<Entry>, ConfigError> {
    let mut file = parse_file(format!("preset {name}"), preset_text(name).unwrap_or_default())?;
    Ok(take(&mut file, "model").into_iter().collect())
}

fn one_of() -> String {
    format!("the presets are {}", PRESETS.join(", "))
}
