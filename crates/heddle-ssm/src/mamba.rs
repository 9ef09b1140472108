//! Mamba: a selective state-space layer behind a short convolution.

use core::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{
    ConvInput, GatedScanInput, Init, Mixer, MixerSettings, MixerState, ScanInput, SettingsError, causal_conv, exp,
    gated_scan, linear, map_by_channel, rms_norm, softplus,
};
use serde::{Deserialize, Serialize};

use crate::settings::{at_least, check_dt, check_eps, init_conv, init_conv_bias, init_dt_bias};

/// Settings of [`Mamba`]; the defaults are those of the authors' code.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::MambaSettings;
///
/// let params = |table: &str| {
///     let settings: MambaSettings = toml::from_str(table).unwrap();
///     settings.init(32, &mut Init::new(0, &Device::flex())).unwrap().num_params()
/// };
/// // Δ of rank 2, and B and C of 8: a projection of the 64 inner channels, or constants.
/// assert_eq!(params("d_state = 8") - params("d_state = 8\nselective = false"), (64 - 1) * (2 + 8 + 8));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MambaSettings {
    /// State size `n` of each channel.
    pub d_state: usize,
    /// Width of the convolution.
    pub d_conv: usize,
    /// Inner width `e` as a multiple of the model's width.
    pub expand: usize,
    /// Rank `r` of Δ's projection; none means ⌈d/16⌉.
    pub dt_rank: Option<usize>,
    /// Whether Δ, B and C depend on the token; if not, they are learned constants and the layer is time-invariant.
    pub selective: bool,
    /// Smallest initial Δ.
    pub dt_min: f64,
    /// Largest initial Δ.
    pub dt_max: f64,
    /// Normalisation of Δ (before its expansion), B and C; none means that they are taken as they are.
    pub inner_norm: Option<InnerNorm>,
    /// Whether the projections into and out of the block have a bias; none means that they have not.
    pub bias: Option<bool>,
    /// Whether the convolution has a bias; none means that it has.
    pub conv_bias: Option<bool>,
}

impl Default for MambaSettings {
    fn default() -> Self {
        Self {
            d_state: 16,
            d_conv: 4,
            expand: 2,
            dt_rank: None,
            selective: true,
            dt_min: 1e-3,
            dt_max: 0.1,
            inner_norm: None,
            bias: None,
            conv_bias: None,
        }
    }
}

/// How [`Mamba`] normalises Δ, B and C: each by its root mean square, `x_i ← γ_i x_i / √(mean_j x_j² + ε)`.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::MambaSettings;
///
/// let params = |table: &str| {
///     let settings: MambaSettings = toml::from_str(table).unwrap();
///     settings.init(32, &mut Init::new(0, &Device::flex())).unwrap().num_params()
/// };
/// let falcon = params("inner_norm = { scale = false }");
/// assert_eq!(falcon, params(""), "nothing to learn");
/// assert_eq!(params("inner_norm = {}") - falcon, 2 + 16 + 16, "Jamba learns a scale of Δ, B and C");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InnerNorm {
    /// Whether γ is learned, as in Jamba (arXiv:2403.19887, §3); if not, it is one, as in Falcon Mamba (arXiv:2410.05355).
    pub scale: bool,
    /// ε.
    pub eps: f64,
}

impl Default for InnerNorm {
    fn default() -> Self {
        Self { scale: true, eps: 1e-6 }
    }
}

impl MixerSettings for MambaSettings {
    type Mixer = Mamba;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<Mamba, SettingsError> {
        self.check()?;
        let (d, n, k) = (d_model, self.d_state, self.d_conv);
        let e = self.expand * d;
        let r = self.dt_rank.unwrap_or(d.div_ceil(16));
        let bias = self.bias.unwrap_or(false);
        let in_proj = init.linear(d, 2 * e, bias);
        let conv_weight = init_conv(e, k, init);
        let conv_bias = self.conv_bias.unwrap_or(true).then(|| init_conv_bias(e, k, init));
        let selection = match self.selective {
            true => Selection { proj: Some(init.linear(e, r + 2 * n, false)), constant: None },
            // As large as what a selective layer draws from channels of unit variance.
            false => Selection { proj: None, constant: Some(init.normal([r + 2 * n], 3f32.sqrt().recip())) },
        };
        Ok(Mamba {
            in_proj,
            conv_weight,
            conv_bias,
            selection,
            dt_proj: init.linear(r, e, false),
            dt_bias: init_dt_bias(e, [self.dt_min, self.dt_max], init),
            // A_{e,n} = −n, the S4D-Real initialisation (arXiv:2206.11893).
            a_log: init.from_fn([e, n], |_, i| ((i % n + 1) as f32).ln()),
            skip: init.constant([e], 1.0),
            out_proj: init.linear(e, d, bias),
            inner_norm: self.inner_norm.as_ref().map(|norm| SelectionNorm::new(norm, [r, n], init)),
        })
    }
}

impl MambaSettings {
    fn check(&self) -> Result<(), SettingsError> {
        at_least("d_state", self.d_state, 1)?;
        at_least("d_conv", self.d_conv, 2)?;
        at_least("expand", self.expand, 1)?;
        at_least("dt_rank", self.dt_rank.unwrap_or(1), 1)?;
        if let Some(norm) = &self.inner_norm {
            check_eps("inner_norm.eps", norm.eps)?;
        }
        check_dt(self.dt_min, self.dt_max)
    }
}

/// Mamba (arXiv:2312.00752, §3.4 and algorithm 2).
///
/// ```text
/// (x, z) = W_in u            x ← SiLU(conv(x))          (δ, B, C) = W_x x        Δ = softplus(W_Δ δ + b_Δ)
/// h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t                y_t = C_t h_t + D x_t    out = W_out (y · SiLU(z))
/// ```
///
/// The paper's B and C are called write and read. With `inner_norm`, δ, B and C are normalised, each on its own, before they
/// are used (Jamba, arXiv:2403.19887, §3). The state is one `[e, n]` matrix and the last k − 1 inputs of the
/// convolution, whatever the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::MambaSettings;
///
/// let device = Device::flex();
/// let block = MambaSettings::default().init(32, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 32], &device), block.state(1, 32, &device));
/// assert_eq!(y.dims(), [1, 5, 32]);
/// assert_eq!(state.bytes() as u64, block.state_bytes(5, 32));
/// ```
#[derive(Module, Debug)]
pub struct Mamba {
    in_proj: Linear,
    conv_weight: Param<Tensor<2>>,
    conv_bias: Option<Param<Tensor<1>>>,
    selection: Selection,
    dt_proj: Linear,
    dt_bias: Param<Tensor<1>>,
    a_log: Param<Tensor<2>>,
    skip: Param<Tensor<1>>,
    out_proj: Linear,
    inner_norm: Option<SelectionNorm>,
}

/// Where Δ (before its expansion), B and C come from: the token, or nowhere.
#[derive(Module, Debug)]
struct Selection {
    proj: Option<Linear>,
    /// `[r + 2n]`
    constant: Option<Param<Tensor<1>>>,
}

impl Selection {
    /// `[b, l, e]` → `[b, l, r + 2n]`
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match (&self.proj, &self.constant) {
            (Some(proj), _) => linear(x, proj),
            (None, Some(constant)) => {
                let ([b, l, _], [width]) = (x.dims(), constant.dims());
                constant.val().reshape([1, 1, width]).expand([b, l, width])
            }
            (None, None) => unreachable!("a block is built with one of the two"),
        }
    }
}

/// The normalisation of Δ (before its expansion), B and C, with a scale each or with none.
#[derive(Module, Debug)]
struct SelectionNorm {
    delta: Option<Param<Tensor<1>>>,
    write: Option<Param<Tensor<1>>>,
    read: Option<Param<Tensor<1>>>,
    #[module(skip)]
    eps: f64,
}

impl SelectionNorm {
    fn new(norm: &InnerNorm, [r, n]: [usize; 2], init: &mut Init) -> Self {
        let mut scale = |width: usize| norm.scale.then(|| init.constant([width], 1.0));
        Self { delta: scale(r), write: scale(n), read: scale(n), eps: norm.eps }
    }

    /// Normalises δ, B and C, each `[b, l, …]`.
    fn forward(&self, [delta, write, read]: [Tensor<3>; 3]) -> [Tensor<3>; 3] {
        let norm = |x: Tensor<3>, scale: &Option<Param<Tensor<1>>>| {
            let [_, _, width] = x.dims();
            let gamma = scale.as_ref().map_or_else(|| Tensor::ones([width], &x.device()), Param::val);
            rms_norm(x, gamma, self.eps)
        };
        [norm(delta, &self.delta), norm(write, &self.write), norm(read, &self.read)]
    }
}

/// What Mamba remembers: the same number of bytes after any number of tokens.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings};
/// use heddle_ssm::MambaSettings;
///
/// let device = Device::flex();
/// let block = MambaSettings::default().init(32, &mut Init::new(0, &device)).unwrap();
/// let (_, state) = block.forward(Tensor::ones([2, 9, 32], &device), block.state(2, 32, &device));
/// // Twice the model's width in channels: three tokens of each for the convolution, sixteen states of each.
/// assert_eq!((state.conv.dims(), state.ssm.dims()), ([2, 3, 64], [2, 64, 16]));
/// ```
#[derive(Clone, Debug)]
pub struct MambaState {
    /// The last inputs of the convolution, `[b, k−1, e]`.
    pub conv: Tensor<3>,
    /// The state-space layer's state, `[b, e, n]`.
    pub ssm: Tensor<3>,
}

impl MixerState for MambaState {
    fn bytes(&self) -> usize {
        self.conv.bytes() + self.ssm.bytes()
    }

    fn detach(self) -> Self {
        Self { conv: self.conv.detach(), ssm: self.ssm.detach() }
    }
}

impl Mamba {
    /// `[e, n]` and the convolution's width `k`.
    fn sizes(&self) -> (usize, usize, usize) {
        let [e, n] = self.a_log.dims();
        (e, n, self.conv_weight.dims()[1])
    }

    /// The scan of `u`, and what the convolution remembers.
    fn project(&self, u: Tensor<3>, conv: Tensor<3>) -> (GatedScanInput, Tensor<3>) {
        let [b, l, _] = u.dims();
        let (e, n, _) = self.sizes();
        let r = self.dt_proj.weight.dims()[0];
        let xz = linear(u, &self.in_proj);
        let x = xz.clone().slice([0..b, 0..l, 0..e]);
        let gate = xz.slice([0..b, 0..l, e..2 * e]);
        let bias = self.conv_bias.as_ref().map(Param::val);
        let (x, conv) = causal_conv(ConvInput { x, weight: self.conv_weight.val(), bias, silu: true }, conv);
        let selection = self.selection.forward(x.clone());
        let part = |from: usize, to: usize| selection.clone().slice([0..b, 0..l, from..to]);
        let selected = [part(0, r), part(r, r + n), part(r + n, r + 2 * n)];
        let [delta, write, read] = match &self.inner_norm {
            Some(norm) => norm.forward(selected),
            None => selected,
        };
        let scan = ScanInput {
            delta: linear(delta, &self.dt_proj),
            write,
            read,
            a: exp(self.a_log.val()).neg(),
            skip: self.skip.val(),
            u: x,
        };
        let scan = GatedScanInput { scan, delta_bias: Some(self.dt_bias.val()), softplus: true, gate: Some(gate) };
        (scan, conv)
    }
}

impl Mixer for Mamba {
    type State = MambaState;

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> MambaState {
        let (e, n, k) = self.sizes();
        MambaState { conv: Tensor::zeros([batch, k - 1, e], device), ssm: Tensor::zeros([batch, e, n], device) }
    }

    fn forward(&self, u: Tensor<3>, state: MambaState) -> (Tensor<3>, MambaState) {
        let (scan, conv) = self.project(u, state.conv);
        let (y, ssm) = gated_scan(scan, state.ssm);
        (linear(y, &self.out_proj), MambaState { conv, ssm })
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        let (e, n, k) = self.sizes();
        4 * (e * n + e * (k - 1)) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let (e, n, k) = self.sizes();
        let r = self.dt_proj.weight.dims()[0];
        let selection = if self.selection.proj.is_some() { e * (r + 2 * n) } else { 0 };
        let matrices = d_model * 2 * e + selection + r * e + e * d_model;
        // Per channel and state: exp(ΔA) h + ΔB u and C h, one multiply-add each, and the product ΔA.
        let scan = e * n * 7 / 2;
        2 * (length * (matrices + e * k + scan)) as u64
    }

    /// The hidden attention of each channel. The values are the tokens after the convolution.
    fn attention_map(&self, u: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, d], (e, n, _), device) = (u.dims(), self.sizes(), u.device());
        let (input, _) = self.project(u, self.state(b, d, &device).conv);
        Some(map_by_channel([b, l, e], &rows, &device, |u, times| {
            let [delta, write, read] =
                [&input.scan.delta, &input.scan.write, &input.scan.read].map(|x| x.clone().repeat_dim(0, times));
            let scan = ScanInput { u, delta, write, read, ..input.scan.clone() };
            let state = Tensor::zeros([times * b, e, n], &device);
            gated_scan(GatedScanInput { scan, gate: None, ..input.clone() }, state).0
        }))
    }

    /// Δ of each channel; none where it does not depend on the token.
    fn selection(&self, u: Tensor<3>) -> Option<Tensor<3>> {
        self.selection.proj.as_ref()?;
        let ([b, _, d], device) = (u.dims(), u.device());
        let (input, _) = self.project(u, self.state(b, d, &device).conv);
        Some(softplus(input.scan.delta + self.dt_bias.val().unsqueeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_map_gives, block_and_tokens};

    fn mamba(settings: MambaSettings) -> Result<Mamba, SettingsError> {
        settings.init(32, &mut Init::new(3, &Device::flex()))
    }

    #[test]
    fn the_initial_delta_lies_between_its_bounds() {
        let block = mamba(MambaSettings { dt_min: 0.01, dt_max: 0.2, ..Default::default() }).unwrap();
        let delta = softplus(block.dt_bias.val()).into_data().try_to_vec::<f32>().unwrap();
        assert!(delta.iter().all(|dt| (0.0099..0.2001).contains(dt)), "{delta:?}");
        assert!(delta.iter().any(|dt| *dt < 0.03) && delta.iter().any(|dt| *dt > 0.07), "log-uniform: {delta:?}");
    }

    #[test]
    fn a_frozen_selection_is_the_time_invariant_layer() {
        let device = Device::flex();
        let invariant = mamba(MambaSettings { selective: false, ..Default::default() }).unwrap();
        let constant = invariant.selection.constant.clone().unwrap();
        let (e, n, _) = invariant.sizes();
        let width = constant.dims()[0];
        let mut frozen = invariant.clone();
        let bias = Some(Param::from_tensor(constant.val()));
        let weight = Param::from_tensor(Tensor::zeros([e, width], &device));
        frozen.selection = Selection { proj: Some(Linear { weight, bias }), constant: None };
        let mut init = Init::new(4, &device);
        let x: Tensor<3> = init.normal([2, 9, 32], 1.0).val();
        let [a, b] = [&invariant, &frozen].map(|block| block.forward(x.clone(), block.state(2, 32, &device)).0);
        assert!((a.clone() - b).abs().max().into_scalar::<f32>() < 1e-6);
        assert!(a.abs().max().into_scalar::<f32>() > 1e-3);
        assert!(invariant.flops(9, 32) < frozen.flops(9, 32) && n == 16);
    }

    #[test]
    fn an_impossible_setting_is_named() {
        let error = mamba(MambaSettings { d_conv: 1, ..Default::default() }).unwrap_err();
        assert_eq!(error.to_string(), "`d_conv`: 1 is too small; use 2 or more");
        let error = mamba(MambaSettings { dt_min: 0.5, ..Default::default() }).unwrap_err();
        assert_eq!(error.to_string(), "`dt_min`: 0.5 is not between 0 and `dt_max` = 0.1; use 0 < dt_min ≤ dt_max");
    }

    #[test]
    fn the_map_by_the_tokens_after_the_convolution_is_what_the_scan_gives() {
        for selective in [true, false] {
            let (block, x) = block_and_tokens(MambaSettings { selective, ..Default::default() });
            let state = block.state(2, 24, &x.device());
            let (input, _) = block.project(x.clone(), state.conv);
            let values = input.scan.u.clone();
            let (y, _) = gated_scan(GatedScanInput { gate: None, ..input }, state.ssm);
            assert_map_gives(&block, x, values, y);
        }
    }

    #[test]
    fn the_map_is_the_hidden_attention_and_the_skip() {
        let (block, x) = block_and_tokens(MambaSettings { d_state: 3, ..Default::default() });
        let (x, (e, l)) = (x.narrow(1, 0, 9), (48, 9));
        let (GatedScanInput { scan, .. }, _) = block.project(x.clone(), block.state(2, 24, &x.device()).conv);
        let delta = softplus(scan.delta + block.dt_bias.val().unsqueeze());
        // Axes: batch, channel, to, from, state.
        let channels = |x: Tensor<3>, at: usize| x.swap_dims(1, 2).unsqueeze_dim::<4>(at).unsqueeze_dim::<5>(4);
        let states = |x: Tensor<3>, at: usize| x.unsqueeze_dim::<4>(1).unsqueeze_dim::<5>(at);
        let time = delta.clone().cumsum(1);
        let decay = (channels(time.clone(), 3) - channels(time, 2)) * scan.a.reshape([1, e, 1, 1, 3]);
        // The paper's eq. for α_ij, where the product of Ā telescopes to one exponential.
        let terms = states(scan.read, 3) * decay.exp() * channels(delta, 2) * states(scan.write, 2);
        let hidden = terms.sum_dim(4).squeeze_dim::<4>(4).tril(0);
        let skip = Tensor::<2>::eye(l, &x.device()).reshape([1, 1, l, l]) * scan.skip.reshape([1, e, 1, 1]);
        let map = block.attention_map(x, 0..l).unwrap();
        assert!((map - hidden - skip).abs().max().into_scalar::<f32>() < 1e-5);
    }
}
