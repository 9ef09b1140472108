//! The command line: few verbs over the library.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::Registry;
use crate::bench::{self, BenchError, Setting};
use crate::bench_model::{self, ModelArgs};
use crate::config::{ConfigError, Loaded, load};
use crate::config_verbs::{self, ConfigVerb};
use crate::eval_error::EvalError;
use crate::eval_verb::{self, EvalArgs};
use crate::generate::GenerateVerbError;
use crate::inspect::{self, InspectArgs, InspectError};
use crate::interrupt::{INTERRUPTED, Interrupt};
use crate::model_verbs::{self, ModelVerb};
use crate::pretrained::ModelDirError;
use crate::report::{Report, ReportOptions, write_report};
use crate::run::{Finished, RunError, RunOptions, run};
use crate::runs_verbs::{self, RunsError, RunsVerb};
use crate::slurm::SlurmError;
use crate::sweep_record::SweepRecord;
use crate::sweep_verb::{self, SweepArgs};
use crate::task_mad::{self, MadArgs};
use crate::task_sample::{self, SampleArgs, SampleError};
use crate::task_stats::{self, StatsArgs};
use crate::{task_page, task_verbs};

/// Train and compare attention, state-space and hybrid models on long-context tasks.
///
/// Exit codes: 0 done, 1 a run failed (diverged, disk full, damaged checkpoint …), 2 bad usage or config, 130 interrupted (a
/// run's checkpoint is saved; the same command goes on).
#[derive(Debug, Parser)]
#[command(name = "heddle", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Train and evaluate one run; take it up again if it was interrupted
    #[command(after_help = "Example: heddle run configs/quickstart.toml --case hybrid --seed 0 --set train.lr=1e-3")]
    Run(RunArgs),
    /// Run every case, axis and seed of a config, then compare them
    #[command(
        after_help = "Example: heddle sweep configs/quickstart.toml --jobs 2",
        long_about = "Run every case, axis and seed of a config, then compare them.\n\nRuns that are finished are passed over; \
                      those that were interrupted go on from their checkpoints; those that failed are listed, and tried \
                      again with --retry only. The first Ctrl-C has every run save a checkpoint and stop, the second stops \
                      at once."
    )]
    Sweep(SweepArgs),
    /// Evaluate a finished run on other lengths or another task
    #[command(after_help = "Examples:\n  heddle eval runs/NAME/HASH --lengths 64..1M\n  heddle eval runs/NAME/HASH \
                      --task induction --set vocab=64 --split validation")]
    Eval(EvalArgs),
    /// Compare finished runs: a table, figures and an HTML page
    #[command(after_help = "Example: heddle report runs/quickstart --out report")]
    Report(ReportArgs),
    /// See inside a model: whom tokens look at, what heads and layers do
    #[command(
        after_help = "Examples:\n  heddle inspect runs/NAME/HASH --example 4 --html inside.html\n  heddle inspect runs/NAME/HASH \
                      --ablate --patch --pairs --json\n  heddle inspect models/mamba-130m --text 'The loom stood still' --rows 4",
        long_about = "See inside a model: whom tokens look at, what heads and layers do.\n\nDIR is a finished run, an imported \
                      model or a published checkpoint. Of a run's task it shows an example, and both sentences where examples \
                      come in pairs; scores of heads are means over `--examples` sequences. See docs/inspection.md."
    )]
    Inspect(InspectArgs),
    /// Check, resolve and describe run files
    #[command(subcommand)]
    Config(ConfigVerb),
    /// List, show and remove runs
    #[command(subcommand)]
    Runs(RunsVerb),
    /// What the tasks are, and examples of them
    #[command(subcommand)]
    Task(TaskVerb),
    /// Models: what they are made of and cost, published checkpoints, and what models say of tokens
    #[command(subcommand)]
    Model(ModelVerb),
    /// How fast the parts are on this machine
    #[command(subcommand)]
    Bench(BenchVerb),
}

#[derive(Debug, Subcommand)]
enum BenchVerb {
    /// Measure sequence mixers with their default settings: tokens a second, state, peak memory
    #[command(after_help = "Example: heddle bench blocks --lengths 1024,4096 --only attention,mamba")]
    Blocks(BlocksArgs),
    /// Measure a model: tokens a second of a context, and of those decoded behind it
    #[command(
        after_help = "Example: heddle bench model models/mamba-130m --context 4096 --tokens 64",
        long_about = "Measure a model: tokens a second of a context, and of those decoded behind it.\n\nDIR is an imported \
                      model, a published checkpoint, or a finished run (its best parameters)."
    )]
    Model(ModelArgs),
}

#[derive(Debug, clap::Args)]
struct BlocksArgs {
    /// Where to run: `cpu` (Burn's Flex backend) or `ndarray`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Lengths of the sequences
    #[arg(long, value_delimiter = ',', default_values_t = [1024, 4096], value_parser = positive)]
    lengths: Vec<usize>,
    /// Width of the tokens
    #[arg(long, default_value_t = 128, value_parser = positive)]
    d_model: usize,
    /// Sequences
    #[arg(long, default_value_t = 1, value_parser = positive)]
    batch: usize,
    /// Mixers to measure [default: all]
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    only: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Measure this mixer in this process and print a row
    #[arg(long, hide = true, value_name = "KIND")]
    measure: Option<String>,
}

/// A number that is not zero.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("use 1 or more".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// Run file (TOML)
    pub(crate) config: PathBuf,
    /// Override a setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Where to run: `cpu` (Burn's Flex backend) or `ndarray`
    #[arg(long)]
    device: Option<String>,
    /// Directory that runs go to
    #[arg(long, default_value = "runs", value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    common: ConfigArgs,
    /// Case of a sweep file to run
    #[arg(long)]
    case: Option<String>,
    /// Seed to run with
    #[arg(long)]
    seed: Option<u64>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Values of the sweep's axes, as the sweep that starts this run knows them
    #[arg(long, hide = true, value_name = "JSON")]
    axes: Option<String>,
    /// Stop, as on Ctrl-C, when standard input closes
    #[arg(long, hide = true)]
    leashed: bool,
}

#[derive(Debug, clap::Args)]
struct ReportArgs {
    /// Directories with finished runs
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Directory that the report goes to [default: the first of DIRS]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum TaskVerb {
    /// List the tasks
    #[command(after_help = "Example: heddle task list")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain a task, its settings and an example
    #[command(after_help = "Example: heddle task show mqar --set 'train=[{length=16, pairs=2}]' --set vocab=32")]
    Show {
        /// Name of the task
        task: String,
        /// Override a setting of the task; may be repeated
        #[arg(long = "set", value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// Print the task's part of the reference page, in Markdown
        #[arg(long, conflicts_with = "overrides")]
        markdown: bool,
    },
    /// Write examples: for another program, or to look at
    #[command(after_help = "Examples:\n  heddle task sample mqar --n 3 --split test | head -1\n  heddle task sample \
                            needle --n 10000 --format npz --out needle.npz")]
    Sample(SampleArgs),
    /// Count what examples hold: labels, distances, tokens
    #[command(after_help = "Example: heddle task stats mqar --set 'train=[{length=256, pairs=64}]'")]
    Stats(StatsArgs),
    /// List the 66 settings of mechanistic architecture design (arXiv:2403.17844), or score the runs on them
    #[command(after_help = "Examples:\n  heddle task mad\n  heddle task mad runs/mad-*")]
    Mad(MadArgs),
}

/// Runs the program with what `registry` knows, on the process's arguments.
pub fn main(registry: &Registry) -> ExitCode {
    let cli = Cli::parse();
    let mut out = Out::default();
    match execute(cli.verb, registry, &mut out) {
        Ok(code) => code,
        Err(error) if out.closed => {
            // Whoever read our output has seen enough; that is no failure.
            let _ = error;
            ExitCode::SUCCESS
        }
        Err(error) if error.downcast_ref().is_some_and(RunError::is_interrupted) => {
            complain(&format!("{error}"));
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(if is_usage(&error) { 2 } else { 1 })
        }
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<ConfigError>()
        || error.is::<heddle_tasks::TaskError>()
        || error.is::<SampleError>()
        || error.downcast_ref::<EvalError>().is_some_and(EvalError::is_usage)
        || error.is::<InspectError>()
        || error.downcast_ref::<RunError>().is_some_and(RunError::is_usage)
        || error.downcast_ref::<BenchError>().is_some_and(BenchError::is_usage)
        || error.downcast_ref::<GenerateVerbError>().is_some_and(GenerateVerbError::is_usage)
        || error.downcast_ref::<ModelDirError>().is_some_and(ModelDirError::is_usage)
        || error.downcast_ref::<RunsError>().is_some_and(RunsError::is_usage)
        || matches!(error.downcast_ref(), Some(SlurmError::NoSlurm(_) | SlurmError::Path(_)))
        || matches!(error.downcast_ref(), Some(crate::report::ReportError::NoRun { .. }))
}

fn execute(verb: Verb, registry: &Registry, out: &mut Out) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run(args) => run_verb(args, registry, out),
        Verb::Sweep(args) => sweep_verb::execute(&args, registry, out),
        Verb::Eval(args) => eval_verb::execute(&args, registry, out).map(|()| ExitCode::SUCCESS),
        Verb::Report(args) => report_verb(args, out),
        Verb::Inspect(args) => inspect::execute(&args, registry, out).map(|()| ExitCode::SUCCESS),
        Verb::Config(verb) => config_verbs::execute(&verb, registry, out),
        Verb::Runs(verb) => runs_verbs::execute(&verb, out).map(|()| ExitCode::SUCCESS),
        Verb::Model(verb) => model_verbs::execute(&verb, registry, out).map(|()| ExitCode::SUCCESS),
        Verb::Bench(BenchVerb::Blocks(args)) => blocks_verb(&args, registry, out),
        Verb::Bench(BenchVerb::Model(args)) => bench_model::execute(&args, registry, out).map(|()| ExitCode::SUCCESS),
        Verb::Task(verb) => {
            match verb {
                TaskVerb::List { json } => task_verbs::list(registry, json, out)?,
                TaskVerb::Show { task, markdown: true, .. } => out.line(task_page::page(&task, registry)?.trim())?,
                TaskVerb::Show { task, overrides, .. } => task_verbs::show(&task, &overrides, registry, out)?,
                TaskVerb::Sample(args) => task_sample::sample(&args, registry, out)?,
                TaskVerb::Stats(args) => task_stats::stats(&args, registry, out)?,
                TaskVerb::Mad(args) => task_mad::execute(&args, registry, out)?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(crate) fn load_config(args: &ConfigArgs, registry: &Registry) -> Result<Loaded, ConfigError> {
    let mut overrides = args.overrides.clone();
    overrides.extend(args.device.as_ref().map(|device| format!("device={}", serde_json::Value::from(device.as_str()))));
    load(&args.config, &overrides, &registry.kinds())
}

fn run_verb(args: RunArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::default();
    if args.leashed {
        interrupt.on_closed_input();
    }
    heed_signals(&interrupt, !args.leashed, "saving a checkpoint behind this step")?;
    let loaded = load_config(&args.common, registry)?;
    let mut planned = loaded.select(args.case.as_deref(), args.seed)?;
    if let Some(axes) = &args.axes {
        planned.axes = serde_json::from_str::<BTreeMap<_, _>>(axes)?;
    }
    let options = RunOptions { out: args.common.out, progress: true, interrupt };
    let Finished { directory, result, skipped, warnings } = run(&planned, registry, &options)?;
    warnings.iter().for_each(|warning| complain(&format!("warning: passed over {warning}")));
    if args.json {
        out.line(&serde_json::to_string_pretty(&result)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if skipped {
        out.line("This run was finished before; nothing was done.")?;
    }
    for score in &result.test {
        let (accuracy, chance) = (100.0 * score.accuracy, 100.0 * score.chance);
        out.line(&format!(
            "test {}: {accuracy:.2} % of {} answers right (chance {chance:.2} %)",
            score.slice, score.labels
        ))?;
    }
    out.line(&format!("{} steps, best at {}: {}", result.steps, result.best_step, directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn report_verb(args: ReportArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let folder = args.out.unwrap_or_else(|| args.dirs[0].clone());
    // The runs of one sweep are told as the sweep itself tells them.
    let record = match &args.dirs[..] {
        [dir] => SweepRecord::read(dir).unwrap_or_else(|error| {
            complain(&format!("warning: {error}"));
            None
        }),
        _ => None,
    };
    let SweepRecord { question, claim, cases, .. } = record.unwrap_or_default();
    let options = ReportOptions { question, claim, case_order: cases, ..ReportOptions::default() };
    print_report(&args.dirs, &folder, &options, out)?;
    Ok(ExitCode::SUCCESS)
}

fn blocks_verb(args: &BlocksArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<ExitCode> {
    let setting = |length| Setting { device: args.device.clone(), d_model: args.d_model, batch: args.batch, length };
    if let Some(kind) = &args.measure {
        let row = bench::measure(kind, &setting(args.lengths[0]), &registry.mixers)?;
        out.line(&serde_json::to_string(&row)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let all: Vec<String> = registry.mixers.kinds().map(str::to_owned).collect();
    let kinds = if args.only.is_empty() { &all } else { &args.only };
    kinds.iter().try_for_each(|kind| bench::check(kind, args.d_model, &registry.mixers, &args.device))?;
    let mut rows = vec![];
    for (kind, &length) in kinds.iter().flat_map(|kind| args.lengths.iter().map(move |length| (kind, length))) {
        rows.push(bench::measure_apart(kind, &setting(length))?);
    }
    out.line(&if args.json { serde_json::to_string_pretty(&rows)? } else { bench::table(&rows).terminal(None) })?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn print_report(
    dirs: &[PathBuf],
    folder: &Path,
    options: &ReportOptions,
    out: &mut Out,
) -> anyhow::Result<Report> {
    let report = write_report(dirs, folder, options)?;
    report.warnings.iter().for_each(|warning| complain(&format!("warning: {warning}")));
    out.line(&report.table)?;
    out.line(&format!("Report: {}", report.html.display()))?;
    Ok(report)
}

/// Has the first Ctrl-C ask for a stop, and say so if it may, and the second stop at once.
pub(crate) fn heed_signals(interrupt: &Interrupt, aloud: bool, what: &'static str) -> anyhow::Result<()> {
    let told = move || {
        if aloud {
            complain(&format!("\nstopping: {what}; Ctrl-C again stops at once"));
        }
    };
    interrupt.on_signals(told).context("cannot handle signals")
}

/// Standard output, which may be closed by its reader at any time.
#[derive(Debug, Default)]
pub(crate) struct Out {
    closed: bool,
}

impl Out {
    /// Prints a text and a line's end.
    pub(crate) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        self.text(&format!("{text}\n"))
    }

    /// Prints a text.
    pub(crate) fn text(&mut self, text: &str) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        self.closed = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        Ok(written?)
    }
}

pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
