//! Llama (arXiv:2302.13971, 2407.21783) and Mistral (arXiv:2310.06825): attention with rotary positions, then a gated
//! feed-forward layer.

use std::collections::BTreeMap;

use heddle_attention::AttentionSettings;

use super::{Family, Only, Plan, attention, expand, layer_items, part};
use crate::ModelConfig;
use crate::SwiGluSettings;
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{ATTENTION, Frame, GATED, Part, norms};

pub(super) const LLAMA: Family = Family {
    name: "llama",
    // It splits products into parts that are summed again.
    inert: &["pretraining_tp"],
    only: &[("hidden_act", Only::Text("silu"))],
    plan: llama,
};

pub(super) const MISTRAL: Family = Family {
    name: "mistral",
    inert: &[],
    only: &[("hidden_act", Only::Text("silu")), ("attention_bias", Only::Flag(false)), ("mlp_bias", Only::Flag(false))],
    plan: mistral,
};

/// What frames the layers of most decoders.
pub(super) const FRAME: Frame = Frame {
    embedding: "model.embed_tokens.weight",
    norm: "model.norm.weight",
    head: "lm_head.weight",
    layers: "model.layers.",
};

fn llama(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let d_model = keys.size("hidden_size")?;
    let bias = keys.flag_or("attention_bias", false)?;
    let settings = AttentionSettings { bias, output_bias: bias, ..attention::heads(keys, d_model)? };
    plan(keys, d_model, settings, keys.flag_or("mlp_bias", false)?)
}

/// A token sees itself and the `sliding_window` − 1 tokens before it.
fn mistral(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let d_model = keys.size("hidden_size")?;
    let settings = AttentionSettings { window: keys.size_if("sliding_window")?, ..attention::heads(keys, d_model)? };
    plan(keys, d_model, settings, false)
}

fn plan(keys: &Keys<'_>, d_model: usize, settings: AttentionSettings, bias: bool) -> Result<Plan, PretrainedError> {
    let settings = attention::rope(keys, settings, 10_000.0, attention::Turning::Fixed(1.0))?;
    let channel =
        SwiGluSettings { expand: expand(keys.size("intermediate_size")?, d_model), bias, ..Default::default() };
    let layers = keys.layers()?;
    let parts = vec![
        Part::new("", "", norms::LLAMA),
        Part::new("self_attn.", "mixer.", ATTENTION),
        Part::new("mlp.", "channel.SwiGlu.", GATED),
    ];
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&vec!["attention+mlp"; layers]),
            mixer: BTreeMap::from([("attention".to_owned(), part("attention", settings))]),
            channel: BTreeMap::from([("mlp".to_owned(), part("swiglu", channel))]),
            norm_eps: keys.number_or("rms_norm_eps", 1e-6)?,
            tied: keys.flag_or("tie_word_embeddings", false)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: FRAME,
        layers: vec![parts; layers],
    })
}
