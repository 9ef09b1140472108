//! Settings as they were written: a tree of values that each remember their place in a file or an argument.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Number, Value};
use toml::de::{DeInteger, DeTable, DeValue};

use super::error::{ConfigError, Problem};

/// More dotted parts than this are no key of any config, and nesting must not exhaust the stack.
pub(super) const DEEPEST: usize = 16;

/// A text that settings were read from.
#[derive(PartialEq)]
pub(super) struct Source {
    /// Path of the file; `None` for an argument of `--set`.
    pub(super) file: Option<String>,
    pub(super) text: String,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.file.as_deref().unwrap_or(&self.text))
    }
}

/// Where in a text something was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub(super) source: Arc<Source>,
    /// In bytes.
    pub(super) span: Range<usize>,
}

/// Dotted key → where its value was written.
pub(super) type Places = BTreeMap<String, Place>;

/// A value as written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) data: Data,
}

/// What was written there.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Leaf(Value),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key and its value, in the order of the text.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Node {
    /// Names the value for a message: `the float 1.5`, `a table`.
    pub(super) fn describe(&self) -> String {
        match &self.data {
            Data::Array(_) => "an array".to_owned(),
            Data::Table(_) => "a table".to_owned(),
            Data::Leaf(value) => {
                let kind = match value {
                    Value::String(_) => "string",
                    Value::Number(number) if number.is_f64() => "float",
                    Value::Number(_) => "integer",
                    _ => "boolean",
                };
                format!("the {kind} {}", brief(value))
            }
        }
    }

    /// Nests the value below dotted keys, all of them at one place.
    pub(super) fn nested(self, key: &str, place: &Place) -> Vec<Entry> {
        let mut names = key.rsplit('.');
        let last = names.next().unwrap_or(key);
        let entry = |name: &str, node| Entry { name: name.to_owned(), place: place.clone(), node };
        names.fold(vec![entry(last, self)], |inner, name| {
            let node = Node { place: place.clone(), data: Data::Table(inner) };
            vec![entry(name, node)]
        })
    }
}

/// The value as one short line of JSON.
pub(super) fn brief(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Removes the entry of that name.
pub(super) fn take(entries: &mut Vec<Entry>, name: &str) -> Option<Entry> {
    let at = entries.iter().position(|entry| entry.name == name)?;
    Some(entries.remove(at))
}

/// Lays entries over others: tables merge, all else is replaced.
pub(super) fn merge(into: &mut Vec<Entry>, from: Vec<Entry>) {
    for entry in from {
        match into.iter_mut().find(|old| old.name == entry.name) {
            None => into.push(entry),
            Some(old) => match (&mut old.node.data, entry.node.data) {
                (Data::Table(below), Data::Table(above)) => merge(below, above),
                (_, data) => old.node = Node { place: entry.node.place, data },
            },
        }
    }
}

/// Reads a run file.
pub(super) fn parse_file(name: String, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let source = Arc::new(Source { file: Some(name), text: text.to_owned() });
    let table = DeTable::parse(text).map_err(|error| syntax(&source, 0, &error))?;
    Reader { source: &source, offset: 0 }.table(table.get_ref())
}

/// Reads the argument `key=value` of `--set`; a value that is no TOML is a string.
pub(super) fn parse_override(argument: &str) -> Result<Vec<Entry>, ConfigError> {
    let source = Arc::new(Source { file: None, text: argument.to_owned() });
    let whole = Place { source: source.clone(), span: 0..argument.len() };
    let Some((key, text)) = argument.split_once('=') else {
        let problem = Problem::new("", "an override is written `key=value`");
        return Err(problem.at(Some(whole)).note("for example `train.lr=0.001`").into());
    };
    let named: Vec<&str> = key.split('.').map(str::trim).collect();
    if named.len() > DEEPEST || named.iter().any(|name| name.is_empty()) {
        let problem = Problem::new(key, format!("`{key}` is no dotted key"));
        return Err(problem.at(Some(whole)).note("for example `train.lr`").into());
    }
    let offset = argument.len() - text.trim_start().len();
    let text = text.trim();
    let node = match DeValue::parse(text) {
        Ok(value) => Reader { source: &source, offset }.node(value.get_ref(), value.span())?,
        Err(error) if text.starts_with(['[', '{', '"', '\'']) => return Err(syntax(&source, offset, &error)),
        Err(_) => Node {
            place: Place { source: source.clone(), span: offset..offset + text.len() },
            data: Data::Leaf(text.into()),
        },
    };
    let key_place = Place { source: source.clone(), span: 0..key.len() };
    Ok(node.nested(&named.join("."), &key_place))
}

fn syntax(source: &Arc<Source>, offset: usize, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let place = Place { source: source.clone(), span: span.start + offset..span.end + offset };
    Problem::new("", format!("not TOML: {}", error.message())).at(Some(place)).into()
}

/// Turns parsed TOML into nodes.
struct Reader<'a> {
    source: &'a Arc<Source>,
    /// Where the parsed text starts in the source.
    offset: usize,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place { source: self.source.clone(), span: span.start + self.offset..span.end + self.offset }
    }

    fn table(&self, table: &DeTable<'_>) -> Result<Vec<Entry>, ConfigError> {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<_>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            let node = self.node(value.get_ref(), value.span())?;
            Ok(Entry { name: name.to_string(), place: self.place(key.span()), node })
        };
        table.iter().map(entry).collect()
    }

    fn node(&self, value: &DeValue<'_>, span: Range<usize>) -> Result<Node, ConfigError> {
        let place = self.place(span);
        let refuse = |what: &str| Err(Problem::new("", what).at(Some(place.clone())).into());
        let data = match value {
            DeValue::String(text) => Data::Leaf(Value::from(text.as_ref())),
            DeValue::Boolean(flag) => Data::Leaf(Value::from(*flag)),
            DeValue::Integer(integer) => match number(integer) {
                Some(number) => Data::Leaf(Value::Number(number)),
                None => return refuse("an integer of more than 64 bits"),
            },
            DeValue::Float(float) => match float.as_str().parse().ok().and_then(Number::from_f64) {
                Some(number) => Data::Leaf(Value::Number(number)),
                None => return refuse("no setting is infinite or not a number"),
            },
            DeValue::Datetime(_) => return refuse("no setting is a date; quote it if it is a string"),
            DeValue::Array(items) => {
                let nodes = items.iter().map(|item| self.node(item.get_ref(), item.span()));
                Data::Array(nodes.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => Data::Table(self.table(table)?),
        };
        Ok(Node { place, data })
    }
}

fn number(integer: &DeInteger<'_>) -> Option<Number> {
    let (text, radix) = (integer.as_str(), integer.radix());
    let unsigned = u64::from_str_radix(text, radix).map(Number::from);
    unsigned.or_else(|_| i64::from_str_radix(text, radix).map(Number::from)).ok()
}
