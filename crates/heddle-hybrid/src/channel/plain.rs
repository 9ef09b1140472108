//! The plain feed-forward layer.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError, gelu, linear, relu_squared, silu};
use serde::{Deserialize, Serialize};

use super::{ChannelMixer, ChannelSettings, inner_width};

/// Settings of [`Mlp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpSettings {
    /// Inner width as a multiple of the model's width.
    pub expand: f64,
    /// What is applied to the inner channels.
    pub activation: Activation,
    /// Whether both maps have a bias.
    pub bias: bool,
}

impl Default for MlpSettings {
    fn default() -> Self {
        Self { expand: 4.0, activation: Activation::Gelu, bias: false }
    }
}

/// What is applied to each inner channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Φ(x)` (arXiv:1606.08415).
    Gelu,
    /// `max(x, 0)²` (arXiv:2109.08668).
    ReluSquared,
    /// `x σ(x)` (arXiv:1606.08415, 1702.03118).
    Silu,
}

impl Activation {
    /// Applies it to every element.
    pub(super) fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => gelu(x),
            Self::ReluSquared => relu_squared(x),
            Self::Silu => silu(x),
        }
    }
}

impl ChannelSettings for MlpSettings {
    fn init(&self, d_model: usize, init: &mut Init) -> Result<ChannelMixer, SettingsError> {
        let width = inner_width(self.expand, d_model)?;
        Ok(ChannelMixer::Mlp(Mlp {
            up: init.linear(d_model, width, self.bias),
            down: init.linear(width, d_model, self.bias),
            activation: self.activation,
        }))
    }
}

/// The plain feed-forward layer (arXiv:1706.03762, eq. 2), with another activation.
///
/// ```text
/// y = W_down act(W_up x)
/// ```
#[derive(Module, Debug)]
pub struct Mlp {
    up: Linear,
    down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        linear(self.activation.forward(linear(x, &self.up)), &self.down)
    }

    pub(super) fn flops(&self) -> u64 {
        2 * 2 * self.down.weight.shape().num_elements() as u64
    }
}
