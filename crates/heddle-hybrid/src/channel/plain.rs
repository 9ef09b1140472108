//! The plain feed-forward layer.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError, gelu, linear, relu_squared, silu};
use serde::{Deserialize, Serialize};

use super::{ChannelMixer, ChannelSettings, inner_width};

/// Settings of [`Mlp`].
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_hybrid::{ChannelMixer, Init, MlpSettings};
///
/// let mut table = serde_json::to_value(MlpSettings { expand: 2.0, bias: true, ..Default::default() }).unwrap();
/// table["kind"] = "mlp".into();
/// let built = ChannelMixer::build(table.as_object().unwrap(), 16, &mut Init::new(0, &Device::flex()));
/// assert_eq!(built.unwrap().unwrap().num_params(), 16 * 32 + 32 + 32 * 16 + 16);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpSettings {
    /// Inner width as a multiple of the model's width.
    pub expand: f64,
    /// What is applied to the inner channels.
    pub activation: Activation,
    /// Whether both maps have a bias.
    pub bias: bool,
}

impl Default for MlpSettings {
    fn default() -> Self {
        Self { expand: 4.0, activation: Activation::Gelu, bias: false }
    }
}

/// What is applied to each inner channel.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{Activation, ChannelMixer, Init, MlpSettings};
///
/// let device = Device::flex();
/// let mlp = |activation, x: f32| {
///     let mut table = serde_json::to_value(MlpSettings { activation, ..Default::default() }).unwrap();
///     table["kind"] = "mlp".into();
///     let built = ChannelMixer::build(table.as_object().unwrap(), 16, &mut Init::new(0, &device));
///     built.unwrap().unwrap().forward(Tensor::full([1, 1, 16], x, &device)).0
/// };
/// let far = |a: Tensor<3>, b: Tensor<3>| (a - b).abs().max().into_scalar::<f32>();
/// // A square grows fourfold; the others end up linear.
/// assert!(far(mlp(Activation::ReluSquared, 2.0), mlp(Activation::ReluSquared, 1.0) * 4.0) < 1e-4);
/// for activation in [Activation::Gelu, Activation::Silu] {
///     assert!(far(mlp(activation, 2e3), mlp(activation, 1e3) * 2.0) < 0.5);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Φ(x)` (arXiv:1606.08415).
    Gelu,
    /// `max(x, 0)²` (arXiv:2109.08668).
    ReluSquared,
    /// `x σ(x)` (arXiv:1606.08415, 1702.03118).
    Silu,
}

impl Activation {
    /// Applies it to every element.
    pub(super) fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => gelu(x),
            Self::ReluSquared => relu_squared(x),
            Self::Silu => silu(x),
        }
    }
}

impl ChannelSettings for MlpSettings {
    fn init(&self, d_model: usize, init: &mut Init) -> Result<ChannelMixer, SettingsError> {
        let width = inner_width(self.expand, d_model)?;
        Ok(ChannelMixer::Mlp(Mlp {
            up: init.linear(d_model, width, self.bias),
            down: init.linear(width, d_model, self.bias),
            activation: self.activation,
        }))
    }
}

/// The plain feed-forward layer (arXiv:1706.03762, eq. 2), with another activation.
///
/// ```text
/// y = W_down act(W_up x)
/// ```
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{ChannelMixer, Init, KindTable};
///
/// let device = Device::flex();
/// let table: KindTable = serde_json::from_str(r#"{"kind": "mlp"}"#).unwrap();
/// let built = ChannelMixer::build(&table, 16, &mut Init::new(0, &device)).unwrap();
/// assert!(matches!(built, Some(ChannelMixer::Mlp(_))));
/// // Without a bias nothing comes of nothing.
/// let (y, _) = built.unwrap().forward(Tensor::zeros([1, 5, 16], &device));
/// assert_eq!(y.abs().max().into_scalar::<f32>(), 0.0);
/// ```
#[derive(Module, Debug)]
pub struct Mlp {
    up: Linear,
    down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        linear(self.activation.forward(linear(x, &self.up)), &self.down)
    }

    pub(super) fn flops(&self) -> u64 {
        2 * 2 * self.down.weight.shape().num_elements() as u64
    }
}
