//! Experiments: from a config file to a table, a plot and a checkpoint.
//!
//! ```text
//! config → plan → train (data, optimiser, evaluation) → record → report
//! ```
//!
//! This is the only crate that reads files, clocks and arguments, prints, or picks a backend. The `heddle` program is a
//! thin `main` over [`cli::main`]; a program of your own calls it with mixers of your own registered:
//!
//! ```no_run
//! let mut registry = experiments::Registry::default();
//! registry.mixers.register::<heddle_ssm::MambaSettings>("my-block");
//! experiments::cli::main(&registry);
//! ```
#![forbid(unsafe_code)]

pub mod average;
pub mod bench;
mod bench_model;
pub mod checkpoint;
pub mod cli;
pub mod config;
mod config_verbs;
pub mod data;
pub mod device;
mod eval_cost;
mod eval_error;
mod eval_verb;
pub mod evaluate;
pub mod events;
pub mod files;
mod generate;
pub mod gradients;
pub mod histograms;
mod hparams;
mod inspect;
pub mod interrupt;
mod memory;
pub mod metrics;
mod model_show;
mod model_verbs;
pub mod optimizer;
pub mod passes;
pub mod pretrained;
mod progress;
mod registry;
pub mod report;
pub mod result;
pub mod run;
mod runs_verbs;
pub mod schedule;
pub mod select;
mod sizes;
pub mod slurm;
pub mod sweep;
pub mod sweep_record;
mod sweep_verb;
mod task_mad;
mod task_page;
mod task_sample;
mod task_stats;
mod task_verbs;
mod text;
pub mod train;

pub use registry::Registry;
pub use task_page::page as task_page;
