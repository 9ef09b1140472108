//! Jamba (arXiv:2403.19887): one layer of attention in a few of Mamba, and a mixture of experts in every second one.

use std::collections::BTreeMap;

use heddle_attention::{AttentionSettings, Positions};
use heddle_ssm::{InnerNorm, MambaSettings};

use super::{Family, Only, Plan, attention, expand, layer_items, llama, mamba, part};
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{self, Frame, GATED, Part, ROUTER, norms};
use crate::{ExpertsSettings, ModelConfig, SwiGluSettings};

pub(super) const JAMBA: Family = Family {
    name: "jamba",
    inert: &["calc_logits_for_entire_prompt", "use_associative_scan", "use_mamba_kernels", "use_mambapy"],
    only: &[("hidden_act", Only::Text("silu")), ("mamba_inner_layernorms", Only::Flag(true))],
    plan,
};

/// What frames the layers of Jamba and Bamba.
pub(super) const FRAME: Frame = Frame { norm: "model.final_layernorm.weight", ..llama::FRAME };

fn plan(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let (d_model, count) = (keys.size("hidden_size")?, keys.layers()?);
    let eps = keys.number_or("rms_norm_eps", 1e-6)?;
    let experts = keys.size_or("num_experts", 16)?;
    mamba::same(keys, "num_local_experts", experts)?;
    let attention = every(keys, ["attn_layer_period", "attn_layer_offset"], [8, 4])?;
    let mixture = every(keys, ["expert_layer_period", "expert_layer_offset"], [2, 1])?;
    let layers: Vec<[bool; 2]> = (0..count).map(|i| [attention(i), experts > 1 && mixture(i)]).collect();
    let name = |[attention, mixture]: &[bool; 2]| match (attention, mixture) {
        (false, false) => "mamba+mlp",
        (false, true) => "mamba+experts",
        (true, false) => "attention+mlp",
        (true, true) => "attention+experts",
    };
    let expand = expand(keys.size("intermediate_size")?, d_model);
    let active = keys.size_or("num_experts_per_tok", 2)?;
    let mixtures = ExpertsSettings { experts, active, expand, normalize: false, ..Default::default() };
    let gated = SwiGluSettings { expand, ..Default::default() };
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&layers.iter().map(name).collect::<Vec<_>>()),
            mixer: BTreeMap::from([
                ("attention".to_owned(), part("attention", attention_settings(keys, d_model)?)),
                ("mamba".to_owned(), part("mamba", mamba_settings(keys, d_model, eps)?)),
            ]),
            channel: BTreeMap::from([
                ("mlp".to_owned(), part("swiglu", gated)),
                ("experts".to_owned(), part("moe", mixtures)),
            ]),
            norm_eps: eps,
            tied: keys.flag_or("tie_word_embeddings", false)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: FRAME,
        layers: layers.into_iter().map(|[attention, mixture]| parts(attention, mixture.then_some(experts))).collect(),
    })
}

fn attention_settings(keys: &Keys<'_>, d_model: usize) -> Result<AttentionSettings, PretrainedError> {
    Ok(AttentionSettings { positions: Positions::None, ..attention::heads(keys, d_model)? })
}

fn mamba_settings(keys: &Keys<'_>, d_model: usize, eps: f64) -> Result<MambaSettings, PretrainedError> {
    Ok(MambaSettings {
        d_state: keys.size_or("mamba_d_state", 16)?,
        d_conv: keys.size_or("mamba_d_conv", 4)?,
        expand: keys.size_or("mamba_expand", 2)?,
        dt_rank: mamba::rank(keys, "mamba_dt_rank", d_model)?,
        inner_norm: Some(InnerNorm { scale: true, eps }),
        bias: Some(keys.flag_or("mamba_proj_bias", false)?),
        conv_bias: Some(keys.flag_or("mamba_conv_bias", true)?),
        ..Default::default()
    })
}

/// Whether a layer is one of those that come every `period`, the first at `offset`.
fn every(
    keys: &Keys<'_>,
    names: [&str; 2],
    [period, offset]: [usize; 2],
) -> Result<impl Fn(usize) -> bool, PretrainedError> {
    let (period, offset) = (keys.size_or(names[0], period)?, keys.index_or(names[1], offset)?);
    match offset < period {
        true => Ok(move |layer: usize| layer % period == offset),
        false => {
            let problem = format!("{offset} is not below `{}` = {period}", names[0]);
            Err(keys.refuse(names[1], problem, "no layer would be one of these"))
        }
    }
}

fn parts(attention: bool, experts: Option<usize>) -> Vec<Part> {
    let mixer = match attention {
        true => Part::new("self_attn.", "mixer.", names::ATTENTION),
        false => Part::new("mamba.", "mixer.", names::MAMBA),
    };
    let mut parts = vec![Part::new("", "", norms::JAMBA), mixer];
    match experts {
        None => parts.push(Part::new("feed_forward.", "channel.SwiGlu.", GATED)),
        Some(count) => {
            parts.push(Part::new("feed_forward.", "channel.Experts.", ROUTER));
            let each = Part::new("feed_forward.experts.#.", "channel.Experts.experts.#.", GATED);
            parts.push(Part { count, ..each });
        }
    }
    parts
}
