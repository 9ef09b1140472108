//! Mamba: a selective state-space layer behind a short convolution.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{
    ConvInput, GatedScanInput, Init, Mixer, MixerSettings, MixerState, ScanInput, SettingsError, causal_conv,
    gated_scan,
};
use serde::{Deserialize, Serialize};

use crate::settings::{at_least, check_dt, init_conv, init_dt_bias};

/// Settings of [`Mamba`]; the defaults are those of the authors' code.
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
}

impl Default for MambaSettings {
    fn default() -> Self {
        Self { d_state: 16, d_conv: 4, expand: 2, dt_rank: None, selective: true, dt_min: 1e-3, dt_max: 0.1 }
    }
}

impl MixerSettings for MambaSettings {
    type Mixer = Mamba;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<Mamba, SettingsError> {
        self.check()?;
        let (d, n, k) = (d_model, self.d_state, self.d_conv);
        let e = self.expand * d;
        let r = self.dt_rank.unwrap_or(d.div_ceil(16));
        let in_proj = init.linear(d, 2 * e, false);
        let (conv_weight, conv_bias) = init_conv(e, k, init);
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
            out_proj: init.linear(e, d, false),
        })
    }
}

impl MambaSettings {
    fn check(&self) -> Result<(), SettingsError> {
        at_least("d_state", self.d_state, 1)?;
        at_least("d_conv", self.d_conv, 2)?;
        at_least("expand", self.expand, 1)?;
        at_least("dt_rank", self.dt_rank.unwrap_or(1), 1)?;
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
/// The paper's B and C are called write and read. The state is one `[e, n]` matrix and the last k − 1 inputs of the
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
    conv_bias: Param<Tensor<1>>,
    selection: Selection,
    dt_proj: Linear,
    dt_bias: Param<Tensor<1>>,
    a_log: Param<Tensor<2>>,
    skip: Param<Tensor<1>>,
    out_proj: Linear,
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
            (Some(proj), _) => proj.forward(x),
            (None, Some(constant)) => {
                let ([b, l, _], [width]) = (x.dims(), constant.dims());
                constant.val().reshape([1, 1, width]).expand([b, l, width])
            }
            (None, None) => unreachable!("a block is built with one of the two"),
        }
    }
}

/// What Mamba remembers: the same number of bytes after any number of tokens.
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
}

impl Mixer for Mamba {
    type State = MambaState;

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> MambaState {
        let (e, n, k) = self.sizes();
        MambaState { conv: Tensor::zeros([batch, k - 1, e], device), ssm: Tensor::zeros([batch, e, n], device) }
    }

    fn forward(&self, u: Tensor<3>, state: MambaState) -> (Tensor<3>, MambaState) {
        let [b, l, _] = u.dims();
        let (e, n, _) = self.sizes();
        let r = self.dt_proj.weight.dims()[0];
        let xz = self.in_proj.forward(u);
        let x = xz.clone().slice([0..b, 0..l, 0..e]);
        let gate = xz.slice([0..b, 0..l, e..2 * e]);
        let conv = ConvInput { x, weight: self.conv_weight.val(), bias: Some(self.conv_bias.val()), silu: true };
        let (x, conv) = causal_conv(conv, state.conv);
        let selection = self.selection.forward(x.clone());
        let part = |from: usize, to: usize| selection.clone().slice([0..b, 0..l, from..to]);
        let scan = ScanInput {
            delta: self.dt_proj.forward(part(0, r)),
            write: part(r, r + n),
            read: part(r + n, r + 2 * n),
            a: self.a_log.val().exp().neg(),
            skip: self.skip.val(),
            u: x,
        };
        let scan = GatedScanInput { scan, delta_bias: Some(self.dt_bias.val()), softplus: true, gate: Some(gate) };
        let (y, ssm) = gated_scan(scan, state.ssm);
        (self.out_proj.forward(y), MambaState { conv, ssm })
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_kernels::softplus;

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
}
