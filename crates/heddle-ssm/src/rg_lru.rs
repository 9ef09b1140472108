//! The recurrent block of Griffin: a real-gated linear recurrent unit.

use core::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{
    ConvInput, Init, Mixer, MixerSettings, SettingsError, causal_conv, gelu, linear, linear_recurrence, map_by_channel,
    sigmoid, sigmoid_mul, softplus,
};
use serde::{Deserialize, Serialize};

use crate::settings::{at_least, divides};

/// Settings of [`RgLru`].
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::RgLruSettings;
///
/// let params = |table: &str| {
///     let settings: RgLruSettings = toml::from_str(table).unwrap();
///     settings.init(32, &mut Init::new(0, &Device::flex())).unwrap().num_params()
/// };
/// // Two gates, of 32² weights each or of four blocks of 8².
/// assert_eq!(params("gate_blocks = 1") - params("gate_blocks = 4"), 2 * (32 * 32 - 4 * 8 * 8));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RgLruSettings {
    /// Number of units `e`; none means the model's width.
    pub d_rnn: Option<usize>,
    /// Width of the convolution.
    pub d_conv: usize,
    /// Blocks of the gates' block-diagonal weights; 1 for full weights.
    pub gate_blocks: usize,
    /// Smallest initial decay.
    pub a_min: f64,
    /// Largest initial decay.
    pub a_max: f64,
}

impl Default for RgLruSettings {
    fn default() -> Self {
        Self { d_rnn: None, d_conv: 4, gate_blocks: 1, a_min: 0.9, a_max: 0.999 }
    }
}

/// How much the recurrence gate can speed up the decay, `c` in the paper.
const SHARPNESS: f64 = 8.0;

/// Least of `1 − a²`, so that the derivative of its root stays below 500.
const LEAST_INPUT: f64 = 1e-6;

impl MixerSettings for RgLruSettings {
    type Mixer = RgLru;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<RgLru, SettingsError> {
        let e = self.d_rnn.unwrap_or(d_model);
        at_least("d_rnn", e, 1)?;
        at_least("d_conv", self.d_conv, 2)?;
        divides("gate_blocks", self.gate_blocks, e, "the number of units")?;
        if !(self.a_min > 0.0 && self.a_min <= self.a_max && self.a_max < 1.0) {
            let problem = format!("{} is not between 0 and `a_max` = {}", self.a_min, self.a_max);
            return Err(SettingsError::new("a_min", problem, "use 0 < a_min ≤ a_max < 1"));
        }
        let width = e / self.gate_blocks;
        let gate = |init: &mut Init| Gate {
            weight: init.normal([self.gate_blocks, width, width], (width as f32).sqrt().recip()),
            bias: init.constant([e], 0.0),
        };
        let (low, high) = (self.a_min.powi(2) as f32, self.a_max.powi(2) as f32);
        Ok(RgLru {
            gate_proj: init.linear(d_model, e, true),
            in_proj: init.linear(d_model, e, true),
            conv_weight: init.uniform([e, self.d_conv], (self.d_conv as f32).sqrt().recip()),
            conv_bias: init.constant([e], 0.0),
            recurrence_gate: gate(init),
            input_gate: gate(init),
            // The square of a^c is uniform, as on a ring (arXiv:2402.19427, §2.4; arXiv:2303.06349, lemma 3.2), and
            // c softplus(rate) = −log a^c.
            rate: init.from_fn([e], |init, _| {
                let rate = -0.5 * f64::from(init.draw_uniform(low, high)).ln() / SHARPNESS;
                rate.exp_m1().ln() as f32
            }),
            out_proj: init.linear(e, d_model, true),
        })
    }
}

/// The recurrent block of Griffin (arXiv:2402.19427, §2.3–2.4).
///
/// ```text
/// x = conv(W_x u)      r = σ(W_r x + b_r)      i = σ(W_i x + b_i)      a = exp(−c softplus(Λ) r), c = 8
/// h_t = a_t h_{t−1} + √(1 − a_t²) (i_t x_t)      y = W_out (GELU(W_g u) · h)
/// ```
///
/// The state is `h` and the last inputs of the convolution, whatever the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::RgLruSettings;
///
/// let device = Device::flex();
/// let settings = RgLruSettings { d_rnn: Some(24), gate_blocks: 4, ..Default::default() };
/// let block = settings.init(16, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 16], &device), block.state(1, 16, &device));
/// assert_eq!(y.dims(), [1, 5, 16]);
/// assert_eq!(state.bytes() as u64, block.state_bytes(5, 16));
/// ```
#[derive(Module, Debug)]
pub struct RgLru {
    gate_proj: Linear,
    in_proj: Linear,
    conv_weight: Param<Tensor<2>>,
    conv_bias: Param<Tensor<1>>,
    recurrence_gate: Gate,
    input_gate: Gate,
    /// Λ with the opposite sign.
    rate: Param<Tensor<1>>,
    out_proj: Linear,
}

/// A block-diagonal map: `[blocks, e/blocks, e/blocks]`.
#[derive(Module, Debug)]
struct Gate {
    weight: Param<Tensor<3>>,
    bias: Param<Tensor<1>>,
}

impl Gate {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let ([b, l, e], [blocks, width, _]) = (x.dims(), self.weight.dims());
        let by_block = x.reshape([b * l, blocks, width]).swap_dims(0, 1);
        let y = by_block.matmul(self.weight.val()).swap_dims(0, 1).reshape([b, l, e]);
        y + self.bias.val().unsqueeze()
    }
}

/// How the state fades and what enters it.
struct Gates {
    /// `a`, `[b, l, e]`
    decay: Tensor<3>,
    /// `i` before its sigmoid, `[b, l, e]`
    input: Tensor<3>,
}

impl Gates {
    /// `h` of all tokens and of the last, for the values `x`.
    fn recur(self, x: Tensor<3>, h: Tensor<2>) -> (Tensor<3>, Tensor<2>) {
        let entering = (self.decay.clone().square().neg() + 1.0).clamp_min(LEAST_INPUT).sqrt();
        linear_recurrence(self.decay, entering * sigmoid_mul(self.input, x), h)
    }
}

impl RgLru {
    /// The tokens after the convolution, and what it remembers.
    fn convolve(&self, u: Tensor<3>, conv: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let input = ConvInput {
            x: linear(u, &self.in_proj),
            weight: self.conv_weight.val(),
            bias: Some(self.conv_bias.val()),
            silu: false,
        };
        causal_conv(input, conv)
    }

    fn gates(&self, x: &Tensor<3>) -> Gates {
        let rate = softplus(self.rate.val()) * -SHARPNESS;
        let log_decay = sigmoid(self.recurrence_gate.forward(x.clone())) * rate.unsqueeze();
        Gates { decay: log_decay.exp(), input: self.input_gate.forward(x.clone()) }
    }
}

impl Mixer for RgLru {
    /// The last inputs of the convolution, `[b, k−1, e]`, and `h`, `[b, e]`.
    type State = (Tensor<3>, Tensor<2>);

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Self::State {
        let [e, k] = self.conv_weight.dims();
        (Tensor::zeros([batch, k - 1, e], device), Tensor::zeros([batch, e], device))
    }

    fn forward(&self, u: Tensor<3>, (conv, h): Self::State) -> (Tensor<3>, Self::State) {
        let gate = gelu(linear(u.clone(), &self.gate_proj));
        let (x, conv) = self.convolve(u, conv);
        let (h, last) = self.gates(&x).recur(x, h);
        (linear(gate * h, &self.out_proj), (conv, last))
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        let [e, k] = self.conv_weight.dims();
        4 * (e * k) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let [e, k] = self.conv_weight.dims();
        let gates = 2 * self.recurrence_gate.weight.shape().num_elements();
        2 * (length * (3 * d_model * e + gates + e * (k + 1))) as u64
    }

    /// What each unit's state holds of each value. The values are the tokens after the convolution.
    fn attention_map(&self, u: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, d], [e, _], device) = (u.dims(), self.conv_weight.dims(), u.device());
        let (x, _) = self.convolve(u, self.state(b, d, &device).0);
        let gates = self.gates(&x);
        Some(map_by_channel([b, l, e], &rows, &device, |x, times| {
            let [decay, input] = [&gates.decay, &gates.input].map(|gate| gate.clone().repeat_dim(0, times));
            Gates { decay, input }.recur(x, Tensor::zeros([times * b, e], &device)).0
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_map_gives, block_and_tokens};

    #[test]
    fn the_decay_of_rg_lru_starts_between_its_bounds() {
        // With the recurrence gate wide open the decay is a itself, read off from how fast a state fades.
        let device = Device::flex();
        let settings = RgLruSettings { a_min: 0.7, a_max: 0.8, ..Default::default() };
        let block = settings.init(24, &mut Init::new(0, &device)).unwrap();
        let rate = softplus(block.rate.val()).into_data().try_to_vec::<f32>().unwrap();
        let decays: Vec<f32> = rate.iter().map(|rate| (-8.0 * rate).exp()).collect();
        assert!(decays.iter().all(|a| (0.7 - 1e-4..0.8 + 1e-4).contains(a)), "{decays:?}");
    }

    #[test]
    fn the_map_by_the_tokens_after_the_convolution_is_the_state() {
        let (block, x) = block_and_tokens(RgLruSettings { gate_blocks: 3, ..Default::default() });
        let (conv, h) = block.state(2, 24, &x.device());
        let (values, _) = block.convolve(x.clone(), conv);
        let (h, _) = block.gates(&values).recur(values.clone(), h);
        assert_map_gives(&block, x, values, h);
    }
}
