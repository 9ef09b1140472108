//! One file, many runs: the `[sweep]` table and its expansion.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::draft::{Draft, blame};
use super::error::{ConfigError, Problem};
use super::kinds::Kinds;
use super::overlay::{conform, mismatch, unknown};
use super::preset::{self, take_preset};
use super::schema::{RunConfig, SweepConfig, is_path_component};
use super::slurm::SlurmConfig;
use super::source::{DEEPEST, Data, Entry, Node, Place, Places, brief, merge};

/// More runs than this in one sweep are a mistake in its axes.
const MOST_RUNS: usize = 10_000;

/// A run file, read and checked: every run that it plans.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// Its sweep, as written; empty if it has none.
    pub sweep: SweepConfig,
    /// What it asks of Slurm.
    pub slurm: SlurmConfig,
    runs: Vec<PlannedRun>,
}

/// One run of a sweep, fully resolved.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// What to run.
    pub config: RunConfig,
    /// Value of every sweep axis: dotted key → value in `config`.
    pub axes: BTreeMap<String, Value>,
    /// `config.hash()`.
    pub hash: String,
    places: Places,
}

impl Loaded {
    pub(super) fn new(path: PathBuf, plan: &Plan, slurm: SlurmConfig, runs: Vec<PlannedRun>) -> Self {
        Self { path, sweep: plan.as_written(), slurm, runs }
    }

    /// The planned runs: cases in the file's order, within a case the grid of axes (the last key fastest), within a
    /// point of the grid the seeds. Runs that come out equal are one run.
    pub fn runs(&self) -> &[PlannedRun] {
        &self.runs
    }

    /// As [`runs`](Self::runs), by value.
    pub fn expand(self) -> Vec<PlannedRun> {
        self.runs
    }

    /// The one run of that case, on that seed (which the sweep need not list).
    ///
    /// # Errors
    /// [`ConfigError::Selection`] if there is no such case, or several runs are left; the message lists the choices.
    pub fn select(&self, case: Option<&str>, seed: Option<u64>) -> Result<PlannedRun, ConfigError> {
        let fits = |run: &&PlannedRun| case.is_none_or(|case| run.config.case == case);
        let mut runs: Vec<PlannedRun> = self.runs.iter().filter(fits).cloned().collect();
        if let Some(seed) = seed {
            for run in &mut runs {
                run.config.seed = seed;
                run.hash = run.config.hash();
            }
            merge_equal(&mut runs);
        }
        if runs.len() == 1 {
            return Ok(runs.remove(0));
        }
        let path = self.path.display();
        Err(ConfigError::Selection(match case {
            Some(case) if runs.is_empty() => {
                let cases = choice("--case ", &self.runs, |run| run.config.case.clone());
                format!("{path} has no case `{case}`{cases}")
            }
            _ => {
                let left = runs.len();
                let choices = choices(&runs);
                format!("{path} plans {left} runs; choose one, or run them all with `heddle sweep`{choices}")
            }
        }))
    }
}

/// The options that tell runs apart, a line each.
fn choices(runs: &[PlannedRun]) -> String {
    let mut choices = choice("--case ", runs, |run| run.config.case.clone());
    choices += &choice("--seed ", runs, |run| run.config.seed.to_string());
    for key in runs.first().into_iter().flat_map(|run| run.axes.keys()) {
        choices += &choice(&format!("--set {key}="), runs, |run| run.axes.get(key).map(brief).unwrap_or_default());
    }
    choices
}

/// An option and its values among the runs; nothing if they all have the same.
fn choice(option: &str, runs: &[PlannedRun], of: impl Fn(&PlannedRun) -> String) -> String {
    let mut values: Vec<String> = Vec::new();
    for value in runs.iter().map(of) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    if values.len() > 1 { format!("\n = {option}{}", values.join("|")) } else { String::new() }
}

impl PlannedRun {
    /// An error about a setting found after loading, drawn where it was written: `key` is dotted, with `[i]` for an
    /// element, as in `model.layers[1]`.
    pub fn blame(&self, key: &str, problem: &str) -> ConfigError {
        blame(&self.places, key, problem)
    }
}

/// The `[sweep]` table, its values still with their places.
#[derive(Default)]
pub(super) struct Plan {
    seeds: Vec<(u64, Place)>,
    axes: BTreeMap<String, Axis>,
    /// The value of each is a table.
    cases: Vec<Entry>,
}

struct Axis {
    key: Place,
    values: Vec<Node>,
}

impl Plan {
    pub(super) fn parse(sweep: Option<Entry>) -> Result<Self, ConfigError> {
        let Some(sweep) = sweep else { return Ok(Self::default()) };
        let mut plan = Self::default();
        let known = Map::from_iter(["seeds", "axes", "case"].map(|key| (key.to_owned(), Value::Null)));
        for entry in table(&sweep.node, "sweep")? {
            let path = format!("sweep.{}", entry.name);
            match entry.name.as_str() {
                "seeds" => {
                    let mut places = Places::new();
                    let seeds = conform(&json!([0]), &entry.node, &path, &mut places)?;
                    let seeds = seeds.as_array().into_iter().flatten().filter_map(Value::as_u64);
                    let place = |i| places.get(&format!("{path}[{i}]")).unwrap_or(&entry.place).clone();
                    plan.seeds = seeds.enumerate().map(|(i, seed)| (seed, place(i))).collect();
                }
                "axes" => plan.axes(table(&entry.node, &path)?, "")?,
                "case" => {
                    for case in table(&entry.node, &path)? {
                        plan.case(case)?;
                    }
                }
                _ => return Err(unknown(&known, entry, &path).into()),
            }
        }
        Ok(plan)
    }

    /// Axes are arrays below dotted keys; whether TOML nested the keys or they are quoted comes to the same.
    fn axes(&mut self, entries: &[Entry], above: &str) -> Result<(), ConfigError> {
        for entry in entries {
            let key = if above.is_empty() { entry.name.clone() } else { format!("{above}.{}", entry.name) };
            let path = format!("sweep.axes.{key}");
            let refuse = |what: String, note: &str| {
                Err(Problem::new(&path, what).at(Some(entry.place.clone())).note(note).into())
            };
            match &entry.node.data {
                Data::Table(entries) => self.axes(entries, &key)?,
                Data::Array(_) if key == "seed" => {
                    return refuse("`seed` is no axis".to_owned(), "list seeds as `seeds = […]` below `[sweep]`");
                }
                Data::Array(_) if key == "case" => {
                    return refuse("`case` is no axis".to_owned(), "name cases by tables `[sweep.case.NAME]`");
                }
                Data::Array(_) if key.split('.').count() > DEEPEST => {
                    return refuse(format!("`{key}` is no dotted key"), "for example `train.lr`");
                }
                Data::Array(values) if values.is_empty() => {
                    return refuse(format!("the axis `{key}` has no values"), "leave it out, or give it one");
                }
                Data::Array(values) => {
                    self.axes.insert(key, Axis { key: entry.place.clone(), values: values.clone() });
                }
                Data::Leaf(_) => return Err(mismatch(&entry.node, &path, "an array of values").into()),
            }
        }
        Ok(())
    }

    fn case(&mut self, case: &Entry) -> Result<(), ConfigError> {
        let path = format!("sweep.case.{}", case.name);
        if !is_path_component(&case.name) {
            let problem = Problem::new(&path, format!("{:?} is no name for a case", case.name));
            let note = "a name is 1 to 100 letters, digits, `.`, `_` or `-`, the first a letter or digit";
            return Err(problem.at(Some(case.place.clone())).note(note).into());
        }
        table(&case.node, &path)?;
        self.cases.push(case.clone());
        Ok(())
    }

    fn as_written(&self) -> SweepConfig {
        let plain = |node: &Node| conform(&Value::Null, node, "", &mut Places::new()).unwrap_or_default();
        SweepConfig {
            seeds: self.seeds.iter().map(|(seed, _)| *seed).collect(),
            axes: self.axes.iter().map(|(key, axis)| (key.clone(), axis.values.iter().map(plain).collect())).collect(),
            case: self.cases.iter().map(|case| (case.name.clone(), plain(&case.node))).collect(),
        }
    }

    /// Every run: preset ← file ← case ← axes ← seed ← overrides, the later winning.
    pub(super) fn expand(
        &self,
        kinds: &Kinds<'_>,
        file: &[Entry],
        overrides: &[Entry],
    ) -> Result<Vec<PlannedRun>, ConfigError> {
        let written = Written::new(kinds, file, overrides)?;
        // What is wrong with the file itself is said before anything about the sweep.
        written.base(written.preset(None))?;
        let lengths = [self.cases.len().max(1), self.seeds.len().max(1)];
        let lengths = lengths.into_iter().chain(self.axes.values().map(|axis| axis.values.len()));
        if lengths.fold(1usize, |runs, length| runs.saturating_mul(length)) > MOST_RUNS {
            let place = self.axes.values().next().map(|axis| axis.key.clone());
            let place = place.or_else(|| self.seeds.first().map(|(_, place)| place.clone()));
            let what = format!("the sweep plans more than {MOST_RUNS} runs");
            return Err(Problem::new("sweep", what).at(place).note("fewer axes, values or seeds").into());
        }
        let mut runs = Vec::new();
        let cases = self.cases.iter().map(Some);
        for case in if self.cases.is_empty() { vec![None] } else { cases.collect() } {
            self.expand_case(&written, case, &mut runs).map_err(|error| match (error, case) {
                (ConfigError::Setting(problem), Some(case)) => {
                    problem.note(format!("in the case `{}`", case.name)).into()
                }
                (error, _) => error,
            })?;
        }
        merge_equal(&mut runs);
        Ok(runs)
    }

    fn expand_case(
        &self,
        written: &Written<'_>,
        case: Option<&Entry>,
        runs: &mut Vec<PlannedRun>,
    ) -> Result<(), ConfigError> {
        let kinds = written.kinds;
        let mut settings = match case {
            Some(case) => table(&case.node, &case.name)?.to_vec(),
            None => vec![],
        };
        let of_case = take_preset(&mut settings)?;
        for mut point in self.grid() {
            let of_point = take_preset(&mut point)?;
            let preset = written.preset(of_point.as_deref().or(of_case.as_deref()));
            let mut draft = written.base(preset)?;
            draft.lay(kinds, &settings)?;
            if let Some(case) = case {
                draft.set("case", Value::from(case.name.as_str()), case.place.clone());
            }
            draft.lay(kinds, &point)?;
            let seeds = self.seeds.iter().map(Some);
            for seed in if self.seeds.is_empty() { vec![None] } else { seeds.collect() } {
                let mut draft = draft.clone();
                if let Some((seed, place)) = seed {
                    draft.set("seed", Value::from(*seed), place.clone());
                }
                draft.lay(kinds, &written.overrides)?;
                let (config, places) = draft.finish(kinds)?;
                let values = config.to_value();
                let value = |key: &str| match key {
                    preset::KEY => preset.map(Value::from),
                    _ => at(&values, key).cloned(),
                };
                let axes = self.axes.keys().map(|key| (key.clone(), value(key).unwrap_or_default())).collect();
                runs.push(PlannedRun { hash: config.hash(), config, axes, places });
            }
        }
        Ok(())
    }

    /// Every point of the grid of axes, each as one tree, so that an axis over a `kind` is laid with its settings.
    fn grid(&self) -> Vec<Vec<Entry>> {
        let mut points = vec![Vec::new()];
        for (key, axis) in &self.axes {
            let longer = |point: &Vec<Entry>| -> Vec<Vec<Entry>> {
                let with = |value: &Node| {
                    let mut point = point.clone();
                    merge(&mut point, value.clone().nested(key, &axis.key));
                    point
                };
                axis.values.iter().map(with).collect()
            };
            points = points.iter().flat_map(longer).collect();
        }
        points
    }
}

/// What is written outside of the sweep.
struct Written<'a> {
    kinds: &'a Kinds<'a>,
    file: Vec<Entry>,
    overrides: Vec<Entry>,
    /// The presets that the two name.
    presets: [Option<String>; 2],
}

impl<'a> Written<'a> {
    fn new(kinds: &'a Kinds<'a>, file: &[Entry], overrides: &[Entry]) -> Result<Self, ConfigError> {
        let (mut file, mut overrides) = (file.to_vec(), overrides.to_vec());
        let presets = [take_preset(&mut file)?, take_preset(&mut overrides)?];
        Ok(Self { kinds, file, overrides, presets })
    }

    /// The preset that counts where a sweep names `swept`.
    fn preset<'b>(&'b self, swept: Option<&'b str>) -> Option<&'b str> {
        let [file, overrides] = &self.presets;
        overrides.as_deref().or(swept).or(file.as_deref())
    }

    /// The defaults, the preset and the file.
    fn base(&self, preset: Option<&str>) -> Result<Draft, ConfigError> {
        let mut base = Draft::new(self.kinds);
        if let Some(preset) = preset {
            base.lay(self.kinds, &preset::entries(preset)?)?;
        }
        base.lay(self.kinds, &self.file)?;
        Ok(base)
    }
}

fn merge_equal(runs: &mut Vec<PlannedRun>) {
    let mut seen = std::collections::BTreeSet::new();
    runs.retain(|run| seen.insert(run.hash.clone()));
}

fn table<'a>(node: &'a Node, path: &str) -> Result<&'a [Entry], ConfigError> {
    match &node.data {
        Data::Table(entries) => Ok(entries),
        _ => Err(mismatch(node, path, "a table").into()),
    }
}

fn at<'a>(values: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(values, |value, name| value.get(name))
}
