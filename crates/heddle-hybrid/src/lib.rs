//! Hybrid models: layers of any mixers, interleaved as data.
//!
//! Axes: `b` batch, `l` length, `d` model width, `v` vocabulary.
#![forbid(unsafe_code)]

mod adapter;
mod build;
mod channel;
mod config;
mod cost;
mod erased;
mod error;
mod generate;
mod inspect;
mod layer;
mod model;
mod norm;
mod parallel;
mod part;
mod preset;
pub mod pretrained;
mod readout;
mod recompute;
mod registry;
mod sample;
mod shared;
#[cfg(test)]
mod tests;
mod walk;

pub use channel::{
    Activation, CHANNEL_KINDS, ChannelMixer, Experts, ExpertsSettings, Mlp, MlpSettings, RouterScores, Routing, SwiGlu,
    SwiGluSettings, channel_defaults,
};
pub use config::{LayerItem, LayerName, ModelConfig, fold};
pub use cost::{Cost, LayerCost, StateBytes};
pub use erased::{AnyMixer, AnyState};
pub use error::ModelError;
pub use generate::{Continuation, GenerateError, Generation, NewToken, generate};
pub use heddle_kernels::{Init, Mixer, MixerSettings, MixerState, SettingsError};
pub use inspect::{HeadScores, HeadTally, Inspection, Seen};
pub use model::{LayerRouting, Model, ModelState};
pub use norm::{NormKind, NormPlacement};
pub use part::{Sharing, Surroundings};
pub use preset::{PRESETS, Preset, preset, preset_text};
pub use readout::ItemReadout;
pub use recompute::LayerGradients;
pub use registry::{KindTable, MixerRegistry};
pub use sample::Sampling;
pub use walk::{EachParameter, for_each_parameter};
