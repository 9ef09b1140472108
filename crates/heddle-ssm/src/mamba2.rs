//! Mamba-2: state-space duality behind a short convolution.

use core::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{
    ConvInput, GateOrder, GatedNorm, Init, Mixer, MixerSettings, SettingsError, SsdInput, causal_conv, gated_rms_norm,
    linear, map_by_head, silu_mul, softplus, ssd, without_head_of,
};
use serde::{Deserialize, Serialize};

use crate::settings::{at_least, check_dt, check_eps, divides, init_conv, init_conv_bias, init_dt_bias};

/// Settings of [`Mamba2`]; the defaults are those of the authors' code.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::Mamba2Settings;
///
/// let settings: Mamba2Settings = toml::from_str("head_dim = 16\ngroups = 3").unwrap();
/// // The inner width 2 · 32 makes four heads of 16, which three groups cannot share.
/// let error = settings.init(32, &mut Init::new(0, &Device::flex())).unwrap_err();
/// assert_eq!(error.to_string(), "`groups`: 3 does not divide the number of heads 4; use a divisor of it");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mamba2Settings {
    /// State size `n` of each channel.
    pub d_state: usize,
    /// Width of the convolution.
    pub d_conv: usize,
    /// Inner width `e` as a multiple of the model's width.
    pub expand: usize,
    /// Inner width itself; none means that `expand` says it.
    pub d_inner: Option<usize>,
    /// Width `p` of a head, whose channels fade alike; none means 64, or the inner width where that is smaller.
    pub head_dim: Option<usize>,
    /// Groups `g` of heads that share B and C, and are normalised each on its own.
    pub groups: usize,
    /// Groups that are normalised each on its own, where these are not `groups`.
    pub norm_groups: Option<usize>,
    /// Where the norm before the output stands to the gate.
    pub gated_norm: GatedNormPlace,
    /// Multipliers of the input projection's parts z, x, B, C and δ (arXiv:2507.22448, §3.2.2); none means 1.
    pub part_scales: Option<[f64; 5]>,
    /// Smallest initial Δ.
    pub dt_min: f64,
    /// Largest initial Δ.
    pub dt_max: f64,
    /// Smallest initial decay rate −A.
    pub a_min: f64,
    /// Largest initial decay rate −A.
    pub a_max: f64,
    /// Bounds that Δ is clamped to, in training and decoding alike; none means that it is not.
    pub dt_limit: Option<[f64; 2]>,
    /// Whether the projections into and out of the block have a bias.
    pub bias: bool,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// ε of the norm before the output.
    pub norm_eps: f64,
}

impl Default for Mamba2Settings {
    fn default() -> Self {
        Self {
            d_state: 128,
            d_conv: 4,
            expand: 2,
            d_inner: None,
            head_dim: None,
            groups: 1,
            norm_groups: None,
            gated_norm: GatedNormPlace::Behind,
            part_scales: None,
            dt_min: 1e-3,
            dt_max: 0.1,
            a_min: 1.0,
            a_max: 16.0,
            dt_limit: None,
            bias: false,
            conv_bias: true,
            norm_eps: 1e-5,
        }
    }
}

/// Where the norm before the output stands to the gate.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::Mamba2Settings;
///
/// let params = |place: &str| {
///     let settings: Mamba2Settings = toml::from_str(&format!("gated_norm = '{place}'")).unwrap();
///     settings.init(32, &mut Init::new(0, &Device::flex())).unwrap().num_params()
/// };
/// assert_eq!(params("behind"), params("before"));
/// // Without a norm there is no scale for the 64 inner channels.
/// assert_eq!(params("behind") - params("none"), 64);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatedNormPlace {
    /// `RMSNorm(y · SiLU(z))`, as Mamba-2 has it.
    Behind,
    /// `RMSNorm(y) · SiLU(z)`.
    Before,
    /// `y · SiLU(z)`, without a norm.
    None,
}

/// Width of a head unless the settings or the block are narrower.
const HEAD_DIM: usize = 64;

impl MixerSettings for Mamba2Settings {
    type Mixer = Mamba2;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<Mamba2, SettingsError> {
        at_least("d_state", self.d_state, 1)?;
        at_least("d_conv", self.d_conv, 2)?;
        at_least("expand", self.expand, 1)?;
        let (d, n, g) = (d_model, self.d_state, self.groups);
        let e = self.d_inner.unwrap_or(self.expand * d);
        at_least("d_inner", e, 1)?;
        let p = self.head_dim.unwrap_or(HEAD_DIM.min(e));
        divides("head_dim", p, e, "the inner width")?;
        let h = e / p;
        divides("groups", g, h, "the number of heads")?;
        let norm_groups = self.norm_groups.unwrap_or(g);
        divides("norm_groups", norm_groups, e, "the inner width")?;
        check_dt(self.dt_min, self.dt_max)?;
        if !(self.a_min > 0.0 && self.a_min <= self.a_max) {
            let problem = format!("{} is not between 0 and `a_max` = {}", self.a_min, self.a_max);
            return Err(SettingsError::new("a_min", problem, "use 0 < a_min ≤ a_max"));
        }
        check_eps("norm_eps", self.norm_eps)?;
        if let Some([low, high]) = self.dt_limit.filter(|[low, high]| !(*low >= 0.0 && low < high)) {
            let problem = format!("[{low}, {high}] are no bounds of a step size");
            return Err(SettingsError::new("dt_limit", problem, "use 0 ≤ low < high"));
        }
        if let Some(scale) = self.part_scales.into_iter().flatten().find(|scale| !scale.is_finite()) {
            return Err(SettingsError::new("part_scales", format!("{scale} is no multiplier"), "use finite numbers"));
        }
        let in_proj = init.linear(d, 2 * e + 2 * g * n + h, self.bias);
        let (width, k) = (e + 2 * g * n, self.d_conv);
        let conv_weight = init_conv(width, k, init);
        let conv_bias = self.conv_bias.then(|| init_conv_bias(width, k, init));
        let (low, high) = (self.a_min as f32, self.a_max as f32);
        Ok(Mamba2 {
            in_proj,
            conv_weight,
            conv_bias,
            dt_bias: init_dt_bias(h, [self.dt_min, self.dt_max], init),
            a_log: init.from_fn([h], |init, _| init.draw_uniform(low, high).ln()),
            skip: init.constant([h], 1.0),
            norm: (self.gated_norm != GatedNormPlace::None).then(|| init.constant([e], 1.0)),
            out_proj: init.linear(e, d, self.bias),
            groups: g,
            d_state: n,
            dt_limit: self.dt_limit,
            part_scales: self.part_scales,
            gated_norm: GatedNorm {
                groups: norm_groups,
                order: match self.gated_norm {
                    GatedNormPlace::Before => GateOrder::After,
                    GatedNormPlace::Behind | GatedNormPlace::None => GateOrder::Before,
                },
                eps: self.norm_eps,
            },
        })
    }
}

/// Mamba-2 (arXiv:2405.21060, §7 and figure 6).
///
/// ```text
/// (z, x, B, C, δ) = W_in u       (x, B, C) ← SiLU(conv(x, B, C))       Δ = softplus(δ + b_Δ)
/// H_t = exp(Δ_t A) H_{t−1} + Δ_t x_t ⊗ B_t      y_t = H_t C_t + D x_t      out = W_out RMSNorm(y · SiLU(z))
/// ```
///
/// Δ may be clamped to `dt_limit`, the parts of `W_in u` multiplied, and the norm stand elsewhere. Each head has one
/// decay rate A and a state of `[p, n]`; B and C are shared by the heads of a group. The state is that of all heads
/// and the last k − 1 inputs of the convolution, whatever the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::Mamba2Settings;
///
/// let device = Device::flex();
/// let settings = Mamba2Settings { d_state: 16, head_dim: Some(16), ..Default::default() };
/// let block = settings.init(32, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 32], &device), block.state(1, 32, &device));
/// assert_eq!(y.dims(), [1, 5, 32]);
/// assert_eq!(state.bytes() as u64, block.state_bytes(5, 32));
/// ```
#[derive(Module, Debug)]
pub struct Mamba2 {
    in_proj: Linear,
    conv_weight: Param<Tensor<2>>,
    conv_bias: Option<Param<Tensor<1>>>,
    dt_bias: Param<Tensor<1>>,
    a_log: Param<Tensor<1>>,
    skip: Param<Tensor<1>>,
    norm: Option<Param<Tensor<1>>>,
    out_proj: Linear,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    d_state: usize,
    #[module(skip)]
    dt_limit: Option<[f64; 2]>,
    #[module(skip)]
    part_scales: Option<[f64; 5]>,
    #[module(skip)]
    gated_norm: GatedNorm,
}

impl Mamba2 {
    /// `[e, h, k]`
    fn sizes(&self) -> [usize; 3] {
        [self.out_proj.weight.dims()[0], self.a_log.dims()[0], self.conv_weight.dims()[1]]
    }

    /// What the state-space layer runs over, what its outputs are gated by, and what the convolution remembers.
    fn project(&self, u: Tensor<3>, conv: Tensor<3>) -> (SsdInput, Tensor<3>, Tensor<3>) {
        let [b, l, _] = u.dims();
        let [e, h, _] = self.sizes();
        let (g, n, width) = (self.groups, self.d_state, self.conv_weight.dims()[0]);
        let projected = self.scaled_parts(linear(u, &self.in_proj));
        let gate = projected.clone().narrow(2, 0, e);
        let mixed = projected.clone().narrow(2, e, width);
        let (delta, delta_bias, softplus) = self.step_size(projected.narrow(2, e + width, h));
        let bias = self.conv_bias.as_ref().map(Param::val);
        let conv_input = ConvInput { x: mixed, weight: self.conv_weight.val(), bias, silu: true };
        let (mixed, conv) = causal_conv(conv_input, conv);
        let input = SsdInput {
            x: mixed.clone().narrow(2, 0, e).reshape([b, l, h, e / h]),
            delta,
            delta_bias,
            softplus,
            a: self.a_log.val().exp().neg(),
            write: mixed.clone().narrow(2, e, g * n).reshape([b, l, g, n]),
            read: mixed.narrow(2, e + g * n, g * n).reshape([b, l, g, n]),
            skip: Some(self.skip.val()),
        };
        (input, gate, conv)
    }

    /// The input projection with each part multiplied.
    fn scaled_parts(&self, projected: Tensor<3>) -> Tensor<3> {
        let Some(scales) = self.part_scales else { return projected };
        let ([e, h, _], shared) = (self.sizes(), self.groups * self.d_state);
        let widths = [e, e, shared, shared, h];
        let row = widths.into_iter().zip(scales).flat_map(|(width, scale)| core::iter::repeat_n(scale as f32, width));
        let row = Tensor::<1>::from_data(row.collect::<Vec<f32>>().as_slice(), &projected.device());
        projected * row.unsqueeze()
    }

    /// Δ as the recurrence takes it, `[b, l, h]`, and the bias and softplus that are left to it: clamping comes behind them.
    fn step_size(&self, delta: Tensor<3>) -> (Tensor<3>, Option<Tensor<1>>, bool) {
        match self.dt_limit {
            Some([low, high]) => (softplus(delta + self.dt_bias.val().unsqueeze()).clamp(low, high), None, false),
            None => (delta, Some(self.dt_bias.val()), true),
        }
    }
}

impl Mixer for Mamba2 {
    /// The last inputs of the convolution, `[b, k−1, e + 2gn]`, and the heads' states, `[b, h, p, n]`.
    type State = (Tensor<3>, Tensor<4>);

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Self::State {
        let [e, h, k] = self.sizes();
        let width = self.conv_weight.dims()[0];
        (Tensor::zeros([batch, k - 1, width], device), Tensor::zeros([batch, h, e / h, self.d_state], device))
    }

    fn forward(&self, u: Tensor<3>, (conv, heads): Self::State) -> (Tensor<3>, Self::State) {
        let [b, l, _] = u.dims();
        let (input, gate, conv) = self.project(u, conv);
        let (y, heads) = ssd(input, heads);
        let y = y.reshape([b, l, self.sizes()[0]]);
        let y = match &self.norm {
            Some(gamma) => gated_rms_norm(y, gate, gamma.val(), self.gated_norm),
            None => silu_mul(gate, y),
        };
        (linear(y, &self.out_proj), (conv, heads))
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        let [e, _, k] = self.sizes();
        4 * (e * self.d_state + self.conv_weight.dims()[0] * (k - 1)) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let [e, h, k] = self.sizes();
        let width = self.conv_weight.dims()[0];
        let matrices = d_model * (e + width + h) + e * d_model;
        // Per channel and state, as a recurrence: decay and write, one multiply-add and a product, and read.
        let states = e * self.d_state * 5 / 2;
        2 * (length * (matrices + width * k + states)) as u64
    }

    /// The hidden attention of each head. The values are the tokens after the convolution.
    fn attention_map(&self, u: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, d], [_, h, _], device) = (u.dims(), self.sizes(), u.device());
        let (input, ..) = self.project(u, self.state(b, d, &device).0);
        Some(map_by_head([b, l, h], &rows, &device, |x| {
            let state = Tensor::zeros([b, h, x.dims()[3], self.d_state], &device);
            ssd(SsdInput { x, ..input.clone() }, state).0
        }))
    }

    fn selection(&self, u: Tensor<3>) -> Option<Tensor<3>> {
        let ([b, _, d], device) = (u.dims(), u.device());
        let (SsdInput { delta, delta_bias, .. }, ..) = self.project(u, self.state(b, d, &device).0);
        Some(match delta_bias {
            Some(bias) => softplus(delta + bias.unsqueeze()),
            None => delta,
        })
    }

    fn without_head(&self, head: usize) -> Option<Self> {
        Some(Self { out_proj: without_head_of(&self.out_proj, head, self.sizes()[1])?, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_map_gives, block_and_tokens};

    #[test]
    fn the_map_by_the_tokens_after_the_convolution_is_what_the_heads_give() {
        let settings = Mamba2Settings { head_dim: Some(8), d_state: 6, groups: 2, ..Default::default() };
        let (block, x) = block_and_tokens(settings);
        let (conv, heads) = block.state(2, 24, &x.device());
        let (input, ..) = block.project(x.clone(), conv);
        let values = input.x.clone().reshape([2, 70, 48]);
        assert_map_gives(&block, x, values, ssd(input, heads).0.reshape([2, 70, 48]));
    }
}
