//! `heddle task …`: what a task is, drawn and sampled.

use std::path::Path;

use anyhow::Context;
use heddle_tasks::{Example, Label, Split, Task, draw};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Registry;
use crate::cli::Out;
use crate::config::load_text;
use crate::report::{Column, Sheet};
use crate::run::build_task;

/// A task by name, with `--set` laid over its defaults.
pub(crate) fn load(kind: &str, overrides: &[String], registry: &Registry) -> anyhow::Result<Box<dyn Task>> {
    let kind = format!("kind={}", Value::from(kind));
    let overrides =
        std::iter::once(&kind).chain(overrides).map(|setting| format!("task.{setting}")).collect::<Vec<_>>();
    let loaded = load_text(Path::new("the defaults"), "", &overrides, &registry.kinds())?;
    Ok(build_task(&loaded.runs()[0].config, registry)?)
}

/// Names and titles of all tasks.
pub(crate) fn list(registry: &Registry, json: bool, out: &mut Out) -> anyhow::Result<()> {
    let infos =
        registry.tasks.kinds().into_iter().map(|kind| registry.tasks.info(kind)).collect::<Result<Vec<_>, _>>()?;
    if json {
        let rows: Vec<Value> =
            infos.iter().map(|info| json!({"kind": info.kind, "title": info.title, "source": info.source})).collect();
        return out.line(&serde_json::to_string_pretty(&rows)?);
    }
    let rows = infos.iter().map(|info| vec![info.kind.to_owned(), info.title.to_owned(), info.source.to_owned()]);
    let columns = ["task", "what it asks", "source"].map(Column::text).into();
    out.line(&Sheet { columns, rows: rows.collect() }.terminal(None))
}

/// What a task is: its text, its settings, and an example drawn.
pub(crate) fn show(kind: &str, overrides: &[String], registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    let info = registry.tasks.info(kind)?;
    let task = load(kind, overrides, registry)?;
    out.line(&format!(
        "{} — {}\n\n{}\n\nSource: {}\nChance: {}\n",
        info.kind, info.title, info.doc, info.source, info.chance
    ))?;
    let rows = info.settings.iter().map(|setting| {
        let default = serde_json::to_string(&setting.default).unwrap_or_default();
        vec![setting.key.to_owned(), default, setting.range.to_owned(), setting.meaning.to_owned()]
    });
    let columns = ["setting", "default", "range", "meaning"].map(Column::text).into();
    out.line(&Sheet { columns, rows: rows.collect() }.terminal(None))?;
    let shortest = task.slices(Split::Train).iter().enumerate().min_by_key(|(_, slice)| slice.length);
    let (slice, about) = shortest.context("the task has no training examples")?;
    let mut example = Example::default();
    task.example(Split::Train, slice, 0, 0, &mut example);
    out.line(&format!("Example 0 of seed 0, {}:\n{}", about.name, draw(&*task, &example)))
}

/// What [`sample`] draws.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampling {
    pub(crate) split: Split,
    pub(crate) seed: u64,
    pub(crate) count: u64,
}

/// Examples generated at a time: enough for all threads, few enough to start printing at once.
const CHUNK: u64 = 4096;

/// Examples of every slice in turn, a JSON object a line.
pub(crate) fn sample(task: &dyn Task, sampling: Sampling, out: &mut Out) -> anyhow::Result<()> {
    let Sampling { split, seed, count } = sampling;
    let slices = task.slices(split).len() as u64;
    let mut first = 0;
    while first < count {
        let last = (first + CHUNK).min(count);
        let lines: Vec<String> = (first..last)
            .into_par_iter()
            .map_init(Example::default, |example, number| {
                let (slice, index) = ((number % slices) as usize, number / slices);
                task.example(split, slice, seed, index, example);
                line(task, (split, slice), index, example)
            })
            .collect();
        out.text(&lines.concat())?;
        first = last;
    }
    Ok(())
}

/// An example as a line of JSON.
#[derive(Serialize)]
struct Row<'a> {
    split: Split,
    slice: &'a str,
    index: u64,
    tokens: &'a [u32],
    labels: &'a [Label],
}

fn line(task: &dyn Task, (split, slice): (Split, usize), index: u64, example: &Example) -> String {
    let slice = &task.slices(split)[slice].name;
    let row = Row { split, slice, index, tokens: &example.tokens, labels: &example.labels };
    serde_json::to_string(&row).expect("plain numbers serialise") + "\n"
}
