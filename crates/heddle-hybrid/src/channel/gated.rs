//! The gated feed-forward layer.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError, silu_mul};
use serde::{Deserialize, Serialize};

use super::{Activation, ChannelMixer, ChannelSettings, inner_width};

/// Settings of [`SwiGlu`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwiGluSettings {
    /// Inner width as a multiple of the model's width; 8/3 keeps the parameters of a plain layer of four times the width.
    pub expand: f64,
    /// What is applied to the gate: SiLU as the name says, or GELU (GEGLU, arXiv:2002.05202, eq. 6) and others.
    pub activation: Activation,
    /// Whether the three maps have a bias.
    pub bias: bool,
}

impl Default for SwiGluSettings {
    fn default() -> Self {
        Self { expand: 8.0 / 3.0, activation: Activation::Silu, bias: false }
    }
}

impl ChannelSettings for SwiGluSettings {
    fn init(&self, d_model: usize, init: &mut Init) -> Result<ChannelMixer, SettingsError> {
        let width = inner_width(self.expand, d_model)?;
        Ok(ChannelMixer::SwiGlu(SwiGlu {
            activation: self.activation,
            ..SwiGlu::new([width, d_model], self.bias, init)
        }))
    }
}

/// Gated feed-forward layer (arXiv:2002.05202, eq. 6).
///
/// ```text
/// y = W_down (act(W_gate x) · W_up x)
/// ```
#[derive(Module, Debug)]
pub struct SwiGlu {
    gate: Linear,
    up: Linear,
    pub(super) down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl SwiGlu {
    /// With SiLU.
    pub(super) fn new([width, d_model]: [usize; 2], bias: bool, init: &mut Init) -> Self {
        Self {
            gate: init.linear(d_model, width, bias),
            up: init.linear(d_model, width, bias),
            down: init.linear(width, d_model, bias),
            activation: Activation::Silu,
        }
    }

    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (gate, up) = (self.gate.forward(x.clone()), self.up.forward(x));
        self.down.forward(match self.activation {
            Activation::Silu => silu_mul(gate, up),
            other => other.forward(gate) * up,
        })
    }

    pub(super) fn flops(&self) -> u64 {
        2 * 3 * self.down.weight.shape().num_elements() as u64
    }
}
