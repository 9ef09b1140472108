//! The families that are known: what `config.json` says of each, and how each calls its tensors.

mod attention;
mod bamba;
mod falcon_h1;
mod granite;
mod jamba;
mod lfm2;
mod llama;
mod mamba;
mod nemotron_h;
mod qwen;
mod zamba2;

use serde::Serialize;
use serde_json::{Value, json};

use super::error::PretrainedError;
use super::keys::{self, Keys};
use super::names::{Frame, Part, Rule, rules};
use crate::registry::KindTable;
use crate::{LayerItem, ModelConfig};

/// A family of models.
struct Family {
    /// Its `model_type`.
    name: &'static str,
    /// Keys that change nothing in what it computes, beyond those that change nothing in any family.
    inert: &'static [&'static str],
    /// Keys of which only one value is supported, which is also the default.
    only: &'static [(&'static str, Only)],
    /// Reads the rest.
    plan: fn(&Keys<'_>) -> Result<Plan, PretrainedError>,
}

/// The only supported value of a key.
#[derive(Clone, Copy)]
enum Only {
    Text(&'static str),
    Flag(bool),
    EmptyTable,
}

impl Only {
    fn value(self) -> Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Flag(flag) => flag.into(),
            Self::EmptyTable => json!({}),
        }
    }
}

const FAMILIES: [&Family; 13] = [
    &llama::LLAMA,
    &llama::MISTRAL,
    &mamba::MAMBA,
    &mamba::FALCON_MAMBA,
    &mamba::MAMBA2,
    &jamba::JAMBA,
    &lfm2::LFM2,
    &bamba::BAMBA,
    &granite::GRANITE,
    &qwen::QWEN3_NEXT,
    &falcon_h1::FALCON_H1,
    &nemotron_h::NEMOTRON_H,
    &zamba2::ZAMBA2,
];

/// What a config says.
struct Plan {
    model: ModelConfig,
    vocab: usize,
    frame: Frame,
    /// The parts of each layer.
    layers: Vec<Vec<Part>>,
}

/// A published model by its `config.json`: what it computes, and how its tensors are called.
///
/// A checkpoint that is written is read again:
///
/// ```
/// use std::io::Cursor;
/// use burn::tensor::Device;
/// use heddle_hybrid::pretrained::{Architecture, TensorFile, TensorFiles, parameters};
/// use heddle_hybrid::{Init, MixerRegistry, Model};
///
/// let config = r#"{"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 10}"#;
/// let architecture = Architecture::parse(config)?;
/// let (device, mixers) = (Device::flex(), MixerRegistry::default());
/// let model = Model::new(architecture.model(), architecture.vocab(), &mixers, &mut Init::new(0, &device))?;
///
/// let tensors = architecture.tensors(&model)?.into_iter().map(|tensor| (tensor.name.clone(), tensor));
/// let file = TensorFile::open("model.safetensors", Cursor::new(safetensors::serialize(tensors, None)?))?;
/// assert!(file.names().contains(&"backbone.layers.0.mixer.in_proj.weight".to_owned()));
/// let again = architecture.load(&mut TensorFiles::new(vec![file])?, &mixers, &device)?;
///
/// let bytes = |model| safetensors::serialize(parameters(model).into_iter().map(|t| (t.name.clone(), t)), None);
/// assert_eq!(bytes(&again)?, bytes(&model)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Architecture {
    family: &'static str,
    model: ModelConfig,
    vocab: usize,
    frame: Frame,
    layers: Vec<Vec<Part>>,
}

impl Architecture {
    /// Reads a `config.json`, in today's form (`rope_parameters`) or the older one (`rope_theta`, `rope_scaling`).
    ///
    /// # Errors
    /// If it is no config, the family is unknown, or a key that may change what is computed is unknown or has a value that is
    /// not supported; the message names the key.
    pub fn parse(text: &str) -> Result<Self, PretrainedError> {
        let config = keys::parse(text)
            .map_err(|error| PretrainedError::file("config.json", format!("it cannot be read: {error}")))?;
        let Value::Object(table) = &config else {
            return Err(PretrainedError::file("config.json", "it is no table"));
        };
        let keys = Keys::new(table, "");
        let known = || FAMILIES.map(|family| family.name).join(", ");
        let Some(name) = keys.text_if("model_type")? else {
            return Err(keys.refuse("model_type", "it is missing", format!("it names the family; known: {}", known())));
        };
        let Some(family) = FAMILIES.iter().find(|family| family.name == name) else {
            return Err(keys.refuse(
                "model_type",
                format!("the family `{name}` is not known"),
                format!("known: {}", known()),
            ));
        };
        for (key, only) in family.only {
            keys.only(key, &only.value())?;
        }
        let Plan { model, vocab, frame, layers } = (family.plan)(&keys)?;
        keys.finish(&format!("the family `{name}`"), family.inert)?;
        Ok(Self { family: family.name, model, vocab, frame, layers })
    }

    /// The family, as `model_type` calls it.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// What the model computes.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Number of tokens that the model knows.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Names that a file may hold although no parameter is read from them: a second copy of the embedding where the head
    /// shares it.
    pub(super) fn tied_head(&self) -> Option<[&str; 2]> {
        self.model.tied.then_some([self.frame.embedding, self.frame.head])
    }

    pub(super) fn rules(&self) -> Vec<Rule> {
        rules(&self.frame, &self.layers)
    }

    /// Tensors of which parameters are parts, with their shapes.
    pub(super) fn shared_tensors(&self) -> impl Iterator<Item = (String, &[usize])> {
        let parts =
            self.layers.iter().enumerate().flat_map(|(index, parts)| parts.iter().map(move |part| (index, part)));
        parts.flat_map(|(index, part)| part.shared_tensors(self.frame.layers, index))
    }

    /// Tensors that a file holds at least: one for each layer and expert.
    pub(super) fn fewest_tensors(&self) -> usize {
        self.layers.iter().flatten().map(|part| part.count).sum()
    }
}

/// The table of a part of kind `kind`; what is null there is left to its default.
fn part(kind: &str, settings: impl Serialize) -> KindTable {
    let mut table = KindTable::from_iter([("kind".to_owned(), kind.into())]);
    if let Ok(Value::Object(settings)) = serde_json::to_value(settings) {
        table.extend(settings.into_iter().filter(|(_, value)| !value.is_null()));
    }
    table
}

/// The layers as a config lists them, neighbours that are alike as one entry.
fn layer_items(names: &[&str]) -> Vec<LayerItem> {
    let alike = names.chunk_by(|a, b| a == b);
    alike
        .map(|run| LayerItem::Name(if run.len() > 1 { format!("{} * {}", run[0], run.len()) } else { run[0].into() }))
        .collect()
}

/// The inner width of a feed-forward layer as its setting takes it.
fn expand(width: usize, d_model: usize) -> f64 {
    width as f64 / d_model as f64
}
