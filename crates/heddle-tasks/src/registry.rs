mod info;

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::info::{SettingInfo, TaskInfo};
use crate::char_lm::CharLm;
use crate::common_words::CommonWords;
use crate::compression::Compression;
use crate::copying::Copying;
use crate::coreference::Coreference;
use crate::dyck::Dyck;
use crate::frequent_words::FrequentWords;
use crate::fuzzy_recall::FuzzyRecall;
use crate::in_context_recall::{InContextRecall, NoisyRecall};
use crate::induction::InductionHeads;
use crate::listops::ListOps;
use crate::memorization::Memorization;
use crate::modular_counting::ModularCounting;
use crate::mqar::MqarSettings;
use crate::multi_hop::MultiHop;
use crate::needle::Needle;
use crate::ngram_lookup::NgramLookup;
use crate::parity::Parity;
use crate::passkey::Passkey;
use crate::phonebook::Phonebook;
use crate::recall::{Compositional, Forgetting, MultiPass, Recall};
use crate::selective_copying::SelectiveCopying;
use crate::variable_tracking::VariableTracking;
use crate::word_problem::WordProblem;
use crate::{Segmented, Split, Task, TaskError};

/// The settings of a task: what a crate registers to add one.
///
/// Settings are serialised with every key, an absent value as null, and read with `#[serde(default,
/// deny_unknown_fields)]`.
///
/// ```
/// use heddle_tasks::{TaskSettings, mqar::MqarSettings};
/// use serde_json::json;
///
/// let settings = MqarSettings::read(&json!({"vocab": 64}))?;
/// assert_eq!((settings.vocab, settings.train.len()), (64, 1), "one key is given, the others are the defaults");
/// // Reading looks at names and types, building at what they mean.
/// let error = MqarSettings { vocab: 2, ..settings }.build().unwrap_err();
/// assert!(error.to_string().starts_with("setting 'vocab'"));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
pub trait TaskSettings: Default + Serialize + DeserializeOwned + 'static {
    /// What the task is; its `kind` is the name in configs.
    const INFO: TaskInfo;

    /// The settings as a config gives them, laid over the defaults; null stands for no settings.
    ///
    /// # Errors
    /// The first setting that is unknown or of the wrong type.
    fn read(settings: &Value) -> Result<Self, TaskError> {
        if settings.is_null() {
            return Ok(Self::default());
        }
        refuse_unknown::<Self>(settings)?;
        read_at(Self::INFO.kind, "", settings)
    }

    /// The task with these settings.
    ///
    /// # Errors
    /// [`TaskError::OutOfRange`] if no such task exists.
    fn build(self) -> Result<Box<dyn Task>, TaskError>;
}

/// The tasks that configs can ask for, by kind.
///
/// ```
/// use heddle_tasks::TaskRegistry;
/// use serde_json::json;
///
/// let registry = TaskRegistry::builtin();
/// assert_eq!(registry.defaults("mqar")?["vocab"], 8192);
/// let error = registry.build("mqra", &json!({})).unwrap_err();
/// assert!(error.to_string().contains("did you mean 'mqar'?"));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct TaskRegistry {
    entries: BTreeMap<&'static str, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    info: TaskInfo,
    defaults: fn() -> Value,
    complete: fn(&Value) -> Result<Value, TaskError>,
    build: fn(&Value) -> Result<Box<dyn Task>, TaskError>,
}

impl TaskRegistry {
    /// A registry without tasks.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The tasks of this crate.
    pub fn builtin() -> Self {
        let mut registry = Self::empty();
        let registered = [
            registry.register::<MqarSettings>(),
            registry.register::<Segmented<CharLm>>(),
            registry.register::<Segmented<CommonWords>>(),
            registry.register::<Segmented<Compression>>(),
            registry.register::<Segmented<Copying>>(),
            registry.register::<Segmented<Coreference>>(),
            registry.register::<Segmented<Dyck>>(),
            registry.register::<Segmented<FrequentWords>>(),
            registry.register::<Segmented<FuzzyRecall>>(),
            registry.register::<Segmented<InContextRecall>>(),
            registry.register::<Segmented<InductionHeads>>(),
            registry.register::<Segmented<ListOps>>(),
            registry.register::<Segmented<Memorization>>(),
            registry.register::<Segmented<ModularCounting>>(),
            registry.register::<Segmented<MultiHop>>(),
            registry.register::<Segmented<Needle>>(),
            registry.register::<Segmented<NgramLookup>>(),
            registry.register::<Segmented<NoisyRecall>>(),
            registry.register::<Segmented<Parity>>(),
            registry.register::<Segmented<Passkey>>(),
            registry.register::<Segmented<Phonebook>>(),
            registry.register::<Segmented<Recall<Compositional>>>(),
            registry.register::<Segmented<Recall<Forgetting>>>(),
            registry.register::<Segmented<Recall<MultiPass>>>(),
            registry.register::<Segmented<SelectiveCopying>>(),
            registry.register::<Segmented<VariableTracking>>(),
            registry.register::<Segmented<WordProblem>>(),
        ];
        registered.into_iter().for_each(|added| added.expect("the built-in kinds differ"));
        registry
    }

    /// Adds the task with settings `S`.
    ///
    /// # Errors
    /// [`TaskError::DuplicateKind`] if its kind is taken.
    pub fn register<S: TaskSettings>(&mut self) -> Result<(), TaskError> {
        let kind = S::INFO.kind;
        if self.entries.contains_key(kind) {
            return Err(TaskError::DuplicateKind { kind: kind.to_owned() });
        }
        self.entries
            .insert(kind, Entry { info: S::INFO, defaults: defaults::<S>, complete: complete::<S>, build: build::<S> });
        Ok(())
    }

    /// The registered kinds, in alphabetical order.
    pub fn kinds(&self) -> Vec<&'static str> {
        self.entries.keys().copied().collect()
    }

    /// What the task of this kind is.
    ///
    /// # Errors
    /// [`TaskError::UnknownKind`].
    pub fn info(&self, kind: &str) -> Result<&TaskInfo, TaskError> {
        Ok(&self.entry(kind)?.info)
    }

    /// The default settings: an object with every key that can be set, null where the default is derived.
    ///
    /// # Errors
    /// [`TaskError::UnknownKind`].
    pub fn defaults(&self, kind: &str) -> Result<Value, TaskError> {
        Ok((self.entry(kind)?.defaults)())
    }

    /// The settings in full: `settings` with every key that they leave out, nested tables included.
    ///
    /// # Errors
    /// [`TaskError::UnknownKind`], or the first setting that is unknown or of the wrong type.
    pub fn complete(&self, kind: &str, settings: &Value) -> Result<Value, TaskError> {
        (self.entry(kind)?.complete)(settings)
    }

    /// The task of this kind with `settings` laid over its defaults; null stands for no settings.
    ///
    /// # Errors
    /// [`TaskError::UnknownKind`], or what is wrong with the settings.
    pub fn build(&self, kind: &str, settings: &Value) -> Result<Box<dyn Task>, TaskError> {
        (self.entry(kind)?.build)(settings)
    }

    fn entry(&self, kind: &str) -> Result<&Entry, TaskError> {
        self.entries.get(kind).ok_or_else(|| TaskError::UnknownKind {
            kind: kind.to_owned(),
            nearest: nearest(kind, self.entries.keys().copied()),
            known: self.kinds().into_iter().map(str::to_owned).collect(),
        })
    }
}

fn defaults<S: TaskSettings>() -> Value {
    serde_json::to_value(S::default()).expect("settings are plain data")
}

fn complete<S: TaskSettings>(settings: &Value) -> Result<Value, TaskError> {
    Ok(serde_json::to_value(S::read(settings)?).expect("settings are plain data"))
}

fn build<S: TaskSettings>(settings: &Value) -> Result<Box<dyn Task>, TaskError> {
    S::read(settings)?.build()
}

/// Refuses a key that the settings `S` do not have, and what is no table where one should stand: what reads tables would
/// take lists for them, by the order of the keys.
pub(crate) fn refuse_unknown<S: TaskSettings>(settings: &Value) -> Result<(), TaskError> {
    let defaults = defaults::<S>();
    let known = || defaults.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str));
    let listed = || known().map(str::to_owned).collect();
    let kind = S::INFO.kind.to_owned();
    let Some(given) = settings.as_object() else {
        return Err(TaskError::NoTable { kind, found: settings.to_string(), known: listed() });
    };
    if let Some(setting) = given.keys().find(|setting| !known().any(|key| key == *setting)) {
        let nearest = nearest(setting, known());
        return Err(TaskError::UnknownSetting { kind, setting: setting.clone(), nearest, known: listed() });
    }
    for split in Split::ALL {
        let entries = given.get(&split.to_string()).and_then(Value::as_array).into_iter().flatten();
        if let Some((i, entry)) = entries.enumerate().find(|(_, entry)| !entry.is_object()) {
            let cause = format!("a slice is a table: expected one, found {entry}");
            return Err(TaskError::Malformed { kind, setting: format!("{split}[{i}]"), cause });
        }
    }
    Ok(())
}

/// Reads the part of a task's settings that stands at `path`; the error names the path of what is malformed.
pub(crate) fn read_at<T: DeserializeOwned>(kind: &str, path: &str, value: &Value) -> Result<T, TaskError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let inner = error.path().to_string();
        let setting = match (path, inner.as_str()) {
            (_, ".") => path.to_owned(),
            ("", _) => inner,
            (_, index) if index.starts_with('[') => format!("{path}{index}"),
            _ => format!("{path}.{inner}"),
        };
        TaskError::Malformed { kind: kind.to_owned(), setting, cause: error.inner().to_string() }
    })
}

/// The name most like `given`, if any is like it at all.
fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    /// Below this two names share little more than chance would give (Jaro–Winkler similarity).
    const ALIKE: f64 = 0.7;
    let scored = names.map(|name| (strsim::jaro_winkler(given, name), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > ALIKE).then(|| best.1.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::{Example, Label, Slice, content_hash};

    /// A task of a user's crate: repeat the first token at the end.
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Echo {
        length: usize,
        #[serde(skip)]
        slices: Vec<Slice>,
    }

    impl Default for Echo {
        fn default() -> Self {
            Self { length: 4, slices: Vec::new() }
        }
    }

    impl TaskSettings for Echo {
        const INFO: TaskInfo = TaskInfo {
            kind: "echo",
            title: "Echo",
            doc: "",
            settings: &[SettingInfo { key: "length", default: "4", meaning: "tokens", range: "≥ 2" }],
            chance: "1 / 4",
            source: "",
        };

        fn build(mut self) -> Result<Box<dyn Task>, TaskError> {
            let keys = BTreeMap::from([("length".to_owned(), self.length as f64)]);
            let name = format!("length={}", self.length);
            self.slices = vec![Slice { name, length: self.length, labels: 1, weight: 1.0, keys, examples: 8 }];
            Ok(Box::new(self))
        }
    }

    impl Task for Echo {
        fn kind(&self) -> &'static str {
            Self::INFO.kind
        }

        fn vocab(&self) -> usize {
            4
        }

        fn slices(&self, _: Split) -> &[Slice] {
            &self.slices
        }

        fn example(&self, _: Split, _: usize, _: u64, index: u64, out: &mut Example) {
            let first = (index % 4) as u32;
            out.tokens.clear();
            out.tokens.resize(self.length, 0);
            out.tokens[0] = first;
            out.labels.clear();
            out.labels.push(Label { position: self.length as u32 - 1, target: first, evidence: 0 });
        }

        fn chance(&self, _: Split, _: usize) -> f64 {
            0.25
        }

        fn describe_token(&self, token: u32) -> String {
            format!("token {token}")
        }
    }

    fn message(kind: &str, settings: Value) -> String {
        TaskRegistry::builtin().build(kind, &settings).unwrap_err().to_string()
    }

    #[test]
    fn a_users_task_is_registered_built_and_hashed_like_a_built_in_one() {
        let mut registry = TaskRegistry::builtin();
        registry.register::<Echo>().unwrap();
        assert!(registry.kinds().contains(&"echo"));
        let task = registry.build("echo", &json!({"length": 6})).unwrap();
        assert_eq!(task.slices(Split::Train)[0].length, 6);
        assert_ne!(
            content_hash(task.as_ref(), 0),
            content_hash(registry.build("echo", &json!({})).unwrap().as_ref(), 0)
        );
        let again = registry.register::<Echo>().unwrap_err();
        assert_eq!(again.to_string(), "a task called 'echo' is registered already: give yours another kind");
    }

    #[test]
    fn every_task_documents_every_setting_and_its_default() {
        let registry = TaskRegistry::builtin();
        for kind in registry.kinds() {
            let info = registry.info(kind).unwrap();
            assert_eq!(info.kind, kind);
            let documented = info.settings.iter().map(|s| (s.key.to_owned(), serde_json::from_str(s.default).unwrap()));
            // A knob that is null is none, and not written.
            let mut defaults = registry.defaults(kind).unwrap();
            for slice in defaults["train"].as_array_mut().unwrap() {
                assert!(
                    slice.as_object().unwrap().contains_key("examples"),
                    "{kind}: a config could not set `examples`"
                );
                slice.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            }
            let mut documented = Value::Object(documented.collect());
            let slices = documented["train"].as_array_mut().unwrap();
            slices.iter_mut().for_each(|slice| slice.as_object_mut().unwrap().retain(|_, value| !value.is_null()));
            assert_eq!(documented, defaults);
            assert_eq!(registry.build(kind, &Value::Null).unwrap().kind(), kind);
            registry.build(kind, &registry.defaults(kind).unwrap()).unwrap();
        }
    }

    #[test]
    fn complete_settings_state_what_was_left_out_down_to_the_segments_and_build_the_same_task() {
        let registry = TaskRegistry::builtin();
        let given = json!({"vocab": 64, "train": [{"length": 32, "pairs": 2}], "test": [{"length": 64, "pairs": 2}]});
        let complete = registry.complete("mqar", &given).unwrap();
        assert_eq!(
            complete,
            json!({
                "vocab": 64,
                "power_a": 0.01,
                "filler": "disjoint",
                "compat": false,
                "train": [{"length": 32, "pairs": 2, "weight": 1.0, "examples": null}],
                "validation": null,
                "test": [{"length": 64, "pairs": 2, "examples": 1000}],
            })
        );
        assert_eq!(registry.complete("mqar", &complete).unwrap(), complete);
        let hash = |settings| content_hash(registry.build("mqar", settings).unwrap().as_ref(), 0);
        assert_eq!(hash(&given), hash(&complete));
        assert_eq!(registry.complete("mqar", &Value::Null), registry.defaults("mqar"));
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_nearest() {
        let known = TaskRegistry::builtin().kinds().join(", ");
        let expected = format!("no task is called 'mqa' (did you mean 'mqar'?); known tasks: {known}");
        assert_eq!(message("mqa", json!({})), expected);
        assert_eq!(message("xyz", json!({})), format!("no task is called 'xyz'; known tasks: {known}"));
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_nearest() {
        assert_eq!(
            message("mqar", json!({"vocabulary": 64})),
            "mqar has no setting 'vocabulary' (did you mean 'vocab'?); \
             its settings: vocab, power_a, filler, compat, train, validation, test"
        );
    }

    #[test]
    fn a_malformed_entry_is_refused_with_its_path() {
        assert_eq!(
            message("mqar", json!({"train": [{"length": 64, "pairs": 4}, {"length": 64, "pair": 4}]})),
            "mqar, setting 'train[1].pair': unknown field `pair`, expected one of `length`, `pairs`, `weight`, `examples`"
        );
        assert_eq!(
            message("mqar", json!({"vocab": "many"})),
            "mqar, setting 'vocab': invalid type: string \"many\", expected usize"
        );
        assert_eq!(
            message("mqar", json!({"filler": "none"})),
            "mqar, setting 'filler': unknown variant `none`, expected one of `zero`, `random`, `disjoint`"
        );
    }
}
