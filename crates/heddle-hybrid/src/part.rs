//! What a model may be told of a named part, beside the part's own settings.

use heddle_kernels::SettingsError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::registry::KindTable;

/// How the uses of a named mixer or channel mixer belong together.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let params = |layers: usize, settings: &str| {
///     let json = format!(
///         r#"{{"d_model": 16, "layers": ["gru * {layers}"], "mixer": {{"gru": {{"kind": "gru" {settings}}}}}}}"#
///     );
///     let config: ModelConfig = serde_json::from_str(&json).unwrap();
///     let mut init = Init::outline(&Device::flex());
///     Model::new(&config, 10, &MixerRegistry::default(), &mut init).unwrap().num_params()
/// };
/// // Of three layers the second and the third add a norm, or nothing.
/// assert_eq!(params(3, r#", "shared": true"#), params(1, "") + 2 * 16);
/// assert_eq!(params(3, r#", "shared": true, "shared_norm": true"#), params(1, ""));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sharing {
    /// Whether all layers that name the part use one set of weights (arXiv:2411.15242, §2); each keeps a state of its own.
    pub shared: bool,
    /// Rank of what each use adds to the shared linear maps (arXiv:2106.09685, eq. 3); none means nothing.
    pub adapter_rank: Option<usize>,
    /// The linear maps that are added to, by their names: each list is of maps that read the same tokens and have the product's
    /// first factor in common. None means all maps, each with a product of its own.
    pub adapter_maps: Option<Vec<Vec<String>>>,
    /// Whether the norm that belongs to the part is shared with it, too.
    pub shared_norm: bool,
    /// Whether each use maps what the part computes by a matrix of its own, `d × d` (arXiv:2405.16712, eq. 6).
    pub output_map: bool,
}

/// What surrounds a named mixer inside its layer.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let params = |settings: &str| {
///     let json = format!(
///         r#"{{"d_model": 16, "layers": ["x"], "mixer": {{"x": {{"kind": "attention", "head_dim": 16 {settings}}}}}}}"#
///     );
///     let config: ModelConfig = serde_json::from_str(&json).unwrap();
///     let mut init = Init::outline(&Device::flex());
///     Model::new(&config, 10, &MixerRegistry::default(), &mut init).unwrap().num_params()
/// };
/// // Queries, keys and values are made of twice as many numbers, which are all normalised.
/// assert_eq!(params(r#", "with_embedding": true"#) - params(""), 3 * 16 * 16 + 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Surroundings {
    /// Multiplier of what the mixer reads.
    pub input_scale: f64,
    /// Multiplier of what the mixer computes.
    pub output_scale: f64,
    /// Whether what the mixer computes is normalised, before its multiplier, by a norm of the model's kind.
    pub output_norm: bool,
    /// Whether the mixer reads the embedding of the tokens beside the stream, `[x, e]`, `2 d` wide (arXiv:2405.16712, §2).
    pub with_embedding: bool,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { input_scale: 1.0, output_scale: 1.0, output_norm: false, with_embedding: false }
    }
}

impl Sharing {
    /// Takes these settings out of a table.
    pub(crate) fn take(table: &mut KindTable) -> Result<Self, SettingsError> {
        let sharing: Self = take(table)?;
        let alone =
            |key: &str, problem: &str| Err(SettingsError::new(key, problem, "use `shared = true`, or leave it out"));
        match &sharing {
            Self { adapter_rank: Some(0), .. } => Err(SettingsError::new(
                "adapter_rank",
                "a product of rank 0 adds nothing",
                "use 1 or more, or leave it out",
            )),
            Self { adapter_rank: None, adapter_maps: Some(_), .. } => {
                let problem = "products without a rank add nothing";
                Err(SettingsError::new("adapter_maps", problem, "state `adapter_rank`, or leave it out"))
            }
            Self { adapter_rank: Some(_), shared: false, .. } => {
                alone("adapter_rank", "weights that are not shared need no adapter")
            }
            Self { shared_norm: true, shared: false, .. } => {
                alone("shared_norm", "a part that is not shared shares no norm")
            }
            Self { output_map: true, shared: false, .. } => {
                alone("output_map", "a part that is not shared ends in a map of its own")
            }
            _ => Ok(sharing),
        }
    }
}

impl Surroundings {
    /// Takes these settings out of a table.
    pub(crate) fn take(table: &mut KindTable) -> Result<Self, SettingsError> {
        let surroundings: Self = take(table)?;
        for (key, scale) in [("input_scale", surroundings.input_scale), ("output_scale", surroundings.output_scale)] {
            if scale == 0.0 || !scale.is_finite() {
                return Err(SettingsError::new(key, format!("{scale} is no multiplier"), "use a number other than 0"));
            }
        }
        Ok(surroundings)
    }
}

/// The settings of `S` at their defaults.
pub(crate) fn defaults<S: Default + Serialize>() -> KindTable {
    match serde_json::to_value(S::default()) {
        Ok(Value::Object(table)) => table,
        other => unreachable!("settings serialise to a table, not to {other:?}"),
    }
}

/// Moves the keys of `S` from a table into its type.
fn take<S: Default + Serialize + DeserializeOwned>(table: &mut KindTable) -> Result<S, SettingsError> {
    let defaults = defaults::<S>();
    let taken = defaults.keys().filter_map(|key| Some((key.clone(), table.remove(key)?))).collect();
    read(&defaults, taken)
}

/// Settings laid over their defaults; an error names the setting at fault.
pub(crate) fn read<S: DeserializeOwned>(defaults: &KindTable, settings: KindTable) -> Result<S, SettingsError> {
    let laid = |settings: KindTable| {
        let whole = defaults.clone().into_iter().chain(settings).collect();
        serde_json::from_value::<S>(Value::Object(whole))
    };
    laid(settings.clone()).map_err(|error| {
        let alone = |key: &String, value: &Value| laid(KindTable::from_iter([(key.clone(), value.clone())]));
        let fault = settings.iter().find_map(|(key, value)| Some((key, alone(key, value).err()?)));
        match fault {
            Some((key, error)) => SettingsError::new(key, error.to_string(), "see the settings of its kind"),
            None => SettingsError::new("kind", error.to_string(), "see the settings of this kind"),
        }
    })
}
