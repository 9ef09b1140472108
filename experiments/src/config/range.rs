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
            ("train.batch", train.batch as u64),
            ("train.accumulate", train.accumulate as u64),
            ("train.log_every", train.log_every),
            ("eval.every", eval.every),
            ("eval.batch", eval.batch as u64),
        ] {
            check(key, count >= 1, count, "at least 1")?;
        }
        let budget = train.steps >= 1 || train.tokens > 0 || train.minutes > 0.0;
        check(
            "train.steps",
            budget,
            train.steps,
            "at least 1 where neither `train.tokens` nor `train.minutes` ends the run",
        )?;
        let above_zero = [
            ("train.lr", train.lr),
            ("train.epsilon", train.epsilon),
            ("train.decay", train.decay),
            ("eval.stop_at", eval.stop_at),
        ];
        for (key, value) in above_zero {
            check(key, value > 0.0 && value.is_finite(), value, "above 0 and finite")?;
        }
        for (key, value) in
            [("train.weight_decay", train.weight_decay), ("train.clip", train.clip), ("train.minutes", train.minutes)]
        {
            check(key, value >= 0.0 && value.is_finite(), value, "at least 0 and finite")?;
        }
        for (key, value) in [
            ("train.beta1", train.beta1),
            ("train.beta2", train.beta2),
            ("train.momentum", train.momentum),
            ("train.ema", train.ema),
        ] {
            check(key, (0.0..1.0).contains(&value), value, "at least 0 and below 1")?;
        }
        check("train.lr_floor", (0.0..=1.0).contains(&train.lr_floor), train.lr_floor, "from 0 to 1")?;
        self.validate_gradients()?;
        for stage in &train.curriculum {
            check("train.curriculum", stage.steps >= 1, "a stage of 0 steps", "stages of at least 1 step")?;
            let weighted = stage.weights.iter().any(|weight| *weight > 0.0)
                && stage.weights.iter().all(|weight| *weight >= 0.0 && weight.is_finite());
            let permitted = "stages whose weights are finite, none below 0 and one above it";
            check("train.curriculum", weighted, format!("a stage with weights {:?}", stage.weights), permitted)?;
        }
        let permitted = format!("at most `train.steps` ({})", train.steps);
        let within = train.steps == 0 || train.warmup <= train.steps;
        check_together(&["train.warmup", "train.steps"], within, train.warmup, &permitted)
    }

    /// Checks how a batch's gradient is computed.
    fn validate_gradients(&self) -> Result<(), OutOfRange> {
        let Self { train, model, .. } = self;
        let by_layer = train.gradient_checkpointing;
        let drops =
            |mixer: &KindTable| mixer.get("dropout").and_then(Value::as_f64).is_some_and(|chance| chance != 0.0);
        for (key, drops) in
            [("model.dropout", model.dropout != 0.0), ("model.mixer.*.dropout", model.mixer.values().any(drops))]
        {
            let permitted = format!("false where `{key}` is not 0");
            check_together(&["train.gradient_checkpointing", key], !by_layer || !drops, true, &permitted)?;
        }
        let keys = ["train.gradient_checkpointing", "train.chunk"];
        check_together(&keys, !by_layer || train.chunk == 0, true, "false where `train.chunk` is not 0")?;
        let permitted = format!("a divisor of `train.batch` ({})", train.batch);
        let divides = train.batch.is_multiple_of(train.accumulate);
        check_together(&["train.accumulate", "train.batch"], divides, train.accumulate, &permitted)
    }
}

/// Checks a setting whose range depends on others.
fn check_together(
    keys: &[&'static str],
    within: bool,
    value: impl ToString,
    permitted: &str,
) -> Result<(), OutOfRange> {
    check(keys[0], within, value, permitted).map_err(|range| OutOfRange { keys: keys.to_vec(), ..range })
}

fn check(key: &'static str, within: bool, value: impl ToString, permitted: &str) -> Result<(), OutOfRange> {
    if within {
        return Ok(());
    }
    Err(OutOfRange { keys: vec![key], value: value.to_string(), permitted: permitted.to_owned() })
}
