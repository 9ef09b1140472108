//! The tensor operations that Burn lacks, as kernels with their own backward passes.
//!
//! Every operation stands in a folder of its own and comes in two forms: a *definition*, which says what it computes in
//! a few lines of Burn's tensors, and a *kernel*, which computes the same faster and is tested against the definition.
//! The public function takes the kernel where the device has one and the definition elsewhere, so it runs on every
//! backend of Burn, with gradients.
//!
//! This is the only crate of the workspace that names concrete backends or contains `unsafe`.
//!
//! # Axes
//! b batch, l length, d model width, e inner width, n state width, h heads, g key/value heads, p head width, k filter
//! width, v vocabulary.

#![allow(deprecated, reason = "Burn has deprecated its NdArray backend, which we still support")]

mod activation;
mod adamw;
mod attention;
mod conv;
mod cpu;
mod delta;
mod embedding;
mod init;
mod l2norm;
mod linear;
mod loss;
mod mixer;
mod native;
mod norm;
mod recurrence;
mod rope;
mod scan;
mod ssd;
#[cfg(test)]
mod testing;

pub use activation::{
    exp, exp_by_definition, gelu, gelu_by_definition, relu_squared, relu_squared_by_definition, sigmoid,
    sigmoid_by_definition, sigmoid_mul, sigmoid_mul_by_definition, silu, silu_by_definition, silu_mul,
    silu_mul_by_definition, softplus, softplus_by_definition,
};
pub use adamw::{AdamW, Moments, adamw, adamw_by_definition, squared_norm};
pub use attention::{
    AttentionDropout, AttentionInput, AttentionRule, BlockMask, attention, attention_by_definition, attention_with_lse,
    attention_with_lse_by_definition,
};
pub use conv::{ConvInput, causal_conv, causal_conv_by_definition};
pub use cpu::tasks::on_workers;
pub use delta::{DeltaInput, delta_rule, delta_rule_by_definition};
pub use embedding::{embed, embed_by_definition};
pub use init::Init;
pub use l2norm::{l2_normalize, l2_normalize_by_definition};
pub use linear::{linear, linear_by_definition, unembed, unembed_by_definition, without_head_of};
pub use loss::{cross_entropy_at, cross_entropy_by_definition};
pub use mixer::{Mixer, MixerSettings, MixerState, SettingsError, map_by_channel, map_by_head, map_by_impulses};
pub use norm::{
    GateOrder, GatedNorm, gated_rms_norm, gated_rms_norm_by_definition, layer_norm, layer_norm_by_definition, rms_norm,
    rms_norm_by_definition,
};
pub use recurrence::{
    ComplexInput, GruInput, LstmInput, complex_recurrence, complex_recurrence_by_definition, gru, gru_by_definition,
    linear_recurrence, linear_recurrence_by_definition, lstm, lstm_by_definition,
};
pub use rope::{Pairing, Rotary, RotaryScaling, rotate, rotate_by_definition};
pub use scan::{GatedScanInput, ScanInput, gated_scan, gated_scan_by_definition, scan_by_definition, selective_scan};
pub use ssd::{SsdInput, ssd, ssd_by_definition};
