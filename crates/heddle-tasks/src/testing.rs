//! What every task must satisfy, examined the same way.

use std::collections::HashSet;

use rayon::ThreadPoolBuilder;
use serde_json::Value;

use crate::batch::{Batch, Stretch, fill_batch};
use crate::recipe::{Recipe, Segmented};
use crate::score::Tally;
use crate::stream::Stream;
use crate::{Example, Label, Readout, Split, Task, TaskRegistry, TaskSettings, content_hash};

/// A task to examine, and what is known of it beside its own code.
pub(crate) struct Examined {
    /// Settings with slices small enough to draw many examples of.
    pub(crate) settings: Value,
    /// Settings whose first slice has this length, for any power of two from 2⁶ to 2²⁰.
    pub(crate) at_length: fn(usize) -> Value,
    /// [`content_hash`] of seed 0 under `settings`: data never changes silently.
    pub(crate) golden: &'static str,
    /// The answer at the last of these tokens, found without the labels; if answers are read by [`Readout::Item`], the item
    /// is the last of them. It must bear any tokens.
    pub(crate) oracle: fn(&dyn Task, &[u32]) -> u32,
    /// The guess of one who knows the rules but looks at no sequence.
    pub(crate) guess: fn(&dyn Task, &mut Stream) -> u32,
}

/// The seed of all examples that an oracle answers.
pub(crate) const SEED: u64 = 0;
/// Examples drawn of each slice.
const DRAWN: u64 = 400;
/// Standard deviations beyond which a sound guesser falls once in a million.
const IMPLAUSIBLE: f64 = 4.9;

/// The task of this kind.
pub(crate) fn build(kind: &str, settings: Value) -> Box<dyn Task> {
    TaskRegistry::builtin().build(kind, &settings).unwrap()
}

/// Why there is no such task.
pub(crate) fn message(kind: &str, settings: Value) -> String {
    TaskRegistry::builtin().build(kind, &settings).unwrap_err().to_string()
}

/// Asserts that the page of a task shows its first training example: tokens, labels and evidence by position.
pub(crate) fn shows(page: &str, kind: &str, settings: Value) {
    let mut example = Example::default();
    build(kind, settings).example(Split::Train, 0, 0, 0, &mut example);
    let label = |position: usize| example.labels.iter().find(|label| label.position as usize == position);
    let row = |name: &str, cell: &dyn Fn(usize) -> Option<u32>| {
        let cells = (0..example.tokens.len()).map(|i| cell(i).map_or("    ".to_owned(), |n| format!("{n:4}")));
        format!("//! {name:8}{}", cells.collect::<String>()).trim_end().to_owned()
    };
    let drawn = [
        row("position", &|i| Some(i as u32)),
        row("token", &|i| Some(example.tokens[i])),
        row("label", &|i| label(i).map(|label| label.target)),
        row("evidence", &|i| label(i).map(|label| label.evidence)),
    ];
    let drawn = drawn.join("\n");
    assert!(page.contains(&drawn), "the page of {kind} lacks\n{drawn}");
}

/// Examines a task: well-formed examples, an oracle that is always right, a guesser at chance, evidence that matters,
/// splits that share nothing, data that do not change, any number of threads, any length.
pub(crate) fn examine<R: Recipe>(examined: &Examined) {
    examine_with::<R>(examined, false);
}

/// As [`examine`], of a task that counts: no single token decides, so all tokens like the evidence are altered at once.
pub(crate) fn examine_counting<R: Recipe>(examined: &Examined) {
    examine_with::<R>(examined, true);
}

fn examine_with<R: Recipe>(examined: &Examined, counting: bool) {
    let task = build(R::INFO.kind, examined.settings.clone());
    let task = task.as_ref();
    for split in Split::ALL {
        for slice in 0..task.slices(split).len() {
            well_formed(task, split, slice);
            same_for_any_threads(task, split, slice);
            if split != Split::Train {
                answers(task, (split, slice), examined, counting);
            }
        }
    }
    let settings = Segmented::<R>::read(&examined.settings).unwrap();
    if !is_shared(&settings) {
        disjoint(task);
    }
    for exponent in 6..=20 {
        let length = 1 << exponent;
        let task = build(R::INFO.kind, (examined.at_length)(length));
        let mut example = Example::default();
        task.example(Split::Test, 0, SEED, 0, &mut example);
        assert_eq!(example.tokens.len(), length);
        for label in [example.labels.first(), example.labels.last()].into_iter().flatten() {
            let answer = (examined.oracle)(task.as_ref(), up_to(task.as_ref(), label, &example.tokens));
            assert_eq!(answer, label.target, "length {length}, position {}", label.position);
        }
    }
    assert_eq!(content_hash(task, 0), examined.golden, "the data changed: raise VERSION, then the hash here");
}

fn is_shared<R: Recipe>(settings: &Segmented<R>) -> bool {
    let (shape, _) = settings.recipe.plan(Split::Train, &settings.train[0].knobs).unwrap();
    shape.bits == crate::recipe::SHARED
}

fn well_formed(task: &dyn Task, split: Split, slice: usize) {
    let about = &task.slices(split)[slice];
    let (mut example, mut again) = (Example::default(), Example::default());
    for index in 0..DRAWN {
        task.example(split, slice, 3, index, &mut example);
        assert_eq!(example.tokens.len(), about.length);
        assert!(
            (1..=about.labels).contains(&example.labels.len()),
            "{} of {} labels",
            example.labels.len(),
            about.labels
        );
        assert!(example.tokens.iter().all(|token| (*token as usize) < task.vocab()));
        assert!(example.labels.windows(2).all(|pair| pair[0].position <= pair[1].position));
        for label in &example.labels {
            assert!((label.position as usize) < about.length && label.evidence <= label.position, "{label:?}");
            assert!((label.target as usize) < task.vocab(), "{label:?}");
        }
        assert!(example.marks.iter().all(|mark| (mark.position as usize) < about.length));
        task.example(split, slice, 3, index, &mut again);
        assert_eq!(example, again);
    }
}

fn same_for_any_threads(task: &dyn Task, split: Split, slice: usize) {
    let of_threads = |threads| {
        let mut batch = Batch::default();
        let stretch = Stretch { split, slice, seed: 5, first: 10, count: 33 };
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fill_batch(task, stretch, &mut batch));
        batch
    };
    let one = of_threads(1);
    assert_eq!(one, of_threads(2));
    assert_eq!(one, of_threads(5));
}

/// What an oracle is shown to answer a label.
fn up_to<'a>(task: &dyn Task, label: &Label, tokens: &'a [u32]) -> &'a [u32] {
    let last = match task.readout() {
        Readout::Token => label.position,
        Readout::Item => label.evidence,
    };
    &tokens[..=last as usize]
}

/// The oracle is always right, the guesser is at chance, and other evidence makes another answer.
fn answers(task: &dyn Task, (split, slice): (Split, usize), examined: &Examined, counting: bool) {
    let (mut oracle, mut guesser, mut misled) = (Tally::default(), Tally::default(), Tally::default());
    let mut stream = Stream::of_example("guesser", split, slice, 0, 0);
    let mut example = Example::default();
    for index in 0..DRAWN {
        task.example(split, slice, SEED, index, &mut example);
        let Example { tokens, labels, .. } = &example;
        oracle.add(tokens.len(), labels, |label| (examined.oracle)(task, up_to(task, label, tokens)));
        guesser.add(tokens.len(), labels, |_| (examined.guess)(task, &mut stream));
        misled.add(tokens.len(), labels, |label| {
            let mut altered = up_to(task, label, tokens).to_vec();
            let evidence = altered[label.evidence as usize];
            let other = (evidence + 1 + stream.below(task.vocab() as u32 - 1)) % task.vocab() as u32;
            altered[label.evidence as usize] = other;
            altered.iter_mut().filter(|token| counting && **token == evidence).for_each(|token| *token = other);
            (examined.oracle)(task, &altered)
        });
    }
    assert_eq!(oracle.labels.right, oracle.labels.of, "the oracle errs");
    assert_eq!(oracle.whole.of, DRAWN);
    let (chance, (low, high)) = (task.chance(split, slice), guesser.labels.interval_of(IMPLAUSIBLE));
    assert!((low..=high).contains(&chance), "chance {chance} is not within {low} … {high}");
    let still = misled.labels.accuracy();
    assert!(still < 0.5 + 0.5 * chance, "{still} of the answers survive other evidence");
}

fn disjoint(task: &dyn Task) {
    let mut example = Example::default();
    let mut drawn = |split: Split| -> HashSet<Vec<u32>> {
        let mut all = HashSet::new();
        for slice in 0..task.slices(split).len() {
            for index in 0..4 * DRAWN {
                task.example(split, slice, 0, index, &mut example);
                all.insert(example.tokens.clone());
            }
        }
        all
    };
    let [train, validation, test] = Split::ALL.map(&mut drawn);
    assert!(train.is_disjoint(&validation) && train.is_disjoint(&test) && validation.is_disjoint(&test));
}
