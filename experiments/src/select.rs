//! The value of an axis that validation chooses, case by case.
//!
//! A learning rate, say, is tried at several values and each case is judged at its best. The best is chosen by the validation
//! stream alone, as training chooses its best step: by the lowest accuracy over slices, then by the loss, each the mean over
//! seeds. The test stream has no say.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::result::RunResult;

/// Values of axes: dotted key → value.
pub type Point = BTreeMap<String, Value>;

/// The choice for one case (at one point of the axes that are not selected over).
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Name of the experiment.
    pub name: String,
    /// Name of the case.
    pub case: String,
    /// Values of the other axes.
    pub rest: Point,
    /// What was tried, by value: numbers in their order.
    pub tried: Vec<Tried>,
    /// Which of [`tried`](Self::tried) was chosen.
    pub chosen: usize,
    /// The selected axes whose chosen value is the least or the greatest number tried, of two or more: a better one may lie
    /// beyond.
    pub at_edge: Vec<String>,
}

/// One point that was tried, with its scores on validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    /// Values of the selected axes.
    pub point: Point,
    /// Its runs, as places in what was given.
    pub runs: Vec<usize>,
    /// Lowest accuracy over the slices, mean over seeds.
    pub accuracy: f64,
    /// Loss summed over the slices, mean over seeds, in nats.
    pub loss: f64,
    /// Whether it lacks a seed that another point has, because that run failed or is not finished. Such a point is not
    /// chosen: a mean over the seeds that survived says too much good of it.
    pub incomplete: bool,
}

impl Choice {
    /// The runs that count, as places in what was given.
    pub fn runs(&self) -> &[usize] {
        &self.tried[self.chosen].runs
    }
}

/// Chooses for each case, and each point of the axes other than `keys`, the point of `keys` that is best on validation.
///
/// Best is the highest mean over seeds of the lowest slice accuracy, of equal ones the lowest mean loss, of equal ones the
/// first by value. Choices come in the order in which their first runs are given. An axis that a run does not know is `null`.
///
/// ```
/// use std::collections::BTreeMap;
/// use experiments::select::select;
/// # use experiments::result::{RunResult, SliceScore};
/// # let run = |seed: u64, lr: f64, accuracy: f64| RunResult {
/// #     case: "mamba".into(),
/// #     seed,
/// #     axes: BTreeMap::from([("train.lr".to_owned(), lr.into())]),
/// #     validation: vec![SliceScore { accuracy, loss: 1.0 - accuracy, ..SliceScore::default() }],
/// #     ..RunResult::default()
/// # };
/// // Two seeds at each of three learning rates.
/// let runs = [run(0, 1e-4, 0.2), run(1, 1e-4, 0.3), run(0, 1e-3, 0.9), run(1, 1e-3, 0.8), run(0, 1e-2, 0.9), run(1, 1e-2, 0.1)];
///
/// let choices = select(&runs, &["train.lr".to_owned()]);
/// assert_eq!(choices.len(), 1);
/// assert_eq!(choices[0].runs(), [2, 3]);
/// assert_eq!(choices[0].tried.len(), 3);
/// assert!(choices[0].at_edge.is_empty());
/// ```
pub fn select<'a>(runs: impl IntoIterator<Item = &'a RunResult>, keys: &[String]) -> Vec<Choice> {
    let mut groups: Vec<(Group, Vec<(usize, &RunResult)>)> = Vec::new();
    for (i, run) in runs.into_iter().enumerate() {
        let rest = run.axes.iter().filter(|(key, _)| !keys.contains(key));
        let group = Group {
            name: run.name.clone(),
            case: run.case.clone(),
            rest: rest.map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        match groups.iter_mut().find(|(other, _)| *other == group) {
            Some((_, runs)) => runs.push((i, run)),
            None => groups.push((group, vec![(i, run)])),
        }
    }
    groups.into_iter().map(|(group, runs)| choose(group, &runs, keys)).collect()
}

/// What the runs that are compared have in common.
#[derive(PartialEq)]
struct Group {
    name: String,
    case: String,
    rest: Point,
}

fn choose(group: Group, runs: &[(usize, &RunResult)], keys: &[String]) -> Choice {
    let mut points: Vec<(Point, Vec<(usize, &RunResult)>)> = Vec::new();
    for &(i, run) in runs {
        let point: Point =
            keys.iter().map(|key| (key.clone(), run.axes.get(key).cloned().unwrap_or_default())).collect();
        match points.iter_mut().find(|(other, _)| *other == point) {
            Some((_, runs)) => runs.push((i, run)),
            None => points.push((point, vec![(i, run)])),
        }
    }
    points
        .sort_by(|(a, _), (b, _)| a.values().zip(b.values()).fold(Ordering::Equal, |o, (a, b)| o.then(by_value(a, b))));
    let seeds_of = |runs: &[(usize, &RunResult)]| runs.iter().map(|(_, run)| run.seed).collect::<BTreeSet<_>>().len();
    let most = points.iter().map(|(_, runs)| seeds_of(runs)).max().unwrap_or(0);
    let tried: Vec<Tried> = points
        .into_iter()
        .map(|(point, runs)| Tried {
            point,
            accuracy: mean(&runs, |run| run.validation.iter().map(|score| score.accuracy).fold(1.0, worse)),
            loss: mean(&runs, |run| run.validation.iter().map(|score| score.loss).sum()),
            incomplete: seeds_of(&runs) < most,
            runs: runs.into_iter().map(|(i, _)| i).collect(),
        })
        .collect();
    // The first of the best, hence the walk from behind.
    let complete = tried.iter().enumerate().rev().filter(|(_, tried)| !tried.incomplete);
    let chosen = complete.max_by(|(_, a), (_, b)| rank(a, b)).map_or(0, |(i, _)| i);
    let at_edge = keys.iter().filter(|key| is_edge(&tried, chosen, key)).cloned().collect();
    let Group { name, case, rest } = group;
    Choice { name, case, rest, tried, chosen, at_edge }
}

/// By accuracy, then by loss; what is not a number is worst.
fn rank(a: &Tried, b: &Tried) -> Ordering {
    let known = |number: f64| if number.is_nan() { f64::NEG_INFINITY } else { number };
    known(a.accuracy).total_cmp(&known(b.accuracy)).then(known(-a.loss).total_cmp(&known(-b.loss)))
}

/// The lesser; not a number if one of them is none.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

fn mean(runs: &[(usize, &RunResult)], of: impl Fn(&RunResult) -> f64) -> f64 {
    runs.iter().map(|(_, run)| of(run)).sum::<f64>() / runs.len() as f64
}

/// Numbers in their order, all else by its text, behind them.
fn by_value(a: &Value, b: &Value) -> Ordering {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.to_string().cmp(&b.to_string()),
    }
}

/// Whether the chosen value of an axis is the least or the greatest of several numbers.
fn is_edge(tried: &[Tried], chosen: usize, key: &str) -> bool {
    let numbers: Option<Vec<f64>> = tried.iter().map(|tried| tried.point[key].as_f64()).collect();
    let Some(numbers) = numbers else { return false };
    let (least, greatest) = numbers.iter().fold((f64::MAX, f64::MIN), |(a, b), n| (a.min(*n), b.max(*n)));
    least < greatest && [least, greatest].contains(&numbers[chosen])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::result::SliceScore;

    fn run(case: &str, seed: u64, axes: Value, slices: &[(f64, f64)]) -> RunResult {
        let score = |&(accuracy, loss): &(f64, f64)| SliceScore { accuracy, loss, ..SliceScore::default() };
        RunResult {
            name: "x".into(),
            case: case.into(),
            seed,
            axes: serde_json::from_value(axes).unwrap(),
            validation: slices.iter().map(score).collect(),
            // The test says the opposite of validation, and must have no say.
            test: slices.iter().map(|(accuracy, loss)| score(&(1.0 - accuracy, -loss))).collect(),
            ..RunResult::default()
        }
    }

    fn keys(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn lr(case: &str, seed: u64, lr: f64, accuracy: f64) -> RunResult {
        run(case, seed, json!({"train.lr": lr}), &[(accuracy, 1.0)])
    }

    #[test]
    fn each_case_gets_its_own_value_at_every_point_of_the_other_axes() {
        let of = |case, width, lr, accuracy| {
            run(case, 0, json!({"train.lr": lr, "model.d_model": width}), &[(accuracy, 1.0)])
        };
        let mut runs = vec![of("a", 64, 0.1, 0.9), of("a", 64, 0.2, 0.8), of("a", 32, 0.1, 0.5), of("a", 32, 0.2, 0.6)];
        runs.extend([of("b", 64, 0.1, 0.1), of("b", 64, 0.2, 0.2)]);
        let choices = select(&runs, &keys(&["train.lr"]));
        let told: Vec<_> =
            choices.iter().map(|choice| (&*choice.case, &choice.rest["model.d_model"], choice.runs())).collect();
        assert_eq!(told, [("a", &json!(64), &[0][..]), ("a", &json!(32), &[3]), ("b", &json!(64), &[5])]);
        // Over both axes there is one choice a case.
        let both: Vec<_> =
            select(&runs, &keys(&["model.d_model", "train.lr"])).iter().map(|c| c.runs().to_vec()).collect();
        assert_eq!(both, [[0], [5]]);
    }

    #[test]
    fn the_lowest_slice_decides_and_then_the_loss() {
        let of = |lr: f64, slices: &[(f64, f64)]| run("a", 0, json!({ "train.lr": lr }), slices);
        let runs = [of(0.1, &[(1.0, 0.1), (0.2, 0.1)]), of(0.2, &[(0.5, 9.0), (0.4, 9.0)])];
        assert_eq!(select(&runs, &keys(&["train.lr"]))[0].runs(), [1]);
        let equal = [of(0.1, &[(0.5, 2.0)]), of(0.2, &[(0.5, 1.0)]), of(0.3, &[(0.5, 1.0)])];
        // Of equals the first by value, in whatever order they come.
        assert_eq!(select(&equal, &keys(&["train.lr"]))[0].runs(), [1]);
        assert_eq!(select(equal.iter().rev(), &keys(&["train.lr"]))[0].runs(), [1]);
    }

    #[test]
    fn a_value_on_which_a_seed_failed_is_not_chosen() {
        let runs = [lr("a", 0, 0.1, 0.6), lr("a", 1, 0.1, 0.6), lr("a", 0, 0.2, 0.9)];
        let choice = &select(&runs, &keys(&["train.lr"]))[0];
        assert_eq!((choice.runs(), choice.tried[1].incomplete), (&[0, 1][..], true));
        let nowhere = [lr("a", 0, 0.1, f64::NAN), lr("a", 0, 0.2, 0.0)];
        assert_eq!(select(&nowhere, &keys(&["train.lr"]))[0].runs(), [1]);
    }

    #[test]
    fn a_choice_at_the_end_of_the_grid_says_so() {
        let best = |values: &[f64], best: f64| {
            let runs: Vec<_> = values.iter().map(|&value| lr("a", 0, value, f64::from(value == best))).collect();
            let choice = select(&runs, &keys(&["train.lr"])).remove(0);
            assert_eq!(choice.tried[choice.chosen].point["train.lr"], json!(best));
            choice.at_edge
        };
        assert_eq!(best(&[0.3, 0.1, 0.2], 0.1), ["train.lr"]);
        assert_eq!(best(&[0.3, 0.1, 0.2], 0.3), ["train.lr"]);
        assert!(best(&[0.3, 0.1, 0.2], 0.2).is_empty());
        assert!(best(&[0.1], 0.1).is_empty(), "one value is no grid");
        let words = [run("a", 0, json!({"s": "x"}), &[(0.1, 1.0)]), run("a", 0, json!({"s": "y"}), &[(0.2, 1.0)])];
        assert!(select(&words, &keys(&["s"]))[0].at_edge.is_empty(), "words have no end");
    }

    #[test]
    fn without_a_key_every_run_counts() {
        let runs = [lr("a", 0, 0.1, 0.1), lr("a", 1, 0.1, 0.9), lr("a", 0, 0.2, 0.5)];
        let counted: Vec<_> = select(&runs, &[]).iter().map(|choice| choice.runs().to_vec()).collect();
        assert_eq!(counted, [vec![0, 1], vec![2]]);
        assert!(select(&[], &[]).is_empty());
    }
}
