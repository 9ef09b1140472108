//! Falcon-H1 (arXiv:2507.22448): attention and Mamba-2 beside each other in every layer, and multipliers throughout.

use std::collections::BTreeMap;

use heddle_attention::AttentionSettings;
use heddle_ssm::{GatedNormPlace, Mamba2Settings};

use super::{Family, Only, Plan, attention, bamba, expand, jamba, layer_items, part};
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{self, GATED, Part, norms};
use crate::registry::KindTable;
use crate::{ModelConfig, SwiGluSettings};

pub(super) const FALCON_H1: Family = Family {
    name: "falcon_h1",
    // The width of the feed-forward layer is stated, and not computed from `mlp_expansion_factor`.
    inert: &["mamba_chunk_size", "mlp_expansion_factor", "use_mamba_kernels"],
    only: &[("hidden_act", Only::Text("silu")), ("mamba_use_mlp", Only::Flag(true))],
    plan,
};

fn plan(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let (d_model, count) = (keys.size("hidden_size")?, keys.layers()?);
    let eps = keys.number_or("rms_norm_eps", 1e-5)?;
    let attention = part("attention", attention_settings(keys, d_model)?);
    let mamba2 = part("mamba2", mamba2_settings(keys, d_model, eps)?);
    let parts = vec![
        Part::new("", "", norms::JAMBA),
        Part::new("self_attn.", "mixer.branches.0.mixer.", names::ATTENTION),
        Part::new("mamba.", "mixer.branches.1.mixer.", names::MAMBA2),
        Part::new("feed_forward.", "channel.SwiGlu.", GATED),
    ];
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&vec!["attention|mamba2+mlp"; count]),
            mixer: BTreeMap::from([
                ("attention".to_owned(), scaled(keys, attention, "attention")?),
                ("mamba2".to_owned(), scaled(keys, mamba2, "ssm")?),
            ]),
            channel: BTreeMap::from([("mlp".to_owned(), part("swiglu", gated(keys, d_model)?))]),
            norm_eps: eps,
            embedding_scale: keys.number_or("embedding_multiplier", 1.0)?,
            logit_scale: keys.number_or("lm_head_multiplier", 1.0)?,
            tied: keys.flag_or("tie_word_embeddings", false)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: jamba::FRAME,
        layers: vec![parts; count],
    })
}

/// The mixer with the multipliers of what it reads and of what it computes.
fn scaled(keys: &Keys<'_>, mut mixer: KindTable, name: &str) -> Result<KindTable, PretrainedError> {
    for (setting, key) in
        [("input_scale", format!("{name}_in_multiplier")), ("output_scale", format!("{name}_out_multiplier"))]
    {
        mixer.insert(setting.to_owned(), keys.number_or(&key, 1.0)?.into());
    }
    Ok(mixer)
}

/// Keys are multiplied, which multiplies the scores: nothing else is made of keys.
fn attention_settings(keys: &Keys<'_>, d_model: usize) -> Result<AttentionSettings, PretrainedError> {
    let heads = attention::heads(keys, d_model)?;
    let bias = keys.flag_or("attention_bias", false)?;
    let by_width = (heads.head_dim.unwrap_or(1) as f64).powf(-0.5);
    let score_scale = keys.number_if("key_multiplier")?.map(|multiplier| multiplier * by_width);
    let settings = AttentionSettings { bias, output_bias: bias, score_scale, ..heads };
    attention::rope(keys, settings, 100_000.0, attention::Turning::Fixed(1.0))
}

fn mamba2_settings(keys: &Keys<'_>, d_model: usize, eps: f64) -> Result<Mamba2Settings, PretrainedError> {
    let expanded = bamba::inner_width(keys, d_model)?;
    let settings = bamba::mamba2(keys, keys.size_or("mamba_d_ssm", expanded)?, eps)?;
    let out_bias = keys.flag_or("projectors_bias", false)?;
    if out_bias != settings.bias {
        let problem = format!("it is {out_bias}, and `mamba_proj_bias` is {}", settings.bias);
        return Err(keys.refuse("projectors_bias", problem, "only equal ones are supported"));
    }
    let before = keys.flag_or("mamba_norm_before_gate", true)?;
    let gated_norm = match (keys.flag_or("mamba_rms_norm", false)?, before) {
        (false, _) => GatedNormPlace::None,
        (true, true) => GatedNormPlace::Before,
        (true, false) => GatedNormPlace::Behind,
    };
    Ok(Mamba2Settings { gated_norm, part_scales: keys.numbers_if("ssm_multipliers")?, ..settings })
}

fn gated(keys: &Keys<'_>, d_model: usize) -> Result<SwiGluSettings, PretrainedError> {
    let [gate_scale, output_scale] = keys.numbers_if("mlp_multipliers")?.unwrap_or([1.0; 2]);
    Ok(SwiGluSettings {
        expand: expand(keys.size("intermediate_size")?, d_model),
        bias: keys.flag_or("mlp_bias", false)?,
        gate_scale,
        output_scale,
        ..Default::default()
    })
}
