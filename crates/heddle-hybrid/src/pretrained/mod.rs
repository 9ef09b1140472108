//! Published checkpoints: read from the format in which they are shared, computed exactly, and written back.
//!
//! A published model is a directory of `config.json` and one or several safetensors files. [`Architecture::parse`] reads the
//! config: it recognises the family by `model_type`, turns what is said of the computation into a
//! [`ModelConfig`](crate::ModelConfig), and refuses what it does not understand. [`Architecture::load`] then reads the tensors,
//! one at a time, into a model of that config, and [`Architecture::tensors`] names a model's parameters as the family does, so
//! that they can be written back.
//!
//! This module opens no file: it takes sources that can be read and sought.
//!
//! ```
//! use heddle_hybrid::pretrained::Architecture;
//!
//! let config = r#"{"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 100}"#;
//! let architecture = Architecture::parse(config).unwrap();
//! assert_eq!((architecture.family(), architecture.vocab()), ("mamba", 100));
//! assert_eq!(architecture.model().layer_names().unwrap().len(), 2);
//!
//! let error = Architecture::parse(&config.replace("vocab", "scale_every_token_by\": 3, \"vocab")).unwrap_err();
//! assert!(error.to_string().contains("`scale_every_token_by`"));
//! ```

mod error;
mod families;
mod index;
mod keys;
mod load;
mod names;
mod source;
mod stop;
mod store;
#[cfg(test)]
mod tests;

pub use error::PretrainedError;
pub use families::Architecture;
pub use index::ShardIndex;
pub use load::load_parameters;
pub use source::{TensorFile, TensorFiles};
pub use stop::stop_tokens;
pub use store::{NamedTensor, parameters};
