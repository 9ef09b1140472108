//! The gradient of a batch: in one piece, in micro-batches, or in chunks of time.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use heddle_hybrid::{Init, LayerGradients, LayerName, MixerRegistry, Model, ModelConfig, ModelState};
use heddle_kernels::cross_entropy_at;
use serde_json::{Map, Value};

use crate::config::TrainConfig;
use crate::data::{Batches, LabelledBatch};
use crate::evaluate::answers_from;

/// A batch's loss and what follows from it.
#[derive(Debug)]
pub struct BatchGradients {
    /// Mean cross-entropy over all labelled positions, in nats.
    pub loss: f64,
    /// Gradients of it, and of the auxiliary losses of mixtures of experts.
    pub gradients: GradientsParams,
    /// Share of each expert in what was sent, by layer.
    pub shares: Vec<(usize, Vec<f64>)>,
}

/// The loss of the last training batch that `batches` drew, and its gradients.
///
/// The rows go through the model in `train.accumulate` parts, one after the other, and each part in chunks of `train.chunk`
/// tokens. A chunk starts from the state that the one before it left, cut off from what computed it; so the values are those
/// of the whole sequence, and the gradient is truncated at the chunk's first token (arXiv:1512.02410, §2.2). The loss of a
/// piece counts by its share of the labels, so that the pieces add up to the mean over the batch,
///
/// ```text
/// L = Σ_p (n_p / n) L_p
/// ```
///
/// and the auxiliary loss of mixtures of experts by its share of the tokens.
///
/// # Panics
/// If `train.accumulate` does not divide the rows.
pub fn differentiate(model: &Model, batches: &Batches<'_>, config: &TrainConfig) -> BatchGradients {
    let [b, l] = batches.dims();
    let rows = b / config.accumulate;
    assert!(rows * config.accumulate == b, "gradients: {b} rows do not divide into {} parts", config.accumulate);
    let chunk = if config.chunk == 0 { l } else { config.chunk.min(l) };
    let mut sum = Sum::new(batches.labels().len(), b * l);
    for first in (0..b).step_by(rows) {
        let mut state = model.state(rows, batches.device());
        for start in (0..l).step_by(chunk) {
            let piece = batches.piece(first..first + rows, start..l.min(start + chunk));
            state = match config.gradient_checkpointing {
                true => {
                    sum.add_by_layer(model, &piece);
                    state
                }
                false => sum.add(model, &piece, state),
            };
        }
    }
    let shares = sum.shares();
    BatchGradients { loss: sum.loss, gradients: sum.gradients, shares }
}

/// Tokens on which it is tried whether a mixer can be computed in chunks.
const TRIED: usize = 8;

/// How far outputs may differ, relative to the largest, where a mixer is computed in chunks: rounding stays far below, and
/// what a token sees of later ones is far above.
pub(crate) const SAME: f32 = 1e-3;

/// The first mixer of a config that computes something else in two chunks than at once, as one that is not causal does;
/// it is tried on a short sequence.
///
/// Mixers that cannot be built are passed over: building the model says what is wrong with them.
pub fn first_without_chunks<'a>(config: &'a ModelConfig, mixers: &MixerRegistry, device: &Device) -> Option<&'a str> {
    let differs = |table: &Map<String, Value>| {
        let Ok(mixer) = mixers.build(table, config.d_model, &mut Init::new(0, device)) else { return false };
        let reads = if table.get("with_embedding") == Some(&Value::Bool(true)) { 2 } else { 1 } * config.d_model;
        let length = mixer.max_length().unwrap_or(TRIED).min(TRIED);
        let values: Vec<f32> = (0..length * reads).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Tensor::<3>::from_data(TensorData::new(values, [1, length, reads]), device);
        let state = || mixer.state(1, config.d_model, device);
        let (whole, _) = mixer.forward(x.clone(), state());
        let (first, between) = mixer.forward(x.clone().narrow(1, 0, length / 2), state());
        let (second, _) = mixer.forward(x.narrow(1, length / 2, length - length / 2), between);
        let difference = (Tensor::cat(vec![first, second], 1) - whole.clone()).abs().max().into_scalar::<f32>();
        difference > SAME * whole.abs().max().into_scalar::<f32>()
    };
    let used = used_mixers(&config.layer_names().unwrap_or_default());
    let mut mixers = config.mixer.iter().filter(|(name, _)| used.contains(*name));
    mixers.find_map(|(name, table)| differs(table).then_some(name.as_str()))
}

fn used_mixers(layers: &[LayerName]) -> BTreeSet<String> {
    let with_feed = |layer: &LayerName| {
        let feed = layer.feed.as_deref().map(core::slice::from_ref).map(used_mixers);
        layer.mixers.iter().cloned().chain(feed.into_iter().flatten()).collect::<Vec<_>>()
    };
    layers.iter().flat_map(with_feed).collect()
}

/// What the pieces of a batch have added up to.
struct Sum {
    labels: usize,
    tokens: usize,
    loss: f64,
    gradients: GradientsParams,
    /// Tokens sent to each expert, by layer.
    sent: Vec<(usize, Vec<u64>)>,
    /// The model with parameters that no gradient is asked of, once a piece without labels came.
    frozen: Option<Model>,
    /// Whether the model is known to have mixtures of experts, whose auxiliary losses every piece has.
    routes: bool,
}

/// The share of a piece in its batch.
#[derive(Clone, Copy)]
struct Share {
    labels: f64,
    tokens: f64,
}

impl Share {
    /// The loss of a piece such that its gradient, multiplied by the share of tokens, is that of its part of the batch.
    fn weighted(self, loss: Tensor<1>) -> Tensor<1> {
        if self.labels == self.tokens { loss } else { loss * (self.labels / self.tokens) }
    }
}

impl Sum {
    fn new(labels: usize, tokens: usize) -> Self {
        Self { labels, tokens, loss: 0.0, gradients: GradientsParams::new(), sent: vec![], frozen: None, routes: false }
    }

    fn share(&self, piece: &LabelledBatch) -> Share {
        let labels = piece.targets.dims()[0] as f64 / self.labels as f64;
        Share { labels, tokens: piece.tokens.shape().num_elements() as f64 / self.tokens as f64 }
    }

    /// Adds a piece that starts from `state`; returns the state behind it, cut off from its graph.
    ///
    /// A piece that has no loss is read without a graph: Burn lets go of a graph when something is differentiated, so in a
    /// long sequence that is asked at its end the graphs of all pieces would pile up.
    fn add(&mut self, model: &Model, piece: &LabelledBatch, state: ModelState) -> ModelState {
        if piece.places.is_empty() && !self.routes {
            let frozen = self.frozen.get_or_insert_with(|| model.clone().no_grad());
            let (_, behind, routed) = frozen.forward_routed(piece.tokens.clone(), state.clone());
            if routed.is_empty() {
                return behind.detach();
            }
            self.routes = true;
        }
        let share = self.share(piece);
        let (hidden, state, routed) = model.forward_routed(piece.tokens.clone(), state);
        let loss =
            (share.labels > 0.0).then(|| cross_entropy_at(answers_from(model, hidden, piece), piece.targets.clone()));
        let objective = routed.iter().map(|layer| layer.routing.loss.clone());
        let objective = loss.clone().map(|loss| share.weighted(loss)).into_iter().chain(objective);
        if let Some(objective) = objective.reduce(|sum, loss| sum + loss) {
            self.take(model, GradientsParams::from_grads(objective.backward(), model), share);
        }
        self.loss += loss.map_or(0.0, |loss| share.labels * f64::from(loss.into_scalar::<f32>()));
        routed.iter().for_each(|layer| self.count(layer.layer, &layer.routing.counts));
        state.detach()
    }

    /// Adds a piece that is a whole sequence, layer by layer.
    fn add_by_layer(&mut self, model: &Model, piece: &LabelledBatch) {
        let share = self.share(piece);
        let answers = |hidden| cross_entropy_at(answers_from(model, hidden, piece), piece.targets.clone());
        let weighted = |hidden| share.weighted(answers(hidden));
        let LayerGradients { loss, gradients, routed } = model.gradients_by_layer(piece.tokens.clone(), weighted);
        self.take(model, gradients, share);
        self.loss += share.tokens * f64::from(loss.into_scalar::<f32>());
        routed.iter().for_each(|layer| self.count(layer.layer, &layer.routing.counts));
    }

    fn take(&mut self, model: &Model, gradients: GradientsParams, share: Share) {
        match share.tokens == 1.0 {
            true => self.gradients = gradients,
            false => model.visit(&mut Add { sum: &mut self.gradients, more: gradients, factor: share.tokens }),
        }
    }

    fn count(&mut self, layer: usize, counts: &[u64]) {
        match self.sent.iter_mut().find(|(known, _)| *known == layer) {
            Some((_, sent)) => sent.iter_mut().zip(counts).for_each(|(sent, count)| *sent += count),
            None => self.sent.push((layer, counts.to_vec())),
        }
    }

    fn shares(&self) -> Vec<(usize, Vec<f64>)> {
        let shares = |sent: &[u64]| {
            let all = sent.iter().sum::<u64>() as f64;
            sent.iter().map(|&count| count as f64 / all).collect()
        };
        self.sent.iter().map(|(layer, sent)| (*layer, shares(sent))).collect()
    }
}

/// Adds the gradients of a piece to those of the pieces before it.
struct Add<'a> {
    sum: &'a mut GradientsParams,
    more: GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Add<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(more) = self.more.remove::<D>(param.id) else { return };
        let more = more * self.factor;
        let sum = match self.sum.remove::<D>(param.id) {
            Some(sum) => sum + more,
            None => more,
        };
        self.sum.register(param.id, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Tensors;
    use heddle_hybrid::{EachParameter, for_each_parameter};
    use heddle_tasks::{Task, TaskRegistry};
    use serde_json::json;

    /// Rounding of a mean over 64 labels that is summed in another order, relative to the largest gradient.
    const ROUNDING: f32 = 2e-5;

    const ROWS: usize = 8;
    const LENGTH: usize = 24;

    fn config() -> ModelConfig {
        let config = json!({
            "d_model": 16,
            "layers": ["mamba", "attention+mlp", "gru"],
            "mixer": {"mamba": {"kind": "mamba"}, "attention": {"kind": "attention", "heads": 2}, "gru": {"kind": "gru"}},
            "channel": {"mlp": {"kind": "swiglu"}},
        });
        serde_json::from_value(config).unwrap()
    }

    fn task() -> Box<dyn Task> {
        let settings = json!({"vocab": 32, "train": [{"length": LENGTH, "pairs": 4}]});
        TaskRegistry::builtin().build("mqar", &settings).unwrap()
    }

    /// Loss and gradients by path of the first batch.
    fn gradients(model: &Model, train: &TrainConfig) -> (f64, Tensors) {
        let task = task();
        let mut batches = Batches::new(&*task, 0, &Device::flex().autodiff());
        batches.draw_train(0, ROWS);
        let found = differentiate(model, &batches, train);
        let mut collect = Collect(found.gradients, Tensors::new());
        for_each_parameter(model, &mut collect);
        (found.loss, collect.1)
    }

    struct Collect(GradientsParams, Tensors);

    impl EachParameter for Collect {
        fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id).expect("every parameter has a gradient");
            self.1.insert(path.to_owned(), gradient.into_data());
        }
    }

    fn model(config: &ModelConfig) -> Model {
        Model::new(config, 32, &MixerRegistry::default(), &mut Init::new(1, &Device::flex().autodiff())).unwrap()
    }

    /// The largest difference between two gradients of a parameter, relative to the largest gradient of that parameter.
    fn difference(a: &Tensors, b: &Tensors, path: &str) -> f32 {
        let [a, b] = [a, b].map(|tensors| tensors[path].iter::<f32>().collect::<Vec<_>>());
        let largest = a.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        a.iter().zip(&b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
    }

    #[test]
    fn micro_batches_add_up_to_the_batch() {
        let model = model(&config());
        let whole = gradients(&model, &TrainConfig::default());
        for accumulate in [2, 4, ROWS] {
            for gradient_checkpointing in [false, true] {
                let train = TrainConfig { accumulate, gradient_checkpointing, ..TrainConfig::default() };
                let parts = gradients(&model, &train);
                assert!((whole.0 - parts.0).abs() < 1e-6, "{} {}", whole.0, parts.0);
                for path in whole.1.keys() {
                    let difference = difference(&whole.1, &parts.1, path);
                    assert!(difference < ROUNDING, "{path} in {accumulate}: {difference}");
                }
            }
        }
    }

    #[test]
    fn a_chunk_of_the_whole_length_is_the_plain_step_bit_for_bit() {
        let model = model(&config());
        let plain = gradients(&model, &TrainConfig::default());
        for chunk in [LENGTH, LENGTH + 1] {
            assert!(plain == gradients(&model, &TrainConfig { chunk, ..TrainConfig::default() }), "{chunk}");
        }
    }

    #[test]
    fn chunks_have_the_loss_of_the_whole_and_cut_off_the_gradient_behind_it_alone() {
        let model = model(&config());
        let plain = gradients(&model, &TrainConfig::default());
        // The head sees values alone; what lies in time before it misses what later chunks would have sent back.
        for (chunk, accumulate) in [(12, 1), (8, 1), (7, 2)] {
            let chunks = gradients(&model, &TrainConfig { chunk, accumulate, ..TrainConfig::default() });
            assert!((plain.0 - chunks.0).abs() < 1e-5, "{} {}", plain.0, chunks.0);
            for path in plain.1.keys() {
                let difference = difference(&plain.1, &chunks.1, path);
                if path.starts_with("head.") || path.starts_with("norm.") {
                    assert!(difference < ROUNDING, "{path}, {chunk}: {difference}");
                } else if path == "embedding" {
                    assert!(difference > 100.0 * ROUNDING, "{path}, {chunk}: {difference}");
                }
            }
        }
    }

    #[test]
    fn the_gradient_of_a_chunk_is_that_of_its_tokens_behind_a_given_state() {
        let (model, device) = (model(&config()), Device::flex().autodiff());
        let chunks = gradients(&model, &TrainConfig { chunk: 12, ..TrainConfig::default() });
        let task = task();
        let mut batches = Batches::new(&*task, 0, &device);
        batches.draw_train(0, ROWS);
        let pieces = [batches.piece(0..ROWS, 0..12), batches.piece(0..ROWS, 12..LENGTH)];
        let (_, state) =
            model.valid().forward(pieces[0].tokens.clone().inner(), model.valid().state(ROWS, &Device::flex()));
        let states = [model.state(ROWS, &device), state.detach()];
        let labels = batches.labels().len() as f64;
        let mut sum: Option<Tensors> = None;
        for (piece, state) in pieces.iter().zip(states) {
            let share = piece.targets.dims()[0] as f64 / labels;
            if share == 0.0 {
                continue;
            }
            let (hidden, _) = model.forward(piece.tokens.clone(), state);
            let loss = cross_entropy_at(answers_from(&model, hidden, piece), piece.targets.clone()) * share;
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            let mut collect = Collect(gradients, Tensors::new());
            for_each_parameter(&model, &mut collect);
            let add = |(path, more): (String, TensorData)| {
                let Some(sum) = &sum else { return (path, more) };
                let values = sum[&path].iter::<f32>().zip(more.iter::<f32>()).map(|(a, b)| a + b).collect::<Vec<f32>>();
                let shape = more.shape().clone();
                (path, TensorData::new(values, shape))
            };
            sum = Some(collect.1.into_iter().map(add).collect());
        }
        let sum = sum.unwrap();
        for path in sum.keys() {
            assert!(difference(&sum, &chunks.1, path) < ROUNDING, "{path}");
        }
    }

    #[test]
    fn what_is_not_causal_is_found_by_name() {
        let (registry, device) = (MixerRegistry::default(), Device::flex());
        let of = |value: Value| -> ModelConfig { serde_json::from_value(value).unwrap() };
        for kind in registry.kinds() {
            let config = of(json!({"d_model": 16, "layers": ["it"], "mixer": {"it": {"kind": kind}}}));
            assert_eq!(first_without_chunks(&config, &registry, &device), None, "{kind}");
        }
        let mixer = json!({"causal": {"kind": "gru"}, "both": {"kind": "attention", "causal": false}});
        let mut config = of(json!({"d_model": 16, "layers": ["causal", "both"], "mixer": mixer}));
        assert_eq!(first_without_chunks(&config, &registry, &device), Some("both"));
        config.layers = serde_json::from_value(json!(["causal"])).unwrap();
        assert_eq!(first_without_chunks(&config, &registry, &device), None, "what no layer names does not count");
    }
}
