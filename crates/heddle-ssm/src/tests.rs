//! Settings that are impossible, and values at the start.

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
    assert_refused(Mamba2Settings { norm_eps: -1.0, ..mamba2 }, "norm_eps", "no ε");
    let norm = InnerNorm { eps: f64::NAN, ..Default::default() };
    assert_refused(MambaSettings { inner_norm: Some(norm), ..Default::default() }, "inner_norm.eps", "no ε");
    let delta = DeltaNetSettings::default();
    assert_refused(DeltaNetSettings { heads: 0, ..delta.clone() }, "heads", "too small");
    assert_refused(DeltaNetSettings { heads: 5, ..delta.clone() }, "heads", "5 does not divide the model's width 24");
    assert_refused(DeltaNetSettings { heads: 4, value_heads: Some(6), ..delta.clone() }, "heads", "value heads 6");
    assert_refused(DeltaNetSettings { value_dim: Some(0), ..delta }, "value_dim", "too small");
    assert_refused(RgLruSettings { gate_blocks: 5, ..Default::default() }, "gate_blocks", "5 does not divide");
    assert_refused(RgLruSettings { a_max: 1.0, ..Default::default() }, "a_min", "not between 0 and `a_max`");
    assert_refused(S4dSettings { d_state: 7, ..Default::default() }, "d_state", "odd");
    assert_refused(LstmSettings { d_hidden: Some(0) }, "d_hidden", "too small");
    assert_refused(GruSettings { d_hidden: Some(0) }, "d_hidden", "too small");
    assert_refused(MinGruSettings { expand: 0 }, "expand", "too small");
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
