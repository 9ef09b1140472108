//! Mixers by name, so that a config file can speak of them.

use core::fmt::Debug;
use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_attention::{AttentionSettings, LinearAttentionSettings};
use heddle_kernels::{Init, MixerSettings, SettingsError};
use heddle_ssm::{
    BaseConvSettings, DeltaNetSettings, GruSettings, LstmSettings, Mamba2Settings, MambaSettings, MinGruSettings,
    RgLruSettings, S4dSettings, ShortConvSettings,
};
use serde_json::{Map, Value};

use crate::AnyMixer;
use crate::part::{self, Sharing, Surroundings};

/// A config table that names a kind and holds that kind's settings.
pub type KindTable = Map<String, Value>;

/// The mixers that a config file may name.
///
/// A block of another crate enters by the same door as the built-in ones:
///
/// ```
/// use heddle_hybrid::MixerRegistry;
/// use heddle_ssm::MambaSettings; // stands for the settings of a block of your own
///
/// let mut mixers = MixerRegistry::default();
/// mixers.register::<MambaSettings>("my-block");
/// assert!(mixers.kinds().any(|kind| kind == "my-block"));
/// ```
#[derive(Clone)]
pub struct MixerRegistry {
    entries: BTreeMap<String, Entry>,
}

/// Builds a mixer from its settings, the width that it reads and the model's.
type Build = dyn Fn(KindTable, [usize; 2], &mut Init) -> Result<AnyMixer, SettingsError> + Send + Sync;

#[derive(Clone)]
struct Entry {
    /// Name of the settings' type.
    settings: &'static str,
    defaults: KindTable,
    build: Arc<Build>,
}

impl Debug for MixerRegistry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.entries.keys()).finish()
    }
}

impl Default for MixerRegistry {
    /// The built-in mixers.
    fn default() -> Self {
        let mut registry = Self { entries: BTreeMap::new() };
        registry.register::<AttentionSettings>("attention");
        registry.register::<BaseConvSettings>("base_conv");
        registry.register_with("delta_net", DeltaNetSettings::without_decay());
        registry.register::<DeltaNetSettings>("gated_delta_net");
        registry.register::<GruSettings>("gru");
        registry.register::<LinearAttentionSettings>("linear_attention");
        registry.register::<LstmSettings>("lstm");
        registry.register::<MambaSettings>("mamba");
        registry.register::<Mamba2Settings>("mamba2");
        registry.register::<MinGruSettings>("min_gru");
        registry.register::<RgLruSettings>("rg_lru");
        registry.register::<S4dSettings>("s4d");
        registry.register::<ShortConvSettings>("short_conv");
        registry
    }
}

impl MixerRegistry {
    /// Makes the mixer with settings `S` known as `kind`; a second registration replaces the first.
    pub fn register<S: MixerSettings>(&mut self, kind: &str) {
        self.register_with(kind, S::default());
    }

    /// Makes a mixer known as `kind` whose settings, where a config file does not state them, are `defaults`.
    ///
    /// # Panics
    /// If the settings do not serialise to a table, or use a key of [`Sharing`] or [`Surroundings`].
    pub fn register_with<S: MixerSettings>(&mut self, kind: &str, defaults: S) {
        let defaults = match serde_json::to_value(defaults) {
            Ok(Value::Object(table)) => table,
            other => panic!("settings serialise to a table, not to {other:?}"),
        };
        let taken = part_defaults().into_iter().find(|(key, _)| defaults.contains_key(key));
        assert!(taken.is_none(), "mixer `{kind}`: the setting `{}` is one that every mixer has", taken.unwrap().0);
        let complete = defaults.clone();
        let build = move |settings: KindTable, [d_in, d_model]: [usize; 2], init: &mut Init| {
            let settings: S = part::read(&complete, settings)?;
            Ok(AnyMixer::new(settings.init_reading(d_in, d_model, init)?))
        };
        self.entries.insert(kind.to_owned(), Entry { settings: short_name::<S>(), defaults, build: Arc::new(build) });
    }

    /// The registered names.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The name of the type of the settings of `kind`, whose documentation tells what they mean.
    pub fn settings_type(&self, kind: &str) -> Option<&'static str> {
        self.entries.get(kind).map(|entry| entry.settings)
    }

    /// Every setting of `kind` with its default (null where it is optional), those that every mixer has last.
    pub fn defaults(&self, kind: &str) -> Option<Value> {
        let own = self.entries.get(kind)?.defaults.clone();
        Some(Value::Object(own.into_iter().chain(part_defaults()).collect()))
    }

    /// Builds the mixer that `table` describes, for a model of width `d_model`.
    ///
    /// What [`Sharing`] and [`Surroundings`] say is the model's affair: it is checked here and left out, but for the width that
    /// the mixer reads.
    ///
    /// # Errors
    /// If the kind is unknown or its settings are impossible.
    pub fn build(&self, table: &KindTable, d_model: usize, init: &mut Init) -> Result<AnyMixer, SettingsError> {
        let (kind, mut settings) = split_kind(table)?;
        Sharing::take(&mut settings)?;
        let reads = if Surroundings::take(&mut settings)?.with_embedding { 2 * d_model } else { d_model };
        let entry = self.entries.get(kind).ok_or_else(|| unknown_kind(kind, self.kinds()))?;
        (entry.build)(settings, [reads, d_model], init)
    }
}

/// The name of a type without its path.
fn short_name<T>() -> &'static str {
    core::any::type_name::<T>().rsplit("::").next().unwrap_or_default()
}

/// The settings that every mixer has.
fn part_defaults() -> KindTable {
    part::defaults::<Sharing>().into_iter().chain(part::defaults::<Surroundings>()).collect()
}

/// Takes `kind` out of a table.
pub(crate) fn split_kind(table: &KindTable) -> Result<(&str, KindTable), SettingsError> {
    let mut settings = table.clone();
    settings.remove("kind");
    match table.get("kind").and_then(Value::as_str) {
        Some(kind) => Ok((kind, settings)),
        None => Err(SettingsError::new("kind", "a table without a kind", "name a kind, as in `kind = \"mamba\"`")),
    }
}

/// The error about a name that nobody registered, with the nearest one that somebody did.
pub(crate) fn unknown_kind<'a>(kind: &str, known: impl Iterator<Item = &'a str>) -> SettingsError {
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(kind, a).total_cmp(&strsim::jaro_winkler(kind, b)));
    let remedy = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`? Known: {}", known.join(", ")),
        None => "nothing is registered".to_owned(),
    };
    SettingsError::new("kind", format!("no `{kind}` is known"), remedy)
}
