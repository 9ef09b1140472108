use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::SettingInfo;

/// The measures of a slice.
///
/// ```
/// use heddle_tasks::{Recipe, Split, parity::Parity, state_tracking::Knobs};
///
/// let (shape, _) = Parity::default().plan(Split::Train, &Knobs { length: 20 })?;
/// // Of 2²⁰ sequences many are drawn twice, so each belongs to one split; a length of 80 would keep them apart by itself.
/// assert_eq!((shape.labels, shape.chance, shape.bits), (20, 0.5, 20.0));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Tokens of every example.
    pub length: usize,
    /// Labels of an example, at most.
    pub labels: usize,
    /// The accuracy of a guesser who knows the rules but looks at no sequence.
    pub chance: f64,
    /// Base-2 logarithm of the number of sequences, as if all were equally likely: at least 80 keeps splits apart by
    /// itself; [`SHARED`] where training and test are meant to hold the same sequences.
    pub bits: f64,
}

/// [`Shape::bits`] of a task that tests the very facts it trains.
pub const SHARED: f64 = f64::INFINITY;

/// One kind of training batch.
///
/// ```
/// use heddle_tasks::{Example, Segmented, Split, TaskSettings, parity::Parity};
/// use serde_json::json;
///
/// let settings = Segmented::<Parity>::read(&json!({"train": [{"length": 64, "examples": 2}]}))?;
/// assert_eq!((settings.train[0].weight, settings.train[0].examples), (1.0, Some(2)));
/// // Two examples, again and again.
/// let task = settings.build()?;
/// let tokens = |index| {
///     let mut example = Example::default();
///     task.example(Split::Train, 0, 42, index, &mut example);
///     example.tokens
/// };
/// assert!(tokens(7) == tokens(0) || tokens(7) == tokens(1));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainSlice<K> {
    /// What sets the slice apart.
    #[serde(flatten)]
    pub knobs: K,
    /// How often a batch is of this slice, relative to the others.
    pub weight: f64,
    /// The number of examples, repeated in ever new orders; without it there is no end of fresh ones.
    pub examples: Option<usize>,
}

/// One evaluation slice.
///
/// ```
/// use heddle_tasks::{Segmented, TaskSettings, parity::Parity, recipe::EvaluationSlice, state_tracking::Knobs};
/// use serde_json::json;
///
/// let settings = Segmented::<Parity>::read(&json!({"test": [{"length": 512}]}))?;
/// assert_eq!(settings.test, Some(vec![EvaluationSlice { knobs: Knobs { length: 512 }, examples: 1000 }]));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationSlice<K> {
    /// What sets the slice apart.
    #[serde(flatten)]
    pub knobs: K,
    /// The number of examples.
    pub examples: usize,
}

/// The description of the setting `train` of a [`Recipe`](super::Recipe), given its default in JSON and the range of the
/// knobs.
pub const fn train_setting(default: &'static str, range: &'static str) -> SettingInfo {
    let meaning = "slices to train on, each the knobs, a weight (default 1) and a number of examples to repeat (default: \
                   no end of fresh ones); each batch is of one slice, chosen by weight";
    SettingInfo { key: "train", default, meaning, range }
}

/// The description of the setting `validation` of a [`Recipe`](super::Recipe).
pub const VALIDATION_SETTING: SettingInfo = SettingInfo {
    key: "validation",
    default: "null",
    meaning: "slices to choose by, each the knobs and a number of examples (default 1000); null: those of train",
    range: "as train, examples at least 1",
};

/// The description of the setting `test` of a [`Recipe`](super::Recipe).
pub const TEST_SETTING: SettingInfo = SettingInfo {
    key: "test",
    default: "null",
    meaning: "slices to report, each the knobs and a number of examples (default 1000); null: those of train",
    range: "as train, examples at least 1",
};

/// A slice's name and keys from its knobs: every value that is not null, in alphabetical order.
pub(super) fn named<K: Serialize>(knobs: &K) -> (String, BTreeMap<String, f64>) {
    let knobs = serde_json::to_value(knobs).expect("knobs are plain data");
    let knobs: BTreeMap<&String, &Value> = knobs.as_object().expect("knobs are a struct").iter().collect();
    let given = knobs.into_iter().filter(|(_, value)| !value.is_null());
    let (mut name, mut keys) = (Vec::new(), BTreeMap::new());
    for (key, value) in given {
        name.push(format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        keys.extend(value.as_f64().map(|number| (key.clone(), number)));
    }
    (name.join(","), keys)
}
