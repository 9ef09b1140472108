//! Granite 4 hybrids: Mamba-2 with attention in a few layers, a feed-forward layer for every token and perhaps experts beside
//! it, and multipliers throughout.

use std::collections::BTreeMap;

use heddle_attention::{AttentionSettings, Positions};
use serde_json::Value;

use super::{Family, Only, Plan, attention, bamba, expand, layer_items, llama, part};
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{self, Part, Pick, Picked, norms};
use crate::{ExpertsSettings, ModelConfig, SwiGluSettings};

pub(super) const GRANITE: Family = Family {
    name: "granitemoehybrid",
    inert: &["init_method", "mamba_chunk_size"],
    only: &[("hidden_act", Only::Text("silu")), ("normalization_function", Only::Text("rmsnorm"))],
    plan,
};

/// More experts than any model has.
const MOST_EXPERTS: usize = 4096;

fn plan(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let (d_model, eps) = (keys.size("hidden_size")?, keys.number_or("rms_norm_eps", 1e-6)?);
    let kinds = layer_kinds(keys)?;
    let experts = keys.index_or("num_local_experts", 8)?;
    if experts > MOST_EXPERTS {
        let problem = format!("it is {experts}");
        return Err(keys.refuse("num_local_experts", problem, format!("a layer has {MOST_EXPERTS} at most")));
    }
    let [width, shared] = [keys.size("intermediate_size")?, keys.size("shared_intermediate_size")?];
    let mixture = ExpertsSettings {
        experts,
        active: keys.size_or("num_experts_per_tok", 2)?,
        expand: expand(width, d_model),
        shared_expand: Some(expand(shared, d_model)),
        ..Default::default()
    };
    let channel = match experts {
        0 => part("swiglu", SwiGluSettings { expand: expand(shared, d_model), ..Default::default() }),
        _ => part("moe", mixture),
    };
    let name = |attention: &bool| if *attention { "attention+mlp" } else { "mamba2+mlp" };
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&kinds.iter().map(name).collect::<Vec<_>>()),
            mixer: BTreeMap::from([
                ("attention".to_owned(), part("attention", attention_settings(keys, d_model)?)),
                ("mamba2".to_owned(), part("mamba2", bamba::mamba2(keys, bamba::inner_width(keys, d_model)?, eps)?)),
            ]),
            channel: BTreeMap::from([("mlp".to_owned(), channel)]),
            norm_eps: eps,
            embedding_scale: keys.number_or("embedding_multiplier", 1.0)?,
            residual_scale: keys.number_or("residual_multiplier", 1.0)?,
            logit_scale: keys.number_or("logits_scaling", 1.0)?.recip(),
            tied: keys.flag_or("tie_word_embeddings", false)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: llama::FRAME,
        layers: layers(&kinds, experts, [d_model, width, shared]),
    })
}

fn attention_settings(keys: &Keys<'_>, d_model: usize) -> Result<AttentionSettings, PretrainedError> {
    let bias = keys.flag_or("attention_bias", false)?;
    let scale = keys.number_or("attention_multiplier", 1.0)?;
    let heads = attention::heads(keys, d_model)?;
    let heads = AttentionSettings { bias, output_bias: bias, score_scale: Some(scale), ..heads };
    match keys.text_if("position_embedding_type")? {
        Some("rope") => attention::rope(keys, heads, 10_000.0, attention::Turning::Fixed(1.0)),
        None | Some("nope") => {
            attention::ignore_rope(keys);
            Ok(AttentionSettings { positions: Positions::None, ..heads })
        }
        Some(other) => {
            Err(keys.refuse("position_embedding_type", format!("`{other}` is not supported"), "known: rope, nope"))
        }
    }
}

/// Which layers are attention; none if it is not said.
fn layer_kinds(keys: &Keys<'_>) -> Result<Vec<bool>, PretrainedError> {
    let (count, key) = (keys.layers()?, "layer_types");
    let Some(kinds) = keys.array_if(key)? else { return Ok(vec![false; count]) };
    if kinds.len() != count {
        let problem = format!("it lists {} layers of {count}", kinds.len());
        return Err(keys.refuse(key, problem, "list as many as `num_hidden_layers` says"));
    }
    let kind = |kind: &Value| match kind.as_str() {
        Some("attention" | "full_attention") => Ok(true),
        Some("mamba" | "linear_attention") => Ok(false),
        _ => Err(keys.refuse(key, format!("{kind} is not supported"), "known: attention, mamba")),
    };
    kinds.iter().map(kind).collect()
}

/// Gate and up of a feed-forward layer, one above the other, in matrix `index` of a tensor of this shape.
fn halves(theirs: &'static str, ours: &str, shape: &[usize], [index, width]: [usize; 2]) -> [Pick; 2] {
    let pick = |name: &str, start: usize| Pick {
        theirs,
        ours: format!("{ours}{name}.weight"),
        picked: Picked { shape: shape.to_vec(), rows: vec![[start, width]] },
    };
    [pick("gate", 2 * index * width), pick("up", (2 * index + 1) * width)]
}

fn layers(kinds: &[bool], experts: usize, [d, width, shared]: [usize; 3]) -> Vec<Vec<Part>> {
    let ours = if experts > 0 { "channel.Experts.shared." } else { "channel.SwiGlu." };
    let dense = halves("input_linear.weight", "", &[2 * shared, d], [0, shared]);
    let mut channel = vec![Part::new("shared_mlp.", ours, names::DOWN_GRANITE).with(dense.into())];
    if experts > 0 {
        let up = (0..experts).flat_map(|index| {
            halves("input_linear.weight", &format!("{index}."), &[experts, 2 * width, d], [index, width])
        });
        let down = (0..experts).map(|index| Pick {
            theirs: "output_linear.weight",
            ours: format!("{index}.down.weight"),
            picked: Picked { shape: vec![experts, d, width], rows: vec![[index * d, d]] },
        });
        channel.push(Part::new("block_sparse_moe.", "channel.Experts.", names::ROUTER_GRANITE));
        channel.push(Part::new("block_sparse_moe.", "channel.Experts.experts.", &[]).with(up.chain(down).collect()));
    }
    let parts = |attention: &bool| {
        let mixer = match attention {
            true => Part::new("self_attn.", "mixer.", names::ATTENTION),
            false => Part::new("mamba.", "mixer.", names::MAMBA2),
        };
        [&[Part::new("", "", norms::LLAMA), mixer], &channel[..]].concat()
    };
    kinds.iter().map(parts).collect()
}
