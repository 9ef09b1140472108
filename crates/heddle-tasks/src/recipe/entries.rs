use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::TaskError;
use crate::registry::read_at;

/// What an entry of `train` says beside its knobs.
#[derive(Deserialize)]
pub(super) struct OfTrain {
    pub(super) weight: Option<f64>,
    pub(super) examples: Option<usize>,
}

/// What an entry of `validation` or `test` says beside its knobs.
#[derive(Deserialize)]
pub(super) struct OfEvaluation {
    pub(super) examples: Option<usize>,
}

/// Reads the slices of a list: of each, its knobs and what it says beside them.
pub(super) fn list<K: DeserializeOwned, X: DeserializeOwned>(
    kind: &str,
    name: &str,
    value: Value,
) -> Result<Vec<(K, X)>, TaskError> {
    let beside: &[&str] = if name == "train" { &["weight", "examples"] } else { &["examples"] };
    let entries: Vec<Value> = read_at(kind, name, &value)?;
    let entry = |(i, mut entry): (usize, Value)| {
        let path = format!("{name}[{i}]");
        let said = beside.iter().filter_map(|key| Some(((*key).to_owned(), entry.as_object_mut()?.remove(*key)?)));
        let said = Value::Object(said.collect());
        Ok((read_at(kind, &path, &entry)?, read_at(kind, &path, &said)?))
    };
    entries.into_iter().enumerate().map(entry).collect()
}
