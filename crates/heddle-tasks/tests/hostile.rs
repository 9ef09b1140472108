//! Settings that no one would choose: whatever they are, a task is built, or the setting at fault is named with a remedy.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use heddle_tasks::{Example, Split, Task, TaskError, TaskRegistry, slice_of_batch};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Map, Value, json};

/// Beyond this length one example of each split is drawn, when the task is built, and no more.
const LONGEST: usize = 1 << 16;

/// Settings tried of each kind.
const CASES: u32 = 256;

/// What may stand in place of a value: often a small number with which many tasks can still be built.
fn hostile() -> impl Strategy<Value = Value> {
    let small = [0_u64, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 64, 100, 255, 1000, 4096, 65_535];
    let large =
        [1 << 20, (1 << 24) + 1, u64::from(u32::MAX), 1 << 32, (1 << 53) + 1, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    let reals = [-1e300, -1.0, -0.0, 1e-300, 0.25, 0.5, 0.999_999, 1.0, 1.000_001, 1.5, 2.5, 1e19, 1e300, f64::MAX];
    // JSON has no number that is none; it becomes null.
    let others = [json!(-1), json!(i64::MIN), json!(f64::NAN), json!(true), json!(""), json!("all"), json!("none")];
    let nested =
        [json!([]), json!({}), json!([0]), json!([[]]), json!([null]), json!([[64, 4]]), json!({"length": 64})];
    prop_oneof![
        8 => select(small.map(|n| json!(n)).to_vec()),
        2 => select(large.map(|n| json!(n)).to_vec()),
        2 => select(reals.map(|x| json!(x)).to_vec()),
        1 => select(others.to_vec()),
        1 => select(nested.to_vec()),
    ]
}

/// What stands at each key of an object in turn instead of what stood there, if anything.
type Change = Vec<Option<Value>>;

/// Any key may change, or one alone.
fn change() -> impl Strategy<Value = Change> {
    let one = (0..8_usize, hostile()).prop_map(|(place, value)| {
        let mut change = vec![None; place];
        change.push(Some(value));
        change
    });
    prop_oneof![2 => prop::collection::vec(prop::option::weighted(0.3, hostile()), 8), 3 => one, 1 => Just(vec![])]
}

/// What becomes of the defaults.
#[derive(Clone, Debug)]
struct Changes {
    settings: Change,
    /// Other slices for each split.
    slices: [Option<Vec<Change>>; 3],
    /// Which of its words each setting takes that is a word.
    words: Vec<Index>,
    /// Something else that is set, or that stands in place of all settings.
    beside: Option<(&'static str, Value)>,
}

fn changes() -> impl Strategy<Value = Changes> {
    let slices = |likely| prop::option::weighted(likely, prop::collection::vec(change(), 0..3));
    let beside = (select(vec!["vocabulary", "train", "test", "", "*"]), hostile());
    let words = prop::collection::vec(any::<Index>(), 8);
    (change(), slices(0.8), slices(0.2), slices(0.2), words, prop::option::weighted(0.05, beside)).prop_map(
        |(settings, train, validation, test, words, beside)| Changes {
            settings,
            slices: [train, validation, test],
            words,
            beside,
        },
    )
}

fn changed(object: &Map<String, Value>, change: &Change) -> Value {
    let new = change.iter().chain(std::iter::repeat(&None));
    let pairs = object.iter().zip(new).map(|((key, old), new)| (key.clone(), new.as_ref().unwrap_or(old).clone()));
    Value::Object(pairs.collect())
}

/// The defaults of a kind with the changes made.
fn settings(registry: &TaskRegistry, kind: &str, changes: &Changes) -> Value {
    let defaults = registry.defaults(kind).unwrap();
    let slice = defaults["train"][0].as_object().unwrap();
    let mut own = defaults.as_object().unwrap().clone();
    Split::ALL.iter().for_each(|split| drop(own.remove(&split.to_string())));
    for (setting, index) in registry.info(kind).unwrap().settings.iter().zip(&changes.words) {
        if own.get(setting.key).is_some_and(Value::is_string) {
            let words = setting.range.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            own.insert(setting.key.to_owned(), json!(index.get(&words.collect::<Vec<_>>())));
        }
    }
    let mut settings = changed(&own, &changes.settings);
    for (split, slices) in Split::ALL.iter().zip(&changes.slices) {
        let Some(slices) = slices else { continue };
        let mut slice = slice.clone();
        if *split != Split::Train {
            slice.remove("weight");
        }
        slice.insert("examples".to_owned(), json!(10));
        settings[split.to_string()] = slices.iter().map(|change| changed(&slice, change)).collect();
    }
    match &changes.beside {
        Some(("*", value)) => value.clone(),
        Some((key, value)) => {
            settings[*key] = value.clone();
            settings
        }
        None => settings,
    }
}

/// What is wrong with a task that was built, or with the reason why none was.
fn complaint(registry: &TaskRegistry, kind: &str, settings: &Value) -> Result<bool, String> {
    let keys: Vec<_> = registry.info(kind).unwrap().settings.iter().map(|setting| setting.key).collect();
    match registry.build(kind, settings) {
        Ok(task) => draw_all(&*task).map(|()| true),
        Err(TaskError::OutOfRange { setting, rule, found, remedy }) => {
            let named = keys.contains(&setting.split(['.', '[']).next().unwrap_or_default());
            let said = [&rule, &found, &remedy].iter().all(|words| !words.is_empty());
            if named && said { Ok(false) } else { Err(format!("'{setting}': {rule} fails ({found}): {remedy}")) }
        }
        Err(TaskError::Malformed { setting, cause, .. }) => {
            let named = keys.contains(&setting.split(['.', '[']).next().unwrap_or_default());
            let said = cause.contains("expected") || cause.starts_with("missing field");
            if named && said { Ok(false) } else { Err(format!("'{setting}': {cause}")) }
        }
        Err(TaskError::UnknownSetting { known, .. } | TaskError::NoTable { known, .. }) if known == keys => Ok(false),
        Err(other) => Err(other.to_string()),
    }
}

/// Draws of every slice of every split, where it is not too long.
fn draw_all(task: &dyn Task) -> Result<(), String> {
    let mut example = Example::default();
    for split in Split::ALL {
        for (number, slice) in task.slices(split).iter().enumerate() {
            let chance = task.chance(split, number);
            if !(0.0..=1.0).contains(&chance) || slice.length == 0 || slice.labels == 0 {
                return Err(format!("chance {chance} of {slice:?}"));
            }
            for index in [0, 1, u64::MAX] {
                if slice.length > LONGEST {
                    continue;
                }
                task.example(split, number, 0, index, &mut example);
                let Example { tokens, labels, marks } = &example;
                let vocab = task.vocab() as u32;
                let positions = labels.iter().flat_map(|label| [label.position, label.evidence]);
                let positions = positions.chain(marks.iter().map(|mark| mark.position));
                let known = tokens.iter().chain(labels.iter().map(|label| &label.target)).all(|token| *token < vocab);
                let inside = positions.max().is_none_or(|last| (last as usize) < tokens.len());
                let sized = tokens.len() == slice.length && (1..=slice.labels).contains(&labels.len());
                if !(known && inside && sized) {
                    return Err(format!("example {index} of {slice:?} has {} tokens, {labels:?}", tokens.len()));
                }
                for token in [tokens[0], tokens[tokens.len() - 1], vocab - 1] {
                    if task.describe_token(token).is_empty() {
                        return Err(format!("token {token} has no description"));
                    }
                }
            }
        }
    }
    slice_of_batch(task, 0, 0);
    Ok(())
}

#[test]
fn whatever_the_settings_a_task_is_built_or_the_setting_at_fault_is_named() {
    let registry = TaskRegistry::builtin();
    for kind in registry.kinds() {
        let (built, refused) = (Cell::new(0), Cell::new(0));
        let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let tried = runner.run(&changes(), |changes| {
            let settings = settings(&registry, kind, &changes);
            let found = catch_unwind(AssertUnwindSafe(|| complaint(&registry, kind, &settings)));
            match found.unwrap_or_else(|_| Err("it panics".to_owned())) {
                Ok(true) => built.set(built.get() + 1),
                Ok(false) => refused.set(refused.get() + 1),
                Err(complaint) => return Err(TestCaseError::fail(format!("{kind}, {settings}: {complaint}"))),
            }
            Ok(())
        });
        if let Err(error) = tried {
            panic!("{error}");
        }
        let (built, refused) = (built.get(), refused.get());
        assert!(built > CASES / 20 && refused > CASES / 20, "{kind}: {built} built, {refused} refused");
    }
}
