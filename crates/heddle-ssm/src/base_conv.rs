//! A gated short convolution: the least that mixes along the sequence.

use core::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{ConvInput, Init, Mixer, MixerSettings, SettingsError, causal_conv, linear, map_by_channel};
use serde::{Deserialize, Serialize};

use crate::settings::{at_least, init_conv, init_conv_bias};

/// Settings of [`BaseConv`].
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::BaseConvSettings;
///
/// let settings: BaseConvSettings = toml::from_str("d_conv = 5").unwrap();
/// let block = settings.init(16, &mut Init::new(0, &Device::flex())).unwrap();
/// // The linear map and a filter of five weights a channel, both with a bias.
/// assert_eq!(block.num_params(), 16 * 16 + 16 + 16 * 5 + 16);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaseConvSettings {
    /// Width of the convolution.
    pub d_conv: usize,
}

impl Default for BaseConvSettings {
    fn default() -> Self {
        Self { d_conv: 3 }
    }
}

impl MixerSettings for BaseConvSettings {
    type Mixer = BaseConv;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<BaseConv, SettingsError> {
        at_least("d_conv", self.d_conv, 2)?;
        let proj = init.linear(d_model, d_model, true);
        let conv_weight = init_conv(d_model, self.d_conv, init);
        let conv_bias = init_conv_bias(d_model, self.d_conv, init);
        Ok(BaseConv { proj, conv_weight, conv_bias })
    }
}

/// BaseConv (arXiv:2312.04927): a short convolution, gated by a linear map.
///
/// ```text
/// y = (W x + b) · conv(x)
/// ```
///
/// The state is the last inputs of the convolution.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::BaseConvSettings;
///
/// let device = Device::flex();
/// let block = BaseConvSettings { d_conv: 4 }.init(16, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 16], &device), block.state(1, 16, &device));
/// assert_eq!((y.dims(), state.bytes()), ([1, 5, 16], 4 * 3 * 16));
/// ```
#[derive(Module, Debug)]
pub struct BaseConv {
    proj: Linear,
    conv_weight: Param<Tensor<2>>,
    conv_bias: Param<Tensor<1>>,
}

impl BaseConv {
    fn conv(&self, x: Tensor<3>) -> ConvInput {
        ConvInput { x, weight: self.conv_weight.val(), bias: Some(self.conv_bias.val()), silu: false }
    }
}

impl Mixer for BaseConv {
    /// The last inputs of the convolution, `[b, k−1, d]`.
    type State = Tensor<3>;

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Tensor<3> {
        let [d, k] = self.conv_weight.dims();
        Tensor::zeros([batch, k - 1, d], device)
    }

    fn forward(&self, x: Tensor<3>, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let gate = linear(x.clone(), &self.proj);
        let (mixed, state) = causal_conv(self.conv(x), state);
        (gate * mixed, state)
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        let [d, k] = self.conv_weight.dims();
        4 * (d * (k - 1)) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let [d, k] = self.conv_weight.dims();
        2 * (length * (d_model * d + d * k)) as u64
    }

    /// The filter of each channel, the same whatever the tokens. The values are the tokens themselves; the bias of the
    /// convolution is no token's and stays out.
    fn attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, d], device) = (x.dims(), x.device());
        Some(map_by_channel([b, l, d], &rows, &device, |x, times| {
            causal_conv(ConvInput { bias: None, ..self.conv(x) }, self.state(times * b, d, &device)).0
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_map_gives, block_and_tokens};

    #[test]
    fn the_map_by_the_tokens_is_the_convolution_without_its_bias() {
        let (block, x) = block_and_tokens(BaseConvSettings { d_conv: 4 });
        let (mixed, _) = causal_conv(block.conv(x.clone()), block.state(2, 24, &x.device()));
        assert_map_gives(&block, x.clone(), x, mixed - block.conv_bias.val().unsqueeze());
    }
}
