//! The tables whose keys depend on their `kind`: where their defaults come from.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schema::RunConfig;

/// What can be named by a table's `kind`, with each kind's settings.
///
/// A plain map from kind to defaults is one, which suits tests and kinds whose settings need no further check.
pub trait KindDefaults {
    /// Names of all kinds.
    fn kinds(&self) -> Vec<String>;

    /// Every setting of the kind with its default, as a table; `None` if there is no such kind.
    ///
    /// The defaults tell what a setting may be. A `null` takes anything; an integer that is not negative takes no
    /// negative one; a float takes integers too; each element of an array is checked against the default's first.
    fn defaults(&self, kind: &str) -> Option<Value>;

    /// Checks complete settings (without `kind`) beyond what their defaults tell, and returns them in full: with
    /// whatever a nested table left out filled in, so that two ways to write a run name the same run. To deserialise
    /// into the settings' type and serialise that does both. A key that does not come back counts as unknown.
    ///
    /// # Errors
    /// With the first setting at fault; the loader draws the line that it was written on.
    fn resolve(&self, kind: &str, settings: Map<String, Value>) -> Result<Map<String, Value>, Complaint> {
        let _ = kind;
        Ok(settings)
    }

    /// What is wrong with complete settings, if anything is: what [`resolve`](Self::resolve) says, or more where building
    /// says more.
    fn complaint(&self, kind: &str, settings: Map<String, Value>) -> Option<String> {
        self.resolve(kind, settings).err().map(|complaint| complaint.problem)
    }

    /// What a setting of the kind means, or, for an empty key, the kind itself; `None` where nothing is written of it.
    fn meaning(&self, kind: &str, key: &str) -> Option<String> {
        let _ = (kind, key);
        None
    }
}

impl KindDefaults for BTreeMap<String, Value> {
    fn kinds(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn defaults(&self, kind: &str) -> Option<Value> {
        self.get(kind).cloned()
    }
}

/// A kind's objection to one of its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The setting, relative to its table: `pairs`, `segments[1].length`; empty for the table as a whole.
    pub key: String,
    /// What is wrong with it and what is permitted.
    pub problem: String,
}

/// The kinds that a run file may name.
#[derive(Clone, Copy)]
pub struct Kinds<'a> {
    /// Kinds of `task`.
    pub tasks: &'a dyn KindDefaults,
    /// Kinds of `model.mixer.NAME`.
    pub mixers: &'a dyn KindDefaults,
    /// Kinds of `model.channel.NAME`.
    pub channels: &'a dyn KindDefaults,
}

/// A key that a run file may set.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownKey {
    /// The dotted key, with `NAME` for a name of the user's choice: `train.lr`, `model.mixer.NAME.window`.
    pub key: String,
    /// The `kind` of table that has this key; `None` outside such tables.
    pub kind: Option<String>,
    /// Its default; `null` where leaving it out means something of its own.
    pub default: Value,
}

/// Every key that a run file may set, in the order of the schema, the kinds' own after the rest.
pub fn known_keys(kinds: &Kinds<'_>) -> Vec<KnownKey> {
    let mut keys = Vec::new();
    flatten("", None, &defaults(), &mut keys);
    keys.retain(|known| !["task.", "model.mixer.", "model.channel."].iter().any(|table| known.key.starts_with(table)));
    let tables = [("task", kinds.tasks), ("model.mixer.NAME", kinds.mixers), ("model.channel.NAME", kinds.channels)];
    for (table, registry) in tables {
        for kind in registry.kinds() {
            let settings = settings_of(registry, &kind).unwrap_or_default();
            flatten(table, Some(&kind), &Value::Object(settings), &mut keys);
        }
    }
    keys
}

/// The serialised defaults of a run.
pub(super) fn defaults() -> Value {
    RunConfig::default().to_value()
}

/// A kind's table at its defaults, `kind` first.
pub(super) fn settings_of(registry: &dyn KindDefaults, kind: &str) -> Option<Map<String, Value>> {
    let mut table = Map::from_iter([("kind".to_owned(), Value::from(kind))]);
    if let Value::Object(settings) = registry.defaults(kind)? {
        table.extend(settings.into_iter().filter(|(key, _)| key != "kind"));
    }
    Some(table)
}

/// The key below a table.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn flatten(path: &str, kind: Option<&str>, value: &Value, keys: &mut Vec<KnownKey>) {
    match value {
        Value::Object(table) => {
            table.iter().for_each(|(key, value)| flatten(&join(path, key), kind, value, keys));
        }
        _ => keys.push(KnownKey { key: path.to_owned(), kind: kind.map(str::to_owned), default: value.clone() }),
    }
}
