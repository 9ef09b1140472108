//! The model: an embedding, layers, a norm and a head.

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Linear};
use burn::tensor::{Device, Int, Tensor};
use heddle_kernels::{Init, embed, linear, on_workers, unembed};

use crate::build::Builder;
use crate::layer::{Common, Layer, LayerState, scaled};
use crate::norm::{Norm, NormPlacement};
use crate::readout::ItemReadout;
use crate::shared::Pool;
use crate::{MixerRegistry, ModelConfig, ModelError, Routing};

/// A language model: an embedding, layers of any mixers, a norm and a head.
///
/// ```text
/// x = s_e embedding(tokens)      x ← layers(x)      logits = cap(s_l head(norm(x)))
/// ```
///
/// The multipliers are the config's `embedding_scale` and `logit_scale`, the bound its `logit_softcap`.
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
    pub(crate) embedding: Param<Tensor<2>>,
    pub(crate) dropout: Dropout,
    pub(crate) shared: Pool,
    pub(crate) layers: Vec<Layer>,
    norm: Option<Norm>,
    pub(crate) head: Option<Linear>,
    items: Option<ItemReadout>,
    #[module(skip)]
    embedding_scale: f64,
    #[module(skip)]
    logit_scale: f64,
    #[module(skip)]
    logit_softcap: Option<f64>,
}

/// The states of a model's layers.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let json = r#"{"d_model": 16, "layers": ["mamba"], "mixer": {"mamba": {"kind": "mamba"}}}"#;
/// let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
/// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// let tokens = |tokens: &[i32]| Tensor::<1, Int>::from_ints(tokens, &device).unsqueeze::<2>();
/// // A text in two pieces is the text in one.
/// let (_, state) = model.forward(tokens(&[1, 2, 3]), model.state(1, &device));
/// assert_eq!(state.bytes() as u64, model.state_bytes(3));
/// let (pieces, _) = model.score_next(tokens(&[4, 5]), state);
/// let (whole, _) = model.score_next(tokens(&[1, 2, 3, 4, 5]), model.state(1, &device));
/// assert!((pieces - whole).abs().max().into_scalar::<f32>() < 1e-5);
/// ```
#[derive(Clone, Debug)]
pub struct ModelState(Vec<LayerState>);

impl ModelState {
    /// Bytes of the numbers it holds, over the whole batch.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(LayerState::bytes).sum()
    }

    /// The same state, cut off from the graph that computed it.
    pub fn detach(self) -> Self {
        Self(self.0.into_iter().map(LayerState::detach).collect())
    }
}

/// Where the tokens of a layer were sent.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let json = r#"{"d_model": 16, "layers": ["gru", "gru+moe"], "mixer": {"gru": {"kind": "gru"}},
///     "channel": {"moe": {"kind": "moe", "experts": 4, "active": 2}}}"#;
/// let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
/// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// let tokens = Tensor::<2, Int>::from_ints([[1, 2, 3]], &device);
/// let (_, _, routed) = model.forward_routed(tokens, model.state(1, &device));
/// assert_eq!((routed.len(), routed[0].layer), (1, 1));
/// assert_eq!(routed[0].routing.counts.iter().sum::<u64>(), 2 * 3);
/// ```
#[derive(Clone, Debug)]
pub struct LayerRouting {
    /// The layer, from 0.
    pub layer: usize,
    /// What its router did.
    pub routing: Routing,
}

/// Standard deviation of the initial embedding, as in GPT-2 and Mamba.
const EMBEDDING_STD: f32 = 0.02;

/// Tokens of all sequences that go through the layers at a time where only the last one's scores are asked for: so many
/// that products of matrices run at their full speed, and so few that what is between two of them stays in the cache.
const PIECE: usize = 512;

/// Tokens of one sequence that do so at least.
const LEAST_PIECE: usize = 64;

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
        check(config)?;
        let names = config.layer_names().map_err(ModelError::Layers)?;
        let embedding = init.normal([vocab, config.d_model], EMBEDDING_STD);
        let mut builder = Builder::new(config, &names, mixers, init);
        let layers = names.iter().map(|name| builder.layer(name)).collect::<Result<_, _>>()?;
        let shared = builder.pool;
        Ok(Self {
            embedding,
            dropout: DropoutConfig::new(config.dropout).init(),
            shared,
            layers,
            norm: (config.norm_placement != NormPlacement::Post).then(|| Norm::new(config, config.d_model, init)),
            head: (!config.tied).then(|| init.linear(config.d_model, vocab, config.head_bias)),
            items: None,
            embedding_scale: config.embedding_scale,
            logit_scale: config.logit_scale,
            logit_softcap: config.logit_softcap,
        })
    }

    /// The same model with an [`ItemReadout`] before its last norm: it tells by [`item_logits`](Self::item_logits) what a
    /// hidden state holds, and no longer which token comes next.
    ///
    /// The parameters that it had stay as they are; those of the read-out are drawn next.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
    ///
    /// let config: ModelConfig = serde_json::from_str(
    ///     r#"{"d_model": 16, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}}"#,
    /// ).unwrap();
    /// let device = Device::flex();
    /// let mut init = Init::new(0, &device);
    /// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut init).unwrap();
    /// let model = model.with_item_readout(&config, &mut init);
    /// let tokens = Tensor::<2, Int>::from_ints([[4, 2, 9]], &device);
    /// let (hidden, _state) = model.forward(tokens, model.state(1, &device));
    /// // What stood at positions 0 and 1, asked of the last hidden state.
    /// let last = hidden.reshape([3, 16]).select(0, Tensor::from_ints([2, 2], &device));
    /// assert_eq!(model.item_logits(last, Tensor::from_ints([0, 1], &device)).dims(), [2, 10]);
    /// ```
    pub fn with_item_readout(self, config: &ModelConfig, init: &mut Init) -> Self {
        Self { items: Some(ItemReadout::new(config, init)), ..self }
    }

    /// Whether it has a [read-out of items](Self::with_item_readout).
    pub fn reads_items(&self) -> bool {
        self.items.is_some()
    }

    /// The state before the first token of `batch` sequences.
    pub fn state(&self, batch: usize, device: &Device) -> ModelState {
        let sizes = [batch, self.d_model()];
        ModelState(self.layers.iter().map(|layer| layer.state(&self.shared, sizes, device)).collect())
    }

    /// The normalised hidden state of every token, and the state after the last. Before an [`ItemReadout`] it is not
    /// normalised.
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
        let embedding = self.embedded(tokens);
        let common = Common { pool: &self.shared, dropout: &self.dropout, embedding: &embedding };
        let mut x = embedding.clone();
        let (mut states, mut routed) = (Vec::with_capacity(self.layers.len()), vec![]);
        for (index, (layer, state)) in self.layers.iter().zip(state.0).enumerate() {
            let (y, state, routing) = layer.forward(x, state, common);
            x = y;
            states.push(state);
            routed.extend(routing.map(|routing| LayerRouting { layer: index, routing }));
        }
        (self.normalised(x), ModelState(states), routed)
    }

    /// Scores of the next token behind the last of `tokens`, and the state there: what decoding asks of a model.
    ///
    /// A long prompt goes through the model in pieces, which stay in the cache, and the head sees the last token alone.
    ///
    /// # Shapes
    /// - `tokens`: `[b, l]`; returned: `[b, v]`
    ///
    /// # Panics
    /// If there are no tokens, or `state` belongs to another model or batch size.
    pub fn score_next(&self, tokens: Tensor<2, Int>, state: ModelState) -> (Tensor<2>, ModelState) {
        on_workers(|| self.score_behind_last(tokens, state))
    }

    fn score_behind_last(&self, tokens: Tensor<2, Int>, mut state: ModelState) -> (Tensor<2>, ModelState) {
        let [b, l] = tokens.dims();
        assert!(l > 0, "model: the next token behind no tokens");
        let piece = (PIECE / b).max(LEAST_PIECE);
        let mut last = None;
        for start in (0..l).step_by(piece) {
            let length = piece.min(l - start);
            let (hidden, next) = self.forward(tokens.clone().narrow(1, start, length), state);
            (last, state) = (Some(hidden.narrow(1, length - 1, 1)), next);
        }
        let last = last.expect("there is a piece");
        (self.logits(last.reshape([b, self.d_model()])), state)
    }

    /// What the first layer reads: `[b, l]` → `[b, l, d]`.
    pub(crate) fn embedded(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.dropout.forward(scaled(embed(self.embedding.val(), tokens), self.embedding_scale))
    }

    /// What [`forward`](Self::forward) makes of what the last layer leaves: `[b, l, d]`.
    pub(crate) fn normalised(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.norm {
            Some(norm) if self.items.is_none() => norm.forward(x),
            _ => x,
        }
    }

    /// Scores of the next token for chosen rows of the hidden state.
    ///
    /// # Shapes
    /// - `hidden`: `[rows, d]`; returned: `[rows, v]`
    ///
    /// # Panics
    /// If the model reads out items.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        assert!(self.items.is_none(), "model: it reads out items, and scores no next token");
        self.scores(hidden)
    }

    /// Scores of the token at a position of the sequence that a hidden state holds, for chosen rows of the hidden state.
    ///
    /// # Shapes
    /// - `hidden`: `[rows, d]`; `items`, the positions: `[rows]`; returned: `[rows, v]`
    ///
    /// # Panics
    /// If the shapes disagree, or the model has no [read-out of items](Self::with_item_readout).
    pub fn item_logits(&self, hidden: Tensor<2>, items: Tensor<1, Int>) -> Tensor<2> {
        let readout = self.items.as_ref().expect("model: it has no read-out of items");
        let [rows, d] = hidden.dims();
        assert!(items.dims() == [rows], "model: {} items for {rows} hidden states", items.dims()[0]);
        let x = readout.forward(hidden, items);
        self.scores(match &self.norm {
            Some(norm) => norm.forward(x.reshape([1, rows, d])).reshape([rows, d]),
            None => x,
        })
    }

    /// What the head makes of what it reads.
    fn scores(&self, hidden: Tensor<2>) -> Tensor<2> {
        let logits = match &self.head {
            Some(head) => linear(hidden, head),
            None => unembed(hidden, self.embedding.val()),
        };
        let logits = scaled(logits, self.logit_scale);
        match self.logit_softcap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
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

    /// The longest sequence that every layer can read; none means that there is no bound.
    pub fn max_length(&self) -> Option<usize> {
        self.layers.iter().filter_map(|layer| layer.max_length(&self.shared)).min()
    }

    /// Bytes of state that one sequence needs after `length` tokens, with every number in f32.
    pub fn state_bytes(&self, length: usize) -> u64 {
        self.layers.iter().map(|layer| layer.state_bytes(&self.shared, length, self.d_model())).sum()
    }

    /// Floating-point operations of one forward pass over `length` tokens of one sequence, the head at `labels` of them.
    pub fn flops(&self, length: usize, labels: usize) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.flops(&self.shared, length, self.d_model())).sum();
        layers + labels as u64 * self.head_flops()
    }

    /// Floating-point operations of the head, and of what reads out items, for one label.
    pub(crate) fn head_flops(&self) -> u64 {
        2 * (self.d_model() * self.vocab()) as u64 + self.items.as_ref().map_or(0, ItemReadout::flops)
    }
}

/// Checks the settings of the model itself.
fn check(config: &ModelConfig) -> Result<(), ModelError> {
    let size = |sound: bool, key: &'static str, value: &dyn core::fmt::Display, remedy: &'static str| match sound {
        true => Ok(()),
        false => Err(ModelError::Size { key, value: value.to_string(), remedy }),
    };
    size(config.d_model > 0, "d_model", &config.d_model, "use 1 or more")?;
    let eps = config.norm_eps;
    size(eps >= 0.0 && eps.is_finite(), "norm_eps", &eps, "use a small positive number")?;
    size((0.0..1.0).contains(&config.dropout), "dropout", &config.dropout, "use a chance from 0 to below 1")?;
    for (key, scale) in [
        ("embedding_scale", config.embedding_scale),
        ("residual_scale", config.residual_scale),
        ("logit_scale", config.logit_scale),
    ] {
        size(scale != 0.0 && scale.is_finite(), key, &scale, "use a number other than 0; 1 changes nothing")?;
    }
    let cap = config.logit_softcap.unwrap_or(1.0);
    size(cap > 0.0 && cap.is_finite(), "logit_softcap", &cap, "use a positive number such as 30, or leave it out")?;
    let bias = config.head_bias;
    size(!(bias && config.tied), "head_bias", &bias, "a tied head has none: use `tied = false`, or leave it out")
}
