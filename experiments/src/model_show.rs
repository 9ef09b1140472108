//! `heddle model show`: what a model is made of and what it costs.

use std::path::{Path, PathBuf};

use heddle_hybrid::{Cost, Init, LayerItem, ModelConfig, PRESETS, StateBytes, fold, preset};
use heddle_tasks::{Readout, Split};
use serde::Serialize;

use crate::Registry;
use crate::cli::{Out, positive};
use crate::config::{ConfigError, PlannedRun, load, load_text};
use crate::device::device;
use crate::report::format::{bytes, whole};
use crate::report::{Column, Sheet};
use crate::run::{build_model, build_task};

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A preset's name, or a run file
    model: Option<String>,
    /// Tokens of a sequence [default: what the preset was made for, or the longest of the run's test]
    #[arg(long, value_parser = positive)]
    length: Option<usize>,
    /// Case of a sweep file to show
    #[arg(long)]
    case: Option<String>,
    /// Override a setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A model to be shown.
struct Subject {
    /// Where it is from.
    about: String,
    planned: PlannedRun,
    vocab: usize,
    readout: Readout,
    length: usize,
}

/// What is shown of a model.
#[derive(Serialize)]
struct Shown<'a> {
    model: &'a str,
    d_model: usize,
    vocab: usize,
    layers: Vec<LayerItem>,
    cost: Cost,
    /// State of one sequence in the two usual formats.
    state_bytes: ByFormat,
}

#[derive(Serialize)]
struct ByFormat {
    f32: StateBytes,
    bf16: StateBytes,
}

/// Prints the presets, or the model that is asked for.
pub(crate) fn show(args: &ShowArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    let Some(name) = &args.model else { return list(args.json, out) };
    let subject = match preset(name) {
        Some(_) if !Path::new(name).exists() => from_preset(name, args, registry)?,
        _ => from_file(name, args, registry)?,
    };
    let config = &subject.planned.config.model;
    let init = &mut Init::outline(&device("cpu")?);
    let model = build_model(&subject.planned, (subject.vocab, subject.readout), registry, init)?;
    let cost = Cost::new(config, &model, args.length.unwrap_or(subject.length));
    let names = config.layer_names().expect("the model was built from them");
    let halves = StateBytes { fixed: cost.state.fixed / 2, growing: cost.state.growing / 2 };
    let shown = Shown {
        model: name,
        d_model: config.d_model,
        vocab: subject.vocab,
        layers: fold(&names),
        state_bytes: ByFormat { f32: cost.state, bf16: halves },
        cost,
    };
    match args.json {
        true => out.line(&serde_json::to_string_pretty(&shown)?),
        false => print(&subject.about, &shown, config, out),
    }
}

/// Names of the presets and what they are.
fn list(json: bool, out: &mut Out) -> anyhow::Result<()> {
    let about = |name: &str| preset(name).map(|preset| preset.about).unwrap_or_default();
    if json {
        let rows: Vec<_> =
            PRESETS.iter().map(|name| serde_json::json!({"preset": name, "about": about(name)})).collect();
        return out.line(&serde_json::to_string_pretty(&rows)?);
    }
    let rows = PRESETS.iter().map(|name| vec![(*name).to_owned(), about(name)]);
    out.line(&Sheet { columns: ["preset", "the model"].map(Column::text).into(), rows: rows.collect() }.terminal(None))
}

fn from_preset(name: &str, args: &ShowArgs, registry: &Registry) -> anyhow::Result<Subject> {
    let mut overrides = args.overrides.clone();
    overrides.insert(0, format!("model.preset={}", serde_json::Value::from(name)));
    let loaded = load_text(Path::new("the defaults"), "", &overrides, &registry.kinds())?;
    let preset = preset(name).expect("the name was looked up");
    let planned = loaded.select(args.case.as_deref(), None)?;
    Ok(Subject { about: preset.about, planned, vocab: preset.vocab, readout: Readout::Token, length: preset.length })
}

fn from_file(name: &str, args: &ShowArgs, registry: &Registry) -> anyhow::Result<Subject> {
    let path = PathBuf::from(name);
    if !path.exists() && path.extension().is_none() && path.components().count() == 1 {
        let nearest =
            PRESETS.iter().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
        let nearest = nearest.expect("there are presets");
        let known = PRESETS.join(", ");
        let message =
            format!("no preset and no file is called `{name}`; did you mean `{nearest}`?\nThe presets are {known}");
        return Err(ConfigError::Selection(message).into());
    }
    let planned = load(&path, &args.overrides, &registry.kinds())?.select(args.case.as_deref(), Some(0))?;
    let task = build_task(&planned.config, registry)?;
    let length = task.slices(Split::Test).iter().map(|slice| slice.length).max().unwrap_or(1);
    Ok(Subject { about: String::new(), vocab: task.vocab(), readout: task.readout(), length, planned })
}

fn print(about: &str, shown: &Shown<'_>, config: &ModelConfig, out: &mut Out) -> anyhow::Result<()> {
    let Shown { cost, d_model, vocab, .. } = shown;
    if !about.is_empty() {
        out.line(&format!("{about}\n"))?;
    }
    let tied = if config.tied { ", the head tied to it" } else { "" };
    let layers: usize = cost.layers.iter().map(|layer| layer.count).sum();
    out.line(&format!("{layers} layers of width {d_model}: {}", layers_in_words(&shown.layers)))?;
    out.line(&format!("embedding of {} tokens{tied}\n", whole(*vocab as u64)))?;
    out.line(&table(cost).terminal(None))?;
    let StateBytes { fixed, growing } = shown.state_bytes.bf16;
    let bf16 = format!("{} + {}", bytes(fixed as f64), bytes(growing as f64));
    let active = match cost.active_parameters == cost.parameters {
        true => String::new(),
        false => format!(", of which {} act on a token", short(cost.active_parameters)),
    };
    out.line(&format!("\nparameters: {} ({}){active}", short(cost.parameters), whole(cost.parameters)))?;
    let length = whole(cost.length as u64);
    out.line(&format!(
        "operations a token at length {length}: {} training, {} decoding",
        short(cost.training_flops),
        short(cost.decoding_flops)
    ))?;
    out.line(&format!(
        "state of a sequence of {length}, fixed + grown with the tokens: {} + {} in f32, {bf16} in bf16",
        bytes(cost.state.fixed as f64),
        bytes(cost.state.growing as f64),
    ))
}

/// The layers by name, and what stands outside of them.
fn table(cost: &Cost) -> Sheet {
    let numbers = ["count", "parameters", "operations to decode a token", "fixed state, f32", "grown state, f32"];
    let columns = std::iter::once(Column::text("layer")).chain(numbers.map(Column::number)).collect();
    let row = |name: &str, count: String, parameters: u64, flops: u64, state: StateBytes| {
        let [fixed, growing] = [state.fixed, state.growing].map(|size| bytes(size as f64));
        vec![name.to_owned(), count, whole(parameters), short(flops), fixed, growing]
    };
    let layers = cost.layers.iter();
    let mut rows: Vec<_> = layers
        .map(|layer| row(&layer.name, whole(layer.count as u64), layer.parameters, layer.decoding_flops, layer.state))
        .collect();
    let inside: u64 = cost.layers.iter().map(|layer| layer.parameters).sum();
    let flops: u64 = cost.layers.iter().map(|layer| layer.decoding_flops).sum();
    let outside = (cost.parameters - inside, cost.decoding_flops - flops);
    rows.push(row("outside of layers", String::new(), outside.0, outside.1, StateBytes::default()));
    Sheet { columns, rows }
}

/// `4 × (mamba+mlp, attention+mlp), mamba+mlp`.
fn layers_in_words(items: &[LayerItem]) -> String {
    let word = |item: &LayerItem| match item {
        LayerItem::Name(name) => match name.split_once(" * ") {
            Some((name, repeat)) => format!("{repeat} × {name}"),
            None => name.clone(),
        },
        LayerItem::Repeat { repeat, layers } => format!("{repeat} × ({})", layers_in_words(layers)),
    };
    items.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// A large number to four digits: `51.57 B`.
fn short(value: u64) -> String {
    let (mut amount, mut unit) = (value as f64, "");
    for larger in ["k", "M", "B", "T", "P"] {
        if amount < 1000.0 {
            break;
        }
        (amount, unit) = (amount / 1000.0, larger);
    }
    let decimals = match amount {
        _ if unit.is_empty() => 0,
        size if size < 9.9995 => 3,
        size if size < 99.995 => 2,
        _ => 1,
    };
    format!("{amount:.decimals$} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_keep_four_digits() {
        let numbers = [999, 1000, 12_345, 9_999_600, 151_300_000_000, 51_570_323_328];
        assert_eq!(numbers.map(short), ["999", "1.000 k", "12.35 k", "10.00 M", "151.3 B", "51.57 B"]);
    }
}
