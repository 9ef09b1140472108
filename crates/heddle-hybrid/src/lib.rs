//! Hybrid models: layers of any mixers, interleaved as data.
//!
//! Axes: `b` batch, `l` length, `d` model width, `v` vocabulary.
#![forbid(unsafe_code)]

mod channel;
mod config;
mod erased;
mod model;
pub mod pretrained;
mod registry;

pub use channel::{
    Activation, CHANNEL_KINDS, ChannelMixer, Experts, ExpertsSettings, Mlp, MlpSettings, Routing, SwiGlu,
    SwiGluSettings, channel_defaults,
};
pub use config::{LayerItem, LayerName, ModelConfig};
pub use erased::{AnyMixer, AnyState};
pub use heddle_kernels::{Init, Mixer, MixerSettings, MixerState, SettingsError};
pub use model::{Layer, LayerRouting, Model, ModelError, ModelState, RmsNorm};
pub use registry::{KindTable, MixerRegistry};
