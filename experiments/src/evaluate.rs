//! Scores of a model on a split, slice by slice.

use burn::tensor::{Device, Tensor};
use heddle_hybrid::{Model, ModelConfig};
use heddle_kernels::cross_entropy_at;
use heddle_tasks::score::Tally;
use heddle_tasks::{Slice, Split, Task};

use crate::config::EvalConfig;
use crate::data::{Batches, LabelledBatch};
use crate::passes::{Need, Passes, reads_in_chunks};
use crate::result::{Bin, SliceScore};

/// Scores of the labelled positions of a batch, `[labels, v]`, from the hidden state of every token, `[b, l, d]`.
pub(crate) fn answers_from(model: &Model, hidden: Tensor<3>, batch: &LabelledBatch) -> Tensor<2> {
    let [b, l, d] = hidden.dims();
    let hidden = hidden.reshape([b * l, d]).select(0, batch.positions.clone());
    match &batch.items {
        Some(items) => model.item_logits(hidden, items.clone()),
        None => model.logits(hidden),
    }
}

/// Evaluates every slice of a split. `model` holds plain tensors, without gradients.
pub fn evaluate(
    model: &Model,
    task: &dyn Task,
    split: Split,
    seed: u64,
    eval: &EvalConfig,
    device: &Device,
) -> Vec<SliceScore> {
    let mut evaluator = Evaluator::new(model, task, seed, eval, device);
    (0..task.slices(split).len()).map(|slice| evaluator.score(split, slice, &mut |_| ())).collect()
}

/// Scores a model slice by slice.
///
/// Long sequences go through it in chunks with the state carried, and the head sees labelled positions alone, so what is held
/// does not grow with the length beyond the model's state and the tokens.
#[derive(Debug)]
pub struct Evaluator<'a> {
    model: &'a Model,
    task: &'a dyn Task,
    eval: &'a EvalConfig,
    batches: Batches<'a>,
    /// Whether the model computes the same in chunks.
    in_chunks: bool,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of `model`, which holds plain tensors, on the streams of `seed`.
    pub fn new(model: &'a Model, task: &'a dyn Task, seed: u64, eval: &'a EvalConfig, device: &Device) -> Self {
        let in_chunks = reads_in_chunks(model, device);
        Self { model, task, eval, batches: Batches::new(task, seed, device), in_chunks }
    }

    /// How the sequences of a slice go through the model.
    pub(crate) fn passes(&self, slice: &Slice) -> Passes {
        match self.in_chunks {
            true => Passes::new(slice.length, slice.examples, self.eval),
            false => Passes::at_once(slice.length, self.eval),
        }
    }

    /// What evaluating a slice of the model that `config` describes will hold.
    pub(crate) fn need(&self, config: &ModelConfig, slice: &Slice) -> Need {
        Need::new(config, self.model, slice, self.passes(slice))
    }

    /// The scores of a slice; `read` is told of the tokens that went through the model, as they do.
    pub fn score(&mut self, split: Split, slice: usize, read: &mut dyn FnMut(usize)) -> SliceScore {
        let about = &self.task.slices(split)[slice];
        let passes = self.passes(about);
        let (mut tally, mut loss, mut first) = (Tally::default(), 0.0, 0);
        while first < about.examples {
            let count = passes.rows.min(about.examples - first);
            self.batches.draw_slice(split, slice, first as u64, count);
            let answers = answer(self.model, &self.batches, passes.chunk, read);
            loss += answers.loss;
            let mut answered = self.batches.labels().iter().zip(answers.predicted).peekable();
            for row in 0..count as u32 {
                let of_row = std::iter::from_fn(|| answered.next_if(|(label, _)| label.row == row));
                let (labels, predicted): (Vec<_>, Vec<_>) =
                    of_row.map(|(label, predicted)| (label.label, predicted)).unzip();
                let mut predicted = predicted.into_iter();
                tally.add(about.length, &labels, |_| predicted.next().expect("one prediction a label"));
            }
            first += count;
        }
        let labels = tally.labels.of;
        SliceScore {
            slice: about.name.clone(),
            keys: about.keys.clone(),
            examples: tally.whole.of,
            labels,
            correct: tally.labels.right,
            whole: tally.whole.right,
            accuracy: tally.labels.accuracy(),
            loss: loss / labels as f64,
            chance: self.task.chance(split, slice),
            by_distance: Bin::all(&tally.by_distance),
            by_depth: Bin::all(&tally.by_depth),
        }
    }
}

/// What a model answers to a batch.
struct Answers {
    /// The token predicted at each label.
    predicted: Vec<u32>,
    /// The sum of the cross-entropies, in nats.
    loss: f64,
}

/// Reads the last batch that was drawn, `chunk` tokens of each row at a time.
fn answer(model: &Model, batches: &Batches<'_>, chunk: usize, read: &mut dyn FnMut(usize)) -> Answers {
    let [b, l] = batches.dims();
    let mut answers = Answers { predicted: vec![0; batches.labels().len()], loss: 0.0 };
    let mut state = model.state(b, batches.device());
    for start in (0..l).step_by(chunk) {
        let end = l.min(start + chunk);
        let piece = batches.piece(0..b, start..end);
        let (hidden, next) = model.forward(piece.tokens.clone(), state);
        state = next;
        if !piece.places.is_empty() {
            let logits = answers_from(model, hidden, &piece);
            let mean = f64::from(cross_entropy_at(logits.clone(), piece.targets.clone()).into_scalar::<f32>());
            answers.loss += piece.places.len() as f64 * mean;
            let predicted = logits.argmax(1).reshape([-1]).into_data();
            for (place, predicted) in piece.places.iter().zip(predicted.iter::<i64>()) {
                answers.predicted[*place] = predicted as u32;
            }
        }
        read(b * (end - start));
    }
    answers
}

/// The accuracy that decides: the lowest over the slices.
pub fn lowest_accuracy(scores: &[SliceScore]) -> f64 {
    scores.iter().map(|score| score.accuracy).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use heddle_hybrid::{Init, MixerRegistry};
    use heddle_tasks::{Example, TaskRegistry};
    use serde_json::json;

    use super::*;

    /// Rounding where a sequence is computed in other pieces.
    const ROUNDING: f64 = 1e-4;

    const LENGTH: usize = 40;

    fn model(kind: &str, vocab: usize, device: &Device) -> (ModelConfig, Model) {
        let mut mixer = json!({"kind": kind});
        if kind == "attention" {
            mixer["heads"] = json!(2);
        }
        let config = json!({"d_model": 16, "layers": ["mixer * 2"], "mixer": {"mixer": mixer}});
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        let mut init = Init::new(3, device);
        let model = Model::new(&config, vocab, &MixerRegistry::default(), &mut init).unwrap();
        (config, model)
    }

    #[test]
    fn every_mixer_reads_in_chunks_what_it_reads_at_once_wherever_they_end() {
        let device = Device::flex();
        let slices = json!([{"length": LENGTH, "examples": 1}]);
        let task = TaskRegistry::builtin().build("induction", &json!({"test": slices})).unwrap();
        let mut example = Example::default();
        task.example(Split::Test, 0, 5, 0, &mut example);
        let evidence = example.labels[0].evidence as usize;
        assert!((3..LENGTH - 2).contains(&evidence), "another seed");
        for kind in MixerRegistry::default().kinds() {
            let (_, model) = model(kind, task.vocab(), &device);
            let score = |chunk| {
                let eval = EvalConfig { chunk, ..EvalConfig::default() };
                let mut read = 0;
                let mut evaluator = Evaluator::new(&model, &*task, 5, &eval, &device);
                assert!(evaluator.in_chunks, "{kind}");
                let score = evaluator.score(Split::Test, 0, &mut |tokens| read += tokens);
                assert_eq!(read, LENGTH);
                score
            };
            let whole = score(LENGTH);
            // Boundaries before, at and behind the evidence and the question, and everywhere.
            for chunk in [evidence - 1, evidence, evidence + 1, LENGTH - 2, LENGTH - 1, 1] {
                let chunked = score(chunk);
                let difference = (chunked.loss - whole.loss).abs();
                assert!(difference < ROUNDING, "{kind} in chunks of {chunk}: {difference}");
                assert_eq!((chunked.correct, chunked.by_depth), (whole.correct, whole.by_depth.clone()), "{kind}");
            }
        }
    }

    #[test]
    fn a_model_that_is_not_causal_is_read_at_once() {
        let device = Device::flex();
        let config =
            json!({"d_model": 16, "layers": ["a"], "mixer": {"a": {"kind": "attention", "heads": 2, "causal": false}}});
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        let model = Model::new(&config, 16, &MixerRegistry::default(), &mut Init::new(3, &device)).unwrap();
        assert!(!reads_in_chunks(&model, &device));
        let task = TaskRegistry::builtin().build("induction", &json!({"test": [{"length": 4096}]})).unwrap();
        let eval = EvalConfig::default();
        let evaluator = Evaluator::new(&model, &*task, 0, &eval, &device);
        assert_eq!(evaluator.passes(&task.slices(Split::Test)[0]), Passes { rows: eval.batch, chunk: 4096 });
    }
}
