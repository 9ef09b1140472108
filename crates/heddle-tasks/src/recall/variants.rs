use serde::{Deserialize, Serialize};

use super::{Stated, Variant};
use crate::recipe::{TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::{SettingInfo, TaskInfo};

/// Recall of keys of which some are bound anew: the last value counts.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("forgetting_recall", &json!({"vocab": 64, "train": [{"length": 64, "pairs": 2, "updates": 2}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// for label in &example.labels {
///     // The value first stated with the key is not the answer.
///     let key = example.tokens[label.position as usize];
///     let first = example.tokens.iter().position(|token| *token == key).unwrap();
///     assert_ne!(example.tokens[first + 1], label.target);
/// }
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgetting;

/// Recall of keys of two tokens, neither of which tells the value.
///
/// ```
/// use std::collections::BTreeSet;
///
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let settings = json!({"vocab": 64, "train": [{"length": 64, "pairs": 9}]});
/// let task = TaskRegistry::builtin().build("compositional_recall", &settings)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// // Nine statements of three tokens: the keys are combined of three tokens and three.
/// let distinct = |offset| example.tokens[offset..27].iter().step_by(3).collect::<BTreeSet<_>>().len();
/// assert_eq!([distinct(0), distinct(1), distinct(2)], [3, 3, 9]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compositional;

/// Recall from a context that is stated several times.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("multi_pass_recall", &json!({"train": [{"length": 64, "pairs": 4, "passes": 3}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let [first, second, third] = [0, 8, 16].map(|start| &example.tokens[start..start + 8]);
/// assert!(first == second && second == third);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MultiPass;

/// What sets apart a slice of [`Forgetting`].
///
/// ```
/// use heddle_tasks::recall::{Forgetting, UpdateKnobs, Variant};
///
/// let knobs = UpdateKnobs { length: 64, pairs: 8, updates: 4 };
/// let stated = Forgetting::stated(&knobs);
/// // Eight statements, four more, and eight questions: the law of the length.
/// assert!(2 * (stated.passes * stated.pairs + stated.updates + stated.pairs) <= knobs.length);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateKnobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Keys, K.
    pub pairs: usize,
    /// Keys that are bound anew, U.
    pub updates: usize,
}

/// What sets apart a slice of [`Compositional`].
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// // Keys fill a square of first and second tokens.
/// let with_pairs = |pairs: usize| {
///     let settings = json!({"train": [{"length": 64, "pairs": pairs}]});
///     TaskRegistry::builtin().build("compositional_recall", &settings)
/// };
/// assert!(with_pairs(9).is_ok());
/// assert!(with_pairs(8).unwrap_err().to_string().starts_with("setting 'train[0].pairs'"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainKnobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Keys, K.
    pub pairs: usize,
}

/// What sets apart a slice of [`MultiPass`].
///
/// ```
/// use heddle_tasks::recall::PassKnobs;
///
/// let knobs: PassKnobs = serde_json::from_str(r#"{"length": 64, "pairs": 4}"#)?;
/// assert_eq!(knobs.passes, 2, "just read twice");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassKnobs {
    /// Tokens per example, L.
    pub length: usize,
    /// Keys, K.
    pub pairs: usize,
    /// How often they are stated, P.
    #[serde(default = "twice")]
    pub passes: usize,
}

fn twice() -> usize {
    2
}

const VOCAB: SettingInfo = SettingInfo {
    key: "vocab",
    default: "8192",
    meaning: "size V of the vocabulary: keys are 1 … V/2−1, values V/2 … V−1, 0 is blank",
    range: "4 to 16777216, with at least pairs keys",
};

const POWER_A: SettingInfo = SettingInfo {
    key: "power_a",
    default: "0.01",
    meaning: "exponent a of the law j^(a−1) of the gap before a query: towards 0 queries crowd behind the pairs, 1 \
              scatters them evenly",
    range: "above 0, at most 2",
};

const FILLER: SettingInfo = SettingInfo {
    key: "filler",
    default: "\"disjoint\"",
    meaning: "what stands where nothing is asked: token 0, any token, or any token but those of the sequence's keys",
    range: "zero, random, disjoint",
};

impl Variant for Forgetting {
    const INFO: TaskInfo = TaskInfo {
        kind: "forgetting_recall",
        title: "Associative recall with forgetting",
        doc: "A sequence states pairs of a key and a value, then states some of the keys again with another value, and \
              finally repeats every key once at scattered positions; at each repeated key the model is to predict the \
              value stated last. A state that can only add pairs up cannot tell the old value from the new one; one that \
              erases what it overwrites can.",
        settings: &[
            VOCAB,
            POWER_A,
            FILLER,
            train_setting(
                "[{\"length\": 64, \"pairs\": 8, \"updates\": 4, \"weight\": 1.0}]",
                "{length, pairs, updates}: 2·(2·pairs + updates) ≤ length ≤ 16777216, updates ≤ pairs",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − ⌊V/2⌋): an even guess among the values",
        source: "the generator published beside Arora, Eyuboglu et al. 2023, arXiv:2312.04927; here a new value always \
                 differs from the old one of its key",
    };
    const WIDTH: usize = 1;
    type Knobs = UpdateKnobs;

    fn default_knobs() -> UpdateKnobs {
        UpdateKnobs { length: 64, pairs: 8, updates: 4 }
    }

    fn stated(&UpdateKnobs { length, pairs, updates }: &UpdateKnobs) -> Stated {
        Stated { length, pairs, passes: 1, updates }
    }
}

impl Variant for Compositional {
    const INFO: TaskInfo = TaskInfo {
        kind: "compositional_recall",
        title: "Associative recall of composed keys",
        doc: "A sequence states a value for every combination of m first with m second tokens, then repeats every \
              combination once at scattered positions; behind its second token the model is to predict its value. Each \
              token alone stands before m values, so the model has to bind both tokens of a key.",
        settings: &[
            SettingInfo {
                key: "vocab",
                default: "8192",
                meaning: "size V of the vocabulary: with t = ⌊V/3⌋, first tokens of keys are 1 … t−1, second ones t … 2t−1, \
                          values 2t … V−1, 0 is blank",
                range: "6 to 16777216, with at least √pairs tokens of either kind and pairs values",
            },
            POWER_A,
            FILLER,
            train_setting(
                "[{\"length\": 64, \"pairs\": 4, \"weight\": 1.0}]",
                "{length, pairs}: 6·pairs ≤ length ≤ 16777216, pairs a square number",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − 2⌊V/3⌋): an even guess among the values",
        source: "the generator published beside Arora, Eyuboglu et al. 2023, arXiv:2312.04927; the filler 'disjoint' is \
                 ours",
    };
    const WIDTH: usize = 2;
    type Knobs = PlainKnobs;

    fn default_knobs() -> PlainKnobs {
        PlainKnobs { length: 64, pairs: 4 }
    }

    fn stated(&PlainKnobs { length, pairs }: &PlainKnobs) -> Stated {
        Stated { length, pairs, passes: 1, updates: 0 }
    }
}

impl Variant for MultiPass {
    const INFO: TaskInfo = TaskInfo {
        kind: "multi_pass_recall",
        title: "Associative recall from a repeated context",
        doc: "A sequence states pairs of a key and a value several times over, then repeats every key once at scattered \
              positions; at each repeated key the model is to predict its value. Against the same task with one pass it \
              tells what a recurrent model gains from reading its context again.",
        settings: &[
            VOCAB,
            POWER_A,
            FILLER,
            train_setting(
                "[{\"length\": 64, \"pairs\": 4, \"passes\": 2, \"weight\": 1.0}]",
                "{length, pairs, passes (default 2)}: 2·pairs·(passes + 1) ≤ length ≤ 16777216",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / (V − ⌊V/2⌋): an even guess among the values",
        source: "Arora et al. 2024, arXiv:2407.05483, with the data of arXiv:2312.04927",
    };
    const WIDTH: usize = 1;
    type Knobs = PassKnobs;

    fn default_knobs() -> PassKnobs {
        PassKnobs { length: 64, pairs: 4, passes: twice() }
    }

    fn stated(&PassKnobs { length, pairs, passes }: &PassKnobs) -> Stated {
        Stated { length, pairs, passes, updates: 0 }
    }
}
