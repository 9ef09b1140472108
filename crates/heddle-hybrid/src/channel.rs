//! Channel mixers: what happens to one token after the sequence was mixed.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError, silu_mul};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::registry::{KindTable, split_kind, unknown_kind};

/// A map of each token by itself.
#[derive(Module, Debug)]
pub enum ChannelMixer {
    /// See [`SwiGlu`].
    SwiGlu(SwiGlu),
}

/// Gated feed-forward layer (arXiv:2002.05202, eq. 6).
///
/// ```text
/// y = W_down (SiLU(W_gate x) · W_up x)
/// ```
#[derive(Module, Debug)]
pub struct SwiGlu {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Settings of [`SwiGlu`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwiGluSettings {
    /// Inner width as a multiple of the model's width; 8/3 keeps the parameters of a plain layer of four times the width.
    pub expand: f64,
}

impl Default for SwiGluSettings {
    fn default() -> Self {
        Self { expand: 8.0 / 3.0 }
    }
}

/// Names of the channel mixers; `none` leaves a layer with its sequence mixer alone.
pub const CHANNEL_KINDS: [&str; 2] = ["none", "swiglu"];

/// Every setting of the channel mixer `kind` with its default.
pub fn channel_defaults(kind: &str) -> Option<Value> {
    match kind {
        "none" => Some(Value::Object(KindTable::new())),
        "swiglu" => serde_json::to_value(SwiGluSettings::default()).ok(),
        _ => None,
    }
}

impl ChannelMixer {
    /// Builds what `table` describes for a model of width `d_model`; `None` if its kind is `none`.
    ///
    /// # Errors
    /// If the kind is unknown or its settings are impossible.
    pub fn build(table: &KindTable, d_model: usize, init: &mut Init) -> Result<Option<Self>, SettingsError> {
        let (kind, settings) = split_kind(table)?;
        match kind {
            "none" => Ok(None),
            "swiglu" => {
                let settings: SwiGluSettings = serde_json::from_value(Value::Object(settings))
                    .map_err(|error| SettingsError::new("kind", error.to_string(), "see the settings of `swiglu`"))?;
                SwiGlu::new(&settings, d_model, init).map(|swiglu| Some(Self::SwiGlu(swiglu)))
            }
            _ => Err(unknown_kind(kind, CHANNEL_KINDS.into_iter())),
        }
    }

    /// Maps every token.
    ///
    /// # Shapes
    /// - `x`, and the returned tensor: `[b, l, d]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::SwiGlu(swiglu) => swiglu.forward(x),
        }
    }

    /// Floating-point operations for one token.
    pub fn flops(&self) -> u64 {
        match self {
            Self::SwiGlu(swiglu) => 2 * 3 * swiglu.down.weight.shape().num_elements() as u64,
        }
    }
}

impl SwiGlu {
    fn new(settings: &SwiGluSettings, d_model: usize, init: &mut Init) -> Result<Self, SettingsError> {
        let width = (settings.expand * d_model as f64).round();
        if !(width >= 1.0 && width <= u32::MAX as f64) {
            return Err(SettingsError::new(
                "expand",
                format!("{} gives no inner width", settings.expand),
                "use a positive number such as 2.67",
            ));
        }
        let width = width as usize;
        Ok(Self {
            gate: init.linear(d_model, width, false),
            up: init.linear(d_model, width, false),
            down: init.linear(width, d_model, false),
        })
    }

    /// See [`SwiGlu`].
    ///
    /// # Shapes
    /// - `x`, and the returned tensor: `[b, l, d]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.down.forward(silu_mul(self.gate.forward(x.clone()), self.up.forward(x)))
    }
}
