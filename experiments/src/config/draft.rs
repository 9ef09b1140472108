//! A config in the making: the defaults, what is laid over them, and the final checks.

use serde_json::{Map, Value};

use super::error::{ConfigError, Problem, nearest};
use super::kinds::{KindDefaults, Kinds, defaults, join, settings_of};
use super::overlay::{Layer, did_you_mean, registry_of, unknown_kind};
use super::schema::RunConfig;
use super::source::{Entry, Place, Places};

/// Settings so far, and where those that are not defaults were written.
#[derive(Clone)]
pub(super) struct Draft {
    values: Value,
    places: Places,
}

impl Draft {
    /// The defaults, those of the default kinds included.
    pub(super) fn new(kinds: &Kinds<'_>) -> Self {
        let mut values = defaults();
        for (_, registry, table) in kind_tables(&mut values, kinds) {
            let kind = table.get("kind").and_then(Value::as_str).unwrap_or_default();
            if let Some(mut full) = settings_of(registry, kind) {
                full.extend(std::mem::take(table));
                *table = full;
            }
        }
        Self { values, places: Places::new() }
    }

    /// Lays entries over what is there.
    pub(super) fn lay(&mut self, kinds: &Kinds<'_>, entries: &[Entry]) -> Result<(), ConfigError> {
        let (shape, places) = (defaults(), &mut self.places);
        match (&shape, &mut self.values) {
            (Value::Object(shape), Value::Object(base)) => Layer { kinds, places }.table(shape, base, entries, ""),
            _ => Ok(()),
        }
    }

    /// Sets a key of the top level that was checked elsewhere.
    pub(super) fn set(&mut self, key: &str, value: Value, place: Place) {
        self.values[key] = value;
        self.places.insert(key.to_owned(), place);
    }

    /// Has every kind check its settings, reads the whole into its types and checks all ranges.
    pub(super) fn finish(mut self, kinds: &Kinds<'_>) -> Result<(RunConfig, Places), ConfigError> {
        for (path, registry, table) in kind_tables(&mut self.values, kinds) {
            let Some(Value::String(kind)) = table.remove("kind") else { continue };
            if registry.defaults(&kind).is_none() {
                return Err(unknown_kind(registry, &kind, &path, find(&self.places, &path)));
            }
            let given = std::mem::take(table);
            let settings = registry.resolve(&kind, given.clone()).map_err(|complaint| {
                let tail = if complaint.key.is_empty() || complaint.key.starts_with('[') { "" } else { "." };
                blame(&self.places, &format!("{path}{tail}{}", complaint.key), &complaint.problem)
            })?;
            table.insert("kind".to_owned(), Value::String(kind));
            table.extend(settings.into_iter().filter(|(key, _)| key != "kind"));
            refuse_dropped(&self.places, &Value::Object(given), &Value::Object(table.clone()), &path)?;
        }
        let config: RunConfig = serde_path_to_error::deserialize(&self.values)
            .map_err(|error| blame(&self.places, &error.path().to_string(), &error.inner().to_string()))?;
        refuse_dropped(&self.places, &self.values, &config.to_value(), "")?;
        config.validate().map_err(|range| {
            let written = range.keys.iter().find(|key| self.places.contains_key(**key));
            Problem::new(range.keys[0], range.to_string()).at(written.and_then(|key| find(&self.places, key)))
        })?;
        Ok((config, self.places))
    }
}

/// Refuses a key that did not come back from the type that read it: Serde ignores keys unless told otherwise.
fn refuse_dropped(places: &Places, given: &Value, kept: &Value, path: &str) -> Result<(), ConfigError> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().try_for_each(|(key, value)| {
            let path = join(path, key);
            match kept.get(key) {
                Some(kept) => refuse_dropped(places, value, kept, &path),
                None if value.is_null() => Ok(()),
                None => Err(Problem::new(&path, format!("unknown key `{path}`")).at(find(places, &path)).into()),
            }
        }),
        (Value::Array(given), Value::Array(kept)) => {
            let mut pairs = given.iter().zip(kept).enumerate();
            pairs.try_for_each(|(i, (given, kept))| refuse_dropped(places, given, kept, &format!("{path}[{i}]")))
        }
        _ => Ok(()),
    }
}

/// An error about a key, drawn where the key, or the nearest table around it, was written.
pub(super) fn blame(places: &Places, key: &str, problem: &str) -> ConfigError {
    // Serde lists what it would have taken: "unknown variant `a`, expected `b` or `c`".
    let words: Vec<&str> = problem.split('`').skip(1).step_by(2).collect();
    let hint = words.split_first().and_then(|(word, others)| nearest(word, others.iter().copied()));
    Problem::new(key, format!("`{key}`: {problem}")).at(find(places, key)).hint(hint.map(did_you_mean)).into()
}

/// Where a key, or the nearest table around it, was written.
fn find(places: &Places, key: &str) -> Option<Place> {
    let around = std::iter::successors(Some(key), |key| key.rfind(['.', '[']).map(|end| &key[..end]));
    around.into_iter().find_map(|key| places.get(key).cloned())
}

/// Every table of a config that has a kind, with its dotted key and its registry.
fn kind_tables<'v, 'k>(
    config: &'v mut Value,
    kinds: &Kinds<'k>,
) -> Vec<(String, &'k dyn KindDefaults, &'v mut Map<String, Value>)> {
    let mut found = Vec::new();
    for (key, value) in config.as_object_mut().into_iter().flatten() {
        match (key.as_str(), value) {
            ("task", Value::Object(task)) => found.push((key.clone(), kinds.tasks, task)),
            ("model", Value::Object(model)) => {
                for (group, tables) in model {
                    let Some(registry) = registry_of(&join("model", group), kinds) else { continue };
                    let named = tables.as_object_mut().into_iter().flatten();
                    let named = named.filter_map(|(name, table)| Some((name, table.as_object_mut()?)));
                    found.extend(named.map(|(name, table)| (format!("model.{group}.{name}"), registry, table)));
                }
            }
            _ => {}
        }
    }
    found
}
