//! State-space blocks: a fixed-size state instead of a cache.
//!
//! Axes: `b` batch, `l` length, `d` model width, `e` inner width, `n` state size, `r` rank of Δ's projection.
#![forbid(unsafe_code)]

mod mamba;

pub use mamba::{Mamba, MambaSettings, MambaState};
