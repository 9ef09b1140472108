//! A model as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::registry::KindTable;

/// A model: named mixers, named channel mixers, and the list of layers made of them.
///
/// ```
/// use heddle_hybrid::ModelConfig;
///
/// let config: ModelConfig = serde_json::from_str(r#"{
///     "d_model": 64,
///     "mixer": {"mamba": {"kind": "mamba"}, "attention": {"kind": "attention", "heads": 2}},
///     "channel": {"mlp": {"kind": "swiglu"}},
///     "layers": [{"repeat": 2, "layers": ["mamba * 3", "attention+mlp"]}]
/// }"#).unwrap();
/// let names: Vec<String> = config.layer_names().unwrap().iter().map(|layer| layer.to_string()).collect();
/// assert_eq!(names, ["mamba", "mamba", "mamba", "attention+mlp", "mamba", "mamba", "mamba", "attention+mlp"]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Width `d` of the residual stream.
    pub d_model: usize,
    /// The layers, first to last: `mixer`, `mixer+channel`, either followed by `* n`, or a table of `repeat` and `layers`.
    pub layers: Vec<LayerItem>,
    /// Named sequence mixers: a kind and its settings.
    pub mixer: BTreeMap<String, KindTable>,
    /// Named channel mixers: a kind and its settings.
    pub channel: BTreeMap<String, KindTable>,
    /// Chance that training sets a number to zero, in the embedding and in what each mixer adds (arXiv:1706.03762, §5.4).
    pub dropout: f64,
    /// ε of every RMSNorm.
    pub norm_eps: f64,
    /// Whether the head shares the embedding's matrix.
    pub tied: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            d_model: 64,
            layers: vec![],
            mixer: BTreeMap::new(),
            channel: BTreeMap::new(),
            dropout: 0.0,
            norm_eps: 1e-5,
            tied: false,
        }
    }
}

/// An entry of [`ModelConfig::layers`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "a layer is a name, or a table of `repeat` and `layers`")]
pub enum LayerItem {
    /// `mixer`, `mixer+channel`, either followed by `* n`.
    Name(String),
    /// A list that is repeated.
    Repeat {
        /// How often.
        repeat: usize,
        /// What.
        layers: Vec<LayerItem>,
    },
}

/// A layer by the names of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerName {
    /// Name of the sequence mixer.
    pub mixer: String,
    /// Name of the channel mixer, if it has one.
    pub channel: Option<String>,
}

impl core::fmt::Display for LayerName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.channel {
            Some(channel) => write!(f, "{}+{channel}", self.mixer),
            None => f.write_str(&self.mixer),
        }
    }
}

/// No model is deeper than this; a list that asks for more is a mistake.
pub(crate) const MOST_LAYERS: usize = 4096;

impl ModelConfig {
    /// The layers with every repetition written out.
    ///
    /// # Errors
    /// If an entry cannot be read, or the list is empty or absurdly long; the message names the entry.
    pub fn layer_names(&self) -> Result<Vec<LayerName>, String> {
        let mut names = vec![];
        expand(&self.layers, &mut names)?;
        match names.is_empty() {
            true => {
                Err("a model needs a layer; list the names of mixers, as in `layers = [\"mamba\", \"attention\"]`"
                    .into())
            }
            false => Ok(names),
        }
    }
}

fn expand(items: &[LayerItem], names: &mut Vec<LayerName>) -> Result<(), String> {
    for item in items {
        match item {
            LayerItem::Name(text) => {
                let (name, repeat) = parse_name(text)?;
                check_depth(names.len().saturating_add(repeat))?;
                names.extend(core::iter::repeat_n(name, repeat));
            }
            LayerItem::Repeat { repeat, layers } => {
                for _ in 0..*repeat {
                    expand(layers, names)?;
                    // An empty list repeated without end would never reach the depth that stops it.
                    if layers.is_empty() {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

fn check_depth(layers: usize) -> Result<(), String> {
    match layers > MOST_LAYERS {
        true => Err(format!("more than {MOST_LAYERS} layers; check the repetitions")),
        false => Ok(()),
    }
}

fn parse_name(text: &str) -> Result<(LayerName, usize), String> {
    let wrong = |what: &str| format!("layer `{text}`: {what}; write `mixer`, `mixer+channel` or `mixer+channel * 3`");
    let (name, repeat) = match text.split_once('*') {
        Some((name, repeat)) => (name, repeat.trim().parse().map_err(|_| wrong("its repetition is no number"))?),
        None => (text, 1),
    };
    let (mixer, channel) = match name.split_once('+') {
        Some((mixer, channel)) => (mixer.trim(), Some(channel.trim())),
        None => (name.trim(), None),
    };
    if mixer.is_empty() || channel == Some("") {
        return Err(wrong("a name is missing"));
    }
    Ok((LayerName { mixer: mixer.into(), channel: channel.map(Into::into) }, repeat))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(json: &str) -> Result<Vec<LayerName>, String> {
        ModelConfig { layers: serde_json::from_str(json).unwrap(), ..Default::default() }.layer_names()
    }

    #[test]
    fn a_list_that_cannot_be_read_is_named() {
        assert!(names("[]").unwrap_err().starts_with("a model needs a layer"));
        assert!(names(r#"["mamba * x"]"#).unwrap_err().starts_with("layer `mamba * x`: its repetition is no number"));
        assert!(names(r#"["+mlp"]"#).unwrap_err().starts_with("layer `+mlp`: a name is missing"));
        assert!(names(r#"["mamba * 99999999999"]"#).unwrap_err().starts_with("more than 4096 layers"));
        assert!(names(r#"[{"repeat": 18446744073709551615, "layers": []}]"#).is_err());
    }
}
