//! Linear maps, by their formulas.

use burn::nn::Linear;
use burn::tensor::Tensor;

/// `y = x W + b` for every row of `x`, as Burn computes it: the definition that the kernel must equal.
///
/// # Panics
/// If the rows are not as long as the map reads.
pub fn linear_by_definition<const D: usize>(x: Tensor<D>, map: &Linear) -> Tensor<D> {
    map.forward(x)
}

/// `x Eᵀ`: the scores of each row of an embedding (arXiv:1608.05859, §2), by the formula.
///
/// # Panics
/// If the widths disagree.
pub fn unembed_by_definition(x: Tensor<2>, embedding: Tensor<2>) -> Tensor<2> {
    x.matmul(embedding.transpose())
}
