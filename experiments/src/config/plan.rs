//! The table `[sweep]`: what it says, and the runs that follow from it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::draft::Draft;
use super::error::{ConfigError, Problem, nearest};
use super::kinds::{Kinds, join};
use super::overlay::{conform, did_you_mean, mismatch, unknown};
use super::preset::{self, take_preset};
use super::schema::{SweepConfig, is_path_component};
use super::source::{DEEPEST, Data, Entry, Node, Place, Places, merge};
use super::sweep::{PlannedRun, merge_equal};

/// More runs than this in one sweep are a mistake in its axes.
const MOST_RUNS: usize = 10_000;

/// The `[sweep]` table, its values still with their places.
#[derive(Default)]
pub(super) struct Plan {
    seeds: Vec<(u64, Place)>,
    /// Axes that make up a grid.
    axes: Axes,
    /// Axes of equal length that move together.
    zip: Axes,
    /// Points written out: each a table, with what it sets.
    list: Vec<Node>,
    /// Axes whose value validation chooses.
    select: Vec<String>,
    /// The value of each is a table.
    cases: Vec<Entry>,
}

type Axes = BTreeMap<String, Axis>;

struct Axis {
    key: Place,
    values: Vec<Node>,
}

impl Plan {
    pub(super) fn parse(sweep: Option<Entry>) -> Result<Self, ConfigError> {
        let Some(sweep) = sweep else { return Ok(Self::default()) };
        let mut plan = Self::default();
        let mut select = None;
        let names = ["seeds", "axes", "zip", "list", "select", "case"];
        let known = Map::from_iter(names.map(|key| (key.to_owned(), Value::Null)));
        for entry in table(&sweep.node, "sweep")? {
            let path = format!("sweep.{}", entry.name);
            match entry.name.as_str() {
                "seeds" => {
                    let (seeds, place) = items(entry, &path, json!([0]))?;
                    let seeds = seeds.iter().filter_map(Value::as_u64).enumerate();
                    plan.seeds = seeds.map(|(i, seed)| (seed, place(i))).collect();
                }
                "axes" => axes(&mut plan.axes, table(&entry.node, &path)?, "", &path)?,
                "zip" => axes(&mut plan.zip, table(&entry.node, &path)?, "", &path)?,
                "list" => plan.list(entry, &path)?,
                "select" => select = Some((entry, path)),
                "case" => table(&entry.node, &path)?.iter().try_for_each(|case| plan.case(case))?,
                _ => return Err(unknown(&known, entry, &path).into()),
            }
        }
        plan.check_zip()?;
        plan.check_twice()?;
        if let Some((entry, path)) = select {
            plan.select(entry, &path)?;
        }
        Ok(plan)
    }

    /// Points, each a table of settings; whether TOML nested their keys or they are quoted comes to the same.
    fn list(&mut self, entry: &Entry, path: &str) -> Result<(), ConfigError> {
        let Data::Array(points) = &entry.node.data else {
            let note = "write each point as a table below `[[sweep.list]]`";
            return Err(mismatch(&entry.node, path, "an array of tables").note(note).into());
        };
        for (i, point) in points.iter().enumerate() {
            let path = format!("{path}[{i}]");
            let mut settings = Vec::new();
            for entry in table(point, &path)? {
                refuse_key(&entry.name, &path, &entry.place)?;
                merge(&mut settings, entry.node.clone().nested(&entry.name, &entry.place));
            }
            self.list.push(Node { place: point.place.clone(), data: Data::Table(settings) });
        }
        Ok(())
    }

    fn case(&mut self, entry: &Entry) -> Result<(), ConfigError> {
        let path = format!("sweep.case.{}", entry.name);
        if !is_path_component(&entry.name) {
            let problem = Problem::new(&path, format!("{:?} is no name for a case", entry.name));
            let note = "a name is 1 to 100 letters, digits, `.`, `_` or `-`, the first a letter or digit";
            return Err(problem.at(Some(entry.place.clone())).note(note).into());
        }
        table(&entry.node, &path)?;
        self.cases.push(entry.clone());
        Ok(())
    }

    /// The axes to select over, with those that move with them.
    fn select(&mut self, entry: &Entry, path: &str) -> Result<(), ConfigError> {
        let (keys, place) = items(entry, path, json!([""]))?;
        let all = self.keys();
        let together = [self.zip.keys().cloned().collect(), self.list_keys()];
        let mut selected = BTreeSet::new();
        for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            if !all.contains(key) {
                let problem = Problem::new(format!("{path}[{i}]"), format!("`{key}` is no axis of this sweep"));
                let near = nearest(key, all.iter().map(String::as_str)).map(did_you_mean);
                let axes = all.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                let note = if all.is_empty() { "it has none".to_owned() } else { format!("the axes are {axes}") };
                return Err(problem.at(Some(place(i))).note(note).hint(near).into());
            }
            selected.insert(key.to_owned());
            let group: Option<&BTreeSet<String>> = together.iter().find(|group| group.contains(key));
            selected.extend(group.into_iter().flatten().cloned());
        }
        self.select = selected.into_iter().collect();
        Ok(())
    }

    /// Refuses zipped axes of unequal length.
    fn check_zip(&self) -> Result<(), ConfigError> {
        let mut axes = self.zip.iter();
        let Some((first, axis)) = axes.next() else { return Ok(()) };
        let length = axis.values.len();
        match axes.find(|(_, axis)| axis.values.len() != length) {
            None => Ok(()),
            Some((key, axis)) => {
                let what = format!("`{key}` has {} values, and `{first}`, zipped with it, {length}", axis.values.len());
                let note = "axes of `[sweep.zip]` move together; those of `[sweep.axes]` make up a grid";
                Err(Problem::new(format!("sweep.zip.{key}"), what).at(Some(axis.key.clone())).note(note).into())
            }
        }
    }

    /// Refuses a setting that two of grid, zip and list vary.
    fn check_twice(&self) -> Result<(), ConfigError> {
        let names = ["sweep.axes", "sweep.zip", "sweep.list"];
        let keys = |axes: &Axes| axes.keys().cloned().collect::<BTreeSet<_>>();
        let groups = [keys(&self.axes), keys(&self.zip), self.list_keys()];
        let within = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('.'));
        for (i, j) in [(0, 1), (0, 2), (1, 2)] {
            for (a, b) in groups[i].iter().flat_map(|a| groups[j].iter().map(move |b| (a, b))) {
                if within(a, b) || within(b, a) {
                    let place = self.axes.get(a).or(self.zip.get(a)).map(|axis| axis.key.clone());
                    let what = format!("`{a}` of `{}` is varied by `{}` too", names[i], names[j]);
                    return Err(Problem::new(a, what).at(place).note("leave it to one of them").into());
                }
            }
        }
        Ok(())
    }

    /// What the points of the list set.
    fn list_keys(&self) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        self.list.iter().for_each(|point| leaves(point, "", &mut keys));
        keys
    }

    /// Every setting that the sweep varies.
    fn keys(&self) -> BTreeSet<String> {
        self.axes.keys().chain(self.zip.keys()).cloned().chain(self.list_keys()).collect()
    }

    pub(super) fn as_written(&self) -> SweepConfig {
        let written = |axes: &Axes| -> BTreeMap<String, Vec<Value>> {
            axes.iter().map(|(key, axis)| (key.clone(), axis.values.iter().map(plain).collect())).collect()
        };
        SweepConfig {
            seeds: self.seeds.iter().map(|(seed, _)| *seed).collect(),
            axes: written(&self.axes),
            zip: written(&self.zip),
            list: self.list.iter().map(plain).collect(),
            select: self.select.clone(),
            case: self.cases.iter().map(|case| (case.name.clone(), plain(&case.node))).collect(),
        }
    }

    /// Every run: preset ← files ← case ← point ← seed ← overrides, the later winning.
    pub(super) fn expand(
        &self,
        kinds: &Kinds<'_>,
        files: Vec<Vec<Entry>>,
        overrides: &[Entry],
    ) -> Result<Vec<PlannedRun>, ConfigError> {
        let written = Written::new(kinds, files, overrides)?;
        // What is wrong with the file itself is said before anything about the sweep.
        written.base(written.preset(None))?;
        let zipped = self.zip.values().next().map_or(1, |axis| axis.values.len());
        let lengths = [self.cases.len().max(1), self.list.len().max(1), zipped, self.seeds.len().max(1)];
        let lengths = lengths.into_iter().chain(self.axes.values().map(|axis| axis.values.len()));
        if lengths.fold(1usize, |runs, length| runs.saturating_mul(length)) > MOST_RUNS {
            let place = self.axes.values().chain(self.zip.values()).next().map(|axis| axis.key.clone());
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
        let keys = self.keys();
        for mut point in self.points() {
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
                let axes = keys.iter().map(|key| (key.clone(), value(key).unwrap_or_default())).collect();
                runs.push(PlannedRun { hash: config.hash(), config, axes, places });
            }
        }
        Ok(())
    }

    /// Every point: list × zip × grid, the last key of the grid fastest. Each is one tree, so that what varies a `kind` is
    /// laid with that kind's settings.
    fn points(&self) -> Vec<Vec<Entry>> {
        let mut points = vec![Vec::new()];
        if !self.list.is_empty() {
            points = cross(&points, self.list.iter().map(|point| table(point, "").unwrap_or_default().to_vec()));
        }
        if let Some(axis) = self.zip.values().next() {
            points = cross(
                &points,
                (0..axis.values.len()).map(|i| {
                    let mut point = Vec::new();
                    let axes = self.zip.iter();
                    axes.for_each(|(key, axis)| merge(&mut point, axis.values[i].clone().nested(key, &axis.key)));
                    point
                }),
            );
        }
        for (key, axis) in &self.axes {
            points = cross(&points, axis.values.iter().map(|value| value.clone().nested(key, &axis.key)));
        }
        points
    }
}

/// Every point with each of these laid over it.
fn cross(points: &[Vec<Entry>], with: impl Iterator<Item = Vec<Entry>> + Clone) -> Vec<Vec<Entry>> {
    let longer = |point: &Vec<Entry>| -> Vec<Vec<Entry>> {
        let lay = |settings| {
            let mut point = point.clone();
            merge(&mut point, settings);
            point
        };
        with.clone().map(lay).collect()
    };
    points.iter().flat_map(longer).collect()
}

/// Axes are arrays below dotted keys; whether TOML nested the keys or they are quoted comes to the same.
fn axes(found: &mut Axes, entries: &[Entry], above: &str, group: &str) -> Result<(), ConfigError> {
    for entry in entries {
        let key = join(above, &entry.name);
        let path = format!("{group}.{key}");
        match &entry.node.data {
            Data::Table(entries) => axes(found, entries, &key, group)?,
            Data::Array(values) => {
                refuse_key(&key, group, &entry.place)?;
                if values.is_empty() {
                    let problem = Problem::new(&path, format!("the axis `{key}` has no values"));
                    return Err(problem.at(Some(entry.place.clone())).note("leave it out, or give it one").into());
                }
                found.insert(key, Axis { key: entry.place.clone(), values: values.clone() });
            }
            Data::Leaf(_) => return Err(mismatch(&entry.node, &path, "an array of values").into()),
        }
    }
    Ok(())
}

/// Refuses what no point may set.
fn refuse_key(key: &str, group: &str, place: &Place) -> Result<(), ConfigError> {
    let (what, note) = match key {
        "seed" => ("`seed` is no axis".to_owned(), "list seeds as `seeds = […]` below `[sweep]`"),
        "case" => ("`case` is no axis".to_owned(), "name cases by tables `[sweep.case.NAME]`"),
        _ if key.split('.').count() > DEEPEST => (format!("`{key}` is no dotted key"), "for example `train.lr`"),
        _ => return Ok(()),
    };
    Err(Problem::new(format!("{group}.{key}"), what).at(Some(place.clone())).note(note).into())
}

/// The elements of an array of the shape's kind, and where each was written.
fn items(
    entry: &Entry,
    path: &str,
    shape: Value,
) -> Result<(Vec<Value>, impl Fn(usize) -> Place + use<>), ConfigError> {
    let mut places = Places::new();
    let values = conform(&shape, &entry.node, path, &mut places)?;
    let (path, whole) = (path.to_owned(), entry.place.clone());
    let place = move |i| places.get(&format!("{path}[{i}]")).unwrap_or(&whole).clone();
    Ok((values.as_array().cloned().unwrap_or_default(), place))
}

/// The dotted keys of whatever is no table.
fn leaves(node: &Node, path: &str, keys: &mut BTreeSet<String>) {
    match &node.data {
        Data::Table(entries) => entries.iter().for_each(|entry| leaves(&entry.node, &join(path, &entry.name), keys)),
        _ => drop(keys.insert(path.to_owned())),
    }
}

fn plain(node: &Node) -> Value {
    conform(&Value::Null, node, "", &mut Places::new()).unwrap_or_default()
}

/// What is written outside of the sweep.
struct Written<'a> {
    kinds: &'a Kinds<'a>,
    /// The files that the run file extends, and itself.
    files: Vec<Vec<Entry>>,
    overrides: Vec<Entry>,
    /// The presets that the files and the overrides name.
    presets: [Option<String>; 2],
}

impl<'a> Written<'a> {
    fn new(kinds: &'a Kinds<'a>, mut files: Vec<Vec<Entry>>, overrides: &[Entry]) -> Result<Self, ConfigError> {
        let mut overrides = overrides.to_vec();
        let of_files = files.iter_mut().map(|file| take_preset(file)).collect::<Result<Vec<_>, _>>()?;
        let presets = [of_files.into_iter().flatten().next_back(), take_preset(&mut overrides)?];
        Ok(Self { kinds, files, overrides, presets })
    }

    /// The preset that counts where a sweep names `swept`.
    fn preset<'b>(&'b self, swept: Option<&'b str>) -> Option<&'b str> {
        let [file, overrides] = &self.presets;
        overrides.as_deref().or(swept).or(file.as_deref())
    }

    /// The defaults, the preset and the files.
    fn base(&self, preset: Option<&str>) -> Result<Draft, ConfigError> {
        let mut base = Draft::new(self.kinds);
        if let Some(preset) = preset {
            base.lay(self.kinds, &preset::entries(preset)?)?;
        }
        self.files.iter().try_for_each(|file| base.lay(self.kinds, file))?;
        Ok(base)
    }
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
