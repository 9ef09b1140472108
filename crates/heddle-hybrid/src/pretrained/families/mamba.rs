//! Mamba (arXiv:2312.00752), Falcon Mamba (arXiv:2410.05355) and Mamba-2 (arXiv:2405.21060): one block a layer, and nothing
//! else.

use std::collections::BTreeMap;

use heddle_ssm::{InnerNorm, Mamba2Settings, MambaSettings};
use serde_json::Value;

use super::{Family, Only, Plan, layer_items, part};
use crate::ModelConfig;
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::{Keys, float};
use crate::pretrained::names::{self, Frame, Part, Table, norms};
use crate::registry::KindTable;

/// Keys about the initialisation, the storage of the residual stream and the choice of an implementation.
const INERT: &[&str] = &[
    "chunk_size",
    "fused_add_norm",
    "pad_vocab_size_multiple",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    "use_associative_scan",
    "use_falcon_mambapy",
    "use_mambapy",
];

pub(super) const MAMBA: Family = Family {
    name: "mamba",
    inert: INERT,
    only: &[("hidden_act", Only::Text("silu")), ("rms_norm", Only::Flag(true)), ("ssm_cfg", Only::EmptyTable)],
    plan: mamba,
};

pub(super) const FALCON_MAMBA: Family =
    Family { name: "falcon_mamba", inert: INERT, only: &[("hidden_act", Only::Text("silu"))], plan: falcon_mamba };

pub(super) const MAMBA2: Family = Family {
    name: "mamba2",
    inert: &[
        "chunk_size",
        // The family's reference puts the gate before the norm, whatever this says.
        "norm_before_gate",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "time_step_floor",
        "time_step_init_scheme",
        "time_step_max",
        "time_step_min",
        // Mamba-2 has no projection of Δ that these could describe.
        "time_step_rank",
        "time_step_scale",
    ],
    only: &[("hidden_act", Only::Text("silu")), ("rms_norm", Only::Flag(true))],
    plan: mamba2,
};

/// What frames the layers of Mamba and its relatives.
pub(super) const FRAME: Frame = Frame {
    embedding: "backbone.embeddings.weight",
    norm: "backbone.norm_f.weight",
    head: "lm_head.weight",
    layers: "backbone.layers.",
};

fn mamba(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    plan(keys, part("mamba", mamba_settings(keys)?), names::MAMBA, true)
}

fn falcon_mamba(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let norm = InnerNorm { scale: false, eps: keys.number_or("mixer_rms_eps", 1e-6)? };
    let settings = MambaSettings { inner_norm: Some(norm), ..mamba_settings(keys)? };
    plan(keys, part("mamba", settings), names::MAMBA, true)
}

fn mamba_settings(keys: &Keys<'_>) -> Result<MambaSettings, PretrainedError> {
    let d_model = keys.size("hidden_size")?;
    Ok(MambaSettings {
        d_state: keys.size_or("state_size", 16)?,
        d_conv: keys.size_or("conv_kernel", 4)?,
        expand: inner_width(keys, d_model)? / d_model,
        dt_rank: rank(keys, "time_step_rank", d_model)?,
        bias: Some(keys.flag_or("use_bias", false)?),
        conv_bias: Some(keys.flag_or("use_conv_bias", true)?),
        ..Default::default()
    })
}

/// The width `e`, a multiple of the model's. Where it is stated as such, it is not computed from `expand`.
fn inner_width(keys: &Keys<'_>, d_model: usize) -> Result<usize, PretrainedError> {
    let computed = keys.size_or("expand", 2)? * d_model;
    let width = keys.size_if("intermediate_size")?.unwrap_or(computed);
    same(keys, "d_inner", width)?;
    match width.is_multiple_of(d_model) {
        true => Ok(width),
        false => {
            let problem = format!("{width} is no multiple of `hidden_size` = {d_model}");
            Err(keys.refuse("intermediate_size", problem, "only multiples are supported"))
        }
    }
}

/// The rank of Δ's projection, which may be `auto`.
pub(super) fn rank(keys: &Keys<'_>, key: &str, d_model: usize) -> Result<Option<usize>, PretrainedError> {
    match keys.get(key) {
        Some(Value::String(auto)) if auto == "auto" => Ok(Some(d_model.div_ceil(16))),
        _ => Ok(Some(keys.size_or(key, d_model.div_ceil(16))?)),
    }
}

/// Refuses a second name of a size that contradicts the first.
pub(super) fn same(keys: &Keys<'_>, key: &str, size: usize) -> Result<(), PretrainedError> {
    match keys.size_if(key)? {
        Some(other) if other != size => {
            Err(keys.refuse(key, format!("it is {other}, where {size} follows from the other keys"), "make them agree"))
        }
        _ => Ok(()),
    }
}

fn mamba2(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let d_model = keys.size("hidden_size")?;
    let width = keys.size_or("expand", 2)? * d_model;
    let (heads, head_dim) = (keys.size_or("num_heads", 128)?, keys.size_or("head_dim", 64)?);
    if heads * head_dim != width {
        let problem = format!("{heads} heads of {head_dim} are not `expand` · `hidden_size` = {width} wide");
        return Err(keys.refuse("num_heads", problem, "make them agree"));
    }
    same(keys, "intermediate_size", width)?;
    let settings = Mamba2Settings {
        d_state: keys.size_or("state_size", 128)?,
        d_conv: keys.size_or("conv_kernel", 4)?,
        expand: width / d_model,
        head_dim: Some(head_dim),
        groups: keys.size_or("n_groups", 8)?,
        dt_limit: dt_limit(keys, "time_step_limit")?,
        bias: keys.flag_or("use_bias", false)?,
        conv_bias: keys.flag_or("use_conv_bias", true)?,
        norm_eps: keys.number_or("layer_norm_epsilon", 1e-5)?,
        ..Default::default()
    };
    plan(keys, part("mamba2", settings), names::MAMBA2, false)
}

/// The bounds of Δ, if they bound anything: it is positive and finite anyway.
pub(super) fn dt_limit(keys: &Keys<'_>, key: &str) -> Result<Option<[f64; 2]>, PretrainedError> {
    let Some(bounds) = keys.array_if(key)? else { return Ok(None) };
    let refuse = || keys.refuse(key, "it is no pair of bounds", "use [low, high] with low < high");
    let bounds: Option<Vec<f64>> = bounds.iter().map(float).collect();
    match bounds.as_deref() {
        Some([low, high]) if *low <= 0.0 && *high == f64::INFINITY => Ok(None),
        // Numbers are stored where there is no infinity; nothing is larger than this.
        Some([low, high]) if low < high => Ok(Some([low.max(0.0), high.min(f64::from(f32::MAX))])),
        _ => Err(refuse()),
    }
}

/// The bounds of Δ in families whose reference bounds it from below by `time_step_min`, and on its portable path by nothing else.
pub(super) fn step_bounds(keys: &Keys<'_>) -> Result<[f64; 2], PretrainedError> {
    if dt_limit(keys, "time_step_limit")?.is_some() {
        let problem = "bounds other than [0, Infinity] are not supported";
        return Err(keys.refuse("time_step_limit", problem, "state the lower one as `time_step_min`"));
    }
    match keys.number_or("time_step_min", 1e-3)? {
        low if low >= 0.0 => Ok([low, f64::from(f32::MAX)]),
        low => Err(keys.refuse("time_step_min", format!("{low} is no step size"), "use 0 or more")),
    }
}

fn plan(keys: &Keys<'_>, mixer: KindTable, table: Table, tied: bool) -> Result<Plan, PretrainedError> {
    let (d_model, layers) = (keys.size("hidden_size")?, keys.layers()?);
    same(keys, "d_model", d_model)?;
    same(keys, "n_layer", layers)?;
    let parts = vec![Part::new("", "", norms::MAMBA), Part::new("mixer.", "mixer.", table)];
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&vec!["mamba"; layers]),
            mixer: BTreeMap::from([("mamba".to_owned(), mixer)]),
            norm_eps: keys.number_or("layer_norm_epsilon", 1e-5)?,
            tied: keys.flag_or("tie_word_embeddings", tied)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: FRAME,
        layers: vec![parts; layers],
    })
}
