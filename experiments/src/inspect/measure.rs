//! What heads and layers do, over many sequences.

use burn::tensor::{Device, Tensor};
use heddle_hybrid::{HeadScores, HeadTally, Inspection, Model, Seen};
use heddle_tasks::score::Count;
use heddle_tasks::{Example, Task};
use serde::Serialize;

use super::ask::{By, Choice};
use super::tensor;
use super::view::{Asked, Sentence, marked};
use crate::config::EvalConfig;
use crate::evaluate::evaluate;

/// What measurements need.
pub(crate) struct Bench<'a> {
    pub(crate) model: &'a Model,
    pub(crate) choice: &'a Choice,
    /// Sequences in a batch.
    pub(crate) batch: usize,
    pub(crate) device: &'a Device,
}

/// The scores of a head.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HeadRow {
    pub(crate) layer: usize,
    pub(crate) head: String,
    #[serde(flatten)]
    pub(crate) scores: HeadScores,
}

/// Accuracies of the model, and without its parts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ablation {
    pub(crate) whole: Counted,
    pub(crate) without: Vec<Without>,
}

/// The accuracy without a part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Without {
    pub(crate) layer: usize,
    /// None is the whole mixer.
    pub(crate) head: Option<usize>,
    #[serde(flatten)]
    pub(crate) counted: Counted,
}

/// A share of cases, with the 95 % interval of Wilson.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Counted {
    pub(crate) right: u64,
    pub(crate) of: u64,
    pub(crate) share: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl From<Count> for Counted {
    fn from(count: Count) -> Self {
        let (low, high) = count.interval();
        let share = if count.of == 0 { 0.0 } else { count.accuracy() };
        Self { right: count.right, of: count.of, share, low, high }
    }
}

/// Normalised logit differences of one pair.
///
/// ```text
/// (LD(patched) − LD(other)) / (LD(one) − LD(other)),   LD = logit(answer of one) − logit(answer of the other)
/// ```
///
/// 0 where the patch changes nothing, 1 where it turns the answer wholly (arXiv:2211.00593, §3.1; arXiv:2404.15255, §4).
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Patching {
    /// Before each layer, and behind the last: a number a token, the second sentence being patched from the first.
    pub(crate) turned: Vec<Vec<f64>>,
}

/// [`Patching`] at the positions with a name, mean over pairs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RolePatching {
    pub(crate) roles: Vec<String>,
    /// Before each layer, and behind the last: a number a role.
    pub(crate) turned: Vec<Vec<f64>>,
    /// Pairs that count: both sentences answered right.
    pub(crate) pairs: u64,
    /// Pairs that were tried.
    pub(crate) of: u64,
}

impl Bench<'_> {
    /// Scores of each head over the examples.
    pub(crate) fn scores(&self, task: &dyn Task, asked: &Asked) -> Vec<HeadRow> {
        let mut tallies = self.tallies();
        let examples: Vec<Example> = (0..asked.examples).map(|index| asked.draw(task, index)).collect();
        for batch in examples.chunks(self.batch) {
            let questions = |example: &Example| {
                example.labels.iter().map(|label| (label.position as usize, label.evidence as usize)).collect()
            };
            let sequences: Vec<&[u32]> = batch.iter().map(|example| &*example.tokens).collect();
            let asked: Vec<Vec<(usize, usize)>> = batch.iter().map(questions).collect();
            self.tally(&mut tallies, &sequences, &asked);
        }
        self.rows(&tallies)
    }

    /// Scores of each head on one sequence.
    pub(crate) fn scores_of(&self, sentence: &Sentence) -> Vec<HeadRow> {
        let mut tallies = self.tallies();
        self.tally(&mut tallies, &[&sentence.tokens], &[vec![]]);
        self.rows(&tallies)
    }

    fn tallies(&self) -> Vec<Vec<HeadTally>> {
        self.choice.shown.iter().map(|shown| vec![HeadTally::default(); shown.heads.len()]).collect()
    }

    fn tally(&self, tallies: &mut [Vec<HeadTally>], sequences: &[&[u32]], asked: &[Vec<(usize, usize)>]) {
        let inside = self.model.inspect(tensor(sequences, self.device));
        let rows = self.choice.positions();
        for (shown, tallies) in self.choice.shown.iter().zip(tallies) {
            let maps = shown.maps(&inside, &self.choice.rows);
            let [_, heads, r, l] = maps.dims();
            let maps: Vec<f32> = maps.into_data().iter::<f32>().collect();
            for (place, map) in maps.chunks_exact(r * l).enumerate() {
                let (sequence, head) = (place / heads, place % heads);
                let (tokens, asked) = (sequences[sequence], &asked[sequence]);
                tallies[head].add(&Seen { map, rows: &rows, tokens, asked });
            }
        }
    }

    fn rows(&self, tallies: &[Vec<HeadTally>]) -> Vec<HeadRow> {
        let of_layer = self.choice.shown.iter().zip(tallies).flat_map(|(shown, tallies)| {
            shown.heads.iter().zip(tallies).map(|(head, tally)| HeadRow {
                layer: shown.layer,
                head: shown.label(*head),
                scores: tally.scores(),
            })
        });
        of_layer.collect()
    }

    /// Accuracy on the split, of the model and without each of its parts that are shown.
    pub(crate) fn ablation(&self, task: &dyn Task, asked: &Asked) -> Ablation {
        let accuracy = |model: &Model| {
            let eval = EvalConfig { batch: self.batch, ..EvalConfig::default() };
            let scores = evaluate(model, task, asked.split, asked.seed, &eval, self.device);
            let count = |of: fn(&crate::result::SliceScore) -> u64| scores.iter().map(of).sum();
            Counted::from(Count { right: count(|slice| slice.correct), of: count(|slice| slice.labels) })
        };
        let mut without = vec![];
        for shown in &self.choice.shown {
            let layer = shown.layer;
            if let Some(model) = self.model.without_mixer(layer) {
                without.push(Without { layer, head: None, counted: accuracy(&model) });
            }
            for &head in shown.heads.iter().filter(|_| shown.by == By::Head) {
                if let Some(model) = self.model.without_head(layer, head) {
                    without.push(Without { layer, head: Some(head), counted: accuracy(&model) });
                }
            }
        }
        Ablation { whole: accuracy(self.model), without }
    }

    /// The second of two sentences, with each token's stream that of the first.
    pub(crate) fn patching(&self, sentences: &[Sentence]) -> Patching {
        let inside = [0, 1].map(|form: usize| self.model.inspect(tensor(&[&sentences[form].tokens], self.device)));
        let label = |form: usize| sentences[form].labels.last().map(|label| (label.position, label.target));
        let ((position, one), (_, other)) = label(0).zip(label(1)).expect("a pair is asked");
        Patching { turned: self.turned(&inside, position as usize, [one, other]) }
    }

    fn turned(&self, [one, other]: &[Inspection<'_>; 2], position: usize, answers: [u32; 2]) -> Vec<Vec<f64>> {
        let difference = |hidden: Tensor<3>| self.differences(hidden, position, answers);
        let (goal, start) = (difference(one.hidden())[0], difference(other.hidden())[0]);
        let turned = |layer| {
            let patched = difference(other.patched(layer, one));
            patched.into_iter().map(|patched| (patched - start) / (goal - start)).collect()
        };
        (0..=self.model.layers()).map(turned).collect()
    }

    /// How much more the model says one answer than the other at a position, for every sequence.
    fn differences(&self, hidden: Tensor<3>, position: usize, answers: [u32; 2]) -> Vec<f64> {
        let [b, _, d] = hidden.dims();
        let logits = self.model.logits(hidden.narrow(1, position, 1).reshape([b, d]));
        let of = |answer: u32| logits.clone().narrow(1, answer as usize, 1);
        (of(answers[0]) - of(answers[1])).into_data().iter::<f32>().map(f64::from).collect()
    }

    /// [`patching`](Self::patching) over pairs that the model answers right, at the positions with a name.
    pub(crate) fn patching_by_mark(&self, task: &dyn Task, asked: &Asked) -> RolePatching {
        let of = (asked.examples / 2).max(1);
        let (mut sums, mut pairs, mut roles) = (vec![], 0, vec![]);
        for forms in (0..of).filter_map(|pair| asked.pair(task, pair)) {
            let inside = [0, 1].map(|form: usize| self.model.inspect(tensor(&[&forms[form].tokens], self.device)));
            let [one, other] = [0, 1].map(|form: usize| *forms[form].labels.last().expect("a pair is asked"));
            let position = one.position as usize;
            let right = inside.iter().zip([one, other]).all(|(inside, label)| {
                let logits = self.model.logits(inside.hidden().narrow(1, position, 1).squeeze_dim::<2>(1));
                logits.argmax(1).into_scalar::<i64>() == i64::from(label.target)
            });
            if !right {
                continue;
            }
            let turned = self.turned(&inside, position, [one.target, other.target]);
            let places = places(&forms[1], position);
            roles = places.iter().map(|(name, _)| name.clone()).collect();
            sums.resize(turned.len(), vec![0.0; places.len()]);
            for (sums, turned) in sums.iter_mut().zip(&turned) {
                sums.iter_mut().zip(&places).for_each(|(sum, (_, place))| *sum += turned[*place]);
            }
            pairs += 1;
        }
        let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| sum / pairs as f64).collect();
        RolePatching { roles, turned: sums.into_iter().map(mean).collect(), pairs, of }
    }
}

/// The positions of a sentence with a name, and the one that is asked at.
fn places(example: &Example, asked: usize) -> Vec<(String, usize)> {
    let named = |name: &str| marked(example, name).map(|place| (name.to_owned(), place));
    let marks = example.marks.iter().filter(|mark| mark.name != "sentence").filter_map(|mark| named(&mark.name));
    marks.chain([("asked".to_owned(), asked)]).collect()
}
