//! Attention blocks: who looks where, at which positions, with which cache.
//!
//! Axes: `b` batch, `l` length, `d` model width, `h` query heads, `g` key/value heads, `p` head width.
#![forbid(unsafe_code)]

mod attention;
mod cache;
mod linear;
mod positions;
mod settings;
mod sparsity;
#[cfg(test)]
mod tests;

pub use attention::Attention;
pub use cache::KeyValueCache;
pub use linear::{FeatureMap, LinearAttention, LinearAttentionSettings};
pub use positions::{Positions, RopeScaling};
pub use settings::AttentionSettings;
pub use sparsity::Sparsity;
