//! What every block that mixes along the sequence has in common.

use core::fmt::Debug;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
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
/// use heddle_kernels::Mixer;
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
/// }
///
/// let device = Device::flex();
/// let x = Tensor::<3>::ones([1, 4, 2], &device);
/// let mixer = RunningSum {};
/// let (whole, _) = mixer.forward(x.clone(), mixer.state(1, 2, &device));
/// let (_, state) = mixer.forward(x.clone().slice([0..1, 0..3]), mixer.state(1, 2, &device));
/// let (last, _) = mixer.forward(x.slice([0..1, 3..4]), state);
/// assert_eq!(last.into_data(), whole.slice([0..1, 3..4]).into_data());
/// ```
pub trait Mixer: Module + Sync + 'static {
    /// What a token leaves behind for those after it.
    type State: MixerState;

    /// The state before the first token of `batch` sequences of width `d_model`.
    fn state(&self, batch: usize, d_model: usize, device: &Device) -> Self::State;

    /// Mixes `x` along its sequence after what `state` remembers.
    ///
    /// # Shapes
    /// - `x`, and the returned tensor: `[b, l, d]`
    ///
    /// # Panics
    /// If `state` belongs to another batch size or to a block of another shape.
    fn forward(&self, x: Tensor<3>, state: Self::State) -> (Tensor<3>, Self::State);

    /// Bytes of state that one sequence needs after `length` tokens, with every number in f32.
    fn state_bytes(&self, length: usize, d_model: usize) -> u64;

    /// Floating-point operations (a multiply-add counts two) of one forward pass over `length` tokens of one sequence.
    fn flops(&self, length: usize, d_model: usize) -> u64;
}

/// The state of a [`Mixer`]: tensors, carried from chunk to chunk.
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
pub trait MixerSettings: Default + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The block that these settings describe.
    type Mixer: Mixer;

    /// Builds the block for a model of width `d_model`.
    ///
    /// # Errors
    /// If the settings contradict each other or `d_model`.
    fn init(&self, d_model: usize, init: &mut Init) -> Result<Self::Mixer, SettingsError>;
}

/// Settings that no block can be built from.
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
