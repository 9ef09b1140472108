//! Which tensor of a file is which parameter of ours.

use std::borrow::Cow;
use std::sync::Arc;

/// How a tensor of a file lies in our parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// As it is.
    Same,
    /// A linear map: `[d_out, d_in]` there, `[d_in, d_out]` here.
    Transposed,
    /// The filters of a depthwise convolution: `[e, 1, k]` there, `[e, k]` here.
    Filter,
    /// Some rows of a linear map, or of a stack of them, or some numbers of a vector.
    Picked(Picked),
}

/// Rows of a tensor `[…, d_out, d_in]`, counted through all that stands before `d_in`, which are the columns of our
/// `[d_in, …]`; of a vector, numbers that are those of our vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picked {
    /// The tensor's shape.
    pub(super) shape: Vec<usize>,
    /// The first and the number of neighbouring rows, in our order.
    pub(super) rows: Vec<[usize; 2]>,
}

impl Picked {
    /// Length of a row.
    pub(super) fn width(&self) -> usize {
        match self.shape[..] {
            [_, .., d_in] => d_in,
            _ => 1,
        }
    }

    /// The rows, one by one.
    pub(super) fn each(&self) -> impl Iterator<Item = usize> + '_ {
        self.rows.iter().flat_map(|&[first, count]| first..first + count)
    }
}

impl View {
    /// The shape that a file must give a parameter of shape `ours`.
    pub(super) fn theirs(&self, ours: &[usize]) -> Vec<usize> {
        match (self, ours) {
            (Self::Picked(picked), _) => picked.shape.clone(),
            (Self::Transposed, [d_in, d_out]) => vec![*d_out, *d_in],
            (Self::Filter, [e, k]) => vec![*e, 1, *k],
            _ => ours.to_vec(),
        }
    }
}

/// What a row of a [`Table`] names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row {
    /// One tensor, as it is.
    Same,
    /// A linear map's weight alone.
    Transposed,
    /// The filters of a convolution.
    Filter,
    /// A linear map: its weight and, if our layer has one, its bias.
    Linear,
}

/// Tensors of a part of a layer: the name in the file, the path of our parameter, and what it is.
pub(super) type Table = &'static [(&'static str, &'static str, Row)];

/// Attention.
pub(super) const ATTENTION: Table = &[
    ("q_proj", "query", Row::Linear),
    ("k_proj", "key", Row::Linear),
    ("v_proj", "value", Row::Linear),
    ("o_proj", "output", Row::Linear),
];

/// Attention as LFM2 calls it.
pub(super) const ATTENTION_LFM2: Table = &[
    ("q_proj", "query", Row::Linear),
    ("k_proj", "key", Row::Linear),
    ("v_proj", "value", Row::Linear),
    ("out_proj", "output", Row::Linear),
    ("q_layernorm.weight", "query_norm", Row::Same),
    ("k_layernorm.weight", "key_norm", Row::Same),
];

/// Mamba, with the norms of Jamba.
pub(super) const MAMBA: Table = &[
    ("in_proj", "in_proj", Row::Linear),
    ("conv1d.weight", "conv_weight", Row::Filter),
    ("conv1d.bias", "conv_bias", Row::Same),
    ("x_proj", "selection.proj", Row::Linear),
    ("dt_proj.weight", "dt_proj.weight", Row::Transposed),
    ("dt_proj.bias", "dt_bias", Row::Same),
    ("A_log", "a_log", Row::Same),
    ("D", "skip", Row::Same),
    ("out_proj", "out_proj", Row::Linear),
    ("dt_layernorm.weight", "inner_norm.delta", Row::Same),
    ("b_layernorm.weight", "inner_norm.write", Row::Same),
    ("c_layernorm.weight", "inner_norm.read", Row::Same),
];

/// Mamba-2.
pub(super) const MAMBA2: Table = &[
    ("in_proj", "in_proj", Row::Linear),
    ("conv1d.weight", "conv_weight", Row::Filter),
    ("conv1d.bias", "conv_bias", Row::Same),
    ("dt_bias", "dt_bias", Row::Same),
    ("A_log", "a_log", Row::Same),
    ("D", "skip", Row::Same),
    ("norm.weight", "norm", Row::Same),
    ("out_proj", "out_proj", Row::Linear),
];

/// The short convolution of LFM2.
pub(super) const SHORT_CONV: Table = &[
    ("in_proj", "in_proj", Row::Linear),
    ("conv.weight", "conv_weight", Row::Filter),
    ("conv.bias", "conv_bias", Row::Same),
    ("out_proj", "out_proj", Row::Linear),
];

/// A gated feed-forward layer.
pub(super) const GATED: Table =
    &[("gate_proj", "gate", Row::Linear), ("up_proj", "up", Row::Linear), ("down_proj", "down", Row::Linear)];

/// A gated feed-forward layer as LFM2 calls it.
pub(super) const GATED_LFM2: Table =
    &[("w1", "gate", Row::Linear), ("w3", "up", Row::Linear), ("w2", "down", Row::Linear)];

/// Gated DeltaNet, beside what its tensors are split into.
pub(super) const DELTA_NET: Table = &[
    ("conv1d.weight", "conv_weight", Row::Filter),
    ("A_log", "decay.a_log", Row::Same),
    ("dt_bias", "decay.dt_bias", Row::Same),
    ("norm.weight", "norm", Row::Same),
    ("out_proj", "out_proj", Row::Linear),
];

/// Attention of Qwen3-Next, beside queries and gates, which share a tensor.
pub(super) const ATTENTION_QWEN: Table = &[
    ("k_proj", "key", Row::Linear),
    ("v_proj", "value", Row::Linear),
    ("o_proj", "output", Row::Linear),
    ("q_norm.weight", "query_norm", Row::Same),
    ("k_norm.weight", "key_norm", Row::Same),
];

/// The router of a mixture, and the gate of its expert for every token, of Qwen3-Next.
pub(super) const ROUTER_QWEN: Table =
    &[("gate", "router", Row::Linear), ("shared_expert_gate", "shared_gate", Row::Linear)];

/// The router of a mixture of Granite.
pub(super) const ROUTER_GRANITE: Table = &[("router.layer", "router", Row::Linear)];

/// The last map of a feed-forward layer whose other two share a tensor.
pub(super) const DOWN_GRANITE: Table = &[("output_linear", "down", Row::Linear)];

/// A plain feed-forward layer.
pub(super) const PLAIN: Table = &[("up_proj", "up", Row::Linear), ("down_proj", "down", Row::Linear)];

/// The router of a mixture of Nemotron-H, and what is added to its weights for the choice.
pub(super) const ROUTER_NEMOTRON: Table =
    &[("gate", "router", Row::Linear), ("gate.e_score_correction_bias", "selection_bias", Row::Same)];

/// The last map of a feed-forward layer of Zamba2.
pub(super) const DOWN_ZAMBA: Table = &[("down_proj", "down", Row::Linear)];

/// A product of two matrices.
pub(super) const PRODUCT: Table = &[("0", "down", Row::Linear), ("1", "up", Row::Linear)];

/// What maps the result of a feed.
pub(super) const FEED_MAP: Table = &[("linear", "output_map", Row::Linear)];

/// The router of a mixture of experts.
pub(super) const ROUTER: Table = &[("router", "router", Row::Linear)];

/// A part of a layer: what stands before the names of its table, there and here.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Within the layer of the file, up to the names of the table; `#` stands for the number of an expert.
    pub(super) theirs: Cow<'static, str>,
    /// Within our layer, or within our model.
    pub(super) ours: Cow<'static, str>,
    /// Whether it is the layer of the file alone that the part belongs to, as that of a shared part does.
    pub(super) elsewhere: bool,
    pub(super) table: Table,
    /// Experts, each with all the tensors of the table; one where there are none.
    pub(super) count: usize,
    /// Parameters that are parts of tensors.
    pub(super) picks: Arc<Vec<Pick>>,
}

/// A parameter that is a part of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    /// The tensor's name within the part.
    pub(super) theirs: &'static str,
    /// Our path within the part.
    pub(super) ours: String,
    pub(super) picked: Picked,
}

impl Part {
    pub(super) fn new(theirs: impl Into<Cow<'static, str>>, ours: impl Into<Cow<'static, str>>, table: Table) -> Self {
        let (theirs, ours) = (theirs.into(), ours.into());
        Self { theirs, ours, elsewhere: false, table, count: 1, picks: Arc::default() }
    }

    /// The same for parameters that stand at `ours` in the model, outside of the layer in which the file has them.
    pub(super) fn elsewhere(self) -> Self {
        Self { elsewhere: true, ..self }
    }

    /// The same with parameters that are parts of tensors.
    pub(super) fn with(self, picks: Vec<Pick>) -> Self {
        Self { picks: Arc::new(picks), ..self }
    }

    /// The tensors that parameters are parts of, each perhaps several times, with their shapes.
    pub(super) fn shared_tensors(&self, layers: &str, index: usize) -> impl Iterator<Item = (String, &[usize])> {
        let name = move |pick: &Pick| format!("{layers}{index}.{}{}", self.theirs, pick.theirs);
        let distinct = self.picks.chunk_by(|a, b| a.theirs == b.theirs);
        distinct.map(move |picks| (name(&picks[0]), picks[0].picked.shape.as_slice()))
    }

    fn rules(&self, layer: &str, index: usize, rules: &mut Vec<Rule>) {
        let home = if self.elsewhere { String::new() } else { format!("layers.{index}.") };
        for Pick { theirs, ours, picked } in self.picks.iter() {
            rules.push(Rule {
                theirs: format!("{layer}{index}.{}{theirs}", self.theirs),
                ours: format!("{home}{}{ours}", self.ours),
                view: View::Picked(picked.clone()),
            });
        }
        for expert in 0..self.count {
            let (theirs, ours) = (numbered(&self.theirs, expert), numbered(&self.ours, expert));
            for (name, path, row) in self.table {
                let (theirs, ours) = (format!("{layer}{index}.{theirs}{name}"), format!("{home}{ours}{path}"));
                match row {
                    Row::Same => rules.push(Rule { theirs, ours, view: View::Same }),
                    Row::Transposed => rules.push(Rule { theirs, ours, view: View::Transposed }),
                    Row::Filter => rules.push(Rule { theirs, ours, view: View::Filter }),
                    Row::Linear => {
                        let (theirs_bias, ours_bias) = (format!("{theirs}.bias"), format!("{ours}.bias"));
                        let (theirs, ours) = (format!("{theirs}.weight"), format!("{ours}.weight"));
                        rules.push(Rule { theirs, ours, view: View::Transposed });
                        rules.push(Rule { theirs: theirs_bias, ours: ours_bias, view: View::Same });
                    }
                }
            }
        }
    }
}

fn numbered(prefix: &str, expert: usize) -> String {
    prefix.replace('#', &expert.to_string())
}

/// What stands outside of the layers, and what their numbers follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) embedding: &'static str,
    /// The norm behind the last layer.
    pub(super) norm: &'static str,
    pub(super) head: &'static str,
    /// What a layer's number follows.
    pub(super) layers: &'static str,
}

/// One of our parameters and the tensor that it is read from. A rule for a parameter that a model does not have means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) theirs: String,
    pub(super) ours: String,
    pub(super) view: View,
}

/// All rules of a model.
pub(super) fn rules(frame: &Frame, layers: &[Vec<Part>]) -> Vec<Rule> {
    let rule = |theirs: &str, ours: &str, view| Rule { theirs: theirs.into(), ours: ours.into(), view };
    let mut rules = vec![
        rule(frame.embedding, "embedding", View::Same),
        rule(frame.norm, "norm.gamma", View::Same),
        rule(frame.head, "head.weight", View::Transposed),
    ];
    for (index, parts) in layers.iter().enumerate() {
        parts.iter().for_each(|part| part.rules(frame.layers, index, &mut rules));
    }
    rules
}

/// The norms before a layer's mixer and its channel mixer, by the names that families give them.
pub(super) mod norms {
    use super::{Row, Table};

    /// Llama.
    pub(in super::super) const LLAMA: Table = &[
        ("input_layernorm.weight", "mixer_norm.gamma", Row::Same),
        ("post_attention_layernorm.weight", "channel_norm.gamma", Row::Same),
    ];

    /// Jamba and Bamba.
    pub(in super::super) const JAMBA: Table = &[
        ("input_layernorm.weight", "mixer_norm.gamma", Row::Same),
        ("pre_ff_layernorm.weight", "channel_norm.gamma", Row::Same),
    ];

    /// Zamba2, in a layer that is Mamba-2 alone.
    pub(in super::super) const ZAMBA: Table = &[("input_layernorm.weight", "mixer_norm.gamma", Row::Same)];

    /// The same in a shared block, before attention.
    pub(in super::super) const ZAMBA_MIXER: Table = &[("input_layernorm.weight", "gamma", Row::Same)];

    /// The same before the feed-forward layer.
    pub(in super::super) const ZAMBA_CHANNEL: Table = &[("pre_ff_layernorm.weight", "gamma", Row::Same)];

    /// LFM2.
    pub(in super::super) const LFM2: Table = &[
        ("operator_norm.weight", "mixer_norm.gamma", Row::Same),
        ("ffn_norm.weight", "channel_norm.gamma", Row::Same),
    ];

    /// Mamba and its relatives, in a layer without a channel mixer.
    pub(in super::super) const MAMBA: Table = &[("norm.weight", "mixer_norm.gamma", Row::Same)];

    /// Nemotron-H, in a layer that is a channel mixer alone.
    pub(in super::super) const NEMOTRON_CHANNEL: Table = &[("norm.weight", "channel_norm.gamma", Row::Same)];
}
