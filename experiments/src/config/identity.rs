//! What makes a run that run: its hash, and the file that loads back to it.

use serde_json::{Map, Value, json};

use super::schema::RunConfig;

/// Characters of a hash: 48 bits, so that among a million runs two collide with a chance below 1 in 500.
const HASH_CHARACTERS: usize = 12;

impl RunConfig {
    /// Names the run: the first 12 hexadecimal digits of BLAKE3 over the config as JSON with sorted keys.
    ///
    /// The order in which settings were written, settings left at `null`, and later settings left at their default
    /// make no difference.
    ///
    /// ```
    /// use experiments::config::RunConfig;
    ///
    /// let run = RunConfig::default();
    /// let other = RunConfig { seed: 1, ..run.clone() };
    /// assert_eq!(run.hash().len(), 12);
    /// assert_ne!(run.hash(), other.hash());
    /// ```
    pub fn hash(&self) -> String {
        let mut value = self.to_value();
        later_settings().iter().for_each(|(key, default)| leave_out(&mut value, key, default));
        let json = canonical(value).to_string();
        blake3::hash(json.as_bytes()).to_hex()[..HASH_CHARACTERS].to_owned()
    }

    /// The complete config as a run file, every setting stated; it loads back to an equal config.
    ///
    /// TOML has no null: a setting that is null is left out, which the defaults restore.
    pub fn to_toml(&self) -> String {
        let value = without_null(self.to_value());
        toml::to_string(&value).expect("a table of values other than null is TOML")
    }

    /// The config as a JSON tree.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a config is a tree of plain values under text keys")
    }
}

/// Settings that came after results were stored, with the default that changes nothing: a run that leaves them alone keeps
/// the name it had before. `*` stands for any name.
fn later_settings() -> [(&'static str, Value); 44] {
    [
        ("task.compat", json!(false)),
        ("train.tokens", json!(0)),
        ("train.minutes", json!(0.0)),
        ("train.accumulate", json!(1)),
        ("train.chunk", json!(0)),
        ("train.optimizer", json!("adamw")),
        ("train.decay", json!(0.1)),
        ("train.decay_form", json!("linear")),
        ("train.momentum", json!(0.95)),
        ("train.ema", json!(0.0)),
        ("train.histograms", json!(0)),
        ("eval.chunk", json!(0)),
        ("eval.monitor", json!([])),
        ("eval.monitor_every", json!(0)),
        ("train.gradient_checkpointing", json!(false)),
        ("train.curriculum", json!([])),
        ("model.depth_scaled_init", json!(false)),
        ("model.norm", json!("rms")),
        ("model.norm_placement", json!("pre")),
        ("model.norm_plus_one", json!(false)),
        ("model.embedding_scale", json!(1.0)),
        ("model.residual_scale", json!(1.0)),
        ("model.logit_scale", json!(1.0)),
        ("model.head_bias", json!(false)),
        ("model.mixer.*.shared", json!(false)),
        ("model.mixer.*.input_scale", json!(1.0)),
        ("model.mixer.*.output_scale", json!(1.0)),
        ("model.mixer.*.output_norm", json!(false)),
        ("model.mixer.*.shared_norm", json!(false)),
        ("model.mixer.*.output_map", json!(false)),
        ("model.mixer.*.with_embedding", json!(false)),
        ("model.mixer.*.gated_norm", json!("behind")),
        ("model.mixer.*.dropout", json!(0.0)),
        ("model.channel.*.shared", json!(false)),
        ("model.channel.*.shared_norm", json!(false)),
        ("model.channel.*.output_map", json!(false)),
        ("model.channel.*.shared_gate", json!(false)),
        ("model.channel.*.gate_scale", json!(1.0)),
        ("model.channel.*.output_scale", json!(1.0)),
        ("model.channel.*.gated", json!(true)),
        ("model.channel.*.scores", json!("softmax")),
        ("model.channel.*.selection_bias", json!(false)),
        ("model.channel.*.route_scale", json!(1.0)),
        // Of `swiglu` and `moe`; `mlp` had the key from the start, with another default.
        ("model.channel.*.activation", json!("silu")),
    ]
}

/// Removes the setting if it is at its default.
fn leave_out(value: &mut Value, key: &str, default: &Value) {
    let Value::Object(table) = value else { return };
    match key.split_once('.') {
        None if table.get(key) == Some(default) => drop(table.shift_remove(key)),
        None => {}
        Some(("*", rest)) => table.values_mut().for_each(|value| leave_out(value, rest, default)),
        Some((name, rest)) => {
            if let Some(value) = table.get_mut(name) {
                leave_out(value, rest, default);
            }
        }
    }
}

fn canonical(value: Value) -> Value {
    match value {
        Value::Object(table) => {
            let mut entries: Vec<_> = table.into_iter().filter(|(_, value)| !value.is_null()).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            entries.into_iter().map(|(key, value)| (key, canonical(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        // Zero and minus zero are equal, and equal configs are one run.
        Value::Number(number) if number.as_f64() == Some(0.0) && number.is_f64() => Value::from(0.0),
        other => other,
    }
}

fn without_null(value: Value) -> Value {
    match value {
        Value::Object(table) => {
            let stated = table.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(stated.map(|(key, value)| (key, without_null(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.into_iter().filter(|item| !item.is_null()).map(without_null).collect(),
        other => other,
    }
}
