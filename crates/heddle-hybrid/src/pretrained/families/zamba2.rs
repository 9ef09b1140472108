//! Zamba2 (arXiv:2411.15242): Mamba-2 throughout; at some layers one of a few shared blocks of attention and a feed-forward
//! layer reads the stream beside the embedding, and feeds that layer.

use std::collections::BTreeMap;

use heddle_attention::{AttentionSettings, Positions};
use heddle_ssm::Mamba2Settings;
use serde_json::{Value, json};

use super::{Family, Only, Plan, attention, expand, jamba, layer_items, mamba, part};
use crate::pretrained::error::PretrainedError;
use crate::pretrained::keys::Keys;
use crate::pretrained::names::{self, Part, Pick, Picked, norms};
use crate::registry::KindTable;
use crate::{Activation, ModelConfig, SwiGluSettings};

pub(super) const ZAMBA2: Family = Family {
    name: "zamba2",
    // Initialisation, the choice of an implementation, and keys that the reference does not ask: its convolution has a bias
    // whatever is said.
    inert: &[
        "chunk_size",
        "kv_channels",
        "num_query_groups",
        "time_step_floor",
        "time_step_max",
        "use_conv_bias",
        "use_mamba_kernels",
        "use_mem_eff_path",
    ],
    only: &[("use_shared_mlp_adapter", Only::Flag(true))],
    plan,
};

/// ε of the norm before Mamba-2's output, which the family fixes.
const GATED_NORM_EPS: f64 = 1e-5;

/// Layers of the family's first model, where the config does not list them, and those of them that are fed.
const FIRST_LAYERS: usize = 54;
const FIRST_FED: [usize; 9] = [6, 12, 18, 24, 30, 36, 42, 47, 51];

fn plan(keys: &Keys<'_>) -> Result<Plan, PretrainedError> {
    let d_model = keys.size("hidden_size")?;
    let fed = fed_layers(keys)?;
    let uses: Vec<usize> = (0..fed.len()).filter(|&layer| fed[layer]).collect();
    // A block that no layer comes to does not exist.
    let blocks = keys.size_or("num_mem_blocks", 1)?.min(uses.len());
    let block = Block::read(keys, d_model)?;
    let mut use_number = 0;
    let names: Vec<String> = fed
        .iter()
        .map(|fed| match fed {
            false => "mamba2".to_owned(),
            true => {
                use_number += 1;
                let number = numbered((use_number - 1) % blocks, blocks);
                format!("attention{number}+mlp{number}>mamba2")
            }
        })
        .collect();
    let table = |name: &str, part: &KindTable| {
        (0..blocks).map(|block| (format!("{name}{}", numbered(block, blocks)), part.clone())).collect::<Vec<_>>()
    };
    let mamba2 = part("mamba2", mamba2_settings(keys, d_model)?);
    let mixers = table("attention", &block.attention()).into_iter().chain([("mamba2".to_owned(), mamba2)]);
    Ok(Plan {
        model: ModelConfig {
            d_model,
            layers: layer_items(&names.iter().map(String::as_str).collect::<Vec<_>>()),
            mixer: mixers.collect(),
            channel: BTreeMap::from_iter(table("mlp", &block.mlp())),
            norm_eps: keys.number_or("rms_norm_eps", 1e-5)?,
            tied: keys.flag_or("tie_word_embeddings", true)?,
            ..Default::default()
        },
        vocab: keys.size("vocab_size")?,
        frame: jamba::FRAME,
        layers: layers(&fed, &uses, blocks, &block),
    })
}

/// What stands behind the name of a block: nothing where there is one alone.
fn numbered(block: usize, blocks: usize) -> String {
    if blocks > 1 { (block + 1).to_string() } else { String::new() }
}

/// Which layers a shared block feeds.
fn fed_layers(keys: &Keys<'_>) -> Result<Vec<bool>, PretrainedError> {
    let (listed, also) = ("layers_block_type", "layer_types");
    let (key, list) = match (keys.array_if(listed)?, keys.array_if(also)?) {
        (Some(list), Some(other)) if list != other => {
            return Err(keys.refuse(
                also,
                format!("`{listed}` is stated, too, and is another list"),
                "state one of the two",
            ));
        }
        (Some(list), _) => (listed, Some(list)),
        (None, list) => (also, list),
    };
    let kind = |kind: &Value| match kind.as_str() {
        Some("mamba" | "linear_attention") => Ok(false),
        Some("hybrid") => Ok(true),
        _ => Err(keys.refuse(key, format!("{kind} is not supported"), "known: mamba, linear_attention, hybrid")),
    };
    let fed: Vec<bool> = match list {
        Some(list) => list.iter().map(kind).collect::<Result<_, _>>()?,
        None => (0..FIRST_LAYERS).map(|layer| FIRST_FED.contains(&layer)).collect(),
    };
    let count = keys.layers_or(fed.len())?;
    if fed.len() != count {
        let problem = format!("it lists {} layers, and `num_hidden_layers` is {count}", fed.len());
        return Err(keys.refuse(if list.is_some() { key } else { listed }, problem, "make them agree"));
    }
    let places: Vec<usize> = (0..count).filter(|&layer| fed[layer]).collect();
    match keys.places_if("hybrid_layer_ids")? {
        Some(stated) if stated != places => {
            let problem = format!("it is {stated:?}, and the hybrid layers of `{listed}` are {places:?}");
            Err(keys.refuse("hybrid_layer_ids", problem, "make them agree"))
        }
        _ => Ok(fed),
    }
}

fn mamba2_settings(keys: &Keys<'_>, d_model: usize) -> Result<Mamba2Settings, PretrainedError> {
    let width = keys.size_or("mamba_expand", 2)? * d_model;
    let heads = keys.size_or("n_mamba_heads", 8)?;
    if !width.is_multiple_of(heads) {
        let problem = format!("{heads} heads do not divide `mamba_expand` · `hidden_size` = {width}");
        return Err(keys.refuse("n_mamba_heads", problem, "use a divisor"));
    }
    mamba::same(keys, "mamba_headdim", width / heads)?;
    Ok(Mamba2Settings {
        d_state: keys.size_or("mamba_d_state", 64)?,
        d_conv: keys.size_or("mamba_d_conv", 4)?,
        d_inner: Some(width),
        head_dim: Some(width / heads),
        groups: keys.size_or("mamba_ngroups", 1)?,
        dt_limit: Some(mamba::step_bounds(keys)?),
        bias: keys.flag_or("add_bias_linear", false)?,
        norm_eps: GATED_NORM_EPS,
        ..Default::default()
    })
}

/// What the shared blocks are made of.
struct Block {
    heads: AttentionSettings,
    gated: SwiGluSettings,
    adapter_rank: usize,
    /// Whether attention is adapted to each use, too.
    adapted_attention: bool,
    d_model: usize,
    /// Inner width of the feed-forward layer.
    width: usize,
}

impl Block {
    fn read(keys: &Keys<'_>, d_model: usize) -> Result<Self, PretrainedError> {
        let heads = attention_settings(keys, d_model)?;
        let adapted_attention = keys.flag_or("use_shared_attention_adapter", false)?;
        let [query, key] =
            [heads.heads, heads.kv_heads.unwrap_or(heads.heads)].map(|h| h * heads.head_dim.unwrap_or(1));
        if adapted_attention && [query, key] != [2 * d_model; 2] {
            let problem = format!("queries are {query} and keys {key} wide, and adapters are {} wide", 2 * d_model);
            let remedy = "adapters are for heads that are not grouped and make up twice `hidden_size`";
            return Err(keys.refuse("use_shared_attention_adapter", problem, remedy));
        }
        let width = keys.size_or("intermediate_size", 4 * d_model)?;
        mamba::same(keys, "ffn_hidden_size", width)?;
        let activation = match keys.text_if("hidden_act")?.unwrap_or("gelu") {
            "gelu" => Activation::Gelu,
            "relu2" => Activation::ReluSquared,
            "silu" | "swish" => Activation::Silu,
            other => {
                let problem = format!("`{other}` is not supported");
                return Err(keys.refuse("hidden_act", problem, "known: gelu, relu2, silu"));
            }
        };
        let bias = keys.flag_or("add_bias_linear", false)?;
        let gated = SwiGluSettings { expand: expand(width, d_model), activation, bias, ..Default::default() };
        let adapter_rank = keys.size_or("adapter_rank", 128)?;
        Ok(Self { heads, gated, adapter_rank, adapted_attention, d_model, width })
    }

    fn attention(&self) -> KindTable {
        let mut table = part("attention", &self.heads);
        table.extend(settings(json!({"shared": true, "shared_norm": true, "with_embedding": true})));
        if self.adapted_attention {
            let maps = [["query"], ["key"], ["value"]];
            table.extend(settings(json!({"adapter_rank": self.adapter_rank, "adapter_maps": maps})));
        }
        table
    }

    fn mlp(&self) -> KindTable {
        let mut table = part("swiglu", &self.gated);
        table.extend(settings(json!({"shared": true, "shared_norm": true, "output_map": true})));
        table.extend(settings(json!({"adapter_rank": self.adapter_rank, "adapter_maps": [["gate", "up"]]})));
        table
    }

    /// Gate and up, which share a tensor, and a vector of biases where there are some.
    fn halves(&self) -> Vec<Pick> {
        let pick = |theirs: &'static str, shape: &[usize]| {
            let kind = theirs.rsplit('.').next().unwrap_or(theirs);
            [("gate", 0), ("up", self.width)].map(|(ours, start)| Pick {
                theirs,
                ours: format!("{ours}.{kind}"),
                picked: Picked { shape: shape.to_vec(), rows: vec![[start, self.width]] },
            })
        };
        let mut picks = pick("gate_up_proj.weight", &[2 * self.width, self.d_model]).to_vec();
        if self.gated.bias {
            picks.extend(pick("gate_up_proj.bias", &[2 * self.width]));
        }
        picks
    }
}

fn settings(table: Value) -> KindTable {
    match table {
        Value::Object(table) => table,
        _ => KindTable::new(),
    }
}

/// Heads over the stream and the embedding; the scores are divided as if a head were half as wide.
fn attention_settings(keys: &Keys<'_>, d_model: usize) -> Result<AttentionSettings, PretrainedError> {
    let heads = keys.size("num_attention_heads")?;
    let kv_heads = keys.size_or("num_key_value_heads", heads)?;
    mamba::same(keys, "attention_hidden_size", 2 * d_model)?;
    let stated = keys.size_if("attention_head_dim")?;
    if let Some(head_dim) = stated {
        mamba::same(keys, "head_dim", head_dim)?;
    }
    let head_dim = stated.or(keys.size_if("head_dim")?).unwrap_or(2 * d_model / heads);
    if head_dim == 0 || head_dim > attention::WIDEST_HEAD {
        let problem = format!("a head would be {head_dim} wide");
        return Err(keys.refuse("attention_head_dim", problem, format!("use 1 to {}", attention::WIDEST_HEAD)));
    }
    let settings = AttentionSettings {
        heads,
        kv_heads: Some(kv_heads),
        head_dim: Some(head_dim),
        score_scale: Some((head_dim as f64 / 2.0).powf(-0.5)),
        ..Default::default()
    };
    match keys.flag_or("use_mem_rope", false)? {
        true => {
            let turned = attention::rope(keys, settings, 10_000.0, attention::Turning::Fixed(1.0))?;
            // A long context changes the length that positions are made for, which matters to scaled ones alone.
            if keys.flag_or("use_long_context", false)? && turned.rope_scaling.is_some() {
                let problem = "it is true, and positions are scaled otherwise";
                return Err(keys.refuse("use_long_context", problem, "only one of the two is supported"));
            }
            Ok(turned)
        }
        false => {
            attention::ignore_rope(keys);
            keys.flag_or("use_long_context", false)?;
            Ok(AttentionSettings { positions: Positions::None, ..settings })
        }
    }
}

/// The tensors of each layer. Those of a block stand in the first layer that it feeds, with what adapts it to the later ones.
fn layers(fed: &[bool], uses: &[usize], blocks: usize, block: &Block) -> Vec<Vec<Part>> {
    let alone = |fed: &bool| match fed {
        false => vec![Part::new("", "", norms::ZAMBA), Part::new("mamba.", "mixer.", names::MAMBA2)],
        true => vec![
            Part::new("mamba_decoder.", "", norms::ZAMBA),
            Part::new("mamba_decoder.mamba.", "mixer.", names::MAMBA2),
            Part::new("", "feed.0.channel.", names::FEED_MAP),
        ],
    };
    let mut layers: Vec<Vec<Part>> = fed.iter().map(alone).collect();
    for (index, &home) in uses.iter().enumerate().take(blocks) {
        let users = uses.iter().enumerate().skip(index).step_by(blocks);
        layers[home].extend(block.parts(index));
        layers[home].extend(users.flat_map(|(number, layer)| block.adapters(number, *layer)));
    }
    layers
}

impl Block {
    /// The tensors of block `index`.
    fn parts(&self, index: usize) -> [Part; 4] {
        let (mixer_norm, channel_norm) =
            (format!("shared.norms.{}.", 2 * index), format!("shared.norms.{}.", 2 * index + 1));
        let attention = format!("shared.mixers.{index}.");
        let mlp = format!("shared.channels.{index}.SwiGlu.");
        [
            Part::new("shared_transformer.", mixer_norm, norms::ZAMBA_MIXER).elsewhere(),
            Part::new("shared_transformer.self_attn.", attention, names::ATTENTION).elsewhere(),
            Part::new("shared_transformer.", channel_norm, norms::ZAMBA_CHANNEL).elsewhere(),
            Part::new("shared_transformer.feed_forward.", mlp, names::DOWN_ZAMBA).with(self.halves()).elsewhere(),
        ]
    }

    /// The tensors that adapt a block to use `number`, which is at `layer`.
    fn adapters(&self, number: usize, layer: usize) -> Vec<Part> {
        let part = |theirs: String, ours: String| {
            Part::new(
                format!("shared_transformer.{theirs}.{number}."),
                format!("layers.{layer}.feed.0.{ours}."),
                names::PRODUCT,
            )
            .elsewhere()
        };
        let mut parts = vec![part("feed_forward.gate_up_proj_adapter_list".into(), "channel.adapter.maps.0".into())];
        if self.adapted_attention {
            let maps = ["q", "k", "v"].into_iter().enumerate();
            parts.extend(maps.map(|(map, name)| {
                part(format!("self_attn.linear_{name}_adapter_list"), format!("mixer.adapter.maps.{map}"))
            }));
        }
        parts
    }
}
