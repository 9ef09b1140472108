//! What is seen of a model on some sequences: the content of the JSON, and what page and pictures are drawn from.

use std::path::Path;

use burn::tensor::{Device, Tensor, activation};
use heddle_hybrid::{Inspection, Model};
use heddle_tasks::{Example, Label, Mark, Split, Task};
use serde::{Serialize, Serializer};

use super::ask::{By, Choice, Shown};
use super::measure::{Ablation, HeadRow, Patching, RolePatching};
use super::pairs::Pairs;
use super::tensor;
use crate::eval_verb::TaskArgs;

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    version: &'static str,
    /// The directory of the model.
    pub(crate) model: String,
    /// The names of all layers.
    pub(crate) layers: Vec<String>,
    pub(crate) task: Option<Asked>,
    /// The sequence that is shown, or both of a pair.
    pub(crate) sentences: Vec<Sentence>,
    /// The tokens that look, by position.
    pub(crate) rows: Vec<usize>,
    pub(crate) maps: Vec<LayerMaps>,
    pub(crate) scores: Vec<HeadRow>,
    pub(crate) ablation: Option<Ablation>,
    /// Of the pair that is shown.
    pub(crate) patching: Option<Patching>,
    /// Mean over pairs, by the marked positions.
    pub(crate) patching_by_mark: Option<RolePatching>,
    pub(crate) pairs: Option<Pairs>,
}

/// The examples of a task that are shown and measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Asked {
    pub(crate) kind: &'static str,
    pub(crate) split: Split,
    /// The first slice of the split.
    pub(crate) slice: String,
    pub(crate) seed: u64,
    /// The example that is shown; of a pair the first.
    pub(crate) example: u64,
    /// Examples that scores are means over.
    pub(crate) examples: u64,
}

/// Examples that scores are means over where the command line says nothing.
const EXAMPLES: usize = 64;

impl Asked {
    pub(crate) fn new(task: &dyn Task, args: &TaskArgs, seed: u64, example: u64) -> Self {
        let slice = task.slices(args.split)[0].name.clone();
        let examples = args.examples.unwrap_or(EXAMPLES) as u64;
        Self { kind: task.kind(), split: args.split, slice, seed, example, examples }
    }

    pub(crate) fn draw(&self, task: &dyn Task, index: u64) -> Example {
        let mut example = Example::default();
        task.example(self.split, 0, self.seed, index, &mut example);
        example
    }

    /// Examples 2 `pair` and 2 `pair` + 1, if they are two forms of one sentence.
    pub(crate) fn pair(&self, task: &dyn Task, pair: u64) -> Option<[Example; 2]> {
        let forms = [2 * pair, 2 * pair + 1].map(|index| self.draw(task, index));
        let [a, b] = &forms;
        let differ = a.tokens.iter().zip(&b.tokens).filter(|(a, b)| a != b).count();
        let nouns = ["right noun", "wrong noun"].map(|name| [marked(a, name), marked(b, name)]);
        let swapped = nouns[0][0].is_some() && nouns[0][0] == nouns[1][1] && nouns[0][1] == nouns[1][0];
        (a.tokens.len() == b.tokens.len() && differ == 1 && swapped).then_some(forms)
    }

    /// What is shown: the example, and both where it is one of a pair.
    pub(crate) fn sentences(&self, task: &dyn Task) -> Vec<Sentence> {
        let forms = match self.pair(task, self.example / 2) {
            Some(pair) => pair.to_vec(),
            None => vec![self.draw(task, self.example)],
        };
        forms.into_iter().map(|example| Sentence::of(task, example)).collect()
    }
}

/// Where a mark stands.
pub(crate) fn marked(example: &Example, name: &str) -> Option<usize> {
    example.marks.iter().find(|mark| mark.name == name).map(|mark| mark.position as usize)
}

/// A sequence that is shown.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Sentence {
    pub(crate) tokens: Vec<u32>,
    pub(crate) words: Vec<String>,
    pub(crate) labels: Vec<Label>,
    pub(crate) marks: Vec<Mark>,
    /// What the model says at each label, or behind the last token where there are none.
    pub(crate) answers: Vec<Answer>,
}

impl Sentence {
    fn of(task: &dyn Task, Example { tokens, labels, marks }: Example) -> Self {
        let words = tokens.iter().map(|token| task.describe_token(*token)).collect();
        let answer = |label: &Label| Answer {
            position: label.position as usize,
            target: Some(task.describe_token(label.target)),
            ..Answer::default()
        };
        let answers = labels.iter().map(answer).collect();
        Self { tokens, words, labels, marks, answers }
    }

    /// Fills in what the model says.
    fn answer(&mut self, model: &Model, inside: &Inspection<'_>, word: impl Fn(u32) -> String) {
        if self.answers.is_empty() {
            self.answers.push(Answer { position: self.tokens.len() - 1, ..Answer::default() });
        }
        for answer in &mut self.answers {
            let hidden: Tensor<3> = inside.hidden().narrow(1, answer.position, 1);
            let shares = activation::softmax(model.logits(hidden.reshape([1, model.d_model()])), 1);
            let shares: Vec<f32> = shares.into_data().iter::<f32>().collect();
            let best = (0..shares.len()).rev().max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap_or(0);
            answer.said = word(best as u32);
            answer.probability = rounded(shares[best]);
        }
    }
}

/// What the model says at a position.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Answer {
    pub(crate) position: usize,
    /// The right answer, if one is known.
    pub(crate) target: Option<String>,
    pub(crate) said: String,
    pub(crate) probability: f64,
}

/// The maps of a layer.
#[derive(Debug, Serialize)]
pub(crate) struct LayerMaps {
    pub(crate) layer: usize,
    pub(crate) name: String,
    #[serde(serialize_with = "by")]
    pub(crate) by: By,
    pub(crate) heads: Vec<String>,
    /// By sentence and head, row after row: `[rows, l]`.
    #[serde(serialize_with = "weights")]
    pub(crate) weights: Vec<Vec<Vec<f32>>>,
    /// The mean over heads or channels of Δ, by sentence and token, where the layer has one.
    #[serde(serialize_with = "deltas")]
    pub(crate) delta: Option<Vec<Vec<f32>>>,
}

fn by<S: Serializer>(by: &By, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match by {
        By::Head => "head",
        By::Channels => "mean over channels",
    })
}

/// To four digits behind the point: what a picture shows, in a third of the bytes.
fn rounded(weight: f32) -> f64 {
    (f64::from(weight) * 1e4).round() / 1e4
}

fn weights<S: Serializer>(weights: &[Vec<Vec<f32>>], serializer: S) -> Result<S::Ok, S::Error> {
    let row = |row: &Vec<f32>| row.iter().map(|weight| rounded(*weight)).collect::<Vec<f64>>();
    let all: Vec<Vec<Vec<f64>>> = weights.iter().map(|heads| heads.iter().map(row).collect()).collect();
    all.serialize(serializer)
}

fn deltas<S: Serializer>(delta: &Option<Vec<Vec<f32>>>, serializer: S) -> Result<S::Ok, S::Error> {
    let row = |row: &Vec<f32>| row.iter().map(|delta| rounded(*delta)).collect::<Vec<f64>>();
    delta.as_ref().map(|delta| delta.iter().map(row).collect::<Vec<_>>()).serialize(serializer)
}

impl View {
    pub(crate) fn new(
        (model, directory): (&Model, &Path),
        choice: &Choice,
        mut sentences: Vec<Sentence>,
        word: &dyn Fn(u32) -> String,
        device: &Device,
    ) -> Self {
        let inside: Vec<Inspection<'_>> =
            sentences.iter().map(|sentence| model.inspect(tensor(&[&sentence.tokens], device))).collect();
        for (sentence, inside) in sentences.iter_mut().zip(&inside) {
            sentence.answer(model, inside, word);
        }
        Self {
            version: env!("CARGO_PKG_VERSION"),
            model: directory.display().to_string().trim_end_matches('/').to_owned(),
            layers: choice.names.clone(),
            task: None,
            rows: choice.positions(),
            maps: choice.shown.iter().map(|shown| LayerMaps::new(shown, choice, &inside)).collect(),
            sentences,
            scores: vec![],
            ablation: None,
            patching: None,
            patching_by_mark: None,
            pairs: None,
        }
    }
}

impl LayerMaps {
    fn new(shown: &Shown, choice: &Choice, inside: &[Inspection<'_>]) -> Self {
        let by_head = |inside: &Inspection<'_>| {
            let maps = shown.maps(inside, &choice.rows);
            let [_, _, rows, l] = maps.dims();
            let all: Vec<f32> = maps.into_data().iter::<f32>().collect();
            all.chunks(rows * l).map(<[f32]>::to_vec).collect()
        };
        let mean = |inside: &Inspection<'_>| {
            Some(inside.selection(shown.layer)?.mean_dim(2).into_data().iter::<f32>().collect())
        };
        Self {
            layer: shown.layer,
            name: shown.name.clone(),
            by: shown.by,
            heads: shown.heads.iter().map(|head| shown.label(*head)).collect(),
            weights: inside.iter().map(by_head).collect(),
            delta: inside.iter().map(mean).collect(),
        }
    }
}
