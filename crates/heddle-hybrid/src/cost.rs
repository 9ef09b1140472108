//! What a model costs: parameters, operations, state.

use std::collections::BTreeMap;

use burn::module::Module;
use serde::Serialize;

use crate::layer::Layer;
use crate::{LayerName, Model, ModelConfig};

/// What a model costs at a length.
///
/// It is read off a model, so it cannot say anything else than the model does; one that was built from
/// [`Init::outline`](crate::Init::outline) will do, whatever its size.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_hybrid::{Cost, Init, MixerRegistry, Model, ModelConfig};
///
/// let config: ModelConfig = serde_json::from_str(r#"{
///     "d_model": 4096,
///     "mixer": {"attention": {"kind": "attention", "heads": 32}},
///     "channel": {"mlp": {"kind": "swiglu", "expand": 2.6875}},
///     "layers": ["attention+mlp * 32"]
/// }"#).unwrap();
/// let model = Model::new(&config, 32_000, &MixerRegistry::default(), &mut Init::outline(&Device::flex())).unwrap();
/// let cost = Cost::new(&config, &model, 4096);
/// assert_eq!(cost.parameters, 6_738_415_616); // LLaMA-7B
/// assert_eq!(cost.state.growing, 4 * 32 * 2 * 4096 * 4096);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Tokens of a sequence.
    pub length: usize,
    /// All parameters; a shared one counts once.
    pub parameters: u64,
    /// Parameters that act on one token: all but those of the experts that it is not sent to.
    pub active_parameters: u64,
    /// Floating-point operations for a token of a training sequence of this length, every token labelled: forward and,
    /// for twice as much (arXiv:2001.08361, §2.1), backward.
    pub training_flops: u64,
    /// Floating-point operations for the next token behind this length.
    pub decoding_flops: u64,
    /// What one sequence must keep between two tokens.
    pub state: StateBytes,
    /// The layers by name, in the order in which the names first appear.
    pub layers: Vec<LayerCost>,
}

/// Bytes of state of one sequence, with every number in f32; in bf16 it is half of that.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_hybrid::{Cost, Init, MixerRegistry, Model, preset};
///
/// let samba = preset("samba").unwrap();
/// let mut init = Init::outline(&Device::flex());
/// let model = Model::new(&samba.model, samba.vocab, &MixerRegistry::default(), &mut init).unwrap();
/// let state = |length| Cost::new(&samba.model, &model, length).state;
/// // Mamba's part is there from the start; the caches grow until their windows are full.
/// assert_eq!((state(1000).fixed, state(1000).growing), (state(0).total(), 1000 * state(1).growing));
/// assert_eq!(state(2048), state(100_000));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StateBytes {
    /// What is there whatever the length: states of recurrences and convolutions.
    pub fixed: u64,
    /// What came with the tokens so far: keys and values.
    pub growing: u64,
}

/// What all layers of one name cost together.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_hybrid::{Cost, Init, MixerRegistry, Model, preset};
///
/// let samba = preset("samba").unwrap();
/// let mut init = Init::outline(&Device::flex());
/// let model = Model::new(&samba.model, samba.vocab, &MixerRegistry::default(), &mut init).unwrap();
/// let layers = Cost::new(&samba.model, &model, 2048).layers;
/// let counts: Vec<_> = layers.iter().map(|layer| (layer.name.as_str(), layer.count)).collect();
/// assert_eq!(counts, [("mamba+mlp", 6), ("attention+mlp", 6)]);
/// assert!(layers[0].state.total() < layers[1].state.total());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerCost {
    /// The name, as in the config.
    pub name: String,
    /// How many there are.
    pub count: usize,
    /// Their parameters, without those of shared parts.
    pub parameters: u64,
    /// Their operations for the next token.
    pub decoding_flops: u64,
    /// Their state.
    pub state: StateBytes,
}

impl StateBytes {
    /// Both together.
    pub fn total(self) -> u64 {
        self.fixed + self.growing
    }
}

impl Cost {
    /// What `model`, which `config` describes, costs at sequences of `length` tokens.
    ///
    /// # Panics
    /// If the model was built from another list of layers.
    pub fn new(config: &ModelConfig, model: &Model, length: usize) -> Self {
        let names = config.layer_names().expect("a model was built from these layers");
        assert!(names.len() == model.layers.len(), "cost: {} layers, described as {}", model.layers.len(), names.len());
        let parameters = model.num_params() as u64;
        let idle = idle_parameters(model);
        let layers = by_name(&names, model, length);
        Self {
            length,
            parameters,
            active_parameters: parameters - idle,
            training_flops: 3 * model.flops(length, length) / (length as u64).max(1),
            decoding_flops: layers.iter().map(|layer| layer.decoding_flops).sum::<u64>() + model.head_flops(),
            state: state_bytes(|length| model.state_bytes(length), length),
            layers,
        }
    }
}

/// Parameters of experts that a token is not sent to.
fn idle_parameters(model: &Model) -> u64 {
    let own = model.layers.iter().flat_map(Layer::own_channels);
    own.chain(&model.shared.channels).map(|channel| channel.idle_parameters()).sum()
}

fn state_bytes(of: impl Fn(usize) -> u64, length: usize) -> StateBytes {
    let fixed = of(0);
    StateBytes { fixed, growing: of(length) - fixed }
}

fn by_name(names: &[LayerName], model: &Model, length: usize) -> Vec<LayerCost> {
    let (mut costs, mut places): (Vec<LayerCost>, BTreeMap<&LayerName, usize>) = (vec![], BTreeMap::new());
    let (pool, d) = (&model.shared, model.d_model());
    for (name, layer) in names.iter().zip(&model.layers) {
        let place = *places.entry(name).or_insert_with(|| {
            costs.push(LayerCost {
                name: name.to_string(),
                count: 0,
                parameters: 0,
                decoding_flops: 0,
                state: StateBytes::default(),
            });
            costs.len() - 1
        });
        let cost = &mut costs[place];
        let state = state_bytes(|length| layer.state_bytes(pool, length, d), length);
        cost.count += 1;
        cost.parameters += Layer::num_params(layer) as u64;
        cost.decoding_flops += layer.next_flops(pool, length, d);
        cost.state.fixed += state.fixed;
        cost.state.growing += state.growing;
    }
    costs
}
