//! A doubly gated short convolution.

use core::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{ConvInput, Init, Mixer, MixerSettings, SettingsError, causal_conv, linear, map_by_channel};
use serde::{Deserialize, Serialize};

use crate::settings::{at_least, init_conv, init_conv_bias};

/// Settings of [`ShortConv`].
///
/// ```
/// use burn::tensor::Device;
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::ShortConvSettings;
///
/// let init = |table: &str| {
///     let settings: ShortConvSettings = toml::from_str(table).unwrap();
///     settings.init(16, &mut Init::new(0, &Device::flex()))
/// };
/// assert!(init("d_conv = 4\nbias = true").is_ok());
/// // A filter of one weight would mix nothing.
/// assert_eq!(init("d_conv = 1").unwrap_err().to_string(), "`d_conv`: 1 is too small; use 2 or more");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShortConvSettings {
    /// Width of the convolution.
    pub d_conv: usize,
    /// Whether both projections and the convolution have a bias.
    pub bias: bool,
}

impl Default for ShortConvSettings {
    fn default() -> Self {
        Self { d_conv: 3, bias: false }
    }
}

impl MixerSettings for ShortConvSettings {
    type Mixer = ShortConv;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<ShortConv, SettingsError> {
        at_least("d_conv", self.d_conv, 2)?;
        Ok(ShortConv {
            in_proj: init.linear(d_model, 3 * d_model, self.bias),
            conv_weight: init_conv(d_model, self.d_conv, init),
            conv_bias: self.bias.then(|| init_conv_bias(d_model, self.d_conv, init)),
            out_proj: init.linear(d_model, d_model, self.bias),
        })
    }
}

/// A short convolution with a gate before and one behind it, as in LFM2 (arXiv:2511.23404) and, with a long filter, in
/// H3 and Hyena (arXiv:2302.10866).
///
/// ```text
/// (B, C, x) = W_in u      y = W_out (C · conv(B · x))
/// ```
///
/// The state is the last inputs of the convolution.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::ShortConvSettings;
///
/// let device = Device::flex();
/// let block = ShortConvSettings::default().init(16, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 16], &device), block.state(1, 16, &device));
/// assert_eq!((y.dims(), state.bytes()), ([1, 5, 16], 4 * 2 * 16));
/// ```
#[derive(Module, Debug)]
pub struct ShortConv {
    in_proj: Linear,
    conv_weight: Param<Tensor<2>>,
    conv_bias: Option<Param<Tensor<1>>>,
    out_proj: Linear,
}

impl ShortConv {
    /// `B`, `C` and `x` of `u`, each `[b, l, d]`.
    fn project(&self, u: Tensor<3>) -> [Tensor<3>; 3] {
        let [d, _] = self.conv_weight.dims();
        let projected = linear(u, &self.in_proj);
        [0, 1, 2].map(|i| projected.clone().narrow(2, i * d, d))
    }

    /// `conv(B · x)` without its bias, and what the convolution remembers.
    fn convolve(&self, write: Tensor<3>, x: Tensor<3>, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        causal_conv(ConvInput { x: write * x, weight: self.conv_weight.val(), bias: None, silu: false }, state)
    }
}

impl Mixer for ShortConv {
    /// The last inputs of the convolution, `[b, k−1, d]`.
    type State = Tensor<3>;

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Tensor<3> {
        let [d, k] = self.conv_weight.dims();
        Tensor::zeros([batch, k - 1, d], device)
    }

    fn forward(&self, u: Tensor<3>, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let [write, read, x] = self.project(u);
        let (mixed, state) = self.convolve(write, x, state);
        let mixed = match &self.conv_bias {
            Some(bias) => mixed + bias.val().unsqueeze(),
            None => mixed,
        };
        (linear(read * mixed, &self.out_proj), state)
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        let [d, k] = self.conv_weight.dims();
        4 * (d * (k - 1)) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let [d, k] = self.conv_weight.dims();
        2 * (length * (4 * d_model * d + d * (k + 2))) as u64
    }

    /// The filter of each channel with the gate `B` before it; its bias stays out. The values are `x`.
    fn attention_map(&self, u: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, _], [d, k], device) = (u.dims(), self.conv_weight.dims(), u.device());
        let [write, ..] = self.project(u);
        Some(map_by_channel([b, l, d], &rows, &device, |x, times| {
            let state = Tensor::zeros([times * b, k - 1, d], &device);
            self.convolve(write.clone().repeat_dim(0, times), x, state).0
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_map_gives, block_and_tokens};

    #[test]
    fn the_map_by_the_values_is_what_the_convolution_gives() {
        let (block, x) = block_and_tokens(ShortConvSettings { d_conv: 4, ..Default::default() });
        let [write, _, values] = block.project(x.clone());
        let (mixed, _) = block.convolve(write, values.clone(), block.state(2, 24, &x.device()));
        assert_map_gives(&block, x, values, mixed);
    }
}
