//! What every block that mixes along the sequence has in common.

use core::fmt::Debug;
use core::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Serialize, de::DeserializeOwned};

use crate::Init;

/// A block that mixes along the sequence: attention, a state-space layer, a recurrent layer, a convolution.
///
/// There is one `forward`. It takes the state that the tokens before `x` left behind and returns the state after `x`,
/// so training on a whole sequence, prefilling a prompt in chunks and decoding one token at a time are the same call
/// with other lengths, and any split of a sequence gives the same outputs and gradients as the whole.
///
/// # Examples
///
/// The smallest mixer is a running sum:
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Mixer, map_by_channel};
///
/// #[derive(Module, Debug)]
/// struct RunningSum {}
///
/// impl Mixer for RunningSum {
///     type State = Tensor<3>;
///     fn state(&self, batch: usize, d_model: usize, device: &Device) -> Tensor<3> {
///         Tensor::zeros([batch, 1, d_model], device)
///     }
///     fn forward(&self, x: Tensor<3>, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
///         let [b, l, d] = x.dims();
///         let y = x.cumsum(1) + state;
///         let last = y.clone().slice([0..b, l - 1..l, 0..d]);
///         (y, last)
///     }
///     fn state_bytes(&self, _length: usize, d_model: usize) -> u64 {
///         4 * d_model as u64
///     }
///     fn flops(&self, length: usize, d_model: usize) -> u64 {
///         (length * d_model) as u64
///     }
///     fn attention_map(&self, x: Tensor<3>, rows: core::ops::Range<usize>) -> Option<Tensor<4>> {
///         Some(map_by_channel(x.dims(), &rows, &x.device(), |values, _| values.cumsum(1)))
///     }
/// }
///
/// let device = Device::flex();
/// let x = Tensor::<3>::ones([1, 4, 2], &device);
/// let mixer = RunningSum {};
/// let (whole, _) = mixer.forward(x.clone(), mixer.state(1, 2, &device));
/// let (_, state) = mixer.forward(x.clone().slice([0..1, 0..3]), mixer.state(1, 2, &device));
/// let (last, _) = mixer.forward(x.clone().slice([0..1, 3..4]), state);
/// assert_eq!(last.into_data(), whole.slice([0..1, 3..4]).into_data());
///
/// // Each of the two channels takes up every token so far.
/// let map = mixer.attention_map(x, 2..3).expect("it is linear in its values");
/// assert_eq!(map.into_data().to_vec::<f32>()?, [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub trait Mixer: Module + Sync + 'static {
    /// What a token leaves behind for those after it.
    type State: MixerState;

    /// The state before the first token of `batch` sequences of width `d_model`.
    fn state(&self, batch: usize, d_model: usize, device: &Device) -> Self::State;

    /// Mixes `x` along its sequence after what `state` remembers.
    ///
    /// # Shapes
    /// - `x`, and the returned tensor: `[b, l, d]`; a block that was built by [`MixerSettings::init_reading`] reads
    ///   `[b, l, d_in]`
    ///
    /// # Panics
    /// If `state` belongs to another batch size or to a block of another shape.
    fn forward(&self, x: Tensor<3>, state: Self::State) -> (Tensor<3>, Self::State);

    /// Bytes of state that one sequence needs after `length` tokens, with every number in f32.
    fn state_bytes(&self, length: usize, d_model: usize) -> u64;

    /// Floating-point operations (a multiply-add counts two) of one forward pass over `length` tokens of one sequence.
    fn flops(&self, length: usize, d_model: usize) -> u64;

    /// The longest sequence that the block can read, state and all; none means that there is no bound.
    fn max_length(&self) -> Option<usize> {
        None
    }

    /// Whether what training computes is drawn by chance, as with dropout, and would be another if computed again.
    fn is_random(&self) -> bool {
        false
    }

    /// How much of each token's value the tokens `rows` of `x` take up, from a fresh state; for inspection.
    ///
    /// ```text
    /// o_i = Σ_j M_ij v_j
    /// ```
    ///
    /// `v` are the values that a block mixes, behind its projection and, where it has one, its convolution; `o` is what the
    /// mixing makes of them, before gate, norm and projection. The map is `M`: of softmax attention the weights
    /// (arXiv:1706.03762, eq. 1), of a state-space layer or a gated recurrence the hidden attention
    ///
    /// ```text
    /// M_ij = C_i Ā_i ⋯ Ā_{j+1} B̄_j, and D more where i = j
    /// ```
    ///
    /// (arXiv:2403.01590, §3; other recurrences: arXiv:2405.16504). The authors leave the skip `D` out; here it is on the
    /// diagonal, so that `M v` is all that the mixing gives. Gates and step sizes are held as `x` sets them. Where a block
    /// has no heads, every channel has a map of its own.
    ///
    /// `None` is for a block that is not linear in its values, such as an LSTM: it has no `M`. [`map_by_impulses`],
    /// [`map_by_head`] and [`map_by_channel`] read the map off the mixing itself.
    ///
    /// # Shapes
    /// - `x`: `[b, l, d]`; returned: `[b, heads, rows, l]`
    ///
    /// # Panics
    /// If `rows` is empty or goes beyond the tokens of `x`.
    fn attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let _ = (x, rows);
        None
    }

    /// How far each token of `x` moves the state, Δ behind its softplus, where the token itself decides it; for inspection.
    ///
    /// A large Δ takes the token up and forgets what was before; a small one passes it over (arXiv:2312.00752, §3.5.2).
    /// `None` is for a block without a Δ.
    ///
    /// # Shapes
    /// - `x`: `[b, l, d]`; returned: `[b, l, heads]`, the heads or channels of [`attention_map`](Self::attention_map)
    fn selection(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        let _ = x;
        None
    }

    /// The same block with nothing left of what `head` of its map adds to the output: zero ablation (arXiv:1905.10650, §2.2);
    /// for inspection.
    ///
    /// `None` is for a block without heads, whose channels each have a map, and for a head beyond the last.
    /// [`without_head_of`](crate::without_head_of) takes a head out of the projection behind the heads.
    fn without_head(&self, head: usize) -> Option<Self> {
        let _ = head;
        None
    }
}

/// The matrix of a mixing that is linear in its values, read off what it makes of unit impulses: `M_ij = f(e_j)_i`, where
/// `e_j` is 1 at token `j` of `l` and 0 elsewhere.
///
/// `mix` gets `width` impulses at once, the values `[l, width]`, and returns what tokens `rows` make of them,
/// `[b, heads, rows, width]`; behind the last token, columns of zeros fill up the width. So no more is formed than the
/// result and one call's numbers.
///
/// # Shapes
/// - returned: `[b, heads, rows, l]`
///
/// # Panics
/// If `rows` is empty or goes beyond `l`.
///
/// # Examples
/// The map of a running sum is a triangle of ones:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::map_by_impulses;
///
/// let sum = |impulses: Tensor<2>| impulses.cumsum(0).narrow(0, 1, 2).unsqueeze();
/// let map: Tensor<4> = map_by_impulses(3, &(1..3), 2, &Device::flex(), sum);
/// assert_eq!(map.dims(), [1, 1, 2, 3]);
/// assert_eq!(map.into_data().to_vec::<f32>()?, [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn map_by_impulses(
    l: usize,
    rows: &Range<usize>,
    width: usize,
    device: &Device,
    mix: impl Fn(Tensor<2>) -> Tensor<4>,
) -> Tensor<4> {
    assert!(
        rows.start < rows.end && rows.end <= l,
        "attention map: `rows` {rows:?} of {l} tokens; use a range that is not empty and lies within 0..{l}"
    );
    let columns = (0..l).step_by(width).map(|start| {
        let impulse = |i: usize| if i / width == start + i % width { 1.0 } else { 0.0 };
        let impulses = (0..l * width).map(impulse).collect::<Vec<f32>>();
        mix(Tensor::from_data(TensorData::new(impulses, [l, width]), device))
    });
    Tensor::cat(columns.collect(), 3).narrow(3, 0, l)
}

/// Impulses to a call of a mixing by heads: as many as a head usually has channels.
const BY_HEAD: usize = 64;

/// Impulses to a call of a mixing by channels.
const BY_CHANNEL: usize = 16;

/// [`map_by_impulses`] of a mixing whose heads may have any width, each channel of which is mixed alike.
///
/// # Shapes
/// - what `mix` gets and returns: `[b, l, h, width]`
/// - returned: `[b, h, rows, l]`
///
/// # Panics
/// As [`map_by_impulses`].
///
/// # Examples
/// Linear attention whose features are all 1 is a running sum:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::map_by_head;
///
/// let map = map_by_head([1, 3, 2], &(1..2), &Device::flex(), |values| values.cumsum(1));
/// assert_eq!(map.dims(), [1, 2, 1, 3]);
/// assert_eq!(map.into_data().to_vec::<f32>()?, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn map_by_head(
    [b, l, h]: [usize; 3],
    rows: &Range<usize>,
    device: &Device,
    mix: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let width = l.min(BY_HEAD);
    map_by_impulses(l, rows, width, device, |impulses| {
        let values = impulses.reshape([1, l, 1, width]).expand([b, l, h, width]);
        mix(values).narrow(1, rows.start, rows.len()).swap_dims(1, 2)
    })
}

/// [`map_by_impulses`] of a mixing that treats each channel in a way of its own: every impulse comes as a batch.
///
/// `mix` also gets how many batches there are, so that it repeats what belongs to the sequences as often (with
/// `repeat_dim(0, times)`).
///
/// # Shapes
/// - what `mix` gets and returns: `[times · b, l, e]`
/// - returned: `[b, e, rows, l]`
///
/// # Panics
/// As [`map_by_impulses`].
///
/// # Examples
/// A convolution that adds each token to the one before it:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{ConvInput, causal_conv, map_by_channel};
///
/// let device = Device::flex();
/// let map = map_by_channel([1, 3, 1], &(0..3), &device, |x, times| {
///     let input = ConvInput { x, weight: Tensor::ones([1, 2], &device), bias: None, silu: false };
///     causal_conv(input, Tensor::zeros([times, 1, 1], &device)).0
/// });
/// assert_eq!(map.into_data().to_vec::<f32>()?, [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn map_by_channel(
    [b, l, e]: [usize; 3],
    rows: &Range<usize>,
    device: &Device,
    mix: impl Fn(Tensor<3>, usize) -> Tensor<3>,
) -> Tensor<4> {
    let width = l.min(BY_CHANNEL);
    map_by_impulses(l, rows, width, device, |impulses| {
        let values = impulses.transpose().reshape([width, 1, l, 1]).expand([width, b, l, e]);
        let mixed = mix(values.reshape([width * b, l, e]), width).reshape([width, b, l, e]);
        mixed.narrow(2, rows.start, rows.len()).permute([1, 3, 2, 0])
    })
}

/// The state of a [`Mixer`]: tensors, carried from chunk to chunk.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::MixerState;
///
/// #[derive(Clone, Debug)]
/// struct Cache {
///     keys: Tensor<3>,
///     seen: usize,
/// }
///
/// impl MixerState for Cache {
///     fn bytes(&self) -> usize {
///         self.keys.bytes()
///     }
///     fn detach(self) -> Self {
///         Self { keys: self.keys.detach(), ..self }
///     }
/// }
///
/// // A pair of states is one, too. Tensors count, of both sequences of the batch.
/// let device = Device::flex();
/// let cache = Cache { keys: Tensor::zeros([2, 5, 8], &device), seen: 5 };
/// let state = (cache, Tensor::<2>::zeros([2, 3], &device)).detach();
/// assert_eq!((state.bytes(), state.0.seen), (4 * 2 * (5 * 8 + 3), 5));
/// ```
pub trait MixerState: Clone + Debug + Send + 'static {
    /// Bytes of the numbers it holds, over the whole batch.
    fn bytes(&self) -> usize;

    /// The same state, cut off from the graph that computed it (truncated back-propagation through time).
    fn detach(self) -> Self;
}

/// A tensor is a state by itself.
impl<const D: usize> MixerState for Tensor<D> {
    fn bytes(&self) -> usize {
        4 * self.shape().num_elements()
    }

    fn detach(self) -> Self {
        Self::detach(self)
    }
}

/// A block that remembers nothing.
impl MixerState for () {
    fn bytes(&self) -> usize {
        0
    }

    fn detach(self) {}
}

/// A block of two parts has the states of both.
impl<A: MixerState, B: MixerState> MixerState for (A, B) {
    fn bytes(&self) -> usize {
        self.0.bytes() + self.1.bytes()
    }

    fn detach(self) -> Self {
        (self.0.detach(), self.1.detach())
    }
}

/// The settings of a [`Mixer`] as they stand in a config table.
///
/// `Default` gives every key its default; a key that serialises to null is optional.
///
/// ```
/// use heddle_kernels::{Init, Mixer, MixerSettings, SettingsError};
/// # use burn::{module::Module, tensor::{Device, Tensor}};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, Default, Serialize, Deserialize)]
/// #[serde(default, deny_unknown_fields)]
/// struct DelaySettings {
///     tokens: usize,
/// }
///
/// impl MixerSettings for DelaySettings {
///     type Mixer = Delay;
///     fn init(&self, _d_model: usize, _init: &mut Init) -> Result<Delay, SettingsError> {
///         match self.tokens {
///             0 => Err(SettingsError::new("tokens", "0 is no delay", "use 1 or more")),
///             tokens => Ok(Delay { tokens }),
///         }
///     }
/// }
/// # #[derive(Module, Debug)]
/// # struct Delay {
/// #     #[module(skip)]
/// #     tokens: usize,
/// # }
/// # impl Mixer for Delay {
/// #     type State = Tensor<3>;
/// #     fn state(&self, batch: usize, d_model: usize, device: &Device) -> Tensor<3> {
/// #         Tensor::zeros([batch, self.tokens, d_model], device)
/// #     }
/// #     fn forward(&self, x: Tensor<3>, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
/// #         let l = x.dims()[1];
/// #         let all = Tensor::cat(vec![state, x], 1);
/// #         (all.clone().narrow(1, 0, l), all.narrow(1, l, self.tokens))
/// #     }
/// #     fn state_bytes(&self, _length: usize, d_model: usize) -> u64 {
/// #         4 * (self.tokens * d_model) as u64
/// #     }
/// #     fn flops(&self, _length: usize, _d_model: usize) -> u64 {
/// #         0
/// #     }
/// # }
///
/// let mut init = Init::new(0, &Device::flex());
/// let two: DelaySettings = toml::from_str("tokens = 2").unwrap();
/// assert_eq!(two.init(16, &mut init).unwrap().state_bytes(1000, 16), 4 * 2 * 16);
/// let error = DelaySettings::default().init(16, &mut init).unwrap_err();
/// assert_eq!(error.to_string(), "`tokens`: 0 is no delay; use 1 or more");
/// ```
pub trait MixerSettings: Default + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The block that these settings describe.
    type Mixer: Mixer;

    /// Builds the block for a model of width `d_model`.
    ///
    /// # Errors
    /// If the settings contradict each other or `d_model`.
    fn init(&self, d_model: usize, init: &mut Init) -> Result<Self::Mixer, SettingsError>;

    /// Builds the block for a model of width `d_model` where it reads tokens of width `d_in`, such as the stream and the
    /// embedding side by side; what it computes is `d_model` wide.
    ///
    /// A block that does not say otherwise reads the stream alone.
    ///
    /// # Errors
    /// If the settings contradict each other or the widths, or the block cannot read that width.
    fn init_reading(&self, d_in: usize, d_model: usize, init: &mut Init) -> Result<Self::Mixer, SettingsError> {
        if d_in == d_model {
            return self.init(d_model, init);
        }
        let problem = format!("this kind reads tokens of the model's width {d_model}, not of {d_in}");
        Err(SettingsError::new("with_embedding", problem, "leave it out, or use another kind such as attention"))
    }
}

/// Settings that no block can be built from.
///
/// ```
/// use heddle_kernels::SettingsError;
///
/// let error = SettingsError::new("heads", "3 does not divide the width 64", "use a divisor of it");
/// assert_eq!(error.to_string(), "`heads`: 3 does not divide the width 64; use a divisor of it");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {problem}; {remedy}")]
pub struct SettingsError {
    /// The setting, as it is called in the config table.
    pub key: String,
    /// What is wrong with its value.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl SettingsError {
    /// An error about the setting `key`.
    pub fn new(key: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into(), remedy: remedy.into() }
    }
}
