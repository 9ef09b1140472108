//! Which tensor of a file is which parameter of ours.

/// How a tensor of a file lies in our parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// As it is.
    Same,
    /// A linear map: `[d_out, d_in]` there, `[d_in, d_out]` here.
    Transposed,
    /// The filters of a depthwise convolution: `[e, 1, k]` there, `[e, k]` here.
    Filter,
}

impl View {
    /// The shape that a file must give a parameter of shape `ours`.
    pub(super) fn theirs(self, ours: &[usize]) -> Vec<usize> {
        match (self, ours) {
            (Self::Transposed, [d_in, d_out]) => vec![*d_out, *d_in],
            (Self::Filter, [e, k]) => vec![*e, 1, *k],
            _ => ours.to_vec(),
        }
    }
}

/// What a row of a [`Table`] names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row {
    /// One tensor.
    One(View),
    /// A linear map: its weight and, if our layer has one, its bias.
    Linear,
}

/// Tensors of a part of a layer: the name in the file, the path of our parameter, and what it is.
pub(super) type Table = &'static [(&'static str, &'static str, Row)];

const SAME: Row = Row::One(View::Same);

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
    ("q_layernorm.weight", "query_norm", SAME),
    ("k_layernorm.weight", "key_norm", SAME),
];

/// Mamba, with the norms of Jamba.
pub(super) const MAMBA: Table = &[
    ("in_proj", "in_proj", Row::Linear),
    ("conv1d.weight", "conv_weight", Row::One(View::Filter)),
    ("conv1d.bias", "conv_bias", SAME),
    ("x_proj", "selection.proj", Row::Linear),
    ("dt_proj.weight", "dt_proj.weight", Row::One(View::Transposed)),
    ("dt_proj.bias", "dt_bias", SAME),
    ("A_log", "a_log", SAME),
    ("D", "skip", SAME),
    ("out_proj", "out_proj", Row::Linear),
    ("dt_layernorm.weight", "inner_norm.delta", SAME),
    ("b_layernorm.weight", "inner_norm.write", SAME),
    ("c_layernorm.weight", "inner_norm.read", SAME),
];

/// Mamba-2.
pub(super) const MAMBA2: Table = &[
    ("in_proj", "in_proj", Row::Linear),
    ("conv1d.weight", "conv_weight", Row::One(View::Filter)),
    ("conv1d.bias", "conv_bias", SAME),
    ("dt_bias", "dt_bias", SAME),
    ("A_log", "a_log", SAME),
    ("D", "skip", SAME),
    ("norm.weight", "norm", SAME),
    ("out_proj", "out_proj", Row::Linear),
];

/// The short convolution of LFM2.
pub(super) const SHORT_CONV: Table = &[
    ("in_proj", "in_proj", Row::Linear),
    ("conv.weight", "conv_weight", Row::One(View::Filter)),
    ("conv.bias", "conv_bias", SAME),
    ("out_proj", "out_proj", Row::Linear),
];

/// A gated feed-forward layer.
pub(super) const GATED: Table =
    &[("gate_proj", "gate", Row::Linear), ("up_proj", "up", Row::Linear), ("down_proj", "down", Row::Linear)];

/// A gated feed-forward layer as LFM2 calls it.
pub(super) const GATED_LFM2: Table =
    &[("w1", "gate", Row::Linear), ("w3", "up", Row::Linear), ("w2", "down", Row::Linear)];

/// The router of a mixture of experts.
pub(super) const ROUTER: Table = &[("router", "router", Row::Linear)];

/// A part of a layer: what stands before the names of its table, there and here.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Within the layer of the file, up to the names of the table; `#` stands for the number of an expert.
    pub(super) theirs: &'static str,
    /// Within our layer.
    pub(super) ours: &'static str,
    pub(super) table: Table,
    /// Experts, each with all the tensors of the table; one where there are none.
    pub(super) count: usize,
}

impl Part {
    pub(super) fn new(theirs: &'static str, ours: &'static str, table: Table) -> Self {
        Self { theirs, ours, table, count: 1 }
    }

    /// A linear map beside nothing else, or a single tensor.
    fn rules(&self, layer: &str, index: usize, rules: &mut Vec<Rule>) {
        for expert in 0..self.count {
            let (theirs, ours) = (numbered(self.theirs, expert), numbered(self.ours, expert));
            for (name, path, row) in self.table {
                let (theirs, ours) = (format!("{layer}{index}.{theirs}{name}"), format!("layers.{index}.{ours}{path}"));
                match row {
                    Row::One(view) => rules.push(Rule { theirs, ours, view: *view }),
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
    use super::{SAME, Table};

    /// Llama.
    pub(in super::super) const LLAMA: Table = &[
        ("input_layernorm.weight", "mixer_norm.gamma", SAME),
        ("post_attention_layernorm.weight", "channel_norm.gamma", SAME),
    ];

    /// Jamba and Bamba.
    pub(in super::super) const JAMBA: Table = &[
        ("input_layernorm.weight", "mixer_norm.gamma", SAME),
        ("pre_ff_layernorm.weight", "channel_norm.gamma", SAME),
    ];

    /// LFM2.
    pub(in super::super) const LFM2: Table =
        &[("operator_norm.weight", "mixer_norm.gamma", SAME), ("ffn_norm.weight", "channel_norm.gamma", SAME)];

    /// Mamba and its relatives, which have no channel mixer.
    pub(in super::super) const MAMBA: Table = &[("norm.weight", "mixer_norm.gamma", SAME)];
}
