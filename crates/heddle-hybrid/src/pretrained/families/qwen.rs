//! Qwen3-Next: three layers of gated DeltaNet to one of gated attention, each with experts.

use std::collections::BTreeMap;

use heddle_attention::AttentionSettings;
use heddle_ssm::DeltaNetSettings;
use serde_json::Value;

use super::{Family, Only, Plan, attention, expand, layer_items, llama, part};
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{self, GATED, Part, Pick, Picked, norms};
use crate::{ExpertsSettings, ModelConfig, SwiGluSettings};

pub(super) const QWEN3_NEXT: Family = Family {
    name: "qwen3_next",
    inert: &[],
    only: &[("hidden_act", Only::Text("silu")), ("attention_bias", Only::Flag(false))],
    plan,
};

/// Widths of a layer of gated DeltaNet: `[g, n, h, p]` as there, and of attention: `[heads, p]`.
struct Sizes {
    delta: [usize; 4],
    attention: [usize; 2],
    d_model: usize,
}

fn plan(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let (d_model, eps) = (keys.size("hidden_size")?, keys.number_or("rms_norm_eps", 1e-6)?);
    let kinds = layer_kinds(keys)?;
    let experts = keys.index_or("num_experts", 512)?;
    let mixture = mixtures(keys, experts)?;
    let layers: Vec<[bool; 2]> = kinds.iter().enumerate().map(|(i, attention)| [*attention, mixture(i)]).collect();
    let name = |[attention, mixture]: &[bool; 2]| match (attention, mixture) {
        (false, false) => "delta+mlp",
        (false, true) => "delta+experts",
        (true, false) => "attention+mlp",
        (true, true) => "attention+experts",
    };
    let attention = attention_settings(keys, d_model, eps)?;
    let delta = delta_settings(keys, eps)?;
    let sizes = sizes(keys, d_model, &attention, &delta)?;
    let mixers = mixers(&sizes);
    let parts = |[attention, mixture]: [bool; 2]| {
        [&[Part::new("", "", norms::LLAMA), mixers[usize::from(attention)].clone()], &channel(mixture, experts)[..]]
            .concat()
    };
    let gated = SwiGluSettings { expand: expand(keys.size("intermediate_size")?, d_model), ..Default::default() };
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&layers.iter().map(name).collect::<Vec<_>>()),
            mixer: BTreeMap::from([
                ("attention".to_owned(), part("attention", attention)),
                ("delta".to_owned(), part("gated_delta_net", delta)),
            ]),
            channel: BTreeMap::from([
                ("mlp".to_owned(), part("swiglu", gated)),
                ("experts".to_owned(), part("moe", experts_settings(keys, experts, d_model)?)),
            ]),
            norm_eps: eps,
            norm_plus_one: true,
            tied: keys.flag_or("tie_word_embeddings", false)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: llama::FRAME,
        layers: layers.into_iter().map(parts).collect(),
    })
}

fn attention_settings(keys: &Keys<'_>, d_model: usize, eps: f64) -> Result<AttentionSettings, PretrainedError> {
    let settings = AttentionSettings {
        qk_norm: true,
        qk_norm_eps: Some(eps),
        qk_norm_plus_one: Some(true),
        output_gate: true,
        ..attention::heads(keys, d_model)?
    };
    attention::rope(keys, settings, 10_000.0, attention::Turning::Default(0.25))
}

fn delta_settings(keys: &Keys<'_>, eps: f64) -> Result<DeltaNetSettings, PretrainedError> {
    Ok(DeltaNetSettings {
        heads: keys.size_or("linear_num_key_heads", 16)?,
        value_heads: Some(keys.size_or("linear_num_value_heads", 32)?),
        head_dim: Some(keys.size_or("linear_key_head_dim", 128)?),
        value_dim: Some(keys.size_or("linear_value_head_dim", 128)?),
        d_conv: keys.size_or("linear_conv_kernel_dim", 4)?,
        norm_eps: eps,
        ..Default::default()
    })
}

fn sizes(
    keys: &Keys<'_>,
    d_model: usize,
    attention: &AttentionSettings,
    delta: &DeltaNetSettings,
) -> Result<Sizes, PretrainedError> {
    let [g, n] = [delta.heads, delta.head_dim.unwrap_or(1)];
    let [h, p] = [delta.value_heads.unwrap_or(g), delta.value_dim.unwrap_or(1)];
    if !h.is_multiple_of(g) || g > MOST_HEADS || attention.heads > MOST_HEADS {
        let problem = format!("{g} heads of keys do not divide {h} heads of values, or there are too many");
        return Err(keys.refuse("linear_num_key_heads", problem, "use a divisor"));
    }
    Ok(Sizes { delta: [g, n, h, p], attention: [attention.heads, attention.head_dim.unwrap_or(1)], d_model })
}

/// More heads than any model has.
const MOST_HEADS: usize = 4096;

fn experts_settings(keys: &Keys<'_>, experts: usize, d_model: usize) -> Result<ExpertsSettings, PretrainedError> {
    Ok(ExpertsSettings {
        experts,
        active: keys.size_or("num_experts_per_tok", 10)?,
        expand: expand(keys.size_or("moe_intermediate_size", 512)?, d_model),
        normalize: keys.flag_or("norm_topk_prob", true)?,
        shared_expand: Some(expand(keys.size_or("shared_expert_intermediate_size", 512)?, d_model)),
        shared_gate: true,
        ..Default::default()
    })
}

/// Whether a layer has experts.
fn mixtures(keys: &Keys<'_>, experts: usize) -> Result<impl Fn(usize) -> bool, PretrainedError> {
    let step = keys.size_or("decoder_sparse_step", 1)?;
    let dense = keys.places_if("mlp_only_layers")?.unwrap_or_default();
    Ok(move |layer: usize| experts > 0 && (layer + 1).is_multiple_of(step) && !dense.contains(&layer))
}

/// Which layers are attention: by `layer_types`, else the last of every few.
fn layer_kinds(keys: &Keys<'_>) -> Result<Vec<bool>, PretrainedError> {
    let (count, key) = (keys.layers()?, "layer_types");
    let interval = keys.size_or("full_attention_interval", 4)?;
    let Some(kinds) = keys.array_if(key)? else {
        return Ok((0..count).map(|layer| (layer + 1).is_multiple_of(interval)).collect());
    };
    if kinds.len() != count {
        let problem = format!("it lists {} layers of {count}", kinds.len());
        return Err(keys.refuse(key, problem, "list as many as `num_hidden_layers` says"));
    }
    let kind = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(true),
        Some("linear_attention") => Ok(false),
        _ => Err(keys.refuse(key, format!("{kind} is not supported"), "known: full_attention, linear_attention")),
    };
    kinds.iter().map(kind).collect()
}

/// Gated DeltaNet, and attention.
fn mixers(sizes: &Sizes) -> [Part; 2] {
    [
        Part::new("linear_attn.", "mixer.", names::DELTA_NET).with(delta_projections(sizes)),
        Part::new("self_attn.", "mixer.", names::ATTENTION_QWEN).with(queries_and_gates(sizes)),
    ]
}

fn channel(mixture: bool, experts: usize) -> Vec<Part> {
    if !mixture {
        return vec![Part::new("mlp.", "channel.SwiGlu.", GATED)];
    }
    let each = Part::new("mlp.experts.#.", "channel.Experts.experts.#.", GATED);
    vec![
        Part::new("mlp.", "channel.Experts.", names::ROUTER_QWEN),
        Part::new("mlp.shared_expert.", "channel.Experts.shared.", GATED),
        Part { count: experts, ..each },
    ]
}

/// Stretches of a tensor that repeats for every one of `count` heads what is `repeat` rows long: the rows from `start`, `len`
/// of them, in each.
fn stretches(count: usize, repeat: usize, [start, len]: [usize; 2]) -> impl Iterator<Item = [usize; 2]> {
    (0..count).map(move |head| [head * repeat + start, len])
}

/// Each head's query and, behind it, its gate.
fn queries_and_gates(sizes: &Sizes) -> Vec<Pick> {
    let [heads, p] = sizes.attention;
    let pick = |ours: &str, start: usize| Pick {
        theirs: "q_proj.weight",
        ours: ours.into(),
        picked: Picked {
            shape: vec![2 * heads * p, sizes.d_model],
            rows: stretches(heads, 2 * p, [start, p]).collect(),
        },
    };
    vec![pick("query.weight", 0), pick("gate.weight", p)]
}

/// For each head of keys its query, key, values and gates; and in another tensor its β and decay rates.
fn delta_projections(sizes: &Sizes) -> Vec<Pick> {
    let [g, n, h, p] = sizes.delta;
    let (r, d) = (h / g, sizes.d_model);
    let repeat = 2 * n + 2 * r * p;
    let pick = |theirs, ours: &str, height: usize, rows: Vec<[usize; 2]>| Pick {
        theirs,
        ours: ours.into(),
        picked: Picked { shape: vec![height, d], rows },
    };
    let mixed = [[0, n], [n, n], [2 * n, r * p]].into_iter().flat_map(|part| stretches(g, repeat, part)).collect();
    let gates = stretches(g, repeat, [2 * n + r * p, r * p]).collect();
    let rates = |start: usize| stretches(g, 2 * r, [start, r]).collect();
    vec![
        pick("in_proj_qkvz.weight", "in_proj.weight", g * repeat, mixed),
        pick("in_proj_qkvz.weight", "gate_proj.weight", g * repeat, gates),
        pick("in_proj_ba.weight", "beta_proj.weight", 2 * h, rates(0)),
        pick("in_proj_ba.weight", "decay.rate_proj.weight", 2 * h, rates(r)),
    ]
}
