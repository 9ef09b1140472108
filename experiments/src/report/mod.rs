//! `heddle report`: from the files that runs left to tables, figures and one self-contained page.
//!
//! A report reads `result.json`, `metrics.jsonl` and the text of `config.toml` of each run, and what `sweep.json` beside them
//! says is selected on validation; nothing else, and prints nothing. What it says rests on [`stats`]: Student's t interval over
//! seeds, and paired differences on common seeds that name a winner only where the interval excludes zero and still does after
//! Holm's correction.

pub mod stats;

mod checks;
mod compare;
mod figures;
pub(crate) mod format;
mod gather;
mod html;
mod links;
mod pareto;
mod read;
mod select;
mod setup;
pub(crate) mod sheet;
mod table;

#[cfg(test)]
pub(crate) mod synthetic;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;

use crate::files::{FileError, create_dir, write_atomic};

pub use compare::Comparison;
pub use figures::{Figure, Layout, Theme};
pub(crate) use figures::{Heat, Panel};
pub use gather::{BOOTSTRAP_SEEDS, CaseSummary, Score, SliceSummary, StepsToTarget};
pub(crate) use html::sheet_value;
pub use read::Run;
pub(crate) use read::{pooled, read_runs};
pub use setup::{Layers, Setup};
pub use sheet::{Column, Sheet};

/// Paired comparisons that a terminal shows at most.
const TERMINAL_PAIRS: usize = 15;

/// What a report may be told about its runs.
#[derive(Clone, Debug, Default)]
pub struct ReportOptions {
    /// Title of the page; the experiments' names where there is none.
    pub title: Option<String>,
    /// The question that the comparison is to answer.
    pub question: Option<String>,
    /// What is claimed of it; the page puts it above the numbers it must stand against.
    pub claim: Option<String>,
    /// Names of cases in the order of the tables; cases not named follow by name.
    pub case_order: Vec<String>,
    /// Width of the terminal's table in characters; that of the terminal where there is none.
    pub width: Option<u16>,
    /// When the report is made; now where there is none.
    pub made: Option<SystemTime>,
}

/// What a report found and wrote.
#[derive(Clone, Debug)]
pub struct Report {
    /// The page.
    pub html: PathBuf,
    /// The comparison in full precision.
    pub csv: PathBuf,
    /// The paired comparisons in full precision.
    pub comparisons_csv: PathBuf,
    /// Every run's `result.json`, in one array.
    pub json: PathBuf,
    /// The comparison in Markdown.
    pub markdown: PathBuf,
    /// The figures, as SVG with a white background; beside each lie its PNG and its numbers as CSV.
    pub figures: Vec<PathBuf>,
    /// The comparison for a terminal, with what its numbers mean and the paired comparisons.
    pub table: String,
    /// The cases.
    pub cases: Vec<CaseSummary>,
    /// The paired comparisons.
    pub comparisons: Vec<Comparison>,
    /// What could not be read, and what does not compare.
    pub warnings: Vec<String>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no run below the directories.
    #[error(
        "no finished run below {dirs}: a report reads runs/<name>/<hash>/result.json; finish a run (`heddle run CONFIG`) or \
         name the directory that holds the runs{details}"
    )]
    NoRun {
        /// The directories searched.
        dirs: String,
        /// What was met on the way, each on a line of its own.
        details: String,
    },
    /// A file could not be written.
    #[error("{0}; make the place writable or name another for the report")]
    Write(#[from] FileError),
    /// A figure could not be drawn.
    #[error("cannot draw the figure `{figure}`: {cause}")]
    Draw {
        /// The figure's name.
        figure: String,
        /// The cause.
        cause: String,
    },
    /// The page could not be filled in.
    #[error("cannot fill in the page: {0}")]
    Page(#[from] minijinja::Error),
}

/// Everything that the report's texts and figures are made from.
struct Material {
    runs: Vec<Run>,
    cases: Vec<CaseSummary>,
    comparisons: Vec<Comparison>,
    figures: Vec<Figure>,
    warnings: Vec<String>,
}

/// Reads all runs below `dirs` and writes `report.html`, `results.csv`, `results.json`, `results.md`, `comparisons.csv` and
/// `figures/` into `out`.
///
/// A file that cannot be read is a warning, in the page and in what is returned. Each file is written whole or not at all.
///
/// # Errors
/// If there is no run, or a file cannot be written.
///
/// ```no_run
/// use std::path::{Path, PathBuf};
/// use experiments::report::{ReportOptions, write_report};
///
/// let options = ReportOptions {
///     question: Some("Does one attention layer give Mamba recall?".into()),
///     case_order: vec!["attention".into(), "hybrid".into(), "mamba".into()],
///     ..ReportOptions::default()
/// };
/// let report = write_report(&[PathBuf::from("runs/recall")], Path::new("reports/recall"), &options)?;
/// assert!(report.html.ends_with("report.html"));
/// # Ok::<(), experiments::report::ReportError>(())
/// ```
pub fn write_report(dirs: &[PathBuf], out: &Path, options: &ReportOptions) -> Result<Report, ReportError> {
    let material = gather_material(dirs, options)?;
    let comparison = table::comparison(&material.cases, &material.runs);
    let (html, csv, markdown) = (out.join("report.html"), out.join("results.csv"), out.join("results.md"));
    let (json, comparisons_csv) = (out.join("results.json"), out.join("comparisons.csv"));
    // Links from the page to the runs are relative, so its directory must exist before they are made.
    create_dir(&out.join("figures"))?;
    let folder = out.join("figures");
    let drawn = material.figures.par_iter().map(|figure| figure_files(figure, &folder));
    let drawn = drawn.collect::<Result<Vec<_>, ReportError>>()?;
    let figures = drawn.iter().map(|files| files[0].0.clone()).collect();
    write_all(&drawn.concat())?;
    write_atomic(&csv, table::results(&material.cases, &material.runs).csv().as_bytes())?;
    write_atomic(&comparisons_csv, compare::sheet(&material.comparisons).csv().as_bytes())?;
    write_atomic(&json, runs_as_json(&material.runs).as_bytes())?;
    write_atomic(&markdown, markdown_text(&comparison, &material.comparisons).as_bytes())?;
    write_atomic(&html, html::page(&material, &comparison, out, options)?.as_bytes())?;
    Ok(Report {
        html,
        csv,
        comparisons_csv,
        json,
        markdown,
        figures,
        table: terminal_text(&comparison, &material.comparisons, options.width),
        cases: material.cases,
        comparisons: material.comparisons,
        warnings: material.warnings,
    })
}

/// A figure as SVG, PNG and CSV.
fn figure_files(figure: &Figure, folder: &Path) -> Result<[(PathBuf, Vec<u8>); 3], ReportError> {
    let path = |ending: &str| folder.join(format!("{}.{ending}", figure.id));
    Ok([
        (path("svg"), figure.svg(Theme::Standalone, Layout::Wide)?.into_bytes()),
        (path("png"), figure.png()?),
        (path("csv"), figure.numbers().csv().into_bytes()),
    ])
}

/// Writes many files, several at a time: to wait for the disk after each would take longer than to draw them.
fn write_all(files: &[(PathBuf, Vec<u8>)]) -> Result<(), FileError> {
    const AT_A_TIME: usize = 16;
    for some in files.chunks(AT_A_TIME) {
        std::thread::scope(|scope| {
            let writers: Vec<_> = some.iter().map(|(path, bytes)| scope.spawn(|| write_atomic(path, bytes))).collect();
            writers.into_iter().try_for_each(|writer| writer.join().expect("writing a file does not panic"))
        })?;
    }
    Ok(())
}

fn gather_material(dirs: &[PathBuf], options: &ReportOptions) -> Result<Material, ReportError> {
    let (runs, mut warnings) = read::read_runs(dirs);
    if runs.is_empty() {
        let dirs: Vec<String> = dirs.iter().map(|dir| format!("`{}`", dir.display())).collect();
        let dirs = if dirs.is_empty() { "the directories given (none)".to_owned() } else { dirs.join(", ") };
        let details = warnings.iter().map(|warning| format!("\n  {warning}")).collect();
        return Err(ReportError::NoRun { dirs, details });
    }
    let (cases, notes) = gather::gather(&runs, &options.case_order);
    warnings.extend(notes);
    let comparisons = compare::compare(&cases);
    let figures = figures::figures(&cases, &runs);
    Ok(Material { runs, cases, comparisons, figures, warnings })
}

/// The results of all runs, by case and seed, so that the same runs give the same file wherever they lie.
fn runs_as_json(runs: &[Run]) -> String {
    let mut results: Vec<_> = runs.iter().map(|run| &run.result).collect();
    results.sort_by_key(|result| (&result.name, &result.case, result.seed, &result.config_hash));
    serde_json::to_string_pretty(&results).expect("results serialise") + "\n"
}

/// The comparison, what its numbers mean, and the paired comparisons.
fn markdown_text(comparison: &Sheet, comparisons: &[Comparison]) -> String {
    let mut text = format!("{}\n{}\n", comparison.markdown(), table::NOTE);
    if !comparisons.is_empty() {
        text.push('\n');
    }
    for pair in comparisons {
        text += &format!("- {}\n", pair.verdict.replace('<', "&lt;"));
    }
    text
}

fn terminal_text(comparison: &Sheet, comparisons: &[Comparison], width: Option<u16>) -> String {
    let mut text = format!("{}\n{}\n", comparison.terminal(width), table::NOTE);
    for pair in comparisons.iter().take(TERMINAL_PAIRS) {
        text += &format!("{}\n", pair.verdict);
    }
    if comparisons.len() > TERMINAL_PAIRS {
        text += &format!("… and {} more comparisons, in the page\n", comparisons.len() - TERMINAL_PAIRS);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;
    use synthetic::RunSpec;

    /// Reports on `specs`; the directory holds `runs` and `out`.
    fn reported(specs: &[RunSpec], options: &ReportOptions) -> (tempfile::TempDir, Report) {
        let home = tempfile::tempdir().unwrap();
        for spec in specs {
            synthetic::write(&home.path().join("runs"), spec);
        }
        let report = write_report(&[home.path().join("runs")], &home.path().join("out"), options).unwrap();
        (home, report)
    }

    fn fixed() -> ReportOptions {
        ReportOptions { made: Some(SystemTime::UNIX_EPOCH), width: Some(160), ..ReportOptions::default() }
    }

    #[test]
    fn a_report_is_a_page_two_tables_and_figures() {
        let (_home, report) = reported(&synthetic::comparison(3), &fixed());
        let tables = [&report.html, &report.csv, &report.comparisons_csv, &report.json, &report.markdown];
        for path in tables.into_iter().chain(&report.figures) {
            assert!(path.is_file(), "{}", path.display());
        }
        for figure in &report.figures {
            assert!(fs::read(figure.with_extension("png")).unwrap().starts_with(b"\x89PNG"));
            let numbers = fs::read_to_string(figure.with_extension("csv")).unwrap();
            assert!(numbers.starts_with("series,kind,x,y,low,high\nattention,"), "{numbers}");
        }
        assert_eq!(report.figures.len(), 4);
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        assert!(report.table.contains("± the half-width of the 95 % t interval"), "{}", report.table);
        assert!(report.table.contains("hybrid is higher than mamba"), "{}", report.table);
    }

    #[test]
    fn several_directories_make_one_report() {
        let home = tempfile::tempdir().unwrap();
        let dirs = ["here", "there"].map(|name| home.path().join(name));
        synthetic::write(&dirs[0], &RunSpec::new("recall", "a", 0));
        synthetic::write(&dirs[1], &RunSpec::new("copy", "a", 0));
        let report = write_report(&dirs, &home.path().join("out"), &fixed()).unwrap();
        let labels: Vec<&str> = report.cases.iter().map(|case| case.label.as_str()).collect();
        assert_eq!(labels, ["copy a", "recall a"]);
        assert!(report.figures.iter().any(|path| path.ends_with("recall-validation-accuracy.svg")));
    }

    #[test]
    fn the_same_runs_give_the_same_bytes() {
        let (home, first) = reported(&synthetic::comparison(2), &fixed());
        let again = write_report(&[home.path().join("runs")], &home.path().join("again"), &fixed()).unwrap();
        for (one, other) in
            [(&first.html, &again.html), (&first.csv, &again.csv), (&first.figures[0], &again.figures[0])]
        {
            assert_eq!(fs::read(one).unwrap(), fs::read(other).unwrap());
        }
    }

    #[test]
    fn a_place_without_runs_is_an_error_that_names_it_and_the_remedy() {
        let home = tempfile::tempdir().unwrap();
        let error = write_report(&[home.path().to_owned()], home.path(), &fixed()).unwrap_err().to_string();
        assert!(error.contains(&*home.path().to_string_lossy()) && error.contains("heddle run"), "{error}");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_that_names_it_and_the_remedy() {
        let home = tempfile::tempdir().unwrap();
        synthetic::write(home.path(), &RunSpec::new("recall", "a", 0));
        fs::write(home.path().join("taken"), "").unwrap();
        let out = home.path().join("taken/out");
        let error = write_report(&[home.path().to_owned()], &out, &fixed()).unwrap_err().to_string();
        assert!(error.contains(&*out.to_string_lossy()) && error.contains("name another"), "{error}");
    }

    #[test]
    fn an_error_of_no_run_tells_what_was_met() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("result.json"), "{").unwrap();
        let error = write_report(&[home.path().to_owned()], home.path(), &fixed()).unwrap_err().to_string();
        assert!(error.contains("malformed"), "{error}");
    }

    #[test]
    fn what_could_not_be_read_is_in_the_page_and_in_the_warnings() {
        let home = tempfile::tempdir().unwrap();
        synthetic::write(home.path(), &RunSpec::new("recall", "a", 0));
        let broken = synthetic::write(home.path(), &RunSpec::new("recall", "a", 1));
        fs::write(broken.join("result.json"), "[]").unwrap();
        let report = write_report(&[home.path().to_owned()], &home.path().join("out"), &fixed()).unwrap();
        assert!(report.warnings[0].contains("malformed"), "{:?}", report.warnings);
        assert!(fs::read_to_string(report.html).unwrap().contains("since it is malformed"));
    }

    #[test]
    fn runs_without_curves_labels_or_finite_times_are_reported() {
        let home = tempfile::tempdir().unwrap();
        let dir = synthetic::write(home.path(), &RunSpec::new("recall", "a", 0));
        fs::remove_file(dir.join("metrics.jsonl")).unwrap();
        let mut result: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(dir.join("result.json")).unwrap()).unwrap();
        result["test"] = serde_json::json!([]);
        result["timing"]["tokens_per_second"] = serde_json::Value::Null;
        fs::write(dir.join("result.json"), result.to_string()).unwrap();
        let report = write_report(&[home.path().to_owned()], &home.path().join("out"), &fixed()).unwrap();
        assert!(report.figures.is_empty());
        assert_eq!(report.cases[0].tokens_per_second, None);
        assert!(report.warnings.len() >= 3, "{:?}", report.warnings);
    }

    #[test]
    fn a_thousand_runs_are_reported_in_seconds() {
        // Generous: the measured time is a small part of it, but a busy machine must not fail the test.
        const LIMIT: Duration = Duration::from_secs(10);
        let home = tempfile::tempdir().unwrap();
        for case in 0..200 {
            for seed in 0..5 {
                let spec =
                    RunSpec { steps: 1000, every: 40, ..RunSpec::new("recall", &format!("case{case:03}"), seed) };
                synthetic::write(home.path(), &spec);
            }
        }
        let start = Instant::now();
        let report = write_report(&[home.path().to_owned()], &home.path().join("out"), &fixed()).unwrap();
        assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
        assert_eq!(report.cases.len(), 200);
        assert_eq!(report.comparisons.len(), 199);
    }
}
