//! How fast the mixers are on this machine, and what they hold: `heddle bench blocks`.
//!
//! Each block and length is measured in a process of its own, whose peak memory is then the block's.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use heddle_hybrid::{AnyMixer, Init, KindTable, MixerRegistry, SettingsError};
use heddle_kernels::on_workers;
use serde::{Deserialize, Serialize};

use crate::device::{DeviceError, device};
use crate::files::FileError;
use crate::memory::{peak_bytes, resident_bytes};
use crate::report::format::{bytes, or_none, whole};
use crate::report::sheet::{Column, Sheet};

/// What to measure, beside a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Device, by name.
    pub device: String,
    /// Width of the tokens.
    pub d_model: usize,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub length: usize,
}

/// What was measured of a block at a length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The block's kind; its settings are the defaults.
    pub kind: String,
    /// Where and how much.
    #[serde(flatten)]
    pub setting: Setting,
    /// Tokens a second forward, over the whole batch.
    pub forward: f64,
    /// Tokens a second forward and backward.
    pub training: f64,
    /// Tokens a second one by one behind a sequence of this length.
    pub decoding: f64,
    /// Bytes of state of one sequence.
    pub state_bytes: u64,
    /// Most bytes that forward and backward pass held at a time, if the system tells.
    pub peak_bytes: Option<u64>,
}

/// A block that could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The block.
    #[error("mixer `{kind}`: {source}")]
    Mixer {
        /// Its kind.
        kind: String,
        /// What is wrong with it.
        source: SettingsError,
    },
    /// A context beyond the model's positions.
    #[error(
        "`--context` {context} and `--tokens` {tokens} pass the {longest} positions that the model learned; ask for fewer"
    )]
    TooLong {
        /// Tokens before decoding.
        context: usize,
        /// Tokens to decode.
        tokens: usize,
        /// The longest sequence that the model can read.
        longest: usize,
    },
    /// The process that measures could not be started.
    #[error(transparent)]
    Start(#[from] FileError),
    /// The process that measures failed.
    #[error("mixer `{kind}` at length {length} could not be measured: {words}")]
    Failed {
        /// Its kind.
        kind: String,
        /// The length.
        length: usize,
        /// The last words of its process.
        words: String,
    },
}

impl BenchError {
    /// Whether what was asked for does not exist, rather than failed.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Device(_) | Self::Mixer { .. } | Self::TooLong { .. })
    }
}

/// Checks that a block can be built, before any is measured.
///
/// # Errors
/// If there is no such device or block.
pub fn check(kind: &str, d_model: usize, mixers: &MixerRegistry, device_name: &str) -> Result<(), BenchError> {
    build(kind, d_model, mixers, &device(device_name)?).map(drop)
}

/// Measures a block in a process of its own: this program, called with `--measure`.
///
/// # Errors
/// If the process cannot be started, or fails.
pub fn measure_apart(kind: &str, setting: &Setting) -> Result<Row, BenchError> {
    let failed = |words: String| BenchError::Failed { kind: kind.to_owned(), length: setting.length, words };
    let program = std::env::current_exe().map_err(FileError::of("find", Path::new("this program")))?;
    let numbers = [setting.d_model, setting.batch, setting.length].map(|number| number.to_string());
    let output = Command::new(&program)
        .args(["bench", "blocks", "--measure", kind, "--device", &setting.device])
        .args(["--d-model", &numbers[0], "--batch", &numbers[1], "--lengths", &numbers[2]])
        .stdin(Stdio::null())
        .output()
        .map_err(FileError::of("start", &program))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

/// Measures a block in this process.
///
/// # Errors
/// If there is no such device or block.
pub fn measure(kind: &str, setting: &Setting, mixers: &MixerRegistry) -> Result<Row, BenchError> {
    let device = device(&setting.device)?;
    let build = |device: &Device| build(kind, setting.d_model, mixers, device);
    let Setting { d_model, batch, length, .. } = *setting;
    let draw = |length: usize, device: &Device| {
        Tensor::<3>::random([batch, length, d_model], Distribution::Normal(0.0, 1.0), device)
    };

    // Forward and backward first, so that the peak is theirs.
    let tracked = device.clone().autodiff();
    let (mixer, x) = (build(&tracked)?, draw(length, &tracked));
    let before = resident_bytes();
    let training = rate(batch * length, || {
        let y = mixer.forward(x.clone(), mixer.state(batch, d_model, &tracked)).0;
        let gradients = y.square().mean().backward();
        finish(&tracked, gradients);
    });
    let peak_bytes = peak_bytes().zip(before).map(|(peak, before)| peak.saturating_sub(before));

    let (mixer, x) = (build(&device)?, draw(length, &device));
    let forward = rate(batch * length, || {
        finish(&device, mixer.forward(x.clone(), mixer.state(batch, d_model, &device)));
    });
    let (_, state) = mixer.forward(x, mixer.state(batch, d_model, &device));
    let state_bytes = state.bytes() as u64 / batch as u64;
    let token = draw(1, &device);
    // A clone shares its tensors until the first token behind it, whose copy is no part of decoding.
    let begin = || mixer.forward(token.clone(), state.clone()).1;
    let decoding = rate_behind(batch * TOKENS, begin, |state| {
        let step = |state, _| mixer.forward(token.clone(), state).1;
        finish(&device, on_workers(|| (0..TOKENS).fold(state, step)));
    });
    Ok(Row { kind: kind.to_owned(), setting: setting.clone(), forward, training, decoding, state_bytes, peak_bytes })
}

/// Tokens decoded for one measurement.
const TOKENS: usize = 16;

/// Measurements of one kind go on for this long.
const ENOUGH: Duration = Duration::from_millis(1500);

/// Fewest measurements of which the median is taken.
const LEAST: usize = 3;

fn build(kind: &str, d_model: usize, mixers: &MixerRegistry, device: &Device) -> Result<AnyMixer, BenchError> {
    let table = KindTable::from_iter([("kind".to_owned(), kind.into())]);
    let error = |source| BenchError::Mixer { kind: kind.to_owned(), source };
    mixers.build(&table, d_model, &mut Init::new(0, device)).map_err(error)
}

/// Waits for the device, and lets go of what was computed.
fn finish<T>(device: &Device, computed: T) {
    // A device that cannot be waited for has failed in the computation, which then panics by itself.
    let _ = device.sync();
    drop(computed);
}

/// `tokens` over the median time of a run.
fn rate(tokens: usize, mut run: impl FnMut()) -> f64 {
    rate_behind(tokens, || (), |()| run())
}

/// The same of runs that each begin with something that is not measured.
fn rate_behind<T>(tokens: usize, mut prepare: impl FnMut() -> T, mut run: impl FnMut(T)) -> f64 {
    run(prepare());
    let begin = Instant::now();
    let mut times = vec![];
    while times.len() < LEAST || begin.elapsed() < ENOUGH {
        let prepared = prepare();
        let start = Instant::now();
        run(prepared);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    tokens as f64 / times[times.len() / 2]
}

/// The rows as a table for people.
pub fn table(rows: &[Row]) -> Sheet {
    let columns = vec![
        Column::text("mixer"),
        Column::number("length"),
        Column::number("forward, tokens/s"),
        Column::number("and backward, tokens/s"),
        Column::number("decoding, tokens/s"),
        Column::number("state of a sequence"),
        Column::number("peak memory"),
    ];
    let row = |row: &Row| {
        vec![
            row.kind.clone(),
            whole(row.setting.length as u64),
            whole(row.forward.round() as u64),
            whole(row.training.round() as u64),
            whole(row.decoding.round() as u64),
            bytes(row.state_bytes as f64),
            or_none(row.peak_bytes, |peak| bytes(peak as f64)),
        ]
    };
    Sheet { columns, rows: rows.iter().map(row).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting { device: "cpu".into(), d_model: 16, batch: 2, length: 8 }
    }

    #[test]
    fn a_block_has_rates_and_a_state() {
        let row = measure("mamba", &setting(), &MixerRegistry::default()).unwrap();
        assert!(row.forward > row.training && row.training > 0.0 && row.decoding > 0.0);
        // 32 channels with 16 states and three inputs of the convolution.
        assert_eq!(row.state_bytes, 4 * 32 * (16 + 3));
        let sheet = table(&[row]);
        assert_eq!(
            (sheet.rows[0][0].as_str(), sheet.rows[0][1].as_str(), sheet.rows[0][5].as_str()),
            ("mamba", "8", "2.38 KiB")
        );
    }

    #[test]
    fn what_cannot_be_measured_is_named() {
        let error = |kind: &str, setting: Setting| measure(kind, &setting, &MixerRegistry::default()).unwrap_err();
        assert!(error("mambo", setting()).to_string().contains("did you mean `mamba"));
        assert!(error("mamba", Setting { device: "gpu".into(), ..setting() }).to_string().contains("gpu"));
        assert!(error("attention", Setting { d_model: 15, ..setting() }).to_string().contains("`heads`"));
    }
}
