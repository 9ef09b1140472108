//! That blocks start at a sane scale and learn, for every mixer that is registered.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use experiments::config::TrainConfig;
use experiments::optimizer::Optimizer;
use heddle_hybrid::{Init, KindTable, MixerRegistry, Model, ModelConfig};
use heddle_kernels::{cross_entropy_at, rms_norm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const WIDTH: usize = 32;

/// Root of the mean square.
fn size<const D: usize>(x: Tensor<D>) -> f32 {
    x.square().mean().sqrt().into_scalar()
}

#[test]
fn a_fresh_stream_keeps_its_scale_through_24_layers() {
    const DEPTH: usize = 24;
    let (registry, device) = (MixerRegistry::default(), Device::flex().autodiff());
    for kind in registry.kinds() {
        let table = KindTable::from_iter([("kind".to_owned(), kind.into())]);
        let mut init = Init::new(3, &device);
        let start: Tensor<3> = init.normal([2, 40, WIDTH], 1.0).val().detach().require_grad();
        let gamma = Tensor::ones([WIDTH], &device);
        let mut x = start.clone();
        let mut last = x.clone();
        for _ in 0..DEPTH {
            let mixer = registry.build(&table, WIDTH, &mut init).unwrap();
            last = mixer.forward(rms_norm(x.clone(), gamma.clone(), 1e-5), mixer.state(2, WIDTH, &device)).0;
            x = x + last.clone();
        }
        let upstream: Tensor<3> = init.normal([2, 40, WIDTH], 1.0).val().detach();
        let gradient = start.grad(&(x.clone() * upstream).sum().backward()).unwrap();
        let (last, stream, gradient) = (size(last), size(x), size(gradient));
        assert!(last > 0.01, "{kind}: the last layer adds {last}");
        // No layer adds more than a vector of its input's size, in directions that have nothing to do with each other.
        assert!((1.0..(1.0 + DEPTH as f32).sqrt()).contains(&stream), "{kind}: the stream has grown to {stream}");
        assert!((0.5..1.0 + DEPTH as f32).contains(&gradient), "{kind}: the gradient has grown to {gradient}");
    }
}

/// Tokens `[64, 12]` below 8, drawn from `seed`.
fn tokens(seed: u64, device: &Device) -> Tensor<2, Int> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let drawn = (0..64 * 12).map(|_| rng.random_range(0..8)).collect::<Vec<i64>>();
    Tensor::from_data(TensorData::new(drawn, [64, 12]), device)
}

#[test]
fn every_mixer_learns_what_the_token_before_was_in_64_steps() {
    let (registry, device) = (MixerRegistry::default(), Device::flex().autodiff());
    for kind in registry.kinds() {
        let config = json!({"d_model": WIDTH, "layers": ["it"], "mixer": {"it": {"kind": kind}}});
        let config: ModelConfig = serde_json::from_value(config).unwrap();
        let mut model = Model::new(&config, 8, &registry, &mut Init::new(1, &device)).unwrap();
        let mut adam = Optimizer::new(&TrainConfig::default());
        let loss = |model: &Model, seed: u64| {
            let tokens = tokens(seed, &device);
            let (hidden, _) = model.forward(tokens.clone(), model.state(64, &device));
            let hidden = hidden.narrow(1, 1, 11).reshape([64 * 11, WIDTH]);
            cross_entropy_at(model.logits(hidden), tokens.narrow(1, 0, 11).flatten(0, 1))
        };
        let before = loss(&model, 0).into_scalar::<f32>();
        for step in 1..=64 {
            let gradients = GradientsParams::from_grads(loss(&model, step).backward(), &model);
            model = adam.step(model, gradients, 1e-2).unwrap().0;
        }
        let after = loss(&model, 0).into_scalar::<f32>();
        assert!(after < 0.75 * before, "{kind}: the loss went from {before} to {after}");
    }
}
