//! `heddle config …`: run files checked, resolved and described.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::Registry;
use crate::cli::{Out, complain};
use crate::config::{PlannedRun, RunConfig, json_schema, load};
use crate::run::check;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Check run files: every setting, and that every run's task and model can be built
    #[command(
        after_help = "Example: heddle config check configs/*.toml",
        long_about = "Check run files: every setting, and that every run's task and model can be built.\n\nPrints how many runs \
                      each file plans. The exit code is 2 if there is anything wrong with one of them."
    )]
    Check(CheckArgs),
    /// Print a run's settings in full, as the run file that repeats it
    #[command(after_help = "Example: heddle config show configs/quickstart.toml --case hybrid --seed 0")]
    Show(ShowArgs),
    /// Print the JSON Schema of run files, with which editors complete and check them
    #[command(
        after_help = "Example: heddle config schema > heddle.schema.json\n\nThen let the first line of a run file be\n  \
                      #:schema ./heddle.schema.json\nfor Taplo, Even Better TOML and Tombi to find it."
    )]
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Run files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Override a setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Run file
    file: PathBuf,
    /// Case of a sweep file to show
    #[arg(long)]
    case: Option<String>,
    /// Seed to show it with
    #[arg(long)]
    seed: Option<u64>,
    /// Override a setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub(crate) fn execute(verb: &ConfigVerb, registry: &Registry, out: &mut Out) -> anyhow::Result<ExitCode> {
    match verb {
        ConfigVerb::Check(args) => {
            let mut faulty = false;
            for file in &args.files {
                match check_file(file, args, registry) {
                    Ok(told) => out.line(&told)?,
                    Err(error) => {
                        complain(&format!("error: {}: {error}", file.display()));
                        faulty = true;
                    }
                }
            }
            return Ok(if faulty { ExitCode::from(2) } else { ExitCode::SUCCESS });
        }
        ConfigVerb::Show(args) => {
            let loaded = load(&args.file, &args.overrides, &registry.kinds())?;
            let PlannedRun { config, hash, .. } = loaded.select(args.case.as_deref(), args.seed)?;
            out.text(&format!("# {}/{hash}\n{}", config.name, config.to_toml()))?;
        }
        ConfigVerb::Schema => out.line(&serde_json::to_string_pretty(&json_schema(&registry.kinds()))?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads a file and builds what every run that it plans needs; seeds make no difference to that.
fn check_file(file: &Path, args: &CheckArgs, registry: &Registry) -> anyhow::Result<String> {
    let planned = load(file, &args.overrides, &registry.kinds())?.expand();
    let mut seen = BTreeSet::new();
    for run in &planned {
        if seen.insert(RunConfig { seed: 0, ..run.config.clone() }.hash()) {
            check(run, registry)?;
        }
    }
    let runs = planned.len();
    Ok(format!("{}: {runs} {}", file.display(), if runs == 1 { "run" } else { "runs" }))
}
