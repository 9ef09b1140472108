//! Settings that are impossible, and values at the start.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use heddle_kernels::{Init, Mixer, MixerSettings};

use crate::*;

#[track_caller]
fn assert_refused(settings: impl MixerSettings, key: &str, problem: &str) {
    match settings.init(24, &mut Init::new(0, &Device::flex())) {
        Ok(_) => panic!("{settings:?} was accepted"),
        Err(error) => assert!(error.key == key && error.problem.contains(problem), "{error}"),
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    assert_refused(Mamba2Settings { head_dim: Some(7), ..Default::default() }, "head_dim", "7 does not divide");
    let mamba2 = Mamba2Settings { head_dim: Some(8), ..Default::default() };
    assert_refused(Mamba2Settings { groups: 4, ..mamba2.clone() }, "groups", "4 does not divide the number of heads 6");
    assert_refused(Mamba2Settings { d_conv: 1, ..mamba2.clone() }, "d_conv", "too small");
    assert_refused(Mamba2Settings { dt_min: 1.0, ..mamba2.clone() }, "dt_min", "not between 0 and `dt_max`");
    assert_refused(Mamba2Settings { a_min: 20.0, ..mamba2.clone() }, "a_min", "not between 0 and `a_max`");
    assert_refused(Mamba2Settings { dt_limit: Some([0.3, 0.1]), ..mamba2.clone() }, "dt_limit", "no bounds");
    assert_refused(Mamba2Settings { d_inner: Some(0), ..mamba2.clone() }, "d_inner", "too small");
    assert_refused(Mamba2Settings { norm_groups: Some(5), ..mamba2.clone() }, "norm_groups", "5 does not divide");
    let scales = Some([1.0, 1.0, f64::NAN, 1.0, 1.0]);
    assert_refused(Mamba2Settings { part_scales: scales, ..mamba2.clone() }, "part_scales", "no multiplier");
    assert_refused(Mamba2Settings { norm_eps: -1.0, ..mamba2 }, "norm_eps", "no ε");
    let norm = InnerNorm { eps: f64::NAN, ..Default::default() };
    assert_refused(MambaSettings { inner_norm: Some(norm), ..Default::default() }, "inner_norm.eps", "no ε");
    let delta = DeltaNetSettings::default();
    assert_refused(DeltaNetSettings { heads: 0, ..delta.clone() }, "heads", "too small");
    assert_refused(DeltaNetSettings { heads: 5, ..delta.clone() }, "heads", "5 does not divide the model's width 24");
    assert_refused(DeltaNetSettings { heads: 4, value_heads: Some(6), ..delta.clone() }, "heads", "value heads 6");
    assert_refused(DeltaNetSettings { norm_eps: -1.0, ..delta.clone() }, "norm_eps", "no ε");
    assert_refused(DeltaNetSettings { value_dim: Some(0), ..delta }, "value_dim", "too small");
    assert_refused(RgLruSettings { gate_blocks: 5, ..Default::default() }, "gate_blocks", "5 does not divide");
    assert_refused(RgLruSettings { a_max: 1.0, ..Default::default() }, "a_min", "not between 0 and `a_max`");
    assert_refused(S4dSettings { d_state: 7, ..Default::default() }, "d_state", "odd");
    assert_refused(LstmSettings { d_hidden: Some(0) }, "d_hidden", "too small");
    assert_refused(GruSettings { d_hidden: Some(0) }, "d_hidden", "too small");
    assert_refused(MinGruSettings { expand: 0, ..Default::default() }, "expand", "too small");
    assert_refused(BaseConvSettings { d_conv: 1 }, "d_conv", "too small");
    assert_refused(ShortConvSettings { d_conv: 0, ..Default::default() }, "d_conv", "too small");
}

/// The outputs of a block for random tokens, `[1, 12, 24]`.
fn outputs(settings: impl MixerSettings) -> Tensor<3> {
    let device = Device::flex();
    let mut init = Init::new(3, &device);
    let block = settings.init(24, &mut init).unwrap();
    let x: Tensor<3> = init.normal([1, 12, 24], 1.0).val();
    block.forward(x, block.state(1, 24, &device)).0
}

#[test]
fn shared_heads_and_groups_change_what_is_computed() {
    let delta = DeltaNetSettings { heads: 2, value_heads: Some(4), value_dim: Some(5), ..Default::default() };
    assert_eq!(outputs(delta).dims(), [1, 12, 24]);
    let mamba2 = |groups| Mamba2Settings { head_dim: Some(8), d_state: 6, groups, ..Default::default() };
    let difference = outputs(mamba2(1)) - outputs(mamba2(2));
    assert!(difference.abs().max().into_scalar::<f32>() > 1e-3);
}

/// The map and the outputs differ by how sums are ordered.
const ROUNDING: f32 = 1e-5;

/// A block of width 24 and tokens, `[2, 70, 24]`: more than come in one call of the mixing when a map is read off.
pub(crate) fn block_and_tokens<S: MixerSettings>(settings: S) -> (S::Mixer, Tensor<3>) {
    let mut init = Init::new(7, &Device::flex());
    let block = settings.init(24, &mut init).unwrap();
    (block, init.normal([2, 70, 24], 1.0).val())
}

/// Asserts that the map of `x` by the values, head by head, is what the block makes of the values.
#[track_caller]
pub(crate) fn assert_map_gives(block: &impl Mixer, x: Tensor<3>, values: Tensor<3>, outputs: Tensor<3>) {
    let [b, l, e] = values.dims();
    let map = block.attention_map(x, 0..l).expect("it has a map");
    let h = map.dims()[1];
    let by_head = values.reshape([b, l, h, e / h]).swap_dims(1, 2);
    let given = map.matmul(by_head).swap_dims(1, 2).reshape([b, l, e]);
    let largest = |x: Tensor<3>| x.abs().max().into_scalar::<f32>();
    assert!(largest(outputs.clone()) > 1e-2, "the outputs are next to zero");
    let error = largest(given - outputs.clone()) / largest(outputs);
    assert!(error < ROUNDING, "the map is off by {error:.1e}");
}

/// The parameters of a fresh block of width 256 by path.
fn fresh(settings: impl MixerSettings) -> BTreeMap<String, Vec<f32>> {
    #[derive(Default)]
    struct Collect(Vec<String>, BTreeMap<String, Vec<f32>>);
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.join("."), param.val().into_data().try_to_vec().unwrap());
        }
    }
    let mut collect = Collect::default();
    settings.init(256, &mut Init::new(2, &Device::flex())).unwrap().visit(&mut collect);
    collect.1
}

/// Kolmogorov and Smirnov's test: a sample of a uniform distribution fails it once in a hundred, and the seed is fixed.
#[track_caller]
fn assert_uniform(values: impl Iterator<Item = f64>, [low, high]: [f64; 2]) {
    let mut shares: Vec<f64> = values.map(|value| (value - low) / (high - low)).collect();
    shares.sort_by(f64::total_cmp);
    let count = shares.len() as f64;
    assert!(count >= 200.0, "{count} numbers tell little");
    assert!(shares[0] > -1e-3 && shares[shares.len() - 1] < 1.0 + 1e-3, "outside: {shares:?}");
    let distance = shares.iter().enumerate().map(|(i, share)| (share - (i as f64 + 0.5) / count).abs());
    let largest = distance.fold(0.0, f64::max);
    assert!(largest < 1.63 / count.sqrt(), "not uniform: off by {largest}");
}

fn softplus(x: f32) -> f64 {
    f64::from(x).exp().ln_1p()
}

#[test]
fn the_steps_of_a_fresh_block_are_log_uniform() {
    // arXiv:2312.00752, §3.6; the codes of Mamba-2 and of gated DeltaNet take it over.
    let bounds = [1e-3f64.ln(), 0.1f64.ln()];
    let log_steps = |bias: &[f32]| bias.iter().map(|bias| softplus(*bias).ln()).collect::<Vec<_>>().into_iter();
    assert_uniform(log_steps(&fresh(MambaSettings::default())["dt_bias"]), bounds);
    let mamba2 = Mamba2Settings { d_state: 1, head_dim: Some(1), ..Default::default() };
    assert_uniform(log_steps(&fresh(mamba2)["dt_bias"]), bounds);
    let delta = DeltaNetSettings { heads: 256, ..Default::default() };
    assert_uniform(log_steps(&fresh(delta)["decay.dt_bias"]), bounds);
    let s4d = fresh(S4dSettings { d_state: 2, ..Default::default() });
    assert_uniform(s4d["log_dt"].iter().map(|log| f64::from(*log)), bounds);
}

#[test]
fn the_decay_rates_of_a_fresh_block_are_those_of_its_authors() {
    let rates = |log: &[f32]| log.iter().map(|log| f64::from(log.exp())).collect::<Vec<_>>().into_iter();
    let mamba = fresh(MambaSettings { d_state: 3, ..Default::default() });
    rates(&mamba["a_log"]).enumerate().for_each(|(i, a)| assert!((a - (i % 3 + 1) as f64).abs() < 1e-5));
    let mamba2 = Mamba2Settings { d_state: 1, head_dim: Some(1), ..Default::default() };
    assert_uniform(rates(&fresh(mamba2)["a_log"]), [1.0, 16.0]);
    let delta = DeltaNetSettings { heads: 256, ..Default::default() };
    assert_uniform(rates(&fresh(delta)["decay.a_log"]), [0.0, 16.0]);
    // The square of a^c, whose rate is c softplus(Λ), is uniform.
    let rg_lru = fresh(RgLruSettings::default());
    let squares = rg_lru["rate"].iter().map(|rate| (-2.0 * 8.0 * softplus(*rate)).exp());
    assert_uniform(squares, [0.9f64.powi(2), 0.999f64.powi(2)]);
}

#[test]
fn a_fresh_s4d_is_s4d_lin_or_s4d_inv() {
    // For four states; S4D-Inv has 4/π (4/1 − 1) and 4/π (4/3 − 1).
    for (spectrum, expected) in
        [(Spectrum::Linear, [0.0, core::f32::consts::PI]), (Spectrum::Inverse, [3.819719, 0.424413])]
    {
        let s4d = fresh(S4dSettings { d_state: 4, spectrum, ..Default::default() });
        assert!(s4d["log_rate"].iter().all(|log| (log.exp() - 0.5).abs() < 1e-6));
        let frequencies = s4d["frequency"].iter().enumerate();
        frequencies.for_each(|(i, f)| assert!((f - expected[i % 2]).abs() < 1e-5, "{spectrum:?}: {f}"));
    }
    let s4d = fresh(S4dSettings { d_state: 10, ..Default::default() });
    let variance = |values: &[f32]| values.iter().map(|x| f64::from(x * x)).sum::<f64>() / values.len() as f64;
    for (name, expected) in [("read_re", 0.5), ("read_im", 0.5), ("skip", 1.0)] {
        let (values, found) = (&s4d[name], variance(&s4d[name]));
        // Four standard deviations of the variance of as many normal numbers.
        let bound = 4.0 * (2.0 / values.len() as f64).sqrt();
        assert!((found / expected - 1.0).abs() < bound, "{name}: {found}");
    }
}

#[test]
fn the_expansion_of_a_fresh_mambas_step_is_uniform() {
    // arXiv:2312.00752's code: ±r^{−1/2}, with the default rank ⌈256/16⌉.
    let mamba = fresh(MambaSettings::default());
    assert_uniform(mamba["dt_proj.weight"].iter().map(|weight| f64::from(*weight)), [-0.25, 0.25]);
}

#[test]
fn a_positive_min_gru_has_positive_states() {
    let device = Device::flex();
    let settings = MinGruSettings { positive: true, ..Default::default() };
    let mut init = Init::new(3, &device);
    let block = settings.init(24, &mut init).unwrap();
    let x: Tensor<3> = init.normal([1, 12, 24], 3.0).val();
    let least = |state: Tensor<2>| state.min().into_scalar::<f32>();
    assert!(least(block.forward(x.clone(), block.state(1, 24, &device)).1) > 0.0);
    let linear = MinGruSettings::default().init(24, &mut Init::new(3, &device)).unwrap();
    assert!(least(linear.forward(x, linear.state(1, 24, &device)).1) < 0.0);
}
