//! Mechanistic architecture design (MAD): six small tasks at 66 settings, and one score of an architecture.
//!
//! Source: Poli, Thomas et al., "Mechanistic Design and Scaling of Hybrid Architectures", arXiv:2403.17844, and their code
//! (mad-lab), whose configurations these are. The architectures that score better on these tasks are, the authors find,
//! those that reach a lower perplexity as language models of the same budget.
//!
//! | kind | baseline | varied one at a time |
//! |---|---|---|
//! | [`in_context_recall`](crate::in_context_recall) | V 16, L 128 | V 32 64 128; L 256 512 1024; N |
//! | [`fuzzy_recall`](crate::fuzzy_recall) | V 16, L 128, tuples of up to 3 | V 32 64 128; L 256 512 1024; N |
//! | [`noisy_recall`](crate::in_context_recall) | V 32, 16 of them noise, L 128, noise 0.2 | V 48 80 144; L 256 512 1024; noise 0.4 0.6 0.8; N |
//! | [`selective_copying`](crate::selective_copying) | V 16, L 256, 16 tokens | V 32 64 128; L 512 1024; tokens 32 64 96; N |
//! | [`memorization`](crate::memorization) | V 256, L 32, N 256 | V 512 1024 2048 4096 8192 |
//! | [`compression`](crate::compression) | V 16, L 32 | V 32 64 128; L 64 128 256; N |
//!
//! V is the vocabulary, L the length, N the number of training examples: 12 800 in the baselines but for memorization,
//! 6400, 3200, 1600 and 800 where varied. Each setting is evaluated on 1280 examples.
//!
//! # Protocol
//! Batches of 128, 200 epochs over the N examples, AdamW, learning rate 10⁻⁴, 5·10⁻⁴ or 10⁻³ falling to 10⁻⁶ with a cosine,
//! weight decay 0 or 0.1: six runs a setting, 396 an architecture. Four layers of width 128, mixers and channel mixers in
//! turn, mixers brought to the same number of parameters and the same size of state.
//!
//! # Score
//! Of each setting the best accuracy among its runs; of a task the mean over its settings; of an architecture the mean over
//! the tasks. The authors take the best by the very test set that they report. Where a run is chosen by validation instead,
//! give [`score`] the test accuracy of that one alone.
//!
//! Their accuracy is a mean over classes (each token's share of right answers counts the same), ours over answers. The
//! targets being uniform, that is nearly the same, but for [`compression`](crate::compression), where a class of its own is
//! right for free.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// One of the 66 settings.
///
/// ```
/// use heddle_tasks::mad;
///
/// let settings = mad::settings();
/// let fewer = settings.iter().find(|setting| setting.name == "compression/examples=800").unwrap();
/// assert_eq!((fewer.kind, fewer.examples), ("compression", 800));
/// assert_eq!(fewer.settings["train"][0]["length"], 32, "all else is the baseline");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The task and what is varied, such as `noisy_recall/noise=0.4` or `noisy_recall/baseline`; no two are the same.
    pub name: String,
    /// The task's kind.
    pub kind: &'static str,
    /// The task's settings.
    pub settings: Value,
    /// The number of training examples N, which the settings state too.
    pub examples: usize,
}

/// Examples that a setting is evaluated on.
const EVALUATED: usize = 1280;

/// What a task's slices vary in; all else is of the task as a whole.
const KNOBS: [&str; 3] = ["length", "noise", "tokens"];

/// The 66 settings: of each task the baseline, then one value at a time that departs from it.
///
/// ```
/// use heddle_tasks::{Split, TaskRegistry, mad};
///
/// let settings = mad::settings();
/// assert_eq!(settings.len(), 66);
/// let noisy = settings.iter().find(|setting| setting.name == "noisy_recall/noise=0.4").unwrap();
/// let task = TaskRegistry::builtin().build(noisy.kind, &noisy.settings)?;
/// assert_eq!(task.slices(Split::Train)[0].examples, 12_800);
/// assert_eq!(task.slices(Split::Test)[0].keys["noise"], 0.4);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
pub fn settings() -> Vec<Setting> {
    let vocab = ("vocab", json!([32, 64, 128]));
    let length = ("length", json!([256, 512, 1024]));
    let examples = ("examples", json!([6400, 3200, 1600, 800]));
    let recall = [vocab.clone(), length.clone(), examples.clone()];
    let noisy = [("vocab", json!([48, 80, 144])), length, ("noise", json!([0.4, 0.6, 0.8])), examples.clone()];
    let copying = [vocab.clone(), ("length", json!([512, 1024])), ("tokens", json!([32, 64, 96])), examples.clone()];
    let compression = [vocab, ("length", json!([64, 128, 256])), examples];
    let memorization = [("vocab", json!([512, 1024, 2048, 4096, 8192]))];
    [
        varied("in_context_recall", json!({"vocab": 16, "length": 128, "examples": 12_800}), &recall),
        varied(
            "fuzzy_recall",
            json!({"vocab": 16, "key_tokens": 3, "value_tokens": 3, "length": 128, "examples": 12_800}),
            &recall,
        ),
        varied(
            "noisy_recall",
            json!({"vocab": 32, "noise_vocab": 16, "length": 128, "noise": 0.2, "examples": 12_800}),
            &noisy,
        ),
        varied(
            "selective_copying",
            json!({"vocab": 16, "layout": "mad", "length": 256, "tokens": 16, "examples": 12_800}),
            &copying,
        ),
        varied("memorization", json!({"vocab": 256, "length": 32, "examples": 256}), &memorization),
        varied("compression", json!({"vocab": 16, "length": 32, "examples": 12_800}), &compression),
    ]
    .concat()
}

/// A task's baseline, then each value of each axis in its place.
fn varied(kind: &'static str, baseline: Value, axes: &[(&str, Value)]) -> Vec<Setting> {
    let departures = axes.iter().flat_map(|(key, values)| {
        let values = values.as_array().into_iter().flatten();
        values.map(move |value| (format!("{key}={value}"), Some((*key, value))))
    });
    let all = std::iter::once(("baseline".to_owned(), None)).chain(departures);
    let setting = |(name, departure): (String, Option<(&str, &Value)>)| {
        let mut values = baseline.as_object().cloned().unwrap_or_default();
        values.extend(departure.map(|(key, value)| (key.to_owned(), value.clone())));
        let examples = values.remove("examples").unwrap_or_default();
        let (knobs, mut settings): (Map<_, _>, Map<_, _>) =
            values.into_iter().partition(|(key, _)| KNOBS.contains(&key.as_str()));
        let slice = |examples: Value| {
            let mut slice = knobs.clone();
            slice.insert("examples".to_owned(), examples);
            json!([slice])
        };
        settings.insert("train".to_owned(), slice(examples.clone()));
        for split in ["validation", "test"] {
            settings.insert(split.to_owned(), slice(json!(EVALUATED)));
        }
        Setting {
            name: format!("{kind}/{name}"),
            kind,
            settings: Value::Object(settings),
            examples: examples.as_u64().unwrap_or_default() as usize,
        }
    };
    all.map(setting).collect()
}

/// What an architecture is worth; see the [module](self#score).
///
/// ```
/// use heddle_tasks::mad;
///
/// let settings = mad::settings();
/// let half = mad::score(settings.iter().map(|setting| (setting, 0.5)));
/// assert_eq!((half.settings, half.tasks.len(), half.mean), (66, 6, 0.5));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The mean of the best accuracies of a task's settings, by kind.
    pub tasks: BTreeMap<&'static str, f64>,
    /// The mean over the tasks; not a number if there are none.
    pub mean: f64,
    /// How many settings have a run: short of 66, the score is not the published one.
    pub settings: usize,
}

/// The score of the runs of an architecture, given the setting and the test accuracy of each. A run without an accuracy
/// (not a number) does not count.
///
/// ```
/// use heddle_tasks::mad;
///
/// let settings = mad::settings();
/// let of = |name: &str| settings.iter().find(|setting| setting.name == name).unwrap();
/// let [recall, longer] = [of("in_context_recall/baseline"), of("in_context_recall/length=256")];
/// let runs = [(recall, 0.5), (recall, 0.9), (longer, 0.7), (of("compression/baseline"), 0.4)];
/// let score = mad::score(runs);
/// assert_eq!(score.tasks["in_context_recall"], (0.9 + 0.7) / 2.0);
/// assert!((score.mean - (0.8 + 0.4) / 2.0).abs() < 1e-12);
/// assert_eq!(score.settings, 3);
/// ```
pub fn score<'a>(runs: impl IntoIterator<Item = (&'a Setting, f64)>) -> Score {
    let mut best: BTreeMap<(&'static str, &str), f64> = BTreeMap::new();
    for (setting, accuracy) in runs.into_iter().filter(|run| !run.1.is_nan()) {
        let best = best.entry((setting.kind, &setting.name)).or_insert(accuracy);
        *best = best.max(accuracy);
    }
    let mut of_task: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for ((kind, _), accuracy) in &best {
        of_task.entry(kind).or_default().push(*accuracy);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let tasks: BTreeMap<_, _> = of_task.into_iter().map(|(kind, accuracies)| (kind, mean(&accuracies))).collect();
    let mean = mean(&tasks.values().copied().collect::<Vec<_>>());
    Score { tasks, mean, settings: best.len() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{Example, Split, TaskRegistry};

    #[test]
    fn there_are_66_settings_of_six_tasks_and_all_build() {
        let (settings, registry) = (settings(), TaskRegistry::builtin());
        assert_eq!(settings.len(), 66);
        assert_eq!(settings.iter().map(|setting| &setting.name).collect::<BTreeSet<_>>().len(), 66);
        let mut of_task: BTreeMap<&str, usize> = BTreeMap::new();
        let mut example = Example::default();
        for Setting { name, kind, settings, examples } in &settings {
            *of_task.entry(kind).or_default() += 1;
            let task = registry.build(kind, settings).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(task.slices(Split::Train)[0].examples, *examples, "{name}");
            for split in [Split::Validation, Split::Test] {
                assert_eq!(task.slices(split)[0].examples, 1280, "{name}");
                task.example(split, 0, 0, 1279, &mut example);
            }
        }
        let expected = [
            ("compression", 11),
            ("fuzzy_recall", 11),
            ("in_context_recall", 11),
            ("memorization", 6),
            ("noisy_recall", 14),
            ("selective_copying", 13),
        ];
        assert_eq!(of_task, BTreeMap::from(expected));
    }

    #[test]
    fn a_setting_departs_from_its_baseline_in_one_value() {
        let settings = settings();
        let of = |name: &str| settings.iter().find(|setting| setting.name == name).unwrap().settings.clone();
        let evaluated = json!([{"length": 256, "tokens": 16, "examples": 1280}]);
        let mut expected = json!({
            "vocab": 16,
            "layout": "mad",
            "train": [{"length": 256, "tokens": 16, "examples": 12_800}],
            "validation": evaluated,
            "test": evaluated,
        });
        assert_eq!(of("selective_copying/baseline"), expected);
        expected["train"][0]["examples"] = json!(800);
        assert_eq!(of("selective_copying/examples=800"), expected);
        expected["train"][0]["examples"] = json!(12_800);
        expected["vocab"] = json!(128);
        assert_eq!(of("selective_copying/vocab=128"), expected);
        assert_eq!(of("memorization/vocab=8192")["train"], json!([{"length": 32, "examples": 256}]));
        assert_eq!(of("noisy_recall/noise=0.8")["test"], json!([{"length": 128, "noise": 0.8, "examples": 1280}]));
    }

    #[test]
    fn a_run_without_an_accuracy_does_not_count() {
        let settings = settings();
        let score = score([(&settings[0], f64::NAN), (&settings[0], 0.25), (&settings[1], f64::NAN)]);
        assert_eq!((score.settings, score.mean), (1, 0.25));
        assert!(super::score([]).mean.is_nan());
    }
}
