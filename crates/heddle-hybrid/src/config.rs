//! A model as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::norm::{NormKind, NormPlacement};
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
    /// The layers, first to last: names such as `mixer`, `mixer+channel`, `+channel`, `mixer|mixer+channel` or
    /// `mixer+channel > mixer` (see [`LayerName`]), each perhaps followed by `* n`, or a table of `repeat` and `layers`.
    pub layers: Vec<LayerItem>,
    /// Named sequence mixers: a kind and its settings.
    pub mixer: BTreeMap<String, KindTable>,
    /// Named channel mixers: a kind and its settings.
    pub channel: BTreeMap<String, KindTable>,
    /// Chance that training sets a number to zero, in the embedding and in what each mixer, channel mixer and feed adds
    /// (arXiv:1706.03762, §5.4).
    pub dropout: f64,
    /// Whether the last linear map of every mixer and channel mixer whose result is added to the stream starts smaller by
    /// 1/√n, where n counts these results: two a layer with both (GPT-2, §2.3; Megatron's scaled initialisation).
    pub depth_scaled_init: bool,
    /// What the norms of the stream divide by.
    pub norm: NormKind,
    /// Where they stand.
    pub norm_placement: NormPlacement,
    /// Whether their scale is stored as what is added to one, so that weight decay would pull it to one (Gemma,
    /// Qwen3-Next).
    pub norm_plus_one: bool,
    /// ε of every norm of the stream.
    pub norm_eps: f64,
    /// Multiplier of the embedding (√d in Gemma; a setting of Granite and Falcon-H1).
    pub embedding_scale: f64,
    /// Multiplier of what every mixer and channel mixer adds to the stream (Granite).
    pub residual_scale: f64,
    /// Multiplier of the logits.
    pub logit_scale: f64,
    /// Bound `c` that logits are squeezed into after their multiplier, `c tanh(x / c)` (arXiv:2408.00118, §2); none
    /// means no bound.
    pub logit_softcap: Option<f64>,
    /// Whether the head shares the embedding's matrix.
    pub tied: bool,
    /// Whether a head of its own has a bias.
    pub head_bias: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            d_model: 64,
            layers: vec![],
            mixer: BTreeMap::new(),
            channel: BTreeMap::new(),
            dropout: 0.0,
            depth_scaled_init: false,
            norm: NormKind::Rms,
            norm_placement: NormPlacement::Pre,
            norm_plus_one: false,
            norm_eps: 1e-5,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: None,
            tied: false,
            head_bias: false,
        }
    }
}

/// An entry of [`ModelConfig::layers`].
///
/// ```
/// use heddle_hybrid::{LayerItem, ModelConfig};
///
/// let json = r#"{"repeat": 2, "layers": ["mamba * 3", "attention"]}"#;
/// let twice: LayerItem = serde_json::from_str(json).unwrap();
/// let layers = vec![LayerItem::Name("mamba * 3".into()), LayerItem::Name("attention".into())];
/// assert_eq!(twice, LayerItem::Repeat { repeat: 2, layers });
/// let config = ModelConfig { layers: vec![twice], ..Default::default() };
/// assert_eq!(config.layer_names().unwrap().len(), 2 * (3 + 1));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "a layer is a name, or a table of `repeat` and `layers`")]
pub enum LayerItem {
    /// A layer's name, perhaps followed by `* n`.
    Name(String),
    /// A list that is repeated.
    Repeat {
        /// How often.
        repeat: usize,
        /// What.
        layers: Vec<LayerItem>,
    },
}

/// A layer by the names of its parts, as in `mixer+channel`.
///
/// Either part may be missing: `mixer` only mixes along the sequence, `+channel` only maps each token. Mixers that
/// read the same normalised tokens beside each other, and whose results are added, are separated by `|`, as in
/// `attention|mamba+mlp`.
///
/// What stands before a `>`, as in `attention+mlp>mamba`, is a feed: its parts make up a chain beside the stream, whose
/// result is added to what the first part behind the `>` reads, and not to the stream.
///
/// ```
/// use heddle_hybrid::ModelConfig;
///
/// let config: ModelConfig = serde_json::from_str(r#"{"layers": ["attention + mlp > mamba | gru"]}"#).unwrap();
/// let layer = config.layer_names().unwrap().remove(0);
/// assert_eq!((layer.mixers.join(" and "), &layer.channel), ("mamba and gru".to_owned(), &None));
/// assert_eq!(layer.feed.as_ref().unwrap().channel.as_deref(), Some("mlp"));
/// assert_eq!(layer.to_string(), "attention+mlp>mamba|gru");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerName {
    /// The feed, which has none itself.
    pub feed: Option<Box<LayerName>>,
    /// Names of the sequence mixers, side by side; none if the layer has none.
    pub mixers: Vec<String>,
    /// Name of the channel mixer, if it has one.
    pub channel: Option<String>,
}

impl core::fmt::Display for LayerName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if let Some(feed) = &self.feed {
            write!(f, "{feed}>")?;
        }
        f.write_str(&self.mixers.join("|"))?;
        match &self.channel {
            Some(channel) => write!(f, "+{channel}"),
            None => Ok(()),
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

/// Longest pattern that [`fold`] looks for.
const LONGEST_PATTERN: usize = 64;

/// A list of layers in as few words as their repetitions allow: what [`ModelConfig::layer_names`] writes out.
///
/// ```
/// use heddle_hybrid::{ModelConfig, fold};
///
/// let json = r#"{"layers": ["a", "b", "b", "a", "b", "b", "c+d", "c+d", "c+d"]}"#;
/// let config: ModelConfig = serde_json::from_str(json).unwrap();
/// let folded = fold(&config.layer_names().unwrap());
/// let json = r#"[{"repeat":2,"layers":["a","b * 2"]},"c+d * 3"]"#;
/// assert_eq!(serde_json::to_string(&folded).unwrap(), json);
/// ```
pub fn fold(names: &[LayerName]) -> Vec<LayerItem> {
    let mut items = vec![];
    let mut rest = names;
    while let Some(first) = rest.first() {
        // The pattern here whose repetitions reach furthest; of equal ones the shortest.
        let reach =
            |pattern: usize| match rest.chunks_exact(pattern).take_while(|part| *part == &rest[..pattern]).count() {
                1 => 1,
                repeat => pattern * repeat,
            };
        let longest = LONGEST_PATTERN.min(rest.len() / 2).max(1);
        let pattern = (1..=longest).rev().max_by_key(|&pattern| reach(pattern)).expect("one is a length");
        let (reached, repeat) = (reach(pattern), reach(pattern) / pattern);
        items.push(match (pattern, repeat) {
            (_, 0 | 1) => LayerItem::Name(first.to_string()),
            (1, _) => LayerItem::Name(format!("{first} * {repeat}")),
            _ => LayerItem::Repeat { repeat, layers: fold(&rest[..pattern]) },
        });
        rest = &rest[reached.max(1)..];
    }
    items
}

fn check_depth(layers: usize) -> Result<(), String> {
    match layers > MOST_LAYERS {
        true => Err(format!("more than {MOST_LAYERS} layers; check the repetitions")),
        false => Ok(()),
    }
}

fn parse_name(text: &str) -> Result<(LayerName, usize), String> {
    let wrong = |what: &str| {
        let forms = "`mixer`, `mixer+channel`, `+channel`, `mixer+channel>mixer` or `mixer|mixer+channel * 3`";
        format!("layer `{text}`: {what}; write {forms}")
    };
    let (name, repeat) = match text.split_once('*') {
        Some((name, repeat)) => (name, repeat.trim().parse().map_err(|_| wrong("its repetition is no number"))?),
        None => (text, 1),
    };
    let missing = || wrong("a name is missing");
    let layer = match name.split_once('>') {
        None => parse_parts(name),
        Some((_, rest)) if rest.contains('>') => return Err(wrong("it has two feeds")),
        Some((feed, rest)) => {
            let feed = parse_parts(feed).ok_or_else(missing)?;
            parse_parts(rest).map(|layer| LayerName { feed: Some(Box::new(feed)), ..layer })
        }
    };
    Ok((layer.ok_or_else(missing)?, repeat))
}

/// Mixers and a channel mixer, if no name is missing.
fn parse_parts(text: &str) -> Option<LayerName> {
    let (mixers, channel) = match text.split_once('+') {
        Some((mixers, channel)) => (mixers.trim(), Some(channel.trim())),
        None => (text.trim(), None),
    };
    let mixers: Vec<String> = match mixers.is_empty() && channel.is_some() {
        true => vec![],
        false => mixers.split('|').map(|mixer| mixer.trim().to_owned()).collect(),
    };
    let complete = channel != Some("") && !mixers.iter().any(String::is_empty);
    complete.then(|| LayerName { feed: None, mixers, channel: channel.map(Into::into) })
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
        for text in ["", "+", "mamba+", "mamba|", "|mamba+mlp", ">mamba", "mamba>", "mamba+mlp>+"] {
            let complaint = names(&format!("[\"{text}\"]")).unwrap_err();
            assert!(complaint.starts_with(&format!("layer `{text}`: a name is missing")), "{complaint}");
        }
        assert!(names(r#"["a>b>c"]"#).unwrap_err().starts_with("layer `a>b>c`: it has two feeds"));
        assert!(names(r#"["mamba * 99999999999"]"#).unwrap_err().starts_with("more than 4096 layers"));
        assert!(names(r#"[{"repeat": 18446744073709551615, "layers": []}]"#).is_err());
    }

    #[test]
    fn a_layer_may_lack_a_part_or_have_mixers_side_by_side() {
        let layer = |mixers: &[&str], channel: Option<&str>| LayerName {
            feed: None,
            mixers: mixers.iter().map(|&mixer| mixer.into()).collect(),
            channel: channel.map(Into::into),
        };
        let read = names(r#"["+mlp", "attention", " attention | mamba + mlp *2"]"#).unwrap();
        let both = layer(&["attention", "mamba"], Some("mlp"));
        assert_eq!(read, [layer(&[], Some("mlp")), layer(&["attention"], None), both.clone(), both]);
        assert_eq!(
            read.iter().map(LayerName::to_string).collect::<Vec<_>>()[..3],
            ["+mlp", "attention", "attention|mamba+mlp"]
        );
        let fed = LayerName { feed: Some(Box::new(layer(&["attention"], Some("mlp")))), ..layer(&["mamba"], None) };
        let read = names(r#"["attention + mlp > mamba * 2"]"#).unwrap();
        assert_eq!((read[0].to_string(), read), ("attention+mlp>mamba".into(), vec![fed.clone(), fed]));
    }

    #[test]
    fn a_folded_list_is_the_list() {
        for json in [
            r#"["a"]"#,
            r#"["a * 7", "b", "a * 7", "b", "c"]"#,
            r#"[{"repeat": 4, "layers": ["a+m", "a+e", "a+m", "a+e", "t+m", "a+e", "a+m", "a+e"]}]"#,
            r#"["+m", {"repeat": 3, "layers": [{"repeat": 2, "layers": ["a", "b|c>d"]}, "d"]}, "a", "b|c"]"#,
        ] {
            let list = names(json).unwrap();
            let folded = ModelConfig { layers: fold(&list), ..Default::default() };
            assert_eq!(folded.layer_names().unwrap(), list);
            assert!(folded.layers.len() <= serde_json::from_str::<Vec<LayerItem>>(json).unwrap().len(), "{folded:?}");
        }
    }
}
