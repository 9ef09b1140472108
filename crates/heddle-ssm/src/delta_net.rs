//! Gated DeltaNet: a state that is corrected, not only added to.

use core::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{
    ConvInput, DeltaInput, GateOrder, GatedNorm, Init, Mixer, MixerSettings, SettingsError, causal_conv, delta_rule,
    gated_rms_norm, l2_normalize, linear, map_by_head, rms_norm, sigmoid, softplus, without_head_of,
};
use serde::{Deserialize, Serialize};

use crate::settings::{at_least, check_dt, check_eps, divides, init_dt_bias};

/// Settings of [`DeltaNet`]; the defaults are those of gated DeltaNet.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_kernels::{Init, Mixer, MixerSettings};
/// use heddle_ssm::DeltaNetSettings;
///
/// let state_bytes = |table: &str| {
///     let settings: DeltaNetSettings = toml::from_str(table).unwrap();
///     settings.init(32, &mut Init::new(0, &Device::flex())).unwrap().state_bytes(1000, 32)
/// };
/// // Two heads with keys of 16. With decay the values are twice as wide; three inputs wait for the convolution.
/// assert_eq!(state_bytes("heads = 2"), 4 * (2 * 16 * 32 + 3 * 2 * (16 + 16 + 32)));
/// assert_eq!(state_bytes("heads = 2\ndecay = false"), 4 * (2 * 16 * 16 + 3 * 2 * (16 + 16 + 16)));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeltaNetSettings {
    /// Heads `g` of queries and keys.
    pub heads: usize,
    /// Heads `h` of values, a multiple of `heads`; none means as many.
    pub value_heads: Option<usize>,
    /// Width `n` of a head of queries and keys; none means the model's width over the heads.
    pub head_dim: Option<usize>,
    /// Width `p` of a head of values; none means twice that of the keys, or without decay the same.
    pub value_dim: Option<usize>,
    /// Width of the convolution.
    pub d_conv: usize,
    /// Whether the state decays (arXiv:2412.06464); if not, it is DeltaNet (arXiv:2406.06484).
    pub decay: bool,
    /// Whether a SiLU gate of the input multiplies the heads' outputs.
    pub output_gate: bool,
    /// ε of the norm of the heads' outputs. Heads answer small numbers, so it is felt: it is 1e-5 in the authors' code and
    /// 1e-6 in Qwen3-Next.
    pub norm_eps: f64,
    /// Smallest initial Δ, the step that a token's decay is scaled by.
    pub dt_min: f64,
    /// Largest initial Δ.
    pub dt_max: f64,
}

impl Default for DeltaNetSettings {
    fn default() -> Self {
        Self {
            heads: 1,
            value_heads: None,
            head_dim: None,
            value_dim: None,
            d_conv: 4,
            decay: true,
            output_gate: true,
            norm_eps: 1e-5,
            dt_min: 1e-3,
            dt_max: 0.1,
        }
    }
}

impl DeltaNetSettings {
    /// DeltaNet as its authors define it: no decay, no gate, values as wide as keys.
    pub fn without_decay() -> Self {
        Self { decay: false, output_gate: false, ..Self::default() }
    }
}

/// Largest initial decay rate −A, drawn uniformly from 0.
const A_MAX: f32 = 16.0;

/// ε of the lengths that queries and keys are divided by.
const UNIT_EPS: f64 = 1e-6;

impl MixerSettings for DeltaNetSettings {
    type Mixer = DeltaNet;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<DeltaNet, SettingsError> {
        at_least("heads", self.heads, 1)?;
        at_least("d_conv", self.d_conv, 2)?;
        let (g, h) = (self.heads, self.value_heads.unwrap_or(self.heads));
        divides("heads", g, h, "the number of value heads")?;
        if self.head_dim.is_none() {
            divides("heads", g, d_model, "the model's width")?;
        }
        let n = self.head_dim.unwrap_or(d_model / g);
        let p = self.value_dim.unwrap_or(if self.decay { 2 * n } else { n });
        at_least("head_dim", n, 1)?;
        at_least("value_dim", p, 1)?;
        check_dt(self.dt_min, self.dt_max)?;
        check_eps("norm_eps", self.norm_eps)?;
        let width = 2 * g * n + h * p;
        let decay = |init: &mut Init| Decay {
            rate_proj: init.linear(d_model, h, false),
            // Never quite zero, whose logarithm is none.
            a_log: init.from_fn([h], |init, _| init.draw_uniform(1e-4, A_MAX).ln()),
            dt_bias: init_dt_bias(h, [self.dt_min, self.dt_max], init),
        };
        Ok(DeltaNet {
            in_proj: init.linear(d_model, width, false),
            conv_weight: init.uniform([width, self.d_conv], (self.d_conv as f32).sqrt().recip()),
            beta_proj: init.linear(d_model, h, false),
            decay: self.decay.then(|| decay(init)),
            gate_proj: self.output_gate.then(|| init.linear(d_model, h * p, false)),
            norm: init.constant([p], 1.0),
            out_proj: init.linear(h * p, d_model, false),
            sizes: [g, n, h, p],
            norm_eps: self.norm_eps,
        })
    }
}

/// Gated DeltaNet (arXiv:2412.06464, eq. 10 and §3.4), and without its decay DeltaNet (arXiv:2406.06484).
///
/// ```text
/// (q, k, v) = SiLU(conv(W x))      q ← q / (|q| √n)      k ← k / |k|      β = σ(W_β x)      α = exp(−A softplus(W_α x + b))
/// S_t = α_t S_{t−1} (I − β_t k_t k_tᵀ) + β_t v_t k_tᵀ      o_t = S_t q_t      y = W_out (RMSNorm(o) · SiLU(W_g x))
/// ```
///
/// The state holds a `[p, n]` matrix of each head, which maps keys to values and is corrected by what it got wrong, and
/// the last inputs of the convolution.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::DeltaNetSettings;
///
/// let device = Device::flex();
/// let settings = DeltaNetSettings { heads: 2, ..Default::default() };
/// let block = settings.init(32, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 32], &device), block.state(1, 32, &device));
/// assert_eq!(y.dims(), [1, 5, 32]);
/// assert_eq!(state.bytes() as u64, block.state_bytes(5, 32));
/// ```
#[derive(Module, Debug)]
pub struct DeltaNet {
    in_proj: Linear,
    conv_weight: Param<Tensor<2>>,
    beta_proj: Linear,
    decay: Option<Decay>,
    gate_proj: Option<Linear>,
    norm: Param<Tensor<1>>,
    out_proj: Linear,
    /// `[g, n, h, p]`
    #[module(skip)]
    sizes: [usize; 4],
    #[module(skip)]
    norm_eps: f64,
}

/// How much of the state a token leaves, `α`.
#[derive(Module, Debug)]
struct Decay {
    rate_proj: Linear,
    a_log: Param<Tensor<1>>,
    dt_bias: Param<Tensor<1>>,
}

impl Decay {
    /// Δ, `[b, l, h]`.
    fn delta(&self, x: Tensor<3>) -> Tensor<3> {
        softplus(linear(x, &self.rate_proj) + self.dt_bias.val().unsqueeze())
    }

    /// `log α`, `[b, l, h]`.
    fn log(&self, x: Tensor<3>) -> Tensor<3> {
        self.delta(x) * self.a_log.val().exp().neg().unsqueeze()
    }
}

impl DeltaNet {
    /// What the delta rule runs over, and what the convolution remembers.
    fn project(&self, x: &Tensor<3>, conv: Tensor<3>) -> (DeltaInput, Tensor<3>) {
        let [b, l, _] = x.dims();
        let [g, n, h, p] = self.sizes;
        let projected = linear(x.clone(), &self.in_proj);
        let input = ConvInput { x: projected, weight: self.conv_weight.val(), bias: None, silu: true };
        let (mixed, conv) = causal_conv(input, conv);
        let unit = |start| l2_normalize(mixed.clone().narrow(2, start, g * n).reshape([b, l, g, n]), UNIT_EPS);
        let input = DeltaInput {
            q: unit(0) * (n as f64).powf(-0.5),
            k: unit(g * n),
            v: mixed.clone().narrow(2, 2 * g * n, h * p).reshape([b, l, h, p]),
            beta: sigmoid(linear(x.clone(), &self.beta_proj)),
            log_decay: self.decay.as_ref().map(|decay| decay.log(x.clone())),
        };
        (input, conv)
    }
}

impl Mixer for DeltaNet {
    /// The last inputs of the convolution, `[b, k−1, 2gn + hp]`, and the heads' states, `[b, h, p, n]`.
    type State = (Tensor<3>, Tensor<4>);

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Self::State {
        let ([width, k], [_, n, h, p]) = (self.conv_weight.dims(), self.sizes);
        (Tensor::zeros([batch, k - 1, width], device), Tensor::zeros([batch, h, p, n], device))
    }

    fn forward(&self, x: Tensor<3>, (conv, heads): Self::State) -> (Tensor<3>, Self::State) {
        let [b, l, _] = x.dims();
        let [_, _, h, p] = self.sizes;
        let (input, conv) = self.project(&x, conv);
        let (o, heads) = delta_rule(input, heads);
        // A head is normalised by itself, all by one scale.
        let o = o.reshape([b, l * h, p]);
        let o = match &self.gate_proj {
            Some(gate) => {
                let norm = GatedNorm { groups: 1, order: GateOrder::After, eps: self.norm_eps };
                gated_rms_norm(o, linear(x, gate).reshape([b, l * h, p]), self.norm.val(), norm)
            }
            None => rms_norm(o, self.norm.val(), self.norm_eps),
        };
        (linear(o.reshape([b, l, h * p]), &self.out_proj), (conv, heads))
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        let ([width, k], [_, n, h, p]) = (self.conv_weight.dims(), self.sizes);
        4 * (width * (k - 1) + h * p * n) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let ([width, k], [_, n, h, p]) = (self.conv_weight.dims(), self.sizes);
        let gates = h * (1 + usize::from(self.decay.is_some())) + if self.gate_proj.is_some() { h * p } else { 0 };
        let matrices = d_model * (width + gates) + h * p * d_model;
        // Decay, what the state says to the key, the correction and what it says to the query.
        let states = h * p * n * 7 / 2;
        2 * (length * (matrices + width * k + states)) as u64
    }

    /// What each head's answers hold of each value, after all corrections since. The values are those after the convolution.
    fn attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, d], [_, n, h, _], device) = (x.dims(), self.sizes, x.device());
        let (input, _) = self.project(&x, self.state(b, d, &device).0);
        Some(map_by_head([b, l, h], &rows, &device, |v| {
            let state = Tensor::zeros([b, h, v.dims()[3], n], &device);
            delta_rule(DeltaInput { v, ..input.clone() }, state).0
        }))
    }

    /// Δ of the decay, where there is one.
    fn selection(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        self.decay.as_ref().map(|decay| decay.delta(x))
    }

    fn without_head(&self, head: usize) -> Option<Self> {
        Some(Self { out_proj: without_head_of(&self.out_proj, head, self.sizes[2])?, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_map_gives, block_and_tokens};

    #[test]
    fn the_map_by_the_values_after_the_convolution_is_what_the_heads_answer() {
        let shared = DeltaNetSettings { heads: 2, value_heads: Some(4), value_dim: Some(5), ..Default::default() };
        for settings in [shared, DeltaNetSettings { heads: 4, ..DeltaNetSettings::without_decay() }] {
            let (block, x) = block_and_tokens(settings);
            let (conv, heads) = block.state(2, 24, &x.device());
            let (input, _) = block.project(&x, conv);
            let width = block.sizes[2] * block.sizes[3];
            let values = input.v.clone().reshape([2, 70, width]);
            assert_map_gives(&block, x, values, delta_rule(input, heads).0.reshape([2, 70, width]));
        }
    }
}
