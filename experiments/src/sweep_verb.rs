//! `heddle sweep`: many runs, here or on a cluster, and their comparison.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::Registry;
use crate::cli::{Cli, ConfigArgs, Out, complain, heed_signals, load_config, print_report};
use crate::config::{PlannedRun, SlurmConfig};
use crate::hparams;
use crate::interrupt::{INTERRUPTED, Interrupt};
use crate::report::ReportOptions;
use crate::run::check;
use crate::slurm::{self, SlurmOptions, Until};
use crate::sweep::{SweepOptions, Swept, sweep};
use crate::sweep_record::SweepRecord;

#[derive(Debug, clap::Args)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    common: ConfigArgs,
    /// Runs at a time [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Try runs again that failed before
    #[arg(long)]
    retry: bool,
    /// Where the runs are executed: on this machine, or by Slurm as the config's table `[slurm]` asks
    #[arg(long, value_enum, default_value_t = Launcher::Local)]
    launcher: Launcher,
    /// With Slurm: write the job files, and submit nothing
    #[arg(long, conflicts_with = "detach")]
    no_submit: bool,
    /// With Slurm: submit, and do not wait for the runs; the same command without this follows them
    #[arg(long)]
    detach: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Launcher {
    Local,
    Slurm,
}

impl SweepArgs {
    /// Ends the program if options are given that the launcher has no use for.
    fn check(&self) {
        let useless = match self.launcher {
            Launcher::Local if self.no_submit => "--no-submit needs --launcher slurm",
            Launcher::Local if self.detach => "--detach needs --launcher slurm",
            Launcher::Slurm if self.jobs.is_some() => {
                "--jobs is for this machine; with Slurm, set `slurm.at_once` in the config"
            }
            _ => return,
        };
        Cli::command().error(clap::error::ErrorKind::ArgumentConflict, useless).exit()
    }

    fn until(&self) -> Until {
        match (self.no_submit, self.detach) {
            (true, _) => Until::Written,
            (_, true) => Until::Submitted,
            _ => Until::Finished,
        }
    }
}

/// Executes the runs that are due and compares all that are finished.
pub(crate) fn execute(args: &SweepArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<ExitCode> {
    args.check();
    let loaded = load_config(&args.common, registry)?;
    let (select, asked) = (loaded.sweep.select.clone(), loaded.slurm.clone());
    let planned = loaded.expand();
    planned.iter().try_for_each(|run| check(run, registry))?;
    let (question, claim) = header(&args.common.config);
    let config = args.common.config.display().to_string();
    let record = SweepRecord { config, question: question.clone(), claim: claim.clone(), select, ..Default::default() };
    record.write(&planned, &args.common.out)?;
    let swept = match args.launcher {
        Launcher::Local => here(args, &planned)?,
        Launcher::Slurm => on_slurm(args, &planned, &asked, out)?,
    };
    if swept.interrupted {
        let (finished, all) = (swept.finished.len(), planned.len());
        complain(&format!(
            "interrupted: {finished} of {all} runs are finished; the same command goes on with the rest"
        ));
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if args.launcher == Launcher::Slurm && args.until() != Until::Finished {
        return Ok(ExitCode::SUCCESS);
    }
    if swept.skipped > 0 {
        out.line(&format!("{} of {} runs were finished before.", swept.skipped, planned.len()))?;
    }
    if !swept.finished.is_empty() {
        let folder = args.common.out.join(&planned[0].config.name);
        let options = ReportOptions { case_order: case_order(&planned), question, claim, ..ReportOptions::default() };
        let report = print_report(&swept.finished, &folder, &options, out)?;
        hparams::describe(&folder, &planned, &swept.finished, &report)?;
    }
    for (directory, reason) in &swept.failed {
        complain(&format!("failed: {}: {reason}", directory.display()));
    }
    if swept.left_failed > 0 {
        complain(&format!(
            "{} of these failed before and were left alone; `--retry` tries them again",
            swept.left_failed
        ));
    }
    Ok(if swept.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn here(args: &SweepArgs, planned: &[PlannedRun]) -> anyhow::Result<Swept> {
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let interrupt = Interrupt::default();
    heed_signals(&interrupt, true, "the runs save their checkpoints")?;
    let options = SweepOptions { out: args.common.out.clone(), jobs, progress: true, retry: args.retry, interrupt };
    Ok(sweep(planned, &options)?)
}

fn on_slurm(args: &SweepArgs, planned: &[PlannedRun], asked: &SlurmConfig, out: &mut Out) -> anyhow::Result<Swept> {
    let options = SlurmOptions { out: args.common.out.clone(), retry: args.retry, until: args.until() };
    let mut told = Ok(());
    let mut tell = |line: &str| told = std::mem::replace(&mut told, Ok(())).and_then(|()| out.line(line));
    let swept = slurm::sweep(planned, asked, &options, &mut tell)?;
    told?;
    if options.until == Until::Submitted {
        out.line("The same command without --detach follows the jobs.")?;
    }
    Ok(swept)
}

/// What the comment at the head of a run file asks (its first paragraph) and expects (after `Expect:`).
fn header(config: &Path) -> (Option<String>, Option<String>) {
    let text = std::fs::read_to_string(config).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
    let question = lines.iter().take_while(|line| !line.is_empty()).copied().collect::<Vec<_>>().join(" ");
    let claim = lines.iter().skip_while(|line| !line.starts_with("Expect:")).take_while(|line| !line.is_empty());
    let claim = claim.map(|line| line.trim_start_matches("Expect:").trim()).collect::<Vec<_>>().join(" ");
    let said = |text: String| Some(text).filter(|text| !text.is_empty());
    (said(question), said(claim))
}

fn case_order(planned: &[PlannedRun]) -> Vec<String> {
    let mut order: Vec<String> = planned.iter().map(|run| run.config.case.clone()).collect();
    order.dedup();
    order
}
