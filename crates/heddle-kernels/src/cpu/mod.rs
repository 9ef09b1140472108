//! What the operations share on the CPU: vectors, elementary functions, disjoint writes, tensors as arrays.

pub(crate) mod aligned;
pub(crate) mod channels;
pub(crate) mod elementwise;
pub(crate) mod math;
pub(crate) mod product;
pub(crate) mod simd;
pub(crate) mod split;
pub(crate) mod tasks;
pub(crate) mod tensor;
pub(crate) mod transpose;

use burn::backend::{Backend, BackendTypes};
use burn::tensor::Shape;

use crate::native::{Forward, Inputs, Native, Operation, Saved, Views};
use tensor::CpuTensor;

/// A backend whose tensors lie in the memory of this process.
pub(crate) trait CpuBackend:
    Backend + BackendTypes<FloatTensorPrimitive: CpuTensor, IntTensorPrimitive: CpuTensor>
{
}

#[cfg(feature = "flex")]
impl CpuBackend for burn::backend::Flex {}
#[cfg(feature = "ndarray")]
impl CpuBackend for burn::backend::NdArray {}

/// Row-major floats that a kernel wrote, and their shape.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    /// The elements.
    pub(crate) data: Vec<f32>,
    /// The sizes of the axes.
    pub(crate) shape: Shape,
}

impl Array {
    /// Elements in row-major order.
    pub(crate) fn new(data: Vec<f32>, shape: impl Into<Shape>) -> Self {
        Self { data, shape: shape.into() }
    }
}

fn wrap<T: CpuTensor>(array: Array) -> T {
    T::from_vec(array.data, array.shape)
}

fn views<B: CpuBackend, const N: usize>(inputs: &Inputs<B>) -> Views<'_, N> {
    let floats: Vec<&[f32]> = inputs.floats.iter().map(CpuTensor::floats).collect();
    Views {
        floats: floats.try_into().expect("an operation gets as many tensors as it names"),
        ints: inputs.ints.iter().map(CpuTensor::indices).collect(),
    }
}

impl<B: CpuBackend> Native for B {
    fn contiguous(tensor: Self::FloatTensorPrimitive) -> Self::FloatTensorPrimitive {
        CpuTensor::contiguous(tensor)
    }

    fn forward<const N: usize, O: Operation<N>>(
        operation: &O,
        inputs: &Inputs<Self>,
        training: bool,
    ) -> (Vec<Self::FloatTensorPrimitive>, Vec<Self::FloatTensorPrimitive>) {
        let Forward { outputs, kept } = operation.forward(views(inputs), training);
        (outputs.into_iter().map(wrap).collect(), kept.into_iter().map(wrap).collect())
    }

    fn backward<const N: usize, O: Operation<N>>(
        operation: &O,
        saved: &Saved<Self>,
        gradients: &[Option<Self::FloatTensorPrimitive>],
        wanted: [bool; N],
    ) -> [Option<Self::FloatTensorPrimitive>; N] {
        let kept: Vec<&[f32]> = saved.kept.iter().map(CpuTensor::floats).collect();
        let gradients: Vec<Option<&[f32]>> = gradients.iter().map(|g| g.as_ref().map(CpuTensor::floats)).collect();
        operation.backward(views(&saved.inputs), &kept, &gradients, wanted).map(|gradient| gradient.map(wrap))
    }
}
