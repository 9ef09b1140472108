//! Reading `config.json` so that no key that changes the computation is passed over.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::error::PretrainedError;
use crate::config::MOST_LAYERS;

/// Sizes beyond this are no model's.
const LARGEST: usize = 1 << 20;

/// Keys that say nothing of what a model computes from tokens, in any family: its tokeniser and special tokens, its training,
/// its numbers' storage, and what a library returns beside the logits.
const INERT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "max_position_embeddings",
    "model_type",
    "name_or_path",
    "num_logits_to_keep",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "return_dict",
    "router_aux_loss_coef",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// A table of `config.json`, which remembers what was asked of it. A key that is null counts as not there.
pub(super) struct Keys<'a> {
    table: &'a Map<String, Value>,
    /// What stands before a key's name: empty, or the name of the table and a dot.
    prefix: String,
    asked: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(table: &'a Map<String, Value>, prefix: &str) -> Self {
        Self { table, prefix: prefix.to_owned(), asked: RefCell::default() }
    }

    /// The key as a message calls it.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn refuse(&self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) -> PretrainedError {
        PretrainedError::config(&self.name(key), problem, remedy)
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.table.get_key_value(key)?;
        self.asked.borrow_mut().insert(key);
        (!value.is_null()).then_some(value)
    }

    fn expect<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, PretrainedError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let refuse = || self.refuse(key, format!("it is {value}"), format!("this key takes {expected}"));
        read(value).map(Some).ok_or_else(refuse)
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, PretrainedError> {
        value.ok_or_else(|| self.refuse(key, "it is missing", "a config of this family states it"))
    }

    /// A size, if the key is there.
    pub(super) fn size_if(&self, key: &str) -> Result<Option<usize>, PretrainedError> {
        self.expect(key, &format!("a whole number from 1 to {LARGEST}"), |value| {
            whole(value).filter(|size| (1..=LARGEST).contains(size))
        })
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, PretrainedError> {
        self.required(key, self.size_if(key)?)
    }

    /// The number of layers.
    pub(super) fn layers(&self) -> Result<usize, PretrainedError> {
        let key = "num_hidden_layers";
        self.layers_or(self.size(key)?)
    }

    /// The number of layers where the config may leave it to be counted.
    pub(super) fn layers_or(&self, counted: usize) -> Result<usize, PretrainedError> {
        let key = "num_hidden_layers";
        match self.size_or(key, counted)? {
            layers if layers > MOST_LAYERS => {
                Err(self.refuse(key, format!("it is {layers}"), format!("a model has {MOST_LAYERS} layers at most")))
            }
            layers => Ok(layers),
        }
    }

    pub(super) fn size_or(&self, key: &str, default: usize) -> Result<usize, PretrainedError> {
        Ok(self.size_if(key)?.unwrap_or(default))
    }

    /// A number of things, which may be none.
    pub(super) fn index_or(&self, key: &str, default: usize) -> Result<usize, PretrainedError> {
        let value = self.expect(key, "a whole number of at least 0", |value| whole(value).filter(|n| *n <= LARGEST))?;
        Ok(value.unwrap_or(default))
    }

    pub(super) fn number_if(&self, key: &str) -> Result<Option<f64>, PretrainedError> {
        self.expect(key, "a finite number", |value| value.as_f64())
    }

    pub(super) fn number_or(&self, key: &str, default: f64) -> Result<f64, PretrainedError> {
        Ok(self.number_if(key)?.unwrap_or(default))
    }

    pub(super) fn flag_or(&self, key: &str, default: bool) -> Result<bool, PretrainedError> {
        Ok(self.expect(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub(super) fn text_if(&self, key: &str) -> Result<Option<&'a str>, PretrainedError> {
        self.expect(key, "a text", Value::as_str)
    }

    pub(super) fn array_if(&self, key: &str) -> Result<Option<&'a Vec<Value>>, PretrainedError> {
        self.expect(key, "an array", Value::as_array)
    }

    /// So many finite numbers, if the key is there.
    pub(super) fn numbers_if<const N: usize>(&self, key: &str) -> Result<Option<[f64; N]>, PretrainedError> {
        self.expect(key, &format!("an array of {N} finite numbers"), |value| {
            let numbers: Option<Vec<f64>> = value.as_array()?.iter().map(Value::as_f64).collect();
            numbers?.try_into().ok()
        })
    }

    /// The places in a list, as in `full_attn_idxs`.
    pub(super) fn places_if(&self, key: &str) -> Result<Option<Vec<usize>>, PretrainedError> {
        self.expect(key, "an array of whole numbers", |value| value.as_array()?.iter().map(whole).collect())
    }

    /// A table within, if it is there and not empty.
    pub(super) fn table_if(&self, key: &str) -> Result<Option<Keys<'a>>, PretrainedError> {
        let table = self.expect(key, "a table", Value::as_object)?;
        Ok(table.filter(|table| !table.is_empty()).map(|table| Keys::new(table, &format!("{}.", self.name(key)))))
    }

    /// Refuses a key that is there with another value than the only one that is supported.
    pub(super) fn only(&self, key: &str, permitted: &Value) -> Result<(), PretrainedError> {
        let same = |value: &Value| match (float(value), float(permitted)) {
            (Some(a), Some(b)) => a == b,
            _ => value == permitted,
        };
        match self.get(key) {
            Some(value) if !same(value) => {
                Err(self.refuse(key, format!("{value} is not supported"), format!("only {permitted} is")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses the first key that nobody asked for, unless it is known to change nothing; `whose` says what the keys describe.
    pub(super) fn finish(&self, whose: &str, inert: &[&str]) -> Result<(), PretrainedError> {
        let asked = self.asked.borrow();
        let unknown = self.table.iter().find(|(key, value)| {
            let key = key.as_str();
            !value.is_null() && !asked.contains(key) && !INERT.contains(&key) && !inert.contains(&key)
        });
        match unknown {
            None => Ok(()),
            Some((key, value)) => {
                let problem = format!("it is {value}, and nothing is known of such a key of {whose}");
                Err(self.refuse(key, problem, "remove it if it changes nothing in what the model computes"))
            }
        }
    }
}

/// A whole number, also where it is written as `2.0`.
fn whole(value: &Value) -> Option<usize> {
    match value.as_u64() {
        Some(whole) => usize::try_from(whole).ok(),
        None => value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0 && *x <= LARGEST as f64).map(|x| x as usize),
    }
}

/// A number, also where it is not finite and written as `{"__float__": "Infinity"}`.
pub(super) fn float(value: &Value) -> Option<f64> {
    match value.get("__float__").and_then(Value::as_str) {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

/// Reads JSON as Python writes it: `Infinity`, `-Infinity` and `NaN` may stand for numbers.
pub(super) fn parse(text: &str) -> serde_json::Result<Value> {
    let mut json = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(first) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !quoted && rest.starts_with(word));
        let length = match (word, first) {
            (Some(word), _) => {
                json.push_str(&format!("{{\"__float__\":\"{word}\"}}"));
                word.len()
            }
            // Whatever is escaped ends no text.
            (None, '\\') if quoted => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, first) => {
                quoted ^= first == '"';
                first.len_utf8()
            }
        };
        if word.is_none() {
            json.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    serde_json::from_str(&json)
}
