//! The reference page of the tasks, `docs/tasks.md`, part by part.

use crate::Registry;
use crate::report::{Column, Sheet};
use crate::task_verbs::{drawn, load, settings};

/// Settings of each task under which an example is small enough to be read.
const SMALL: [(&str, &[&str]); 27] = [
    ("char_lm", &["loss=agreement", "train=[{length=64}]"]),
    ("common_words", &["vocab=12", "train=[{length=12, words=2, common=3, rare=1}]"]),
    ("compositional_recall", &["vocab=24", "filler=zero", "train=[{length=26, pairs=4}]"]),
    ("compression", &["vocab=8", "train=[{length=6}]"]),
    ("copying", &["vocab=11", "train=[{length=12, shortest=3, longest=5}]"]),
    ("coreference", &["nouns=8", "train=[{length=24}]"]),
    ("dyck", &["types=3", "train=[{length=12, depth=2}]"]),
    ("forgetting_recall", &["vocab=16", "filler=zero", "train=[{length=14, pairs=2, updates=1}]"]),
    ("frequent_words", &["vocab=8", "train=[{length=17, words=2, alpha=1.5}]"]),
    ("fuzzy_recall", &["vocab=12", "key_tokens=2", "value_tokens=2", "loss=answers", "train=[{length=20}]"]),
    ("in_context_recall", &["vocab=8", "loss=answers", "train=[{length=16}]"]),
    ("induction", &["train=[{length=12, repeats=2}]"]),
    ("listops", &["train=[{length=16, depth=2, arguments=4}]"]),
    ("memorization", &["vocab=12", "train=[{length=10}]"]),
    ("modular_counting", &["steps=3", "train=[{length=8}]"]),
    ("mqar", &["vocab=16", "filler=zero", "train=[{length=12, pairs=3}]"]),
    ("multi_hop", &["nodes=8", "most_hops=4", "train=[{length=16, hops=2, questions=2}]"]),
    ("multi_pass_recall", &["vocab=16", "filler=zero", "train=[{length=16, pairs=2, passes=2}]"]),
    ("needle", &["noise_vocab=8", "key_vocab=4", "value_vocab=4", "train=[{length=23, keys=2}]"]),
    ("ngram_lookup", &["vocab=10", "train=[{length=14, ngram=2, symbols=2}]"]),
    ("noisy_recall", &["vocab=12", "noise_vocab=4", "loss=answers", "train=[{length=16, noise=0.3}]"]),
    ("parity", &["train=[{length=8}]"]),
    ("passkey", &["noise_vocab=16", "train=[{length=14, digits=3}]"]),
    ("phonebook", &["name_vocab=8", "train=[{length=19, name_tokens=2, number_tokens=2}]"]),
    ("selective_copying", &["vocab=8", "train=[{length=12, tokens=3}]"]),
    ("variable_tracking", &["variables=8", "values=4", "noise=4", "train=[{length=24, chains=2, hops=1}]"]),
    ("word_problem", &["group=s3", "train=[{length=8}]"]),
];

/// The task's part of the reference page `docs/tasks.md`, in Markdown: what it asks, its settings, and, of a task of this
/// program, a small example with the command that draws it, and the run file that trains on it. A test holds the page to it.
///
/// # Errors
/// If no task is registered under this kind.
pub fn page(kind: &str, registry: &Registry) -> anyhow::Result<String> {
    let info = registry.tasks.info(kind)?;
    let cells = settings(info).into_iter().map(|mut row| {
        row[..2].iter_mut().for_each(|cell| *cell = format!("`{cell}`"));
        row
    });
    let columns = ["setting", "default", "range", "meaning"].map(Column::text).into();
    let sheet = Sheet { columns, rows: cells.collect() }.markdown();
    let mut page = format!(
        "## `{kind}`: {}\n\n{}\n\nSource: {}. Chance: {}.\n\n{sheet}",
        info.title, info.doc, info.source, info.chance
    );
    if let Some((_, small)) = SMALL.iter().find(|(known, _)| *known == kind) {
        let overrides: Vec<String> = small.iter().map(|setting| (*setting).to_owned()).collect();
        let quoted = |setting: &&str| {
            if setting.contains(' ') || setting.contains('[') { format!("'{setting}'") } else { (*setting).to_owned() }
        };
        let flags: String = small.iter().map(|setting| format!(" --set {}", quoted(setting))).collect();
        let (_, example) = drawn(&*load(kind, &overrides, registry)?)?;
        page += &format!("\n```sh\nheddle task show {kind}{flags}\n```\n\n```text\n{example}```\n");
        let (config, result) = match kind {
            "mqar" => ("quickstart".to_owned(), "recall-of-attention-mamba-and-a-hybrid-of-both"),
            _ => (format!("tasks/{kind}"), "every-task-at-toy-scale"),
        };
        page += &format!(
            "\nAttention, Mamba and a hybrid of both, trained on it: `heddle sweep configs/{config}.toml` \
             ([result](results.md#{result})).\n"
        );
    }
    Ok(page)
}
