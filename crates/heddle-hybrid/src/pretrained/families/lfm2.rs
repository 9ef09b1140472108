//! LFM2 (arXiv:2511.23404): gated short convolutions, and attention in some layers.

use std::collections::BTreeMap;

use heddle_attention::AttentionSettings;
use heddle_ssm::ShortConvSettings;
use serde_json::Value;

use super::{Family, Only, Plan, attention, expand, layer_items, llama, mamba, part};
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{ATTENTION_LFM2, Frame, GATED_LFM2, Part, SHORT_CONV, norms};
use crate::{ModelConfig, SwiGluSettings};

pub(super) const LFM2: Family = Family {
    name: "lfm2",
    // Initialisation, and the name that training used for ε.
    inert: &[
        "block_mlp_init_scale",
        "block_norm_eps",
        "block_out_init_scale",
        "block_use_xavier_init",
        "conv_use_xavier_init",
    ],
    only: &[("block_use_swiglu", Only::Flag(true)), ("use_pos_enc", Only::Flag(true))],
    plan,
};

const FRAME: Frame = Frame { norm: "model.embedding_norm.weight", ..llama::FRAME };

fn plan(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let d_model = keys.size("hidden_size")?;
    for key in ["block_dim", "conv_dim", "conv_dim_out"] {
        mamba::same(keys, key, d_model)?;
    }
    let eps = keys.number_or("norm_eps", 1e-5)?;
    let heads = attention::heads(keys, d_model)?;
    mamba::same(keys, "num_heads", heads.heads)?;
    let heads = AttentionSettings { qk_norm: true, qk_norm_eps: Some(eps), ..heads };
    let conv = ShortConvSettings { d_conv: keys.size_or("conv_L_cache", 3)?, bias: keys.flag_or("conv_bias", false)? };
    let gated = SwiGluSettings { expand: expand(feed_forward_width(keys)?, d_model), ..Default::default() };
    let kinds = layer_kinds(keys)?;
    let name = |attention: &bool| if *attention { "attention+mlp" } else { "conv+mlp" };
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&kinds.iter().map(name).collect::<Vec<_>>()),
            mixer: BTreeMap::from([
                (
                    "attention".to_owned(),
                    part("attention", attention::rope(keys, heads, 1e6, attention::Turning::Fixed(1.0))?),
                ),
                ("conv".to_owned(), part("short_conv", conv)),
            ]),
            channel: BTreeMap::from([("mlp".to_owned(), part("swiglu", gated))]),
            norm_eps: eps,
            tied: keys.flag_or("tie_embedding", keys.flag_or("tie_word_embeddings", true)?)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: FRAME,
        layers: kinds.into_iter().map(parts).collect(),
    })
}

fn parts(attention: bool) -> Vec<Part> {
    let mixer = match attention {
        true => Part::new("self_attn.", "mixer.", ATTENTION_LFM2),
        false => Part::new("conv.", "mixer.", SHORT_CONV),
    };
    vec![Part::new("", "", norms::LFM2), mixer, Part::new("feed_forward.", "channel.SwiGlu.", GATED_LFM2)]
}

/// Which layers are attention: by `layer_types`, else by `full_attn_idxs`, else all.
fn layer_kinds(keys: &Keys<'_>) -> Result<Vec<bool>, PretrainedError> {
    let count = keys.layers()?;
    let places = keys.places_if("full_attn_idxs")?;
    let Some(kinds) = keys.array_if("layer_types")? else {
        return Ok((0..count).map(|i| places.as_ref().is_none_or(|places| places.contains(&i))).collect());
    };
    if kinds.len() != count {
        let problem = format!("it lists {} layers of {count}", kinds.len());
        return Err(keys.refuse("layer_types", problem, "list as many as `num_hidden_layers` says"));
    }
    let kind = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(true),
        Some("conv") => Ok(false),
        _ => Err(keys.refuse("layer_types", format!("{kind} is not supported"), "known: full_attention, conv")),
    };
    kinds.iter().map(kind).collect()
}

/// The inner width, which the config may state before an adjustment: two thirds, times a factor, rounded up to a multiple.
fn feed_forward_width(keys: &Keys<'_>) -> Result<usize, PretrainedError> {
    let plain = keys.size_if("intermediate_size")?;
    let stated = match keys.size_if("block_ff_dim")?.or(plain) {
        Some(width) => width,
        None => keys.size("intermediate_size")?,
    };
    let multiple = keys.size_or("block_multiple_of", 256)?;
    let factor = keys.number_if("block_ffn_dim_multiplier")?;
    if !keys.flag_or("block_auto_adjust_ff_dim", true)? {
        return Ok(stated);
    }
    let width = 2 * stated / 3;
    match factor {
        None => Ok(width),
        Some(factor) if factor > 0.0 && factor < 1e3 => {
            Ok(((factor * width as f64) as usize).div_ceil(multiple) * multiple)
        }
        Some(factor) => Err(keys.refuse("block_ffn_dim_multiplier", format!("{factor} is no factor"), "use about 1")),
    }
}
