//! Gated recurrent unit.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{GruInput, Init, Mixer, MixerSettings, SettingsError, gru, linear};
use serde::{Deserialize, Serialize};

use crate::settings::at_least;

/// Settings of [`Gru`].
///
/// ```
/// use heddle_ssm::GruSettings;
///
/// let settings: GruSettings = toml::from_str("d_hidden = 24").unwrap();
/// assert_eq!(settings.d_hidden, Some(24));
/// // A key that is misspelt is not passed over.
/// let error = toml::from_str::<GruSettings>("hidden = 24").unwrap_err();
/// assert_eq!(error.message(), "unknown field `hidden`, expected `d_hidden`");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GruSettings {
    /// Number of units `e`; none means the model's width.
    pub d_hidden: Option<usize>,
}

impl MixerSettings for GruSettings {
    type Mixer = Gru;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<Gru, SettingsError> {
        let e = self.d_hidden.unwrap_or(d_model);
        at_least("d_hidden", e, 1)?;
        // PyTorch's default for all parameters: uniform in ±1/√e.
        let bound = (e as f32).sqrt().recip();
        Ok(Gru {
            in_proj: Linear { weight: init.uniform([d_model, 3 * e], bound), bias: Some(init.uniform([3 * e], bound)) },
            recurrent_weight: init.uniform([e, 3 * e], bound),
            recurrent_bias: init.uniform([e], bound),
            out_proj: init.linear(e, d_model, false),
        })
    }
}

/// Gated recurrent unit (arXiv:1406.1078, eq. 5–8, in the form whose reset gate acts behind the product).
///
/// ```text
/// (r, z, n) = W x_t + b      r ← σ(r + U_r h_{t−1})      z ← σ(z + U_z h_{t−1})      n ← tanh(n + r ⊙ (U_n h_{t−1} + b_n))
/// h_t = (1 − z) n + z h_{t−1}      y_t = W_out h_t
/// ```
///
/// The state is `h`, whatever the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::GruSettings;
///
/// let device = Device::flex();
/// let block = GruSettings { d_hidden: Some(24) }.init(16, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 16], &device), block.state(1, 16, &device));
/// assert_eq!((y.dims(), state.bytes()), ([1, 5, 16], 4 * 24));
/// ```
#[derive(Module, Debug)]
pub struct Gru {
    in_proj: Linear,
    recurrent_weight: Param<Tensor<2>>,
    recurrent_bias: Param<Tensor<1>>,
    out_proj: Linear,
}

impl Mixer for Gru {
    /// `h`, `[b, e]`.
    type State = Tensor<2>;

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Tensor<2> {
        Tensor::zeros([batch, self.recurrent_bias.dims()[0]], device)
    }

    fn forward(&self, x: Tensor<3>, state: Tensor<2>) -> (Tensor<3>, Tensor<2>) {
        let input = GruInput {
            gates: linear(x, &self.in_proj),
            weight: self.recurrent_weight.val(),
            bias: self.recurrent_bias.val(),
        };
        let (h, state) = gru(input, state);
        (linear(h, &self.out_proj), state)
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        4 * self.recurrent_bias.dims()[0] as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let [e, _] = self.recurrent_weight.dims();
        2 * (length * (d_model * 3 * e + e * 3 * e + e * d_model)) as u64
    }
}
