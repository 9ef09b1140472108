//! Laying written settings over defaults, every key and every type checked on the way.

use serde_json::{Map, Number, Value};

use super::error::{ConfigError, Problem, nearest};
use super::kinds::{KindDefaults, Kinds, defaults, join, settings_of};
use super::source::{Data, Entry, Node, Place, Places, brief};
use super::{bases, preset};

/// Keys whose values have no one shape, so that only their type can check them.
const FREE: [&str; 1] = ["model.layers"];

/// The registry behind a table of named tables.
pub(super) fn registry_of<'k>(path: &str, kinds: &Kinds<'k>) -> Option<&'k dyn KindDefaults> {
    match path {
        "model.mixer" => Some(kinds.mixers),
        "model.channel" => Some(kinds.channels),
        _ => None,
    }
}

/// What is written of a table that has a kind.
struct KindTable<'a> {
    registry: &'a dyn KindDefaults,
    path: &'a str,
    entry: &'a Entry,
    settings: &'a [Entry],
    /// Names of the tables beside it.
    siblings: Vec<String>,
}

impl<'a> KindTable<'a> {
    /// The kind written, else the current one, else the one that is called as the table is; and where that stands.
    fn kind(&'a self, current: Option<&'a str>) -> Result<(&'a str, &'a Place), ConfigError> {
        let Self { registry, path, entry, .. } = self;
        match self.settings.iter().find(|setting| setting.name == "kind").map(|setting| &setting.node) {
            Some(Node { data: Data::Leaf(Value::String(kind)), place }) => Ok((kind, place)),
            Some(node) => Err(mismatch(node, &join(path, "kind"), "a string").note(one_of(*registry)).into()),
            None if current.is_some() || registry.defaults(&entry.name).is_some() => {
                Ok((current.unwrap_or(&entry.name), &entry.place))
            }
            None => {
                let near = nearest(&entry.name, self.siblings.iter().map(String::as_str));
                let problem = Problem::new(*path, format!("`{path}` has no `kind`")).at(Some(entry.place.clone()));
                let hint = near.map(|near| did_you_mean(&join(parent(path), near)));
                Err(problem.note(one_of(*registry)).hint(hint).into())
            }
        }
    }
}

/// One laying of settings: the shape (defaults) says what is known, the base is what is changed.
pub(super) struct Layer<'a> {
    pub(super) kinds: &'a Kinds<'a>,
    pub(super) places: &'a mut Places,
}

type Table = Map<String, Value>;

impl Layer<'_> {
    /// Lays entries over a base that has every key of the shape.
    pub(super) fn table(
        &mut self,
        shape: &Table,
        base: &mut Table,
        entries: &[Entry],
        path: &str,
    ) -> Result<(), ConfigError> {
        for entry in entries {
            let path = join(path, &entry.name);
            let Some(default) = shape.get(&entry.name) else {
                return Err(unknown_key(shape, entry, &path));
            };
            let slot = base.entry(entry.name.clone()).or_insert(Value::Null);
            self.places.insert(path.clone(), entry.node.place.clone());
            match (default, slot, &entry.node.data) {
                (_, Value::Object(task), Data::Table(settings)) if path == "task" => {
                    let registry = self.kinds.tasks;
                    let written = KindTable { registry, path: &path, entry, settings, siblings: Vec::new() };
                    self.kind(&written, task)?;
                }
                (_, Value::Object(named), Data::Table(entries)) if registry_of(&path, self.kinds).is_some() => {
                    self.named(named, entries, &path)?;
                }
                (Value::Object(shape), Value::Object(base), Data::Table(entries)) if !shape.is_empty() => {
                    self.table(shape, base, entries, &path)?;
                }
                (default, slot, _) => {
                    let default = if FREE.contains(&path.as_str()) { &Value::Null } else { default };
                    self.forget_below(&path);
                    *slot = conform(default, &entry.node, &path, self.places).map_err(|problem| match default {
                        Value::Object(_) | Value::Null => problem,
                        _ if problem.key() == path => problem.note(format!("default: {}", brief(default))),
                        _ => problem,
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Tables of the user's naming, each of a kind.
    fn named(&mut self, base: &mut Table, entries: &[Entry], path: &str) -> Result<(), ConfigError> {
        let Some(registry) = registry_of(path, self.kinds) else { return Ok(()) };
        for entry in entries {
            let path = join(path, &entry.name);
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if entry.name.is_empty() || !entry.name.chars().all(plain) {
                let problem = Problem::new(&path, format!("{:?} is no name for a layer's part", entry.name));
                let problem = problem.at(Some(entry.place.clone()));
                return Err(problem.note("a name is made of letters, digits, `_` and `-`").into());
            }
            let Data::Table(settings) = &entry.node.data else {
                return Err(mismatch(&entry.node, &path, "a table").into());
            };
            self.places.insert(path.clone(), entry.node.place.clone());
            let mut table = match base.get_mut(&entry.name) {
                Some(Value::Object(table)) => std::mem::take(table),
                _ => Table::new(),
            };
            let names = base.keys().chain(entries.iter().map(|entry| &entry.name));
            let siblings = names.filter(|name| **name != entry.name).cloned().collect();
            let written = KindTable { registry, path: &path, entry, settings, siblings };
            self.kind(&written, &mut table)?;
            base.insert(entry.name.clone(), Value::Object(table));
        }
        Ok(())
    }

    /// A table whose keys depend on its kind.
    fn kind(&mut self, written: &KindTable<'_>, base: &mut Table) -> Result<(), ConfigError> {
        let KindTable { registry, path, settings, .. } = written;
        let current = base.get("kind").and_then(Value::as_str).map(str::to_owned);
        let (kind, place) = written.kind(current.as_deref())?;
        let Some(shape) = settings_of(*registry, kind) else {
            return Err(unknown_kind(*registry, kind, path, Some(place.clone())));
        };
        if current.as_deref() != Some(kind) {
            // Settings of another kind mean nothing to this one.
            *base = shape.clone();
            self.forget_below(path);
        }
        self.table(&shape, base, settings, path).map_err(|error| match error {
            ConfigError::Setting(problem) if parent(problem.key()) == *path => {
                problem.note(format!("in the kind `{kind}`")).into()
            }
            error => error,
        })
    }

    fn forget_below(&mut self, path: &str) {
        let below = |key: &str| key.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.places.retain(|key, _| !below(key));
    }
}

/// A value in the form of its shape; records where its parts were written.
pub(super) fn conform(shape: &Value, node: &Node, path: &str, places: &mut Places) -> Result<Value, Problem> {
    places.insert(path.to_owned(), node.place.clone());
    match (shape, &node.data) {
        (Value::Null, Data::Leaf(value))
        | (Value::Bool(_), Data::Leaf(value @ Value::Bool(_)))
        | (Value::String(_), Data::Leaf(value @ Value::String(_))) => Ok(value.clone()),
        (Value::Number(shape), Data::Leaf(Value::Number(number))) => convert(shape, number, node, path),
        (Value::Null | Value::Array(_), Data::Array(nodes)) => {
            let shape = shape.get(0).unwrap_or(&Value::Null);
            let item = |(i, node)| conform(shape, node, &format!("{path}[{i}]"), places);
            nodes.iter().enumerate().map(item).collect()
        }
        (Value::Null | Value::Object(_), Data::Table(entries)) => {
            // A table that replaces, as in an array: what it leaves out is left to the type that reads it.
            let known = shape.as_object().filter(|known| !known.is_empty());
            let mut table = Table::new();
            for entry in entries {
                let path = join(path, &entry.name);
                let shape = match known {
                    None => &Value::Null,
                    Some(known) => known.get(&entry.name).ok_or_else(|| unknown(known, entry, &path))?,
                };
                table.insert(entry.name.clone(), conform(shape, &entry.node, &path, places)?);
            }
            Ok(Value::Object(table))
        }
        _ => Err(mismatch(node, path, expected(shape))),
    }
}

fn convert(shape: &Number, number: &Number, node: &Node, path: &str) -> Result<Value, Problem> {
    if shape.is_f64() {
        let float = number.as_f64().and_then(Number::from_f64);
        return float.map(Value::Number).ok_or_else(|| mismatch(node, path, "a number"));
    }
    if number.is_f64() {
        let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e15);
        let hint = whole.map(|float| format!("write it as {float:.0}"));
        return Err(mismatch(node, path, "an integer").hint(hint));
    }
    if shape.is_u64() && !number.is_u64() {
        return Err(mismatch(node, path, "an integer of at least 0"));
    }
    Ok(Value::Number(number.clone()))
}

fn expected(shape: &Value) -> &'static str {
    match shape {
        Value::Null => "a value",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "a table",
    }
}

/// The error of a value of the wrong type.
pub(super) fn mismatch(node: &Node, path: &str, expected: &str) -> Problem {
    let problem = Problem::new(path, format!("`{path}` takes {expected}, not {}", node.describe()));
    problem.at(Some(node.place.clone()))
}

/// The error of a key that its table does not have.
pub(super) fn unknown(known: &Table, entry: &Entry, path: &str) -> Problem {
    let problem = Problem::new(path, format!("unknown key `{path}`")).at(Some(entry.place.clone()));
    if let Some(near) = nearest(&entry.name, known.keys().map(String::as_str)) {
        return problem.note(did_you_mean(&join(parent(path), near)));
    }
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    problem.note(format!("the keys here are {}", names.join(", ")))
}

/// As `unknown`, but finds the key in another table of the config, too.
fn unknown_key(known: &Table, entry: &Entry, path: &str) -> ConfigError {
    if [bases::KEY, "sweep", "slurm"].contains(&path) {
        let problem = Problem::new(path, format!("`{path}` belongs to a run file as a whole, and stands nowhere else"));
        return problem.at(Some(entry.place.clone())).into();
    }
    // These are taken out before anything is laid, so no table has them.
    let taken = ["sweep", "slurm", bases::KEY, preset::KEY].iter().filter(|key| parent(path) == parent(key));
    let taken = taken.map(|key| (key.rsplit('.').next().unwrap_or(key).to_owned(), Value::Null));
    let known = &known.clone().into_iter().chain(taken).collect::<Table>();
    let last = entry.name.rsplit('.').next().unwrap_or_default();
    let elsewhere = paths_to(&defaults(), last, "");
    if nearest(&entry.name, known.keys().map(String::as_str)).is_none() && !elsewhere.is_empty() {
        let problem = Problem::new(path, format!("unknown key `{path}`")).at(Some(entry.place.clone()));
        return problem.note(did_you_mean(&elsewhere.join("` or `"))).into();
    }
    unknown(known, entry, path).into()
}

fn paths_to(value: &Value, name: &str, path: &str) -> Vec<String> {
    let tables = value.as_object().into_iter().flatten();
    let found = tables.map(|(key, value)| {
        let path = join(path, key);
        let mut below = paths_to(value, name, &path);
        below.extend((key == name && !value.is_object()).then_some(path));
        below
    });
    found.flatten().collect()
}

pub(super) fn unknown_kind(registry: &dyn KindDefaults, kind: &str, path: &str, place: Option<Place>) -> ConfigError {
    let kinds = registry.kinds();
    let hint = nearest(kind, kinds.iter().map(String::as_str)).map(did_you_mean);
    let problem = Problem::new(join(path, "kind"), format!("`{path}.kind` names no kind: {kind:?}"));
    problem.at(place).note(one_of(registry)).hint(hint).into()
}

fn one_of(registry: &dyn KindDefaults) -> String {
    format!("the kinds are {}", registry.kinds().join(", "))
}

pub(super) fn did_you_mean(near: &str) -> String {
    format!("did you mean `{near}`?")
}

fn parent(path: &str) -> &str {
    path.rfind('.').map_or("", |end| &path[..end])
}
