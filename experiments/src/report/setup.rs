//! What a report draws from the text of a run's config: the task, the settings trained on, and where attention stands.

use std::collections::BTreeMap;

use heddle_hybrid::{LayerItem, LayerName, ModelConfig, fold};
use serde::Deserialize;

/// Kind of the mixers that count as attention.
const ATTENTION: &str = "attention";

/// A run's config, as far as a report reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Setup {
    /// The task's kind.
    pub task: Option<String>,
    /// What the training slices are set to, in rising order: `length` → 32, 64.
    pub trained: BTreeMap<String, Vec<f64>>,
    /// The layers.
    pub layers: Option<Layers>,
}

/// The layers of a model, and which of them attend.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// The list in as few words as its repetitions allow.
    pub text: String,
    /// Whether each layer has a mixer of the kind `attention`, beside others or alone.
    pub attends: Vec<bool>,
}

impl Layers {
    /// The share of layers that attend, 0 to 1.
    #[must_use]
    pub fn attention_share(&self) -> f64 {
        self.attends.iter().filter(|attends| **attends).count() as f64 / self.attends.len() as f64
    }

    /// The mean place of the layers that attend, 0 for the first layer and 1 for the last; `None` if none does or there is
    /// one layer only.
    #[must_use]
    pub fn attention_place(&self) -> Option<f64> {
        let last = self.attends.len().checked_sub(1).filter(|last| *last > 0)?;
        let places = self.attends.iter().enumerate().filter(|(_, attends)| **attends);
        let places: Vec<f64> = places.map(|(place, _)| place as f64 / last as f64).collect();
        super::stats::mean(&places)
    }
}

impl Setup {
    /// Reads a config; what is missing or cannot be read stays empty, since a report shows what there is.
    pub(crate) fn of(config: &str) -> Self {
        let Ok(table) = config.parse::<toml::Table>() else { return Self::default() };
        Self {
            task: table.get("task").and_then(|task| Some(task.get("kind")?.as_str()?.to_owned())),
            trained: trained(&table),
            layers: layers(&table),
        }
    }
}

fn trained(table: &toml::Table) -> BTreeMap<String, Vec<f64>> {
    let slices = table.get("task").and_then(|task| task.get("train")?.as_array());
    let mut trained: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (key, value) in slices.into_iter().flatten().filter_map(toml::Value::as_table).flatten() {
        let number = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
        trained.entry(key.clone()).or_default().extend(number);
    }
    for values in trained.values_mut() {
        values.sort_by(f64::total_cmp);
        values.dedup();
    }
    trained
}

fn layers(table: &toml::Table) -> Option<Layers> {
    let model = table.get("model")?;
    let layers = Vec::<LayerItem>::deserialize(model.get("layers")?.clone()).ok()?;
    let names = ModelConfig { layers, ..ModelConfig::default() }.layer_names().ok()?;
    let attends = |name: &LayerName| {
        let of_feed = name.feed.iter().flat_map(|feed| &feed.mixers);
        // A mixer without a kind of its own is of the kind that it is named after.
        let kind = |mixer: &'_ String| {
            let kind = model.get("mixer").and_then(|mixers| mixers.get(mixer)?.get("kind")?.as_str());
            kind.unwrap_or(mixer) == ATTENTION
        };
        name.mixers.iter().chain(of_feed).any(kind)
    };
    Some(Layers { text: in_words(&fold(&names)), attends: names.iter().map(attends).collect() })
}

fn in_words(items: &[LayerItem]) -> String {
    let item = |item: &LayerItem| match item {
        LayerItem::Name(name) => name.clone(),
        LayerItem::Repeat { repeat, layers } => format!("({}) * {repeat}", in_words(layers)),
    };
    items.iter().map(item).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_trained_on_are_read_in_order() {
        let setup = Setup::of(
            "[task]\nkind = 'mqar'\ntrain = [{ length = 64, pairs = 8 }, { length = 32, pairs = 8, weight = 0.5 }]",
        );
        assert_eq!(setup.task.as_deref(), Some("mqar"));
        assert_eq!((&setup.trained["length"][..], &setup.trained["pairs"][..]), (&[32.0, 64.0][..], &[8.0][..]));
    }

    #[test]
    fn attention_is_counted_by_the_kind_of_its_mixer() {
        let layers = |model: &str| Setup::of(&format!("[model]\n{model}")).layers.unwrap();
        let plain = layers("layers = ['mamba * 3', 'attention+mlp']");
        assert_eq!((plain.attention_share(), plain.attention_place()), (0.25, Some(1.0)));
        let named = layers("layers = ['full', 'm|local']\nmixer.full.kind = 'attention'\nmixer.local.kind = 'mamba'");
        assert_eq!(named.attends, [true, false]);
        let beside = layers("layers = [{ repeat = 2, layers = ['mamba|attention', 'mamba'] }]");
        assert_eq!((beside.attention_share(), beside.text.as_str()), (0.5, "(mamba|attention, mamba) * 2"));
        assert_eq!(layers("layers = ['mamba']").attention_place(), None);
    }

    #[test]
    fn a_config_that_cannot_be_read_says_nothing() {
        assert_eq!(Setup::of("[model"), Setup::default());
        assert_eq!(Setup::of("[model]\nlayers = ['a * x']").layers, None);
        assert_eq!(Setup::of("").trained, BTreeMap::new());
    }
}
