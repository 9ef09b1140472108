//! Permitted ranges of the settings.

use heddle_hybrid::KindTable;
use serde_json::Value;

use super::schema::{RunConfig, is_path_component};

/// A setting outside of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is {value}; it must be {permitted}", keys[0])]
pub struct OutOfRange {
    /// The setting at fault, then those that its range depends on.
    pub keys: Vec<&'static str>,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub permitted: String,
}

impl RunConfig {
    /// Checks every setting that has a range of its own; the kinds check theirs.
    ///
    /// # Errors
    /// The first setting outside of its range.
    ///
    /// ```
    /// use experiments::config::RunConfig;
    ///
    /// let mut run = RunConfig::default();
    /// run.train.lr = 0.0;
    /// assert_eq!(run.validate().unwrap_err().to_string(), "`train.lr` is 0; it must be above 0 and finite");
    /// ```
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let Self { train, eval, .. } = self;
        let part = "1 to 100 letters, digits, `.`, `_` or `-`, the first a letter or digit";
        check("name", is_path_component(&self.name), format!("{:?}", self.name), part)?;
        let case = self.case.is_empty() || is_path_component(&self.case);
        check("case", case, format!("{:?}", self.case), part)?;

        for (key, count) in [
            ("train.steps", train.steps),
            ("train.batch", train.batch as u64),
            ("train.log_every", train.log_every),
            ("eval.every", eval.every),
            ("eval.batch", eval.batch as u64),
        ] {
            check(key, count >= 1, count, "at least 1")?;
        }
        for (key, value) in [("train.lr", train.lr), ("train.epsilon", train.epsilon), ("eval.stop_at", eval.stop_at)] {
            check(key, value > 0.0 && value.is_finite(), value, "above 0 and finite")?;
        }
        for (key, value) in [("train.weight_decay", train.weight_decay), ("train.clip", train.clip)] {
            check(key, value >= 0.0 && value.is_finite(), value, "at least 0 and finite")?;
        }
        for (key, value) in [("train.beta1", train.beta1), ("train.beta2", train.beta2)] {
            check(key, (0.0..1.0).contains(&value), value, "at least 0 and below 1")?;
        }
        check("train.lr_floor", (0.0..=1.0).contains(&train.lr_floor), train.lr_floor, "from 0 to 1")?;
        let drops =
            |mixer: &KindTable| mixer.get("dropout").and_then(Value::as_f64).is_some_and(|chance| chance != 0.0);
        for (key, drops) in [
            ("model.dropout", self.model.dropout != 0.0),
            ("model.mixer.*.dropout", self.model.mixer.values().any(drops)),
        ] {
            let key_at_fault = "train.gradient_checkpointing";
            let permitted = format!("false where `{key}` is not 0");
            check(key_at_fault, !train.gradient_checkpointing || !drops, true, &permitted)
                .map_err(|range| OutOfRange { keys: vec![key_at_fault, key], ..range })?;
        }
        for stage in &train.curriculum {
            check("train.curriculum", stage.steps >= 1, "a stage of 0 steps", "stages of at least 1 step")?;
            let weighted = stage.weights.iter().any(|weight| *weight > 0.0)
                && stage.weights.iter().all(|weight| *weight >= 0.0 && weight.is_finite());
            let permitted = "stages whose weights are finite, none below 0 and one above it";
            check("train.curriculum", weighted, format!("a stage with weights {:?}", stage.weights), permitted)?;
        }
        let permitted = format!("at most `train.steps` ({})", train.steps);
        check("train.warmup", train.warmup <= train.steps, train.warmup, &permitted)
            .map_err(|range| OutOfRange { keys: vec!["train.warmup", "train.steps"], ..range })
    }
}

fn check(key: &'static str, within: bool, value: impl ToString, permitted: &str) -> Result<(), OutOfRange> {
    if within {
        return Ok(());
    }
    Err(OutOfRange { keys: vec![key], value: value.to_string(), permitted: permitted.to_owned() })
}
