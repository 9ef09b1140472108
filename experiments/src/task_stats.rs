//! `heddle task stats`: what examples hold, counted.

use std::collections::HashSet;

use clap::Args;
use heddle_tasks::{Example, Split, Task};
use serde::Serialize;

use crate::Registry;
use crate::cli::{Out, positive};
use crate::report::{Column, Sheet};
use crate::task_verbs::load;

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Name of the task
    task: String,
    /// Override a setting of the task; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// How many examples of each slice to count
    #[arg(long, default_value_t = 1000, value_parser = positive)]
    n: usize,
    /// Seed of the streams
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the examples of a slice hold.
#[derive(Debug, Serialize)]
struct SliceStats {
    split: Split,
    slice: String,
    length: usize,
    /// Labels an example, on average.
    labels: f64,
    chance: f64,
    /// Tokens of the vocabulary that occur.
    tokens_used: usize,
    vocab: usize,
    /// Different targets.
    targets: usize,
    /// The share of the most frequent target among all.
    commonest_target: f64,
    /// Tokens from a question back to its evidence: least, median and most.
    distance: [u32; 3],
    /// Examples that are there more than once.
    repeated: usize,
}

/// Counts examples of every slice of every split.
pub(crate) fn stats(args: &StatsArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    let task = load(&args.task, &args.overrides, registry)?;
    let slices =
        Split::ALL.into_iter().flat_map(|split| (0..task.slices(split).len()).map(move |slice| (split, slice)));
    let counted: Vec<_> = slices.map(|(split, slice)| count(task.as_ref(), split, slice, args)).collect();
    if args.json {
        return out.line(&serde_json::to_string_pretty(&counted)?);
    }
    let rows = counted.iter().map(|stats| {
        let [least, median, most] = stats.distance;
        vec![
            stats.split.to_string(),
            stats.slice.clone(),
            format!("{:.1}", stats.labels),
            format!("{:.3} %", 100.0 * stats.chance),
            format!("{} of {}", stats.tokens_used, stats.vocab),
            stats.targets.to_string(),
            format!("{:.2} %", 100.0 * stats.commonest_target),
            format!("{least} / {median} / {most}"),
            stats.repeated.to_string(),
        ]
    });
    let mut columns = ["split", "slice"].map(Column::text).to_vec();
    let numbers = [
        "labels",
        "chance",
        "tokens used",
        "targets",
        "commonest target",
        "distance: least / median / most",
        "repeated",
    ];
    columns.extend(numbers.map(Column::number));
    out.line(&Sheet { columns, rows: rows.collect() }.terminal(None))?;
    out.line(&format!(
        "{} examples a slice; distance is counted in tokens from a question back to its evidence.",
        args.n
    ))
}

fn count(task: &dyn Task, split: Split, slice: usize, args: &StatsArgs) -> SliceStats {
    let (about, vocab) = (&task.slices(split)[slice], task.vocab());
    let (mut used, mut targets) = (vec![false; vocab], vec![0_usize; vocab]);
    let (mut distances, mut seen) = (Vec::new(), HashSet::new());
    let mut example = Example::default();
    for index in 0..args.n as u64 {
        task.example(split, slice, args.seed, index, &mut example);
        example.tokens.iter().for_each(|token| used[*token as usize] = true);
        for label in &example.labels {
            targets[label.target as usize] += 1;
            distances.push(label.position - label.evidence);
        }
        let bytes: Vec<u8> = example.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        seen.insert(blake3::hash(&bytes));
    }
    distances.sort_unstable();
    let labels = distances.len();
    SliceStats {
        split,
        slice: about.name.clone(),
        length: about.length,
        labels: labels as f64 / args.n as f64,
        chance: task.chance(split, slice),
        tokens_used: used.iter().filter(|used| **used).count(),
        vocab,
        targets: targets.iter().filter(|count| **count > 0).count(),
        commonest_target: targets.iter().max().copied().unwrap_or(0) as f64 / labels as f64,
        distance: [distances[0], distances[labels / 2], distances[labels - 1]],
        repeated: args.n - seen.len(),
    }
}
