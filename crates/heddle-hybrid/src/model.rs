//! Layers and the model made of them.

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Linear};
use burn::tensor::{Device, Int, Tensor};
use heddle_kernels::{Init, SettingsError, embed, rms_norm};

use crate::{AnyMixer, AnyState, ChannelMixer, LayerName, MixerRegistry, ModelConfig, Routing};

/// Root-mean-square normalisation with a learned scale (arXiv:1910.07467, eq. 4).
///
/// ```text
/// y_i = γ_i x_i / √(mean_j x_j² + ε)
/// ```
#[derive(Module, Debug)]
pub struct RmsNorm {
    gamma: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl RmsNorm {
    fn new(d_model: usize, eps: f64, init: &mut Init) -> Self {
        Self { gamma: init.constant([d_model], 1.0), eps }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        rms_norm(x, self.gamma.val(), self.eps)
    }
}

/// A sequence mixer and, after it, perhaps a channel mixer; each reads a normalised stream and adds to the stream.
///
/// ```text
/// x ← x + mixer(norm(x))      x ← x + channel(norm(x))
/// ```
#[derive(Module, Debug)]
pub struct Layer {
    mixer_norm: RmsNorm,
    mixer: AnyMixer,
    channel_norm: Option<RmsNorm>,
    channel: Option<ChannelMixer>,
}

impl Layer {
    fn forward(&self, x: Tensor<3>, state: AnyState, dropout: &Dropout) -> (Tensor<3>, AnyState, Option<Routing>) {
        let (mixed, state) = self.mixer.forward(self.mixer_norm.forward(x.clone()), state);
        let x = x + dropout.forward(mixed);
        match (&self.channel_norm, &self.channel) {
            (Some(norm), Some(channel)) => {
                let (mixed, routing) = channel.forward(norm.forward(x.clone()));
                (x + dropout.forward(mixed), state, routing)
            }
            _ => (x, state, None),
        }
    }
}

/// A language model: an embedding, layers of any mixers, a norm and a head.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use heddle_hybrid::{MixerRegistry, Model, ModelConfig};
/// use heddle_kernels::Init;
///
/// let config: ModelConfig = serde_json::from_str(
///     r#"{"d_model": 16, "layers": ["mamba", "attention"], "mixer": {"mamba": {"kind": "mamba"}, "attention": {"kind": "attention"}}}"#,
/// ).unwrap();
/// let device = Device::flex();
/// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// let tokens = Tensor::<2, Int>::from_ints([[1, 2, 3]], &device);
/// let (hidden, _state) = model.forward(tokens, model.state(1, &device));
/// assert_eq!(model.logits(hidden.reshape([3, 16])).dims(), [3, 10]);
/// ```
#[derive(Module, Debug)]
pub struct Model {
    embedding: Param<Tensor<2>>,
    dropout: Dropout,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Option<Linear>,
}

/// The states of a model's layers.
#[derive(Clone, Debug)]
pub struct ModelState(Vec<AnyState>);

impl ModelState {
    /// Bytes of the numbers it holds, over the whole batch.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(AnyState::bytes).sum()
    }

    /// The same state, cut off from the graph that computed it.
    pub fn detach(self) -> Self {
        Self(self.0.into_iter().map(AnyState::detach).collect())
    }
}

/// Where the tokens of a layer were sent.
#[derive(Clone, Debug)]
pub struct LayerRouting {
    /// The layer, from 0.
    pub layer: usize,
    /// What its router did.
    pub routing: Routing,
}

/// A model that cannot be built, and where in its config the reason is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The list of layers.
    #[error("`model.layers`: {0}")]
    Layers(String),
    /// A layer names a mixer or channel mixer that no table describes.
    #[error(
        "`model.layers`: layer `{layer}` names `{name}`, which no `model.{table}.{name}` describes; described: {known}"
    )]
    Undescribed {
        /// The layer.
        layer: String,
        /// The name.
        name: String,
        /// `mixer` or `channel`.
        table: &'static str,
        /// The names that are described.
        known: String,
    },
    /// A named part.
    #[error("`model.{table}.{name}`: {source}")]
    Part {
        /// `mixer` or `channel`.
        table: &'static str,
        /// The part's name.
        name: String,
        /// What is wrong with it.
        source: SettingsError,
    },
    /// A size of the model itself.
    #[error("`model.{key}` is {value}; {remedy}")]
    Size {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        remedy: &'static str,
    },
}

impl ModelError {
    /// The dotted key at fault, as a run file would write it.
    pub fn key(&self) -> String {
        match self {
            Self::Layers(_) | Self::Undescribed { .. } => "model.layers".into(),
            Self::Part { table, name, source } => format!("model.{table}.{name}.{}", source.key),
            Self::Size { key, .. } => format!("model.{key}"),
        }
    }
}

/// Standard deviation of the initial embedding, as in GPT-2 and Mamba.
const EMBEDDING_STD: f32 = 0.02;

impl Model {
    /// Builds the model that `config` describes for `vocab` tokens.
    ///
    /// # Errors
    /// If a name is not described, a kind unknown, or a setting impossible.
    pub fn new(
        config: &ModelConfig,
        vocab: usize,
        mixers: &MixerRegistry,
        init: &mut Init,
    ) -> Result<Self, ModelError> {
        if config.d_model == 0 {
            return Err(ModelError::Size { key: "d_model", value: "0".into(), remedy: "use 1 or more" });
        }
        if !(config.norm_eps >= 0.0 && config.norm_eps.is_finite()) {
            return Err(ModelError::Size {
                key: "norm_eps",
                value: config.norm_eps.to_string(),
                remedy: "use a small positive number",
            });
        }
        if !(0.0..1.0).contains(&config.dropout) {
            return Err(ModelError::Size {
                key: "dropout",
                value: config.dropout.to_string(),
                remedy: "use a chance from 0 to below 1",
            });
        }
        let names = config.layer_names().map_err(ModelError::Layers)?;
        let embedding = init.normal([vocab, config.d_model], EMBEDDING_STD);
        let layers = names.iter().map(|name| build_layer(config, name, mixers, init)).collect::<Result<_, _>>()?;
        Ok(Self {
            embedding,
            dropout: DropoutConfig::new(config.dropout).init(),
            layers,
            norm: RmsNorm::new(config.d_model, config.norm_eps, init),
            head: (!config.tied).then(|| init.linear(config.d_model, vocab, false)),
        })
    }

    /// The state before the first token of `batch` sequences.
    pub fn state(&self, batch: usize, device: &Device) -> ModelState {
        let d = self.d_model();
        ModelState(self.layers.iter().map(|layer| layer.mixer.state(batch, d, device)).collect())
    }

    /// The normalised hidden state of every token, and the state after the last.
    ///
    /// The head is left out: few positions carry a label, and it is the dearest part of a small model.
    ///
    /// # Shapes
    /// - `tokens`: `[b, l]`; returned: `[b, l, d]`
    ///
    /// # Panics
    /// If `state` belongs to another model or batch size.
    pub fn forward(&self, tokens: Tensor<2, Int>, state: ModelState) -> (Tensor<3>, ModelState) {
        let (hidden, state, _) = self.forward_routed(tokens, state);
        (hidden, state)
    }

    /// [`forward`](Self::forward), and where the tokens of each mixture of experts were sent, layer by layer.
    ///
    /// # Panics
    /// If `state` belongs to another model or batch size.
    pub fn forward_routed(
        &self,
        tokens: Tensor<2, Int>,
        state: ModelState,
    ) -> (Tensor<3>, ModelState, Vec<LayerRouting>) {
        assert!(
            state.0.len() == self.layers.len(),
            "model: a state of {} layers for a model of {}",
            state.0.len(),
            self.layers.len()
        );
        let mut x = self.dropout.forward(embed(self.embedding.val(), tokens));
        let (mut states, mut routed) = (Vec::with_capacity(self.layers.len()), vec![]);
        for (index, (layer, state)) in self.layers.iter().zip(state.0).enumerate() {
            let (y, state, routing) = layer.forward(x, state, &self.dropout);
            x = y;
            states.push(state);
            routed.extend(routing.map(|routing| LayerRouting { layer: index, routing }));
        }
        (self.norm.forward(x), ModelState(states), routed)
    }

    /// Scores of the next token for chosen rows of the hidden state.
    ///
    /// # Shapes
    /// - `hidden`: `[rows, d]`; returned: `[rows, v]`
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.head {
            Some(head) => head.forward(hidden),
            None => hidden.matmul(self.embedding.val().transpose()),
        }
    }

    /// Width of the residual stream.
    pub fn d_model(&self) -> usize {
        self.embedding.dims()[1]
    }

    /// Number of tokens known.
    pub fn vocab(&self) -> usize {
        self.embedding.dims()[0]
    }

    /// Bytes of state that one sequence needs after `length` tokens, with every number in f32.
    pub fn state_bytes(&self, length: usize) -> u64 {
        self.layers.iter().map(|layer| layer.mixer.state_bytes(length, self.d_model())).sum()
    }

    /// Floating-point operations of one forward pass over `length` tokens of one sequence, the head at `labels` of them.
    pub fn flops(&self, length: usize, labels: usize) -> u64 {
        let channel = |layer: &Layer| layer.channel.as_ref().map_or(0, ChannelMixer::flops) * length as u64;
        let layers: u64 =
            self.layers.iter().map(|layer| layer.mixer.flops(length, self.d_model()) + channel(layer)).sum();
        layers + 2 * (labels * self.d_model() * self.vocab()) as u64
    }
}

fn build_layer(
    config: &ModelConfig,
    layer: &LayerName,
    mixers: &MixerRegistry,
    init: &mut Init,
) -> Result<Layer, ModelError> {
    let undescribed = |name: &str, table, known: Vec<&String>| ModelError::Undescribed {
        layer: layer.to_string(),
        name: name.into(),
        table,
        known: if known.is_empty() { "none".into() } else { known.into_iter().cloned().collect::<Vec<_>>().join(", ") },
    };
    let d = config.d_model;
    let mixer_norm = RmsNorm::new(d, config.norm_eps, init);
    let table = config
        .mixer
        .get(&layer.mixer)
        .ok_or_else(|| undescribed(&layer.mixer, "mixer", config.mixer.keys().collect()))?;
    let mixer = mixers.build(table, d, init).map_err(|source| ModelError::Part {
        table: "mixer",
        name: layer.mixer.clone(),
        source,
    })?;
    let channel = match &layer.channel {
        None => None,
        Some(name) => {
            let table = config
                .channel
                .get(name)
                .ok_or_else(|| undescribed(name, "channel", config.channel.keys().collect()))?;
            ChannelMixer::build(table, d, init).map_err(|source| ModelError::Part {
                table: "channel",
                name: name.clone(),
                source,
            })?
        }
    };
    let channel_norm = channel.is_some().then(|| RmsNorm::new(d, config.norm_eps, init));
    Ok(Layer { mixer_norm, mixer, channel_norm, channel })
}
