//! Blocks with a state of fixed size instead of a cache: state-space layers, linear recurrences, recurrent cells and short
//! convolutions.
//!
//! Axes: `b` batch, `l` length, `d` model width, `e` inner width, `n` state size, `h` heads, `g` groups of heads, `p` head
//! width, `k` width of a convolution, `r` rank of Δ's projection.
#![forbid(unsafe_code)]

mod base_conv;
mod delta_net;
mod gru;
mod lstm;
mod mamba;
mod mamba2;
mod min_gru;
mod rg_lru;
mod s4d;
mod settings;
mod short_conv;
#[cfg(test)]
mod tests;

pub use base_conv::{BaseConv, BaseConvSettings};
pub use delta_net::{DeltaNet, DeltaNetSettings};
pub use gru::{Gru, GruSettings};
pub use lstm::{Lstm, LstmSettings};
pub use mamba::{InnerNorm, Mamba, MambaSettings, MambaState};
pub use mamba2::{GatedNormPlace, Mamba2, Mamba2Settings};
pub use min_gru::{MinGru, MinGruSettings};
pub use rg_lru::{RgLru, RgLruSettings};
pub use s4d::{S4d, S4dSettings, Spectrum};
pub use short_conv::{ShortConv, ShortConvSettings};
