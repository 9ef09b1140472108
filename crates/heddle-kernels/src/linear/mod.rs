//! Linear maps of few rows, as in decoding token by token.
//!
//! With one row, a product reads every weight once and uses it once: it is as fast as memory, if the weights are read in
//! the order in which they lie and by all threads. Burn's product packs them first, or runs on one thread.

mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;

pub use definition::{linear_by_definition, unembed_by_definition};

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};
use cpu::{Dims, Layout};

/// Rows from which on a product uses its weights so often that Burn's is the faster one.
const MANY_ROWS: usize = 5;

/// `y = x W + b` for every row of `x`: what [`linear_by_definition`] computes.
///
/// Where there are few rows and nobody asks for gradients, it is a kernel that reads the weights once.
///
/// # Shapes
/// - `x`: `[…, d_in]`; `map.weight`: `[d_in, d_out]`; returned: `[…, d_out]`
///
/// # Panics
/// If the rows are not as long as the map reads.
///
/// # Examples
///
/// ```
/// use burn::{module::Param, nn::Linear, tensor::{Device, Tensor}};
/// let device = Device::flex();
/// let map = Linear { weight: Param::from_tensor(Tensor::from_data([[1.0, 2.0], [3.0, 4.0]], &device)), bias: None };
/// let y = heddle_kernels::linear(Tensor::<2>::from_data([[1.0, 10.0]], &device), &map);
/// assert_eq!(y.into_data().to_vec::<f32>()?, [31.0, 42.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn linear<const D: usize>(x: Tensor<D>, map: &Linear) -> Tensor<D> {
    let mut shape = x.dims();
    let rows = shape[..D - 1].iter().product();
    let weight = map.weight.val();
    let [k, n] = weight.dims();
    assert!(shape[D - 1] == k, "linear: rows of {} numbers for a map that reads {k}", shape[D - 1]);
    if !pays(&x, &weight, rows) {
        return linear_by_definition(x, map);
    }
    shape[D - 1] = n;
    let dims = Dims { rows, k, n, layout: Layout::ByInput };
    let bias = map.bias.as_ref().map(|bias| bias.val());
    apply(dims, x.reshape([rows, k]), weight, bias).reshape(shape)
}

/// The projection behind `heads` that lie side by side, without what it reads of `head`; none if there is no such head.
///
/// # Examples
/// ```
/// use burn::{module::Param, nn::Linear, tensor::{Device, Tensor}};
/// use heddle_kernels::{linear, without_head_of};
///
/// let device = Device::flex();
/// let weight = Param::from_tensor(Tensor::from_data([[1.0], [2.0], [4.0], [8.0]], &device));
/// let without = without_head_of(&Linear { weight, bias: None }, 0, 2).expect("there are two");
/// let y = linear(Tensor::<2>::ones([1, 4], &device), &without);
/// assert_eq!(y.into_scalar::<f32>(), 12.0);
/// assert!(without_head_of(&without, 2, 2).is_none());
/// ```
pub fn without_head_of(map: &Linear, head: usize, heads: usize) -> Option<Linear> {
    let weight = map.weight.val();
    let [rows, d] = weight.dims();
    let p = rows / heads;
    let nothing = Tensor::zeros([p, d], &weight.device());
    let weight = (head < heads).then(|| weight.slice_assign([head * p..(head + 1) * p, 0..d], nothing))?;
    Some(Linear { weight: Param::from_tensor(weight), bias: map.bias.clone() })
}

/// `x Eᵀ`: the scores of each row of an embedding (arXiv:1608.05859, §2), what [`unembed_by_definition`] computes.
///
/// Where there are few rows and nobody asks for gradients, it is a kernel that reads the embedding once.
///
/// # Shapes
/// - `x`: `[rows, d]`; `embedding`: `[v, d]`; returned: `[rows, v]`
///
/// # Panics
/// If the widths disagree.
///
/// # Examples
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// let device = Device::flex();
/// let embedding = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]], &device);
/// let scores = heddle_kernels::unembed(Tensor::from_data([[1.0, 10.0]], &device), embedding);
/// assert_eq!(scores.into_data().to_vec::<f32>()?, [21.0, 43.0, 10.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn unembed(x: Tensor<2>, embedding: Tensor<2>) -> Tensor<2> {
    let ([rows, d], [n, k]) = (x.dims(), embedding.dims());
    assert!(d == k, "unembed: rows of {d} numbers for an embedding of width {k}");
    if !pays(&x, &embedding, rows) {
        return unembed_by_definition(x, embedding);
    }
    apply(Dims { rows, k, n, layout: Layout::ByOutput }, x, embedding, None)
}

/// Whether the kernel is there and the faster way.
fn pays<const D: usize>(x: &Tensor<D>, weight: &Tensor<2>, rows: usize) -> bool {
    let plain = !x.is_autodiff() && !weight.is_autodiff();
    plain && (1..MANY_ROWS).contains(&rows) && native::has_kernels(x) && native::has_kernels(weight)
}

fn apply(dims: Dims, x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let operation = FewRows { dims, bias: bias.is_some() };
    let bias = bias.map_or_else(|| native::absent(&x.device()), Tensor::into_dispatch);
    let [y] = native::apply(operation, [x.into_dispatch(), weight.into_dispatch(), bias], vec![]);
    Tensor::from_dispatch(y)
}

/// The product of few rows as an operation; its inputs are `x, weight, bias`.
#[derive(Clone, Debug)]
struct FewRows {
    dims: Dims,
    bias: bool,
}

impl Operation<3> for FewRows {
    fn forward(&self, inputs: Views<'_, 3>, _training: bool) -> Forward {
        let [x, weight, bias] = inputs.floats;
        let Dims { rows, n, .. } = self.dims;
        let y = cpu::forward(self.dims, [x, weight], self.bias.then_some(bias), Level::current());
        Forward { outputs: vec![Array::new(y, [rows, n])], kept: vec![] }
    }

    fn backward(
        &self,
        _inputs: Views<'_, 3>,
        _kept: &[&[f32]],
        _gradients: &[Option<&[f32]>],
        _wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        unreachable!("where gradients may be asked for, the definition is taken")
    }
}
