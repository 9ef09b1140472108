//! Long short-term memory.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{Init, LstmInput, Mixer, MixerSettings, SettingsError, linear, lstm};
use serde::{Deserialize, Serialize};

use crate::settings::at_least;

/// Settings of [`Lstm`].
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::LstmSettings;
///
/// let settings: LstmSettings = toml::from_str("d_hidden = 24").unwrap();
/// let block = settings.init(16, &mut Init::new(0, &Device::flex())).unwrap();
/// // Four gates, each fed by the token, the state and a bias; then the way out.
/// assert_eq!(block.num_params(), 4 * 24 * (16 + 24 + 1) + 24 * 16);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LstmSettings {
    /// Number of cells `e`; none means the model's width.
    pub d_hidden: Option<usize>,
}

impl MixerSettings for LstmSettings {
    type Mixer = Lstm;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<Lstm, SettingsError> {
        let e = self.d_hidden.unwrap_or(d_model);
        at_least("d_hidden", e, 1)?;
        // PyTorch's default for all weights: uniform in ±1/√e. Forget gates start open (Jozefowicz et al. 2015).
        let bound = (e as f32).sqrt().recip();
        let weight = init.uniform([d_model, 4 * e], bound);
        let bias = init.from_fn([4 * e], |_, i| if (e..2 * e).contains(&i) { 1.0 } else { 0.0 });
        Ok(Lstm {
            in_proj: Linear { weight, bias: Some(bias) },
            recurrent_weight: init.uniform([e, 4 * e], bound),
            out_proj: init.linear(e, d_model, false),
        })
    }
}

/// Long short-term memory (Hochreiter and Schmidhuber 1997; with the forget gate of Gers et al. 2000).
///
/// ```text
/// (i, f, g, o) = W x_t + U h_{t−1} + b
/// c_t = σ(f) c_{t−1} + σ(i) tanh(g)      h_t = σ(o) tanh(c_t)      y_t = W_out h_t
/// ```
///
/// The state is `h` and `c`, whatever the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::LstmSettings;
///
/// let device = Device::flex();
/// let block = LstmSettings { d_hidden: Some(24) }.init(16, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 16], &device), block.state(1, 16, &device));
/// assert_eq!((y.dims(), state.bytes()), ([1, 5, 16], 4 * 2 * 24));
/// ```
#[derive(Module, Debug)]
pub struct Lstm {
    in_proj: Linear,
    recurrent_weight: Param<Tensor<2>>,
    out_proj: Linear,
}

impl Mixer for Lstm {
    /// `h` and `c`, each `[b, e]`.
    type State = (Tensor<2>, Tensor<2>);

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Self::State {
        let [e, _] = self.recurrent_weight.dims();
        (Tensor::zeros([batch, e], device), Tensor::zeros([batch, e], device))
    }

    fn forward(&self, x: Tensor<3>, state: Self::State) -> (Tensor<3>, Self::State) {
        let input = LstmInput { gates: linear(x, &self.in_proj), weight: self.recurrent_weight.val() };
        let (h, state) = lstm(input, state);
        (linear(h, &self.out_proj), state)
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        4 * 2 * self.recurrent_weight.dims()[0] as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let [e, _] = self.recurrent_weight.dims();
        2 * (length * (d_model * 4 * e + e * 4 * e + e * d_model)) as u64
    }
}
