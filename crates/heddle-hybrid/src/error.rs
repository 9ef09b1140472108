//! Why a model cannot be built.

use heddle_kernels::SettingsError;

/// A model that cannot be built, and where in its config the reason is.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let error = |json: &str| {
///     let config: ModelConfig = serde_json::from_str(json).unwrap();
///     Model::new(&config, 10, &MixerRegistry::default(), &mut Init::outline(&Device::flex())).unwrap_err()
/// };
/// let undescribed = error(r#"{"layers": ["gru"], "mixer": {"mamba": {"kind": "mamba"}}}"#);
/// let expected = "`model.layers`: layer `gru` names `gru`, which no `model.mixer.gru` describes; described: mamba";
/// assert_eq!(undescribed.to_string(), expected);
///
/// let part = error(r#"{"layers": ["mamba"], "mixer": {"mamba": {"kind": "mamba", "d_state": 0}}}"#);
/// assert_eq!(part.key(), "model.mixer.mamba.d_state");
/// assert!(part.to_string().starts_with("`model.mixer.mamba`: `d_state`: "));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The list of layers.
    #[error("`model.layers`: {0}")]
    Layers(String),
    /// A layer names a mixer or channel mixer that no table describes.
    #[error(
        "`model.layers`: layer `{layer}` names `{name}`, which no `model.{table}.{name}` describes; described: {known}"
    )]
    Undescribed {
        /// The layer.
        layer: String,
        /// The name.
        name: String,
        /// `mixer` or `channel`.
        table: &'static str,
        /// The names that are described.
        known: String,
    },
    /// A named part.
    #[error("`model.{table}.{name}`: {source}")]
    Part {
        /// `mixer` or `channel`.
        table: &'static str,
        /// The part's name.
        name: String,
        /// What is wrong with it.
        source: SettingsError,
    },
    /// A size of the model itself.
    #[error("`model.{key}` is {value}; {remedy}")]
    Size {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        remedy: &'static str,
    },
}

impl ModelError {
    /// The dotted key at fault, as a run file would write it.
    pub fn key(&self) -> String {
        match self {
            Self::Layers(_) | Self::Undescribed { .. } => "model.layers".into(),
            Self::Part { table, name, source } => format!("model.{table}.{name}.{}", source.key),
            Self::Size { key, .. } => format!("model.{key}"),
        }
    }
}
