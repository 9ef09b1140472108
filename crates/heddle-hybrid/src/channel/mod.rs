//! Channel mixers: what happens to one token after the sequence was mixed.

mod experts;
mod gated;
mod plain;

use burn::module::Module;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use experts::{Experts, ExpertsSettings, RouterScores, Routing};
pub use gated::{SwiGlu, SwiGluSettings};
pub use plain::{Activation, Mlp, MlpSettings};

use crate::part::{self, Sharing};
use crate::registry::{KindTable, split_kind, unknown_kind};

/// A map of each token by itself.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{ChannelMixer, Init, KindTable};
///
/// let device = Device::flex();
/// let table: KindTable = serde_json::from_str(r#"{"kind": "swiglu", "expand": 2.0}"#).unwrap();
/// let channel = ChannelMixer::build(&table, 16, &mut Init::new(0, &device)).unwrap().unwrap();
/// let (y, routing) = channel.forward(Tensor::ones([1, 5, 16], &device));
/// assert!(y.dims() == [1, 5, 16] && routing.is_none());
/// // Three maps between 16 and 32 channels.
/// assert_eq!(channel.flops(), 2 * 3 * 16 * 32);
/// ```
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a layer has one, and no module of Burn's stands in a box")]
pub enum ChannelMixer {
    /// See [`Mlp`].
    Mlp(Mlp),
    /// See [`SwiGlu`].
    SwiGlu(SwiGlu),
    /// See [`Experts`].
    Experts(Experts),
}

/// Names of the channel mixers; `none` leaves a layer with its sequence mixer alone.
pub const CHANNEL_KINDS: [&str; 4] = ["none", "mlp", "swiglu", "moe"];

/// Every setting of the channel mixer `kind` with its default, those that every channel mixer has last.
pub fn channel_defaults(kind: &str) -> Option<Value> {
    let own = match kind {
        "none" => return Some(Value::Object(KindTable::new())),
        "mlp" => part::defaults::<MlpSettings>(),
        "swiglu" => part::defaults::<SwiGluSettings>(),
        "moe" => part::defaults::<ExpertsSettings>(),
        _ => return None,
    };
    Some(Value::Object(own.into_iter().chain(part::defaults::<Sharing>()).collect()))
}

/// The settings of a kind of channel mixer.
trait ChannelSettings: Default + Serialize + DeserializeOwned {
    fn init(&self, d_model: usize, init: &mut Init) -> Result<ChannelMixer, SettingsError>;
}

fn build<S: ChannelSettings>(
    settings: KindTable,
    d_model: usize,
    init: &mut Init,
) -> Result<Option<ChannelMixer>, SettingsError> {
    let settings: S = part::read(&part::defaults::<S>(), settings)?;
    settings.init(d_model, init).map(Some)
}

/// An inner width as a multiple of the model's.
fn inner_width(expand: f64, d_model: usize) -> Result<usize, SettingsError> {
    let width = (expand * d_model as f64).round();
    match width >= 1.0 && width <= f64::from(u32::MAX) {
        true => Ok(width as usize),
        false => {
            let problem = format!("{expand} gives no inner width");
            Err(SettingsError::new("expand", problem, "use a positive number such as 2.67"))
        }
    }
}

impl ChannelMixer {
    /// Builds what `table` describes for a model of width `d_model`; `None` if its kind is `none`.
    ///
    /// # Errors
    /// If the kind is unknown or its settings are impossible.
    pub fn build(table: &KindTable, d_model: usize, init: &mut Init) -> Result<Option<Self>, SettingsError> {
        let (kind, mut settings) = split_kind(table)?;
        Sharing::take(&mut settings)?;
        match kind {
            "none" => Ok(None),
            "mlp" => build::<MlpSettings>(settings, d_model, init),
            "swiglu" => build::<SwiGluSettings>(settings, d_model, init),
            "moe" => build::<ExpertsSettings>(settings, d_model, init),
            _ => Err(unknown_kind(kind, CHANNEL_KINDS.into_iter())),
        }
    }

    /// Maps every token, and tells where tokens were sent if there was a choice.
    ///
    /// # Shapes
    /// - `x`, and the returned tensor: `[b, l, d]`
    pub fn forward(&self, x: Tensor<3>) -> (Tensor<3>, Option<Routing>) {
        match self {
            Self::Mlp(mlp) => (mlp.forward(x), None),
            Self::SwiGlu(swiglu) => (swiglu.forward(x), None),
            Self::Experts(experts) => {
                let (y, routing) = experts.forward(x);
                (y, Some(routing))
            }
        }
    }

    /// Parameters that one token leaves alone: those of the experts that it is not sent to.
    pub fn idle_parameters(&self) -> u64 {
        match self {
            Self::Mlp(_) | Self::SwiGlu(_) => 0,
            Self::Experts(experts) => experts.idle_parameters(),
        }
    }

    /// Floating-point operations for one token.
    pub fn flops(&self) -> u64 {
        match self {
            Self::Mlp(mlp) => mlp.flops(),
            Self::SwiGlu(swiglu) => swiglu.flops(),
            Self::Experts(experts) => experts.flops(),
        }
    }
}
