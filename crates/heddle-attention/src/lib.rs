//! Attention blocks: who looks where, at which positions, with which cache.
//!
//! Axes: `b` batch, `l` length, `d` model width, `h` query heads, `g` key/value heads, `p` head width.
#![forbid(unsafe_code)]

mod attention;
mod cache;

pub use attention::{Attention, AttentionSettings, Positions};
pub use cache::KeyValueCache;
