//! Rotary positions, by the formula.

use burn::tensor::{Device, Tensor, TensorData};

use super::{Pairing, Rotary};

/// Turns pairs of channels by their token's position (arXiv:2104.09864, eq. 34): the definition that the kernel must equal.
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, h, l, p]`
///
/// # Panics
/// If there are more pairs than fit the head.
pub fn rotate_by_definition(x: Tensor<4>, rotary: &Rotary) -> Tensor<4> {
    let [b, h, l, p] = x.dims();
    rotary.assert_fits(p);
    let k = rotary.frequencies.len();
    if k == 0 {
        return x;
    }
    let (cos, sin) = rotation(rotary, l, &x.device());
    let turning = x.clone().slice([0..b, 0..h, 0..l, 0..2 * k]);
    // The two channels of every pair along an axis of their own, behind or before the pairs.
    let (shape, axis) = match rotary.pairing {
        Pairing::Halves => ([b, h, l, 2, k], 3),
        Pairing::Neighbours => ([b, h, l, k, 2], 4),
    };
    let pairs: Tensor<5> = turning.reshape(shape);
    let (first, second) = (pairs.clone().narrow(axis, 0, 1).squeeze_dim::<4>(axis), pairs.narrow(axis, 1, 1));
    let second = second.squeeze_dim::<4>(axis);
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos + first * sin;
    let turned: Tensor<5> = Tensor::stack(vec![turned_first, turned_second], axis);
    let turned = turned.reshape([b, h, l, 2 * k]);
    if 2 * k == p { turned } else { Tensor::cat(vec![turned, x.slice([0..b, 0..h, 0..l, 2 * k..p])], 3) }
}

/// Cosines and sines of every position and pair, `[1, 1, l, k]`.
fn rotation(rotary: &Rotary, l: usize, device: &Device) -> (Tensor<4>, Tensor<4>) {
    let k = rotary.frequencies.len();
    let angles = (0..l).flat_map(|t| rotary.frequencies.iter().map(move |w| (rotary.offset + t) as f64 * w));
    let table = |of: fn(f64) -> f64| {
        let values: Vec<f32> = angles.clone().map(|angle| of(angle) as f32).collect();
        Tensor::from_data(TensorData::new(values, [1, 1, l, k]), device)
    };
    (table(f64::cos), table(f64::sin))
}
