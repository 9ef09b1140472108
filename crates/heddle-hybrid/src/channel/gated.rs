//! The gated feed-forward layer.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError, linear, silu_mul};
use serde::{Deserialize, Serialize};

use super::{Activation, ChannelMixer, ChannelSettings, inner_width};
use crate::layer::scaled;

/// Settings of [`SwiGlu`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{ChannelMixer, Init, SwiGluSettings};
///
/// let device = Device::flex();
/// let layer = |settings: SwiGluSettings| {
///     let mut table = serde_json::to_value(settings).unwrap();
///     table["kind"] = "swiglu".into();
///     ChannelMixer::build(table.as_object().unwrap(), 16, &mut Init::new(0, &device))
/// };
/// let answer = |output_scale| {
///     let settings = SwiGluSettings { output_scale, ..Default::default() };
///     layer(settings).unwrap().unwrap().forward(Tensor::ones([1, 1, 16], &device)).0
/// };
/// assert!((answer(3.0) - answer(1.0) * 3.0).abs().max().into_scalar::<f32>() < 1e-5);
///
/// let error = layer(SwiGluSettings { gate_scale: 0.0, ..Default::default() }).unwrap_err();
/// assert_eq!(error.to_string(), "`gate_scale`: 0 is no multiplier; use a number other than 0");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwiGluSettings {
    /// Inner width as a multiple of the model's width; 8/3 keeps the parameters of a plain layer of four times the width.
    pub expand: f64,
    /// What is applied to the gate: SiLU as the name says, or GELU (GEGLU, arXiv:2002.05202, eq. 6) and others.
    pub activation: Activation,
    /// Whether the three maps have a bias.
    pub bias: bool,
    /// Multiplier of the gate, inside the activation (Falcon-H1).
    pub gate_scale: f64,
    /// Multiplier of what the layer computes.
    pub output_scale: f64,
}

impl Default for SwiGluSettings {
    fn default() -> Self {
        Self { expand: 8.0 / 3.0, activation: Activation::Silu, bias: false, gate_scale: 1.0, output_scale: 1.0 }
    }
}

impl ChannelSettings for SwiGluSettings {
    fn init(&self, d_model: usize, init: &mut Init) -> Result<ChannelMixer, SettingsError> {
        for (key, scale) in [("gate_scale", self.gate_scale), ("output_scale", self.output_scale)] {
            if scale == 0.0 || !scale.is_finite() {
                return Err(SettingsError::new(key, format!("{scale} is no multiplier"), "use a number other than 0"));
            }
        }
        let widths = [inner_width(self.expand, d_model)?, d_model];
        let layer = SwiGlu::new(widths, self.bias, self.activation, init);
        let (gate_scale, output_scale) = (self.gate_scale, self.output_scale);
        Ok(ChannelMixer::SwiGlu(SwiGlu { gate_scale, output_scale, ..layer }))
    }
}

/// Gated feed-forward layer (arXiv:2002.05202, eq. 6).
///
/// ```text
/// y = W_down (act(W_gate x) · W_up x)
/// ```
///
/// The gate and the result may have a multiplier each.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_hybrid::{ChannelMixer, Init, KindTable};
///
/// let params = |json: &str| {
///     let table: KindTable = serde_json::from_str(json).unwrap();
///     let built = ChannelMixer::build(&table, 96, &mut Init::new(0, &Device::flex())).unwrap();
///     built.unwrap().num_params()
/// };
/// // Three maps to 8/3 of the width take what two maps to four times the width take.
/// assert_eq!(params(r#"{"kind": "swiglu"}"#), params(r#"{"kind": "mlp"}"#));
/// ```
#[derive(Module, Debug)]
pub struct SwiGlu {
    /// None in an expert without a gate, which is a plain layer.
    gate: Option<Linear>,
    up: Linear,
    pub(super) down: Linear,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    gate_scale: f64,
    #[module(skip)]
    output_scale: f64,
}

impl SwiGlu {
    pub(super) fn new([width, d_model]: [usize; 2], bias: bool, activation: Activation, init: &mut Init) -> Self {
        Self {
            gate: Some(init.linear(d_model, width, bias)),
            up: init.linear(d_model, width, bias),
            down: init.linear(width, d_model, bias),
            activation,
            gate_scale: 1.0,
            output_scale: 1.0,
        }
    }

    /// Without a gate and biases: `y = W_down act(W_up x)`.
    pub(super) fn plain([width, d_model]: [usize; 2], activation: Activation, init: &mut Init) -> Self {
        Self {
            gate: None,
            up: init.linear(d_model, width, false),
            down: init.linear(width, d_model, false),
            activation,
            gate_scale: 1.0,
            output_scale: 1.0,
        }
    }

    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let up = linear(x.clone(), &self.up);
        let inner = match &self.gate {
            None => self.activation.forward(up),
            Some(gate) => {
                let gate = scaled(linear(x, gate), self.gate_scale);
                match self.activation {
                    Activation::Silu => silu_mul(gate, up),
                    other => other.forward(gate) * up,
                }
            }
        };
        scaled(linear(inner, &self.down), self.output_scale)
    }

    pub(super) fn flops(&self) -> u64 {
        let maps = 2 + u64::from(self.gate.is_some());
        2 * maps * self.down.weight.shape().num_elements() as u64
    }
}
