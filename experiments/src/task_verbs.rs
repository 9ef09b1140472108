//! `heddle task …`: what a task is, drawn and sampled.

use std::path::Path;

use anyhow::Context;
use heddle_tasks::{Example, SettingInfo, Split, Task, TaskInfo, draw};
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
    let sheet =
        Sheet { columns: ["setting", "default", "range", "meaning"].map(Column::text).into(), rows: settings(info) };
    out.line(&sheet.terminal(None))?;
    let (slice, example) = drawn(&*task)?;
    out.line(&format!("Example 0 of seed 0, {slice}:\n{example}"))
}

/// The name of the shortest train slice, and its first example drawn.
pub(crate) fn drawn(task: &dyn Task) -> anyhow::Result<(String, String)> {
    let shortest = task.slices(Split::Train).iter().enumerate().min_by_key(|(_, slice)| slice.length);
    let (slice, about) = shortest.context("the task has no training examples")?;
    let mut example = Example::default();
    task.example(Split::Train, slice, 0, 0, &mut example);
    Ok((about.name.clone(), draw(task, &example)))
}

/// Settings, defaults, ranges and meanings.
pub(crate) fn settings(info: &TaskInfo) -> Vec<Vec<String>> {
    let row = |setting: &SettingInfo| [setting.key, setting.default, setting.range, setting.meaning].map(str::to_owned);
    info.settings.iter().map(|setting| row(setting).to_vec()).collect()
}
