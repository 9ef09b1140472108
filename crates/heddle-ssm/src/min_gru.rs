//! The minimal gated recurrent unit, whose gates do not see the state.

use core::ops::Range;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{
    Init, Mixer, MixerSettings, SettingsError, linear, linear_recurrence, map_by_channel, sigmoid, sigmoid_mul,
};
use serde::{Deserialize, Serialize};

use crate::settings::at_least;

/// Settings of [`MinGru`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings};
/// use heddle_ssm::MinGruSettings;
///
/// let least_state = |table: &str| {
///     let (device, settings) = (Device::flex(), toml::from_str::<MinGruSettings>(table).unwrap());
///     let block = settings.init(16, &mut Init::new(0, &device)).unwrap();
///     let (_, h) = block.forward(Tensor::ones([1, 5, 16], &device), block.state(1, 16, &device));
///     h.min().into_scalar::<f32>()
/// };
/// assert!(least_state("positive = false") < 0.0);
/// assert!(least_state("positive = true") > 0.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MinGruSettings {
    /// Number of units `e` as a multiple of the model's width.
    pub expand: usize,
    /// Whether candidates, and so states, are positive: `g(x) = x + 1/2` where x ≥ 0, and σ(x) below, as in the authors'
    /// log-space form (arXiv:2410.01201, appendix B.3); if not, they are linear.
    pub positive: bool,
}

impl Default for MinGruSettings {
    fn default() -> Self {
        Self { expand: 1, positive: false }
    }
}

impl MixerSettings for MinGruSettings {
    type Mixer = MinGru;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<MinGru, SettingsError> {
        at_least("expand", self.expand, 1)?;
        let e = self.expand * d_model;
        Ok(MinGru {
            gate_proj: init.linear(d_model, e, true),
            value_proj: init.linear(d_model, e, true),
            out_proj: init.linear(e, d_model, false),
            positive: self.positive,
        })
    }
}

/// The minimal gated recurrent unit (arXiv:2410.01201, §3.1).
///
/// ```text
/// z_t = σ(W_z x_t + b_z)      h_t = (1 − z_t) h_{t−1} + z_t (W_h x_t + b_h)      y_t = W_out h_t
/// ```
///
/// With `positive` candidates it is g(W_h x_t + b_h) that enters. The state is `h`, whatever the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::MinGruSettings;
///
/// let device = Device::flex();
/// let block = MinGruSettings { expand: 2, ..Default::default() }.init(16, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 16], &device), block.state(1, 16, &device));
/// assert_eq!((y.dims(), state.bytes()), ([1, 5, 16], 4 * 32));
/// ```
#[derive(Module, Debug)]
pub struct MinGru {
    gate_proj: Linear,
    value_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    positive: bool,
}

/// `x + 1/2` where x ≥ 0, and σ(x) below: positive, increasing and smooth.
fn to_positive(x: Tensor<3>) -> Tensor<3> {
    x.clone().clamp_min(0.0) + sigmoid(x.clamp_max(0.0))
}

/// `h` of all tokens and of the last, where `gate` is `z` before its sigmoid.
fn recur(gate: Tensor<3>, values: Tensor<3>, h: Tensor<2>) -> (Tensor<3>, Tensor<2>) {
    // 1 − σ(z) = σ(−z), without the cancellation.
    let decay = sigmoid(gate.clone().neg());
    linear_recurrence(decay, sigmoid_mul(gate, values), h)
}

impl MinGru {
    /// What enters the states, `[b, l, e]`.
    fn values(&self, x: Tensor<3>) -> Tensor<3> {
        let values = linear(x, &self.value_proj);
        if self.positive { to_positive(values) } else { values }
    }
}

impl Mixer for MinGru {
    /// `h`, `[b, e]`.
    type State = Tensor<2>;

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Tensor<2> {
        Tensor::zeros([batch, self.out_proj.weight.dims()[0]], device)
    }

    fn forward(&self, x: Tensor<3>, state: Tensor<2>) -> (Tensor<3>, Tensor<2>) {
        let (h, state) = recur(linear(x.clone(), &self.gate_proj), self.values(x), state);
        (linear(h, &self.out_proj), state)
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        4 * self.out_proj.weight.dims()[0] as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let [e, _] = self.out_proj.weight.dims();
        2 * (length * (3 * d_model * e + e)) as u64
    }

    /// What each unit's state holds of each value.
    fn attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, _], [e, _], device) = (x.dims(), self.out_proj.weight.dims(), x.device());
        let gate = linear(x, &self.gate_proj);
        Some(map_by_channel([b, l, e], &rows, &device, |values, times| {
            recur(gate.clone().repeat_dim(0, times), values, Tensor::zeros([times * b, e], &device)).0
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_map_gives, block_and_tokens};
    use burn::module::Param;

    #[test]
    fn the_map_by_the_values_is_the_state() {
        let (mut block, x) = block_and_tokens(MinGruSettings { expand: 2, positive: true });
        block.out_proj.weight = Param::from_tensor(Tensor::eye(48, &x.device()));
        let (h, _) = block.forward(x.clone(), block.state(2, 24, &x.device()));
        assert_map_gives(&block, x.clone(), block.values(x), h);
    }
}
