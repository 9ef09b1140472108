//! Nemotron-H (arXiv:2504.03624): layers that are Mamba-2, attention, a feed-forward layer or experts, and nothing beside it.

use std::collections::BTreeMap;

use heddle_attention::{AttentionSettings, Positions};
use heddle_ssm::Mamba2Settings;
use serde_json::{Value, json};

use super::{Family, Only, Plan, attention, expand, layer_items, mamba, part};
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{self, PLAIN, Part, norms};
use crate::{Activation, ExpertsSettings, MlpSettings, ModelConfig, RouterScores};

pub(super) const NEMOTRON_H: Family = Family {
    name: "nemotron_h",
    // Initialisation, storage, the choice of an implementation, heads that predict later tokens, and numbers that the
    // reference does not read: it takes the inner width from its heads, and ε from `layer_norm_epsilon`.
    inert: &[
        "chunk_size",
        "expand",
        "hidden_dropout",
        "mamba_ssm_cache_dtype",
        "moe_shared_expert_overlap",
        "mtp_hybrid_override_pattern",
        "mtp_layers_block_type",
        "num_nextn_predict_layers",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "rms_norm_eps",
        "time_step_floor",
        "time_step_max",
        "time_step_rank",
        "use_mamba_kernels",
    ],
    only: &[
        ("attention_bias", Only::Flag(false)),
        ("mamba_hidden_act", Only::Text("silu")),
        ("mamba_proj_bias", Only::Flag(false)),
        ("mlp_hidden_act", Only::Text("relu2")),
    ],
    plan,
};

/// What a layer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mamba2,
    Attention,
    Mlp,
    Experts,
}

fn plan(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let d_model = keys.size("hidden_size")?;
    let kinds = layer_kinds(keys)?;
    let mut channel = BTreeMap::from([("mlp".to_owned(), part("mlp", mlp_settings(keys, d_model)?))]);
    let mut experts = 0;
    if kinds.contains(&Kind::Experts) {
        let settings = experts_settings(keys, d_model)?;
        experts = settings.experts;
        channel.insert("experts".to_owned(), part("moe", settings));
    } else {
        // They describe layers that there are none of.
        for key in EXPERT_KEYS {
            keys.get(key);
        }
    }
    let name = |kind: &Kind| match kind {
        Kind::Mamba2 => "mamba2",
        Kind::Attention => "attention",
        Kind::Mlp => "+mlp",
        Kind::Experts => "+experts",
    };
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&kinds.iter().map(name).collect::<Vec<_>>()),
            mixer: BTreeMap::from([
                ("attention".to_owned(), part("attention", attention_settings(keys, d_model)?)),
                ("mamba2".to_owned(), part("mamba2", mamba2_settings(keys)?)),
            ]),
            channel,
            norm_eps: epsilon(keys)?,
            tied: keys.flag_or("tie_word_embeddings", false)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: mamba::FRAME,
        layers: kinds.into_iter().map(|kind| parts(kind, experts)).collect(),
    })
}

fn epsilon(keys: &Keys<'_>) -> Result<f64, PretrainedError> {
    keys.number_or("layer_norm_epsilon", 1e-5)
}

/// The kinds of the layers: by `layers_block_type`, else by the letters of `hybrid_override_pattern`.
fn layer_kinds(keys: &Keys<'_>) -> Result<Vec<Kind>, PretrainedError> {
    let (listed, pattern) = ("layers_block_type", "hybrid_override_pattern");
    let list = keys.array_if(listed)?;
    let letters = keys.text_if(pattern)?;
    let (key, kinds) = match (list, letters) {
        (Some(list), _) => {
            (listed, list.iter().map(|kind| by_name(keys, listed, kind)).collect::<Result<Vec<_>, _>>()?)
        }
        (None, Some(letters)) => {
            (pattern, letters.chars().map(|letter| by_letter(keys, pattern, letter)).collect::<Result<Vec<_>, _>>()?)
        }
        (None, None) => return Err(keys.refuse(listed, "it is missing", "a config of this family states it")),
    };
    let count = keys.layers_or(kinds.len())?;
    if kinds.len() != count {
        let problem = format!("it lists {} layers, and `num_hidden_layers` is {count}", kinds.len());
        return Err(keys.refuse(key, problem, "make them agree"));
    }
    Ok(kinds)
}

fn by_name(keys: &Keys<'_>, key: &str, kind: &Value) -> Result<Kind, PretrainedError> {
    match kind.as_str() {
        Some("mamba" | "linear_attention") => Ok(Kind::Mamba2),
        Some("attention" | "full_attention") => Ok(Kind::Attention),
        Some("mlp") => Ok(Kind::Mlp),
        Some("moe") => Ok(Kind::Experts),
        _ => Err(keys.refuse(key, format!("{kind} is not supported"), "known: mamba, attention, mlp, moe")),
    }
}

fn by_letter(keys: &Keys<'_>, key: &str, letter: char) -> Result<Kind, PretrainedError> {
    match letter {
        'M' => Ok(Kind::Mamba2),
        '*' => Ok(Kind::Attention),
        '-' => Ok(Kind::Mlp),
        'E' => Ok(Kind::Experts),
        _ => Err(keys.refuse(key, format!("`{letter}` is not supported"), "known: M, *, - and E")),
    }
}

fn attention_settings(keys: &Keys<'_>, d_model: usize) -> Result<AttentionSettings, PretrainedError> {
    let heads = attention::heads(keys, d_model)?;
    let head_dim = keys.size_or("head_dim", 128)?;
    mamba::same(keys, "attention_head_dim", head_dim)?;
    mamba::same(keys, "num_query_groups", heads.kv_heads.unwrap_or(heads.heads))?;
    keys.only("sliding_window", &Value::Null)?;
    Ok(AttentionSettings { positions: Positions::None, head_dim: Some(head_dim), ..heads })
}

/// The norm before the output is of each group by itself.
fn mamba2_settings(keys: &Keys<'_>) -> Result<Mamba2Settings, PretrainedError> {
    let (heads, head_dim) = (keys.size_or("mamba_num_heads", 128)?, keys.size_or("mamba_head_dim", 64)?);
    Ok(Mamba2Settings {
        d_state: keys.size_or("ssm_state_size", 128)?,
        d_conv: keys.size_or("conv_kernel", 4)?,
        d_inner: Some(heads * head_dim),
        head_dim: Some(head_dim),
        groups: keys.size_or("n_groups", 8)?,
        dt_limit: Some(mamba::step_bounds(keys)?),
        bias: keys.flag_or("use_bias", false)?,
        conv_bias: keys.flag_or("use_conv_bias", true)?,
        norm_eps: epsilon(keys)?,
        ..Default::default()
    })
}

fn mlp_settings(keys: &Keys<'_>, d_model: usize) -> Result<MlpSettings, PretrainedError> {
    Ok(MlpSettings {
        expand: expand(keys.size("intermediate_size")?, d_model),
        activation: Activation::ReluSquared,
        bias: keys.flag_or("mlp_bias", false)?,
    })
}

/// Keys that speak of experts.
const EXPERT_KEYS: [&str; 10] = [
    "moe_intermediate_size",
    "moe_latent_size",
    "moe_shared_expert_intermediate_size",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_experts_per_tok",
    "routed_scaling_factor",
    "topk_group",
];

/// More experts than any model has.
const MOST_EXPERTS: usize = 4096;

/// Plain experts behind a router of sigmoids whose choice has a bias (arXiv:2412.19437, §2.1.2).
fn experts_settings(keys: &Keys<'_>, d_model: usize) -> Result<ExpertsSettings, PretrainedError> {
    // Experts in several groups of which a token sees some, and experts in a space of their own.
    keys.only("n_group", &json!(1))?;
    keys.only("topk_group", &json!(1))?;
    keys.only("moe_latent_size", &Value::Null)?;
    keys.only("n_shared_experts", &json!(1))?;
    keys.only("mlp_bias", &json!(false))?;
    let experts = keys.size_or("n_routed_experts", 8)?;
    if experts > MOST_EXPERTS {
        let problem = format!("it is {experts}");
        return Err(keys.refuse("n_routed_experts", problem, format!("a layer has {MOST_EXPERTS} at most")));
    }
    Ok(ExpertsSettings {
        experts,
        active: keys.size_or("num_experts_per_tok", 2)?,
        expand: expand(keys.size("moe_intermediate_size")?, d_model),
        gated: false,
        activation: Activation::ReluSquared,
        scores: RouterScores::Sigmoid,
        selection_bias: true,
        route_scale: keys.number_or("routed_scaling_factor", 1.0)?,
        normalize: keys.flag_or("norm_topk_prob", true)?,
        shared_expand: Some(expand(keys.size("moe_shared_expert_intermediate_size")?, d_model)),
        ..Default::default()
    })
}

fn parts(kind: Kind, experts: usize) -> Vec<Part> {
    let channel = Part::new("", "", norms::NEMOTRON_CHANNEL);
    match kind {
        Kind::Mamba2 => vec![Part::new("", "", norms::MAMBA), Part::new("mixer.", "mixer.", names::MAMBA2)],
        Kind::Attention => vec![Part::new("", "", norms::MAMBA), Part::new("mixer.", "mixer.", names::ATTENTION)],
        Kind::Mlp => vec![channel, Part::new("mixer.", "channel.Mlp.", PLAIN)],
        Kind::Experts => vec![
            channel,
            Part::new("mixer.", "channel.Experts.", names::ROUTER_NEMOTRON),
            Part::new("mixer.shared_experts.", "channel.Experts.shared.", PLAIN),
            Part { count: experts, ..Part::new("mixer.experts.#.", "channel.Experts.experts.#.", PLAIN) },
        ],
    }
}
