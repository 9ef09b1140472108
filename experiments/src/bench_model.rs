//! How fast a model reads a context and decodes behind it: `heddle bench model`.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Args;
use heddle_hybrid::{Model, ModelState, Sampling};
use serde::Serialize;

use crate::Registry;
use crate::bench::BenchError;
use crate::cli::{Out, positive};
use crate::device::device;
use crate::pretrained::{ModelDirError, load_model};
use crate::report::format::{bytes, whole};

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Directory of the model
    dir: PathBuf,
    /// Tokens before the first that is decoded
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = positive)]
    context: usize,
    /// Tokens that are decoded
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    tokens: usize,
    /// How often both are measured, for the median
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    rounds: usize,
    /// Where to run: `cpu` (Burn's Flex backend) or `ndarray`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was measured of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    context: usize,
    tokens: usize,
    /// Tokens a second of the context.
    prefill: f64,
    /// Tokens a second behind it, one at a time.
    decoding: f64,
    /// Bytes of state behind the context.
    state_bytes: usize,
    /// The likeliest token behind the context.
    next: usize,
}

pub(crate) fn execute(args: &ModelArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    let device = device(&args.device).map_err(ModelDirError::from)?;
    let model = load_model(&args.dir, registry, &device)?;
    let row = measure(&model, args, &device)?;
    out.line(&if args.json {
        serde_json::to_string(&row)?
    } else {
        let rate = |rate: f64| whole(rate.round() as u64);
        let (prefill, decoding, state) = (rate(row.prefill), rate(row.decoding), bytes(row.state_bytes as f64));
        format!("prefill: {prefill} tokens/s; decoding: {decoding} tokens/s; state: {state}")
    })
}

/// Token `i` of the context: any will do, as long as they differ.
fn token(i: usize, vocab: usize) -> i64 {
    (i * 7919 % vocab) as i64
}

fn measure(model: &Model, args: &ModelArgs, device: &Device) -> Result<Row, BenchError> {
    let ModelArgs { context, tokens, .. } = *args;
    if let Some(longest) = model.max_length().filter(|longest| context + tokens > *longest) {
        return Err(BenchError::TooLong { context, tokens, longest });
    }
    let ids = (0..context).map(|i| token(i, model.vocab())).collect::<Vec<_>>();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, context]), device);
    let read = || next(model, ids.clone(), model.state(1, device));
    // The first time, memory is fetched from the system.
    let (_, mut state) = read();
    let (mut prefills, mut decodings, mut likeliest) = (vec![], vec![], 0);
    let state_bytes = state.bytes();
    for _ in 0..args.rounds {
        let start = Instant::now();
        (likeliest, state) = read();
        prefills.push(context as f64 / start.elapsed().as_secs_f64());
        let (start, mut last) = (Instant::now(), likeliest);
        for _ in 0..tokens {
            let id = Tensor::<2, Int>::from_data([[last as i64]], device);
            (last, state) = next(model, id, state);
        }
        decodings.push(tokens as f64 / start.elapsed().as_secs_f64());
    }
    let [prefill, decoding] = [prefills, decodings].map(median);
    Ok(Row { context, tokens, prefill, decoding, state_bytes, next: likeliest })
}

/// The likeliest token behind these, and the state there.
fn next(model: &Model, tokens: Tensor<2, Int>, state: ModelState) -> (usize, ModelState) {
    let (scores, state) = model.score_next(tokens, state);
    let scores: Vec<f32> = scores.into_data().try_to_vec().expect("scores are f32");
    (Sampling::default().pick(&scores, 0), state)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
