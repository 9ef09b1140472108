//! How fast blocks and whole training steps are: `cargo bench -p experiments --bench steps`.
//!
//! A block's step is its forward and backward pass, with all projections, and an update by AdamW; a model's step is that
//! of MQAR with 16 labels a sequence. Sizes are those at which other implementations are measured.

use std::hint::black_box;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Int, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use experiments::config::TrainConfig;
use experiments::optimizer::Optimizer;
use heddle_hybrid::{AnyMixer, Init, KindTable, MixerRegistry, Model, ModelConfig};
use heddle_kernels::cross_entropy_at;
use serde_json::{Value, json};

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sequences of a block's input.
const BATCH: usize = 8;
/// Width of a token.
const WIDTH: usize = 128;
/// Sequences of a model's batch.
const SEQUENCES: usize = 64;
/// Their length.
const LENGTH: usize = 256;
/// Labels of each.
const LABELS: usize = 16;
/// Tokens known.
const VOCAB: usize = 8192;

fn table(value: &Value) -> KindTable {
    value.as_object().expect("a table").clone()
}

fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// A step of AdamW on what `loss` depends on.
fn step<M: Module>(model: M, adam: &mut Optimizer, loss: impl Fn(&M) -> Tensor<1>) -> M {
    let gradients = GradientsParams::from_grads(loss(&model).backward(), &model);
    adam.step(model, gradients, 1e-3).expect("finite gradients").0
}

fn block(criterion: &mut Criterion, name: &str, settings: &Value, lengths: &[usize]) {
    let registry = MixerRegistry::default();
    let build = |device: &Device| registry.build(&table(settings), WIDTH, &mut Init::new(0, device)).expect("a block");
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    for &length in lengths {
        let run = |mixer: &AnyMixer, x: &Tensor<3>| mixer.forward(x.clone(), mixer.state(BATCH, WIDTH, &x.device())).0;
        let device = Device::flex();
        let (mixer, x) = (build(&device), random([BATCH, length, WIDTH], &device));
        group.bench_function(format!("{length} forward"), |bencher| bencher.iter(|| black_box(run(&mixer, &x))));
        let device = device.autodiff();
        let (mut mixer, x) = (Some(build(&device)), random([BATCH, length, WIDTH], &device));
        let mut adam = Optimizer::new(&TrainConfig::default());
        group.bench_function(format!("{length} step"), |bencher| {
            bencher.iter(|| {
                let before = mixer.take().expect("put back after each step");
                mixer = Some(step(before, &mut adam, |mixer| run(mixer, &x).square().mean()));
            });
        });
    }
    group.finish();
}

fn blocks(criterion: &mut Criterion) {
    let attention =
        |window: Option<usize>| json!({"kind": "attention", "heads": 4, "positions": "none", "window": window});
    block(criterion, "attention", &attention(None), &[1024, 4096]);
    block(criterion, "attention window 256", &attention(Some(256)), &[1024, 4096, 16_384]);
    block(criterion, "mamba", &json!({"kind": "mamba"}), &[256, 1024, 4096]);
    let mamba2 = json!({"kind": "mamba2", "head_dim": 32, "d_state": 16});
    block(criterion, "mamba2", &mamba2, &[256, 1024, 4096]);
    let delta = json!({"kind": "gated_delta_net", "heads": 8, "head_dim": 16, "value_dim": 32});
    block(criterion, "gated_delta_net", &delta, &[256, 1024, 4096]);
}

fn model(criterion: &mut Criterion, name: &str, layers: &Value) {
    let config: ModelConfig = serde_json::from_value(json!({
        "d_model": WIDTH,
        "tied": true,
        "layers": layers,
        "mixer": {
            "attention": {"kind": "attention", "heads": 2},
            "conv": {"kind": "base_conv"},
            "mamba": {"kind": "mamba"},
        },
        "channel": {"mlp": {"kind": "swiglu", "expand": 4.0}},
    }))
    .expect("a model");
    let device = Device::flex().autodiff();
    let tokens = |shape: [usize; 2]| -> Tensor<2, Int> {
        Tensor::random(shape, Distribution::Uniform(0.0, VOCAB as f64), &device)
    };
    let (inputs, targets) = (tokens([SEQUENCES, LENGTH]), tokens([1, SEQUENCES * LABELS]).flatten(0, 1));
    let positions = Tensor::arange(0..(SEQUENCES * LABELS) as i64, &device).mul_scalar((LENGTH / LABELS) as i64);
    let mut model = Model::new(&config, VOCAB, &MixerRegistry::default(), &mut Init::new(0, &device)).ok();
    let mut adam = Optimizer::new(&TrainConfig::default());
    let mut group = criterion.benchmark_group("mqar step");
    group.sample_size(10);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let before = model.take().expect("put back after each step");
            model = Some(step(before, &mut adam, |model| {
                let (hidden, _) = model.forward(inputs.clone(), model.state(SEQUENCES, &device));
                let rows = hidden.reshape([SEQUENCES * LENGTH, WIDTH]).select(0, positions.clone());
                cross_entropy_at(model.logits(rows), targets.clone())
            }));
        });
    });
    group.finish();
}

fn models(criterion: &mut Criterion) {
    model(criterion, "convolution, attention", &json!(["conv", "attention"]));
    model(criterion, "attention, attention", &json!(["attention * 2"]));
    model(criterion, "mamba, mamba", &json!(["mamba * 2"]));
    model(criterion, "mamba, mamba, attention, mamba", &json!(["mamba+mlp * 2", "attention+mlp", "mamba+mlp"]));
}

criterion_group!(all, blocks, models);
criterion_main!(all);
