//! The page: one file without any address outside it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Environment, Value, context};

use super::compare::Comparison;
use super::figures::{Figure, Layout, Theme};
use super::format;
use super::links::relative_link;
use super::read::{Run, pooled};
use super::select;
use super::sheet::Sheet;
use super::stats::wilson_interval;
use super::{Material, ReportError, ReportOptions, table};

/// Name that makes the template engine escape what it fills in.
const TEMPLATE: &str = "page.html";

/// The page, to be written into the directory `out`.
pub(crate) fn page(
    material: &Material,
    comparison: &Sheet,
    out: &Path,
    options: &ReportOptions,
) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.add_template(TEMPLATE, include_str!("page.html"))?;
    let runs = &material.runs;
    let figures = material.figures.iter().map(figure_value).collect::<Result<Vec<Value>, ReportError>>()?;
    let by_slice = table::by_slice(&material.cases);
    let choices = select::choose(runs);
    let names = distinct(runs, |run| run.result.name.clone());
    let page = environment.get_template(TEMPLATE)?.render(context! {
        title => options.title.clone().unwrap_or_else(|| names.join(", ")),
        question => options.question.clone(),
        claim => options.claim.clone(),
        made => date(options.made.unwrap_or_else(SystemTime::now)),
        facts => facts(runs),
        warnings => material.warnings.iter().collect::<Value>(),
        comparison => sheet_value(comparison),
        note => unbroken(table::NOTE),
        selection => (!choices.is_empty()).then(|| sheet_value(&select::sheet(&choices))),
        comparisons => material.comparisons.iter().map(comparison_value).collect::<Value>(),
        pairs => (!material.comparisons.is_empty()).then(|| sheet_value(&table::pairs(&material.comparisons))),
        figures => figures.into_iter().collect::<Value>(),
        // Fewer slices than that are columns of the comparison.
        by_slice => (by_slice.columns.len() > 1 + table::SLICE_COLUMNS).then(|| sheet_value(&by_slice)),
        runs => run_values(material, out),
        configs => config_values(material),
    })?;
    Ok(page)
}

/// The distinct texts that runs give, in order.
fn distinct(runs: &[Run], pick: impl Fn(&Run) -> String) -> Vec<String> {
    runs.iter().map(pick).collect::<BTreeSet<String>>().into_iter().collect()
}

/// What was run, as pairs of a term and its value.
fn facts(runs: &[Run]) -> Value {
    let seeds: BTreeSet<u64> = runs.iter().map(|run| run.result.seed).collect();
    let seeds: Vec<String> = seeds.into_iter().map(|seed| seed.to_string()).collect();
    let tasks: BTreeSet<String> = runs.iter().filter_map(|run| run.setup.task.clone()).collect();
    let tasks: Vec<String> = tasks.into_iter().collect();
    let facts = [
        ("experiment", distinct(runs, |run| run.result.name.clone()).join(", ")),
        ("task", if tasks.is_empty() { format::NONE.to_owned() } else { tasks.join(", ") }),
        ("runs", format::whole(runs.len() as u64)),
        ("seeds", seeds.join(", ")),
        ("device", distinct(runs, |run| run.result.device.clone()).join(", ")),
        ("Heddle", distinct(runs, |run| run.result.version.clone()).join(", ")),
        ("data", distinct(runs, |run| run.result.data_hash.clone()).join(", ")),
    ];
    facts.into_iter().map(|(term, value)| context! { term => term, value => value }).collect()
}

/// Keeps a percent sign with its number.
fn unbroken(text: &str) -> String {
    text.replace(" %", "\u{a0}%")
}

pub(crate) fn sheet_value(sheet: &Sheet) -> Value {
    let columns: Value = sheet
        .columns
        .iter()
        .map(|column| context! { title => unbroken(&column.title), numeric => column.numeric })
        .collect();
    let row = |row: &Vec<String>| {
        let cells = row.iter().zip(&sheet.columns);
        cells.map(|(text, column)| context! { text => text, numeric => column.numeric }).collect::<Value>()
    };
    context! { columns => columns, rows => sheet.rows.iter().map(row).collect::<Value>() }
}

fn comparison_value(comparison: &Comparison) -> Value {
    context! { verdict => unbroken(&comparison.verdict), shown => comparison.shown }
}

fn figure_value(figure: &Figure) -> Result<Value, ReportError> {
    let svg = |layout| figure.svg(Theme::Embedded, layout).map(Value::from_safe_string);
    Ok(context! {
        id => &figure.id,
        title => &figure.title,
        caption => unbroken(&figure.caption),
        wide => svg(Layout::Wide)?,
        narrow => svg(Layout::Narrow)?,
        data => sheet_value(&figure.data),
    })
}

fn run_values(material: &Material, out: &Path) -> Value {
    let rows = material.cases.iter().flat_map(|case| case.runs.iter().map(move |&run| (case, &material.runs[run])));
    let value = |(case, run): (&super::CaseSummary, &Run)| {
        let result = &run.result;
        let (correct, labels) =
            result.test.iter().fold((0, 0), |sum, slice| (sum.0 + slice.correct, sum.1 + slice.labels));
        let wilson = wilson_interval(correct, labels);
        context! {
            case => &case.label,
            seed => result.seed,
            accuracy => format::or_none(pooled([(correct, labels)]), format::percent),
            wilson => format::or_none(wilson, format::percent_range),
            steps => format::whole(result.steps),
            best_step => format::whole(result.best_step),
            target => format::or_none(result.steps_to_target, format::whole),
            stop => format!("{:?}", result.stop).to_lowercase(),
            seconds => format::short(result.timing.train_seconds),
            config => &result.config_hash,
            // Percent-encoded: nothing is left in it to escape.
            link => Value::from_safe_string(relative_link(out, &run.dir)),
        }
    };
    rows.map(value).collect()
}

/// The config of each case's first run.
fn config_values(material: &Material) -> Value {
    let config = |case: &super::CaseSummary| {
        let run = &material.runs[*case.runs.first()?];
        let text = run.config.as_ref()?;
        Some(context! { label => &case.label, seed => run.result.seed, text => text })
    };
    material.cases.iter().filter_map(config).collect()
}

/// The day in UTC, as `2026-01-31` (Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
fn date(time: SystemTime) -> String {
    let days = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::report::synthetic::{self, RunSpec};
    use crate::report::write_report;

    fn page_of(specs: &[RunSpec], options: &ReportOptions) -> String {
        let home = tempfile::tempdir().unwrap();
        for spec in specs {
            synthetic::write(&home.path().join("runs"), spec);
        }
        let out = home.path().join("out");
        let report = write_report(&[home.path().join("runs")], &out, options).unwrap();
        let page = fs::read_to_string(report.html).unwrap();
        for link in page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let target: PathBuf = out.join(link);
            assert!(link.starts_with('#') || target.exists(), "{link} leads nowhere");
        }
        page
    }

    #[test]
    fn the_page_names_no_address_and_loads_nothing() {
        let page = page_of(&synthetic::comparison(3), &ReportOptions::default());
        for outside in ["http:", "https:", "//", "src=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(outside), "the page contains {outside}");
        }
    }

    #[test]
    fn the_page_holds_every_figure_in_both_shapes_with_its_numbers() {
        let page = page_of(&synthetic::comparison(3), &ReportOptions::default());
        assert_eq!(page.matches("<figure").count(), 4);
        assert_eq!(page.matches("<svg").count(), 8);
        assert_eq!(page.matches("<figcaption").count(), 4);
        assert_eq!(page.matches("aria-label=\"Line chart").count(), 4);
    }

    #[test]
    fn markup_in_configs_names_and_words_is_text() {
        let spec = RunSpec { config: "note = \"<script>&\"".into(), ..RunSpec::new("recall", "a<b>&c", 0) };
        let options = ReportOptions { question: Some("Is <i> & it?".into()), ..ReportOptions::default() };
        let page = page_of(&[spec], &options);
        assert!(page.contains("&lt;script&gt;&amp;") && !page.contains("<script>"));
        assert!(page.contains("a&lt;b&gt;&amp;c") && !page.contains("a<b>"));
        assert!(page.contains("Is &lt;i&gt; &amp; it?"));
    }

    #[test]
    fn what_validation_selected_stands_in_the_page_with_the_grid() {
        let home = tempfile::tempdir().unwrap();
        for lr in [1e-3, 1e-2] {
            let axes = [("train.lr".to_owned(), serde_json::Value::from(lr))].into();
            synthetic::write(home.path(), &RunSpec { axes, ..RunSpec::new("recall", "a", 0) });
        }
        let page = |sweep: &str| {
            fs::write(home.path().join("recall/sweep.json"), sweep).unwrap();
            let out = home.path().join("out");
            let report = write_report(&[home.path().to_owned()], &out, &ReportOptions::default()).unwrap();
            fs::read_to_string(report.html).unwrap()
        };
        let selected = page(r#"{"select": ["train.lr"]}"#);
        assert!(selected.contains("Selected settings") && selected.contains("at the edge of the grid"));
        assert!(selected.contains("<th scope=\"col\">selected</th>"));
        assert!(!page("{}").contains("Selected settings"));
    }

    #[test]
    fn question_and_claim_stand_in_the_page() {
        let options = ReportOptions {
            title: Some("Recall".into()),
            question: Some("Who recalls?".into()),
            claim: Some("The hybrid does.".into()),
            ..ReportOptions::default()
        };
        let page = page_of(&synthetic::comparison(1), &options);
        assert!(
            page.contains("<title>Recall</title>")
                && page.contains("Who recalls?")
                && page.contains("The hybrid does.")
        );
    }

    #[test]
    fn days_are_counted_with_leap_years() {
        let day = |days: u64| date(UNIX_EPOCH + Duration::from_secs(days * 86_400));
        assert_eq!(
            [0, 59, 11_016, 19_782, 20_454].map(day),
            ["1970-01-01", "1970-03-01", "2000-02-29", "2024-02-29", "2026-01-01"]
        );
    }
}
