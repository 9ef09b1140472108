//! Normalisation of each token.

mod definition;
mod layer;
mod layer_cpu;
mod rms;
mod rms_cpu;
#[cfg(test)]
mod tests;

pub use definition::{gated_rms_norm_by_definition, layer_norm_by_definition, rms_norm_by_definition};
pub use layer::layer_norm;
pub use rms::{GateOrder, GatedNorm, gated_rms_norm, rms_norm};

/// Floats that a task normalises, about: 64 KiB.
const PIECE: usize = 1 << 14;

/// Partial gradients of a scale at most, which are summed in the order of the tokens.
const PARTIALS: usize = 64;

/// Tokens of width `d` that a task of the forward pass takes.
fn tokens_forward(d: usize) -> usize {
    PIECE.div_ceil(d)
}

/// Tokens that a task of the backward pass takes.
fn tokens_backward(d: usize, tokens: usize) -> usize {
    PIECE.div_ceil(d).max(tokens.div_ceil(PARTIALS))
}
