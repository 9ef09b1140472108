//! Tasks by their parts: a file states one task, this module gives it slices, streams and disjoint splits.
//!
//! A [`Recipe`] is the settings of a task and how to write one sequence. What differs between slices (a length, a number
//! of pairs) are its [`Knobs`](Recipe::Knobs). [`Segmented`] makes a [`Task`] of it: lists of slices for training,
//! validation and test, a random stream for every example, memory that each thread reuses.
//!
//! # Disjoint splits
//! The splits draw from different streams. Where the sequences of a slice are so many that two of any 2³⁰ drawn are the
//! same with a probability below 2⁻²⁰ (2⁸⁰ or more), that keeps the splits apart. Where they are fewer, each sequence
//! belongs to one split by a hash of its tokens (train 3/4, validation and test 1/8 each), and a sequence of another
//! split is drawn anew. So a model never sees in training what it is tested on, however small the task.
//!
//! # Few examples
//! Training examples have no end, unless a training slice says `examples`: then it has so many, and they come again and
//! again, each time in another order. If it is the only slice, each of them comes once before any comes again.

mod entries;
mod slices;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use self::entries::{OfEvaluation, OfTrain, list};
use self::slices::named;
pub use self::slices::{EvaluationSlice, SHARED, Shape, TEST_SETTING, TrainSlice, VALIDATION_SETTING, train_setting};
use crate::error::require;
use crate::registry::{read_at, refuse_unknown};
use crate::shuffle::Shuffle;
use crate::stream::Stream;
use crate::{Alphabet, Example, Readout, Slice, Split, Task, TaskError, TaskInfo, TaskSettings};

/// The settings of a task and how it writes a sequence.
///
/// Implement it with `#[serde(default, deny_unknown_fields)]` on the settings and `#[serde(deny_unknown_fields)]` on the
/// knobs, and register [`Segmented<Self>`](Segmented).
///
/// A complete task, whose model is to say the first token again at the last:
///
/// ```
/// use heddle_tasks::recipe::{Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
/// use heddle_tasks::{Alphabet, Example, Segmented, Split, TaskError, TaskInfo, TaskRegistry, require, stream::Stream};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, Default, Serialize, Deserialize)]
/// #[serde(default, deny_unknown_fields)]
/// struct First {}
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Knobs {
///     length: usize,
/// }
///
/// impl Recipe for First {
///     const INFO: TaskInfo = TaskInfo {
///         kind: "first",
///         title: "First token",
///         doc: "A random sequence; at its end the model is to name its first token.",
///         settings: &[train_setting(r#"[{"length": 64, "weight": 1.0}]"#, "2 ≤ length"), VALIDATION_SETTING, TEST_SETTING],
///         chance: "1 / 8",
///         source: "",
///     };
///     type Knobs = Knobs;
///     type Plan = usize;
///     type Scratch = ();
///
///     fn default_train() -> Vec<Knobs> {
///         vec![Knobs { length: 64 }]
///     }
///     fn alphabet(&self) -> Alphabet {
///         Alphabet::of([("token", 8)])
///     }
///     fn check(&self) -> Result<(), TaskError> {
///         Ok(())
///     }
///     fn plan(&self, _: Split, &Knobs { length }: &Knobs) -> Result<(Shape, usize), TaskError> {
///         require(length >= 2, "length", "2 ≤ length", || (format!("length {length}"), "use at least 2".into()))?;
///         Ok((Shape { length, labels: 1, chance: 1.0 / 8.0, bits: 3.0 * length as f64 }, length))
///     }
///     fn write(&self, length: &usize, stream: &mut Stream, (): &mut (), out: &mut Example) {
///         out.tokens.extend((0..*length).map(|_| stream.below(8)));
///         out.ask(out.tokens[0], 0);
///     }
/// }
///
/// let mut registry = TaskRegistry::builtin();
/// registry.register::<Segmented<First>>()?;
/// let task = registry.build("first", &serde_json::json!({"test": [{"length": 1000}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// assert_eq!((example.labels[0].position, example.labels[0].target), (999, example.tokens[0]));
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
pub trait Recipe: Clone + Default + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the task is. Its settings are those of the recipe, then [`train_setting`], [`VALIDATION_SETTING`] and
    /// [`TEST_SETTING`].
    const INFO: TaskInfo;
    /// Raised by whoever changes what a seed generates.
    const VERSION: u32 = 1;
    /// How many consecutive examples are forms of one draw: with n forms, examples n·i … n·i + n − 1 share a random
    /// stream and differ in what [`write_form`](Self::write_form) makes of it.
    const FORMS: u32 = 1;
    /// What sets one slice apart from another; numbers among them become the slice's keys.
    type Knobs: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What is computed once for a slice.
    type Plan: Debug + Send + Sync;
    /// Memory that a thread reuses from example to example.
    type Scratch: Default + 'static;

    /// The slices that are trained on unless the settings say otherwise.
    fn default_train() -> Vec<Self::Knobs>;

    /// The vocabulary.
    fn alphabet(&self) -> Alphabet;

    /// Refuses settings that no slice could satisfy.
    ///
    /// # Errors
    /// [`TaskError::OutOfRange`], naming the setting.
    fn check(&self) -> Result<(), TaskError>;

    /// What a slice of a split is and what writing its examples takes.
    ///
    /// # Errors
    /// [`TaskError::OutOfRange`], naming the knob, if no sequence satisfies the knobs.
    fn plan(&self, split: Split, knobs: &Self::Knobs) -> Result<(Shape, Self::Plan), TaskError>;

    /// Writes one example to `out`, which is empty.
    fn write(&self, plan: &Self::Plan, stream: &mut Stream, scratch: &mut Self::Scratch, out: &mut Example);

    /// Writes one form of an example, of those that share a stream; a recipe with several gives all of them the same
    /// [`identity`](Self::identity), so that one split holds them all.
    fn write_form(
        &self,
        _form: u32,
        plan: &Self::Plan,
        stream: &mut Stream,
        scratch: &mut Self::Scratch,
        out: &mut Example,
    ) {
        self.write(plan, stream, scratch, out);
    }

    /// Writes what makes two sequences the same for the splits; unless a recipe says otherwise, their tokens.
    fn identity(&self, example: &Example, bytes: &mut Vec<u8>) {
        bytes.extend(example.tokens.iter().flat_map(|token| token.to_le_bytes()));
    }

    /// What the answers are read from.
    fn readout(&self) -> Readout {
        Readout::default()
    }

    /// What a token stands for.
    fn describe_token(&self, token: u32) -> String {
        self.alphabet().describe(token)
    }
}

/// Lengths and vocabularies end here: far beyond any use, and positions and tokens stay small.
pub const LARGEST: usize = 1 << 24;

/// From so many bits on sequences do not repeat.
const ENOUGH_BITS: f64 = 80.0;

/// How many sequences are drawn in search of one that belongs to a split: a split that has its share of an eighth is not
/// found in the fewest with a probability of 10⁻¹⁵.
const FEWEST_TRIES: usize = 256;
const MOST_TRIES: usize = 4096;
/// Between the two the number of their tokens decides.
const TOKENS_TRIED: usize = 1 << 26;

/// Examples of an evaluation slice unless the settings say otherwise.
const DEFAULT_EXAMPLES: usize = 1000;

/// The settings of a [`Recipe`] with its slices.
///
/// ```
/// use heddle_tasks::induction::InductionHeads;
/// use heddle_tasks::{Segmented, Split, TaskSettings};
/// use serde_json::json;
///
/// let settings = json!({"vocab": 16, "train": [{"length": 64}], "test": [{"length": 1024, "examples": 10}]});
/// let task = Segmented::<InductionHeads>::read(&settings)?.build()?;
/// assert_eq!(task.slices(Split::Test)[0].name, "length=1024,repeats=1");
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(bound = "")]
pub struct Segmented<R: Recipe> {
    /// The task's own settings.
    #[serde(flatten)]
    pub recipe: R,
    /// What training batches hold.
    pub train: Vec<TrainSlice<R::Knobs>>,
    /// What is evaluated to choose; if absent, the slices of `train`.
    pub validation: Option<Vec<EvaluationSlice<R::Knobs>>>,
    /// What is evaluated to report; likewise.
    pub test: Option<Vec<EvaluationSlice<R::Knobs>>>,
}

impl<R: Recipe> Default for Segmented<R> {
    fn default() -> Self {
        let train =
            R::default_train().into_iter().map(|knobs| TrainSlice { knobs, weight: 1.0, examples: None }).collect();
        Self { recipe: R::default(), train, validation: None, test: None }
    }
}

impl<'de, R: Recipe> Deserialize<'de> for Segmented<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<R: Recipe> TaskSettings for Segmented<R> {
    const INFO: TaskInfo = R::INFO;

    fn read(settings: &Value) -> Result<Self, TaskError> {
        if settings.is_null() {
            return Ok(Self::default());
        }
        refuse_unknown::<Self>(settings)?;
        let kind = R::INFO.kind;
        let mut own = settings.clone();
        let mut listed = |key: &str| own.as_object_mut().and_then(|own| own.remove(key));
        let (train, validation, test) = (listed("train"), listed("validation"), listed("test"));
        let train = train.map(|train| list(kind, "train", train)).transpose()?.map(|slices| {
            let slice =
                |(knobs, OfTrain { weight, examples })| TrainSlice { knobs, weight: weight.unwrap_or(1.0), examples };
            slices.into_iter().map(slice).collect()
        });
        let evaluated = |key, value: Option<Value>| {
            let given = value.filter(|value| !value.is_null());
            given.map(|value| list(kind, key, value)).transpose().map(|slices| {
                let counted = |(knobs, OfEvaluation { examples })| EvaluationSlice {
                    knobs,
                    examples: examples.unwrap_or(DEFAULT_EXAMPLES),
                };
                slices.map(|slices: Vec<_>| slices.into_iter().map(counted).collect::<Vec<_>>())
            })
        };
        Ok(Self {
            validation: evaluated("validation", validation)?,
            test: evaluated("test", test)?,
            train: train.unwrap_or_else(|| Self::default().train),
            recipe: read_at(kind, "", &own)?,
        })
    }

    fn build(self) -> Result<Box<dyn Task>, TaskError> {
        Ok(Box::new(Built::new(self)?))
    }
}

/// A recipe with its slices planned.
#[derive(Debug)]
struct Built<R: Recipe> {
    recipe: R,
    vocab: usize,
    splits: [Planned<R>; 3],
}

#[derive(Debug)]
struct Planned<R: Recipe> {
    slices: Vec<Slice>,
    plans: Vec<(Shape, R::Plan)>,
}

impl<R: Recipe> Built<R> {
    fn new(settings: Segmented<R>) -> Result<Self, TaskError> {
        settings.recipe.check()?;
        let Segmented { recipe, train, validation, test } = settings;
        for (i, TrainSlice { weight, examples, .. }) in train.iter().enumerate() {
            require(weight.is_finite() && *weight > 0.0, &format!("train[{i}].weight"), "0 < weight < ∞", || {
                (format!("weight {weight}"), "use a positive weight, or leave the slice out".to_owned())
            })?;
            require(*examples != Some(0), &format!("train[{i}].examples"), "1 ≤ examples", || {
                ("examples 0".to_owned(), "use at least 1 example, or leave it out for no end of them".to_owned())
            })?;
        }
        let total: f64 = train.iter().map(|slice| slice.weight).sum();
        require(total.is_finite(), "train", "sum of the weights < ∞", || {
            (
                format!("the weights add up to {total}"),
                "use smaller weights; they count relative to each other".to_owned(),
            )
        })?;
        let as_train =
            || train.iter().map(|s| EvaluationSlice { knobs: s.knobs.clone(), examples: DEFAULT_EXAMPLES }).collect();
        let evaluated = |split: Split, slices: Option<Vec<EvaluationSlice<R::Knobs>>>| {
            let slices: Vec<_> = slices.unwrap_or_else(as_train);
            for (i, EvaluationSlice { examples, .. }) in slices.iter().enumerate() {
                require(*examples >= 1, &format!("{split}[{i}].examples"), "1 ≤ examples", || {
                    ("examples 0".to_owned(), "use at least 1 example, or leave the slice out".to_owned())
                })?;
            }
            Self::plan(&recipe, split, slices.into_iter().map(|s| (s.knobs, 1.0, s.examples)).collect())
        };
        let weighted = train.iter().map(|s| (s.knobs.clone(), s.weight, s.examples.unwrap_or(0))).collect();
        let train_planned = Self::plan(&recipe, Split::Train, weighted)?;
        let splits = [train_planned, evaluated(Split::Validation, validation)?, evaluated(Split::Test, test)?];
        let built = Self { vocab: recipe.alphabet().size() as usize, recipe, splits };
        built.check_splits()?;
        Ok(built)
    }

    fn plan(recipe: &R, split: Split, slices: Vec<(R::Knobs, f64, usize)>) -> Result<Planned<R>, TaskError> {
        require(!slices.is_empty(), &split.to_string(), "1 ≤ number of slices", || {
            let otherwise = if split == Split::Train { "" } else { ", or leave it out to use the slices of train" };
            ("the list is empty".to_owned(), format!("give at least one slice{otherwise}"))
        })?;
        let mut planned = Planned::<R> { slices: Vec::new(), plans: Vec::new() };
        for (i, (knobs, weight, examples)) in slices.into_iter().enumerate() {
            let (shape, plan) = recipe.plan(split, &knobs).map_err(|error| error.within(&format!("{split}[{i}]")))?;
            let (name, keys) = named(&knobs);
            let twin = planned.slices.iter().position(|slice| slice.name == name);
            require(twin.is_none(), &format!("{split}[{i}]"), "no slice twice", || {
                let found = format!("{name}, as in {split}[{}]", twin.unwrap_or_default());
                (found, "leave one out and adapt the numbers of the other".to_owned())
            })?;
            let Shape { length, labels, .. } = shape;
            planned.slices.push(Slice { name, length, labels, weight, keys, examples });
            planned.plans.push((shape, plan));
        }
        Ok(planned)
    }

    /// Refuses slices whose sequences are too few to be shared out.
    fn check_splits(&self) -> Result<(), TaskError> {
        let mut example = Example::default();
        for split in Split::ALL {
            for (i, slice) in self.slices(split).iter().enumerate() {
                // Long sequences that are few all the same, being mostly filler, are not drawn without end.
                let tries = (TOKENS_TRIED / slice.length.max(1)).clamp(FEWEST_TRIES, MOST_TRIES) as u32;
                let found = self.draw(split, i, (0, 0), tries, &mut example);
                require(found, &format!("{split}[{i}]"), "every split has sequences of its own", || {
                    let found = format!("none of {tries} sequences of {} belongs to {split}", slice.name);
                    (found, "use a longer sequence or a larger vocabulary".to_owned())
                })?;
            }
        }
        Ok(())
    }

    /// The example that stands at a place of training, where examples repeat.
    fn repeated(&self, slice: usize, seed: u64, place: u64) -> u64 {
        match self.slices(Split::Train)[slice].examples as u64 {
            0 => place,
            examples => Shuffle::of_epoch(R::INFO.kind, slice, seed, place / examples, examples).at(place % examples),
        }
    }

    /// Draws until a sequence belongs to the split; whether one was found.
    fn draw(&self, split: Split, slice: usize, (seed, index): (u64, u64), tries: u32, out: &mut Example) -> bool {
        let (shape, plan) = &self.splits[split as usize].plans[slice];
        let (drawn, form) = (index / u64::from(R::FORMS), (index % u64::from(R::FORMS)) as u32);
        let mut stream = Stream::of_example(R::INFO.kind, split, slice, seed, drawn);
        with_scratch(|(scratch, bytes): &mut (R::Scratch, Vec<u8>)| {
            for _ in 0..tries {
                out.clear();
                self.recipe.write_form(form, plan, &mut stream, scratch, out);
                if shape.bits >= ENOUGH_BITS {
                    return true;
                }
                bytes.clear();
                self.recipe.identity(out, bytes);
                if owner(bytes) == split {
                    return true;
                }
            }
            false
        })
    }
}

/// The split that a sequence belongs to.
fn owner(bytes: &[u8]) -> Split {
    match blake3::hash(bytes).as_bytes()[0] % 8 {
        0 => Split::Validation,
        1 => Split::Test,
        _ => Split::Train,
    }
}

/// Lends the memory of this thread for values of type `S`.
fn with_scratch<S: Default + 'static, T>(use_it: impl FnOnce(&mut S) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<HashMap<std::any::TypeId, Box<dyn Any>>> = RefCell::default();
    }
    let id = std::any::TypeId::of::<S>();
    // Taken out while in use, so that a recipe may draw from another one.
    let mut scratch = SCRATCH.with_borrow_mut(|all| all.remove(&id)).unwrap_or_else(|| Box::new(S::default()));
    let result = use_it(scratch.downcast_mut().expect("stored under its own type"));
    SCRATCH.with_borrow_mut(|all| all.insert(id, scratch));
    result
}

impl<R: Recipe> Task for Built<R> {
    fn kind(&self) -> &'static str {
        R::INFO.kind
    }

    fn version(&self) -> u32 {
        R::VERSION
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn slices(&self, split: Split) -> &[Slice] {
        &self.splits[split as usize].slices
    }

    fn example(&self, split: Split, slice: usize, seed: u64, index: u64, out: &mut Example) {
        let slices = self.slices(split).len();
        assert!(slice < slices, "slice {slice} is out of range: {} has {slices} {split} slices", self.kind());
        let index = if split == Split::Train { self.repeated(slice, seed, index) } else { index };
        // Some were found in few tries when the task was built; this many fail never.
        let found = self.draw(split, slice, (seed, index), u32::MAX, out);
        assert!(found, "no sequence of slice {slice} belongs to {split}");
    }

    fn chance(&self, split: Split, slice: usize) -> f64 {
        self.splits[split as usize].plans[slice].0.chance
    }

    fn readout(&self) -> Readout {
        self.recipe.readout()
    }

    fn describe_token(&self, token: u32) -> String {
        self.recipe.describe_token(token)
    }
}
