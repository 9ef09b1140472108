//! Bamba: Mamba-2 with attention in a few layers, and a gated feed-forward layer in each.

use std::collections::BTreeMap;

use heddle_ssm::Mamba2Settings;
use serde_json::Value;

use super::{Family, Only, Plan, attention, expand, jamba, layer_items, mamba, part};
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{self, GATED, Part, norms};
use crate::{ModelConfig, SwiGluSettings};

pub(super) const BAMBA: Family = Family {
    name: "bamba",
    inert: &["mamba_chunk_size", "use_mamba_kernels", "z_loss_coefficient"],
    only: &[("hidden_act", Only::Text("silu"))],
    plan,
};

/// The part of a head that turns, which the family fixes.
const TURNING: f64 = 0.5;

fn plan(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let (d_model, count) = (keys.size("hidden_size")?, keys.layers()?);
    let eps = keys.number_or("rms_norm_eps", 1e-5)?;
    let bias = keys.flag_or("attention_bias", false)?;
    let heads = attention::rope(keys, attention::heads(keys, d_model)?, 10_000.0, attention::Turning::Fixed(TURNING))?;
    let heads = heddle_attention::AttentionSettings { bias, output_bias: bias, ..heads };
    let gated = SwiGluSettings {
        expand: expand(keys.size("intermediate_size")?, d_model),
        bias: keys.flag_or("mlp_bias", false)?,
        ..Default::default()
    };
    let places = keys.places_if("attn_layer_indices")?.unwrap_or_default();
    let kinds: Vec<bool> = (0..count).map(|i| places.contains(&i)).collect();
    let name = |attention: &bool| if *attention { "attention+mlp" } else { "mamba2+mlp" };
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&kinds.iter().map(name).collect::<Vec<_>>()),
            mixer: BTreeMap::from([
                ("attention".to_owned(), part("attention", heads)),
                ("mamba2".to_owned(), part("mamba2", mamba2(keys, inner_width(keys, d_model)?, eps)?)),
            ]),
            channel: BTreeMap::from([("mlp".to_owned(), part("swiglu", gated))]),
            norm_eps: eps,
            tied: keys.flag_or("tie_word_embeddings", false)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: jamba::FRAME,
        layers: kinds.into_iter().map(parts).collect(),
    })
}

fn parts(attention: bool) -> Vec<Part> {
    let mixer = match attention {
        true => Part::new("self_attn.", "mixer.", names::ATTENTION),
        false => Part::new("mamba.", "mixer.", names::MAMBA2),
    };
    vec![Part::new("", "", norms::JAMBA), mixer, Part::new("feed_forward.", "channel.SwiGlu.", GATED)]
}

/// The inner width of Mamba-2 as a multiple of the model's.
pub(super) fn inner_width(keys: &Keys<'_>, d_model: usize) -> Result<usize, PretrainedError> {
    Ok(keys.size_or("mamba_expand", 2)? * d_model)
}

/// Mamba-2 of inner width `width` by the keys that begin with `mamba_`.
pub(super) fn mamba2(keys: &Keys<'_>, width: usize, eps: f64) -> Result<Mamba2Settings, PretrainedError> {
    let heads = keys.size_or("mamba_n_heads", 128)?;
    let head_dim = match keys.get("mamba_d_head") {
        Some(Value::String(auto)) if auto == "auto" => width / heads,
        _ => keys.size_or("mamba_d_head", width / heads)?,
    };
    if heads * head_dim != width {
        let problem = format!("{heads} heads of {head_dim} are not as wide as the block, {width}");
        return Err(keys.refuse("mamba_n_heads", problem, "make them agree"));
    }
    Ok(Mamba2Settings {
        d_state: keys.size_or("mamba_d_state", 256)?,
        d_conv: keys.size_or("mamba_d_conv", 4)?,
        d_inner: Some(width),
        head_dim: Some(head_dim),
        groups: keys.size_or("mamba_n_groups", 1)?,
        dt_limit: mamba::dt_limit(keys, "time_step_limit")?,
        bias: keys.flag_or("mamba_proj_bias", false)?,
        conv_bias: keys.flag_or("mamba_conv_bias", true)?,
        norm_eps: eps,
        ..Default::default()
    })
}
