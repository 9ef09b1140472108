use serde::Serialize;

use crate::SettingInfo;

/// The measures of a slice.
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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainSlice<K> {
    /// What sets the slice apart.
    #[serde(flatten)]
    pub knobs: K,
    /// How often a batch is of this slice, relative to the others.
    pub weight: f64,
    /// The number of examples, repeated in ever new orders; without it there is no end of fresh ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub examples: Option<usize>,
}

/// One evaluation slice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluationSlice<K> {
    /// What sets the slice apart.
    #[serde(flatten)]
    pub knobs: K,
    /// The number of examples.
    pub examples: usize,
}

/// The description of the setting `train` of a [`Recipe`](super::Recipe), given its default in JSON and the range of the knobs.
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
