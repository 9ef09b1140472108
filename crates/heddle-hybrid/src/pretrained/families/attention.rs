//! What the configs of several families say of attention.

use heddle_attention::{AttentionSettings, Positions, RopeScaling};

use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;

/// Widest head; a wider one is a mistake.
pub(super) const WIDEST_HEAD: usize = 1 << 14;

/// Heads and their width.
pub(super) fn heads(keys: &Keys<'_>, d_model: usize) -> Result<AttentionSettings, PretrainedError> {
    let heads = keys.size("num_attention_heads")?;
    let head_dim = keys.size_if("head_dim")?;
    if head_dim.is_none() && !d_model.is_multiple_of(heads) {
        let problem = format!("{heads} heads do not divide `hidden_size` = {d_model}");
        return Err(keys.refuse("num_attention_heads", problem, "use a divisor, or state `head_dim`"));
    }
    let head_dim = head_dim.unwrap_or(d_model / heads);
    if head_dim > WIDEST_HEAD {
        let problem = format!("a head would be {head_dim} wide");
        return Err(keys.refuse("head_dim", problem, format!("heads are {WIDEST_HEAD} wide at most")));
    }
    let kv_heads = keys.size_or("num_key_value_heads", heads)?;
    Ok(AttentionSettings { heads, kv_heads: Some(kv_heads), head_dim: Some(head_dim), ..Default::default() })
}

/// The part of a head that turns.
#[derive(Clone, Copy)]
pub(super) enum Turning {
    /// Always this.
    Fixed(f64),
    /// This, unless the config states another.
    Default(f64),
}

/// Rotary positions, in either style.
pub(super) fn rope(
    keys: &Keys<'_>,
    settings: AttentionSettings,
    default_theta: f64,
    turning: Turning,
) -> Result<AttentionSettings, PretrainedError> {
    let new = keys.table_if("rope_parameters")?;
    let theta_outside = keys.number_if("rope_theta")?;
    let scaling = keys.table_if("rope_scaling")?;
    if new.is_some() && scaling.is_some() {
        // Either is complete; two of them could contradict each other.
        return Err(keys.refuse("rope_scaling", "`rope_parameters` is stated, too", "state one of the two"));
    }
    let fraction_outside = keys.number_if("partial_rotary_factor")?;
    let inner = new.or(scaling);
    let theta_inside = inner.as_ref().map_or(Ok(None), |inner| inner.number_if("rope_theta"))?;
    let theta = agreed(keys, "rope_theta", [theta_inside, theta_outside])?.unwrap_or(default_theta);
    let fraction_inside = inner.as_ref().map_or(Ok(None), |inner| inner.number_if("partial_rotary_factor"))?;
    let fraction = agreed(keys, "partial_rotary_factor", [fraction_inside, fraction_outside])?;
    let fraction = match turning {
        Turning::Fixed(fixed) if fraction.is_some_and(|fraction| fraction != fixed) => {
            let problem = format!("{} is not supported", fraction.unwrap_or(fixed));
            return Err(keys.refuse("partial_rotary_factor", problem, format!("in this family it is {fixed}")));
        }
        Turning::Fixed(fraction) => fraction,
        Turning::Default(default) => fraction.unwrap_or(default),
    };
    let rope_scaling = match inner {
        Some(inner) => scaled(&inner, keys)?,
        None => None,
    };
    Ok(AttentionSettings {
        positions: Positions::Rope,
        rope_theta: theta,
        rope_fraction: fraction,
        rope_scaling,
        ..settings
    })
}

/// Passes over what is said of turning where nothing turns.
pub(super) fn ignore_rope(keys: &Keys<'_>) {
    for key in ["rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor"] {
        keys.get(key);
    }
}

/// A number that may be stated in two places, if they agree.
fn agreed(keys: &Keys<'_>, key: &str, stated: [Option<f64>; 2]) -> Result<Option<f64>, PretrainedError> {
    match stated {
        [Some(inside), Some(outside)] if inside != outside => {
            let problem = format!("it is {outside} here and {inside} among the rotary positions' own keys");
            Err(keys.refuse(key, problem, "state it once"))
        }
        [inside, outside] => Ok(inside.or(outside)),
    }
}

/// How wavelengths are stretched.
fn scaled(inner: &Keys<'_>, outer: &Keys<'_>) -> Result<Option<RopeScaling>, PretrainedError> {
    let kind = inner.text_if("rope_type")?.or(inner.text_if("type")?).unwrap_or("default");
    let number = |key: &str| {
        let value = inner.number_if(key)?;
        value.ok_or_else(|| inner.refuse(key, "it is missing", format!("`{kind}` needs it")))
    };
    let scaling = match kind {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: number("factor")? }),
        "llama3" => {
            let original = match inner.size_if("original_max_position_embeddings")? {
                Some(original) => original,
                None => outer.size("max_position_embeddings")?,
            };
            Some(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: original,
            })
        }
        _ => {
            return Err(inner.refuse(
                "rope_type",
                format!("`{kind}` is not supported"),
                "known: default, linear, llama3",
            ));
        }
    };
    inner.finish(
        &format!("rotary positions of type `{kind}`"),
        if kind == "linear" { &["original_max_position_embeddings"] } else { &[] },
    )?;
    Ok(scaling)
}
