//! The table `[slurm]`: what a sweep asks of a cluster's scheduler. It is a part of no run and of no hash.

use serde::{Deserialize, Serialize};
use serde_json::{Value, to_value};

use super::draft::blame;
use super::error::ConfigError;
use super::overlay::{conform, mismatch, unknown};
use super::source::{Data, Entry, Places};

/// What each run of a sweep asks of Slurm. Every setting but `at_once` and `setup` is an option of `sbatch`, handed on as it
/// is written; one that is not set is not asked for.
///
/// ```
/// use experiments::config::SlurmConfig;
///
/// let asked = SlurmConfig { partition: Some("gpu".into()), gpus: 1, time: Some("04:00:00".into()), ..Default::default() };
/// assert_eq!(asked.directives(), ["--partition=gpu", "--time=04:00:00", "--gpus-per-task=1", "--cpus-per-task=1"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlurmConfig {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--constraint`: features that the node must have.
    pub constraint: Option<String>,
    /// `--time`: the longest that one run may take, as `minutes`, `hours:minutes:seconds` or `days-hours`.
    pub time: Option<String>,
    /// `--gpus-per-task`; 0 asks for none.
    pub gpus: usize,
    /// `--cpus-per-task`, which are also the threads of a run.
    pub cpus: usize,
    /// `--mem`, such as `8G`.
    pub memory: Option<String>,
    /// Runs at a time at most; 0 leaves it to Slurm.
    pub at_once: usize,
    /// Lines of shell before each run, such as `module load vulkan`.
    pub setup: Vec<String>,
    /// More options of `sbatch`, such as `--exclude=node7`.
    pub options: Vec<String>,
}

impl Default for SlurmConfig {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            constraint: None,
            time: None,
            gpus: 0,
            cpus: 1,
            memory: None,
            at_once: 0,
            setup: vec![],
            options: vec![],
        }
    }
}

impl SlurmConfig {
    /// The options of `sbatch` that this asks for.
    pub fn directives(&self) -> Vec<String> {
        let named = [
            ("partition", &self.partition),
            ("account", &self.account),
            ("qos", &self.qos),
            ("constraint", &self.constraint),
            ("time", &self.time),
            ("mem", &self.memory),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?)));
        let gpus = (self.gpus > 0).then(|| format!("--gpus-per-task={}", self.gpus));
        let cpus = format!("--cpus-per-task={}", self.cpus);
        named.chain(gpus).chain([cpus]).chain(self.options.iter().cloned()).collect()
    }

    /// The first setting that would not reach `sbatch` as it is meant, and why.
    fn complaint(&self) -> Option<(String, String)> {
        let Ok(Value::Object(settings)) = to_value(self) else { return None };
        // Each goes on a line of its own in a script, where white space would end it.
        let bad =
            |text: &str| text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        let single = settings.iter().find(|(_, value)| value.as_str().is_some_and(bad));
        if let Some((key, _)) = single {
            return Some((key.clone(), "one word, without quotes, is needed".into()));
        }
        for (i, option) in self.options.iter().enumerate() {
            let key = format!("options[{i}]");
            let name = option.split('=').next().unwrap_or_default();
            if bad(option) || !name.starts_with("--") {
                return Some((key, "write it as `--name=value`, without spaces".into()));
            }
            if ["--array", "--output", "--error", "--wrap"].contains(&name) {
                return Some((key, format!("`{name}` is set by the sweep itself; leave it out")));
            }
        }
        let line = self.setup.iter().position(|line| line.contains(['\n', '\r', '\0']));
        let line = line.map(|i| (format!("setup[{i}]"), "write one line of shell an entry".into()));
        line.or_else(|| (self.cpus == 0).then(|| ("cpus".into(), "a run needs 1 or more".into())))
    }

    pub(super) fn parse(entry: Option<Entry>) -> Result<Self, ConfigError> {
        let Some(entry) = entry else { return Ok(Self::default()) };
        let Data::Table(entries) = &entry.node.data else {
            return Err(mismatch(&entry.node, "slurm", "a table").into());
        };
        let mut settings = to_value(Self::default()).expect("plain settings serialise");
        let known = settings.as_object_mut().expect("a struct is an object");
        let mut places = Places::new();
        for entry in entries {
            let path = format!("slurm.{}", entry.name);
            let shape = match known.get(&entry.name) {
                None => return Err(unknown(known, entry, &path).into()),
                Some(Value::Null) => Value::from(""),
                Some(Value::Array(_)) => Value::from(vec![""]),
                Some(shape) => shape.clone(),
            };
            known.insert(entry.name.clone(), conform(&shape, &entry.node, &path, &mut places)?);
        }
        let slurm: Self = serde_path_to_error::deserialize(&settings)
            .map_err(|error| blame(&places, &format!("slurm.{}", error.path()), &error.inner().to_string()))?;
        match slurm.complaint() {
            Some((key, problem)) => Err(blame(&places, &format!("slurm.{key}"), &problem)),
            None => Ok(slurm),
        }
    }
}
