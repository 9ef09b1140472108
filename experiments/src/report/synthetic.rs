//! Runs made up for the tests: files as a run would leave them, with curves that rise at a chosen step.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::read::{Run, read_runs};
use crate::result::{Bin, Metric, RunResult, SliceScore, Stop, Timing};

/// Loss of a uniform guess among 256 tokens.
const GUESS: f64 = 5.545;

/// A made-up run.
#[derive(Clone, Debug)]
pub(crate) struct RunSpec {
    pub(crate) name: String,
    pub(crate) case: String,
    pub(crate) seed: u64,
    pub(crate) axes: BTreeMap<String, Value>,
    /// Slices as (length, pairs).
    pub(crate) slices: Vec<(f64, f64)>,
    /// Step at which accuracy is half of its final value.
    pub(crate) rise: f64,
    /// Accuracy in the end, before the slices' lengths take their toll.
    pub(crate) accuracy: f64,
    /// Share of the accuracy lost for each doubling of the length beyond the first slice.
    pub(crate) toll: f64,
    /// How far a seed's accuracy may lie from `accuracy`.
    pub(crate) noise: f64,
    pub(crate) steps: u64,
    pub(crate) every: u64,
    pub(crate) state_bytes: u64,
    pub(crate) parameters: u64,
    pub(crate) reached: bool,
    /// Whether answers are counted by distance and depth too.
    pub(crate) binned: bool,
    pub(crate) config: String,
}

impl RunSpec {
    pub(crate) fn new(name: &str, case: &str, seed: u64) -> Self {
        Self {
            name: name.into(),
            case: case.into(),
            seed,
            axes: BTreeMap::new(),
            slices: vec![(64.0, 16.0)],
            rise: 100.0,
            accuracy: 0.99,
            toll: 0.0,
            noise: 0.004,
            steps: 200,
            every: 20,
            state_bytes: 6400,
            parameters: 73_000,
            reached: true,
            binned: false,
            config: format!("name = \"{name}\"\ncase = \"{case}\"\nseed = {seed}\n\n[task]\nkind = \"mqar\"\n"),
        }
    }

    /// A name for its directory that no other case or seed shares.
    fn hash(&self) -> String {
        let axes: String = self.axes.iter().map(|(key, value)| format!("{key}{value}")).collect();
        let plain = format!("{}{axes}{}", self.case, self.seed);
        plain
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
            .to_string()
    }

    /// Bins of a quarter of the answers each, the later ones less often right.
    fn bins(&self, from: &[u32], accuracy: f64, labels: u64) -> Vec<Bin> {
        let of = labels / 4;
        let right = |place: usize| (accuracy * of as f64 * (1.0 - 0.1 * place as f64)) as u64;
        let bin = |(place, &from): (usize, &u32)| Bin { from, right: right(place), of };
        from.iter().enumerate().filter(|_| self.binned).map(bin).collect()
    }

    fn score(&self, index: usize, accuracy: f64) -> SliceScore {
        let (length, pairs) = self.slices[index];
        let labels = 16_000_u64;
        let correct = (accuracy * labels as f64).round() as u64;
        SliceScore {
            slice: format!("length={length},pairs={pairs}"),
            keys: BTreeMap::from([("length".to_owned(), length), ("pairs".to_owned(), pairs)]),
            examples: 1000,
            labels,
            correct,
            whole: correct / 16,
            accuracy: correct as f64 / labels as f64,
            loss: GUESS * (1.0 - accuracy),
            chance: 1.0 / 256.0,
            by_distance: self.bins(&[0, 8, 32], accuracy, labels),
            by_depth: self.bins(&[0, 9], accuracy, labels),
        }
    }
}

/// Writes the run's files below `home/<name>/<hash>` and gives that directory.
pub(crate) fn write(home: &Path, spec: &RunSpec) -> PathBuf {
    let hash = spec.hash();
    let dir = home.join(&spec.name).join(&hash);
    fs::create_dir_all(&dir).unwrap();
    let mut noise = ChaCha8Rng::seed_from_u64(hash.parse().unwrap());
    let mut jitter = |scale: f64| scale * noise.random_range(-1.0..1.0);
    let rise = spec.rise * (1.0 + jitter(0.1));
    let best = (spec.accuracy + jitter(spec.noise)).clamp(0.0, 1.0);
    let at = |step: u64| best / (1.0 + (-(step as f64 - rise) / (0.04 * rise)).exp());
    let lasting = |length: f64| (1.0 - spec.toll).powf((length / spec.slices[0].0).log2());
    let mut rows = Vec::new();
    for step in 1..=spec.steps {
        if step.is_multiple_of((spec.every / 4).max(1)) {
            let loss = GUESS * (1.0 - at(step)) * (1.0 + jitter(0.05));
            let tokens = step * 4096;
            rows.push(Metric::Train { step, loss, lr: 3e-3, grad_norm: 1.0, tokens, tokens_per_second: 9e3 });
        }
        if step.is_multiple_of(spec.every) {
            for (index, &(length, _)) in spec.slices.iter().enumerate() {
                let score = spec.score(index, at(step) * lasting(length));
                rows.push(Metric::Eval { step, split: "validation".into(), score });
            }
        }
    }
    let text: String = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n").collect();
    fs::write(dir.join("metrics.jsonl"), text).unwrap();
    let test: Vec<SliceScore> =
        spec.slices.iter().enumerate().map(|(index, &(length, _))| spec.score(index, best * lasting(length))).collect();
    let result = RunResult {
        version: "0.1.0".into(),
        commit: None,
        burn: None,
        name: spec.name.clone(),
        case: spec.case.clone(),
        seed: spec.seed,
        axes: spec.axes.clone(),
        config_hash: hash,
        data_hash: "5e1f".into(),
        device: "cpu".into(),
        parameters: spec.parameters,
        state_bytes: spec.state_bytes,
        state_length: 64,
        steps: spec.steps,
        best_step: spec.steps,
        steps_to_target: spec.reached.then_some(spec.steps),
        tokens_to_target: spec.reached.then_some(spec.steps * 4096),
        stop: if spec.reached { Stop::Target } else { Stop::Steps },
        tokens: spec.steps * 4096,
        validation: test.clone(),
        test,
        timing: Timing {
            train_seconds: spec.steps as f64 * 0.11,
            total_seconds: spec.steps as f64 * 0.13,
            tokens_per_second: 37_000.0,
            overhead: 0.02,
            seconds_to_target: None,
            threads: None,
            peak_bytes: None,
        },
    };
    fs::write(dir.join("result.json"), serde_json::to_string(&result).unwrap()).unwrap();
    fs::write(dir.join("config.toml"), &spec.config).unwrap();
    dir
}

/// The comparison that the pictures were looked at with: attention learns late, the hybrid early, Mamba not at all.
pub(crate) fn comparison(seeds: u64) -> Vec<RunSpec> {
    let cases = [
        ("attention", 820.0, 0.99, 1000, 16_384, 66_000),
        ("hybrid", 110.0, 0.992, 140, 6_400, 71_000),
        ("mamba", 500.0, 0.02, 1500, 4_600, 76_000),
    ];
    let runs = |seed| {
        cases.iter().map(move |&(case, rise, accuracy, steps, state_bytes, parameters)| {
            let reached = accuracy > 0.9;
            let steps = if reached { steps + 20 * seed } else { steps };
            RunSpec { rise, accuracy, steps, state_bytes, parameters, reached, ..RunSpec::new("recall", case, seed) }
        })
    };
    (0..seeds).flat_map(runs).collect()
}

/// Writes the runs and reads them back.
pub(crate) fn read(specs: &[RunSpec]) -> Vec<Run> {
    let home = tempfile::tempdir().unwrap();
    for spec in specs {
        write(home.path(), spec);
    }
    read_runs(&[home.path().to_owned()]).0
}
