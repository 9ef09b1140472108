//! The tensors of the CPU backends as arrays, and back.

use burn::tensor::Shape;

/// A tensor in the memory of this process.
///
/// Every operation's glue is written once over this trait; a CPU backend is what implements it.
pub(crate) trait CpuTensor: Sized {
    /// The same tensor with its elements in row-major order, copied only where they are not.
    fn contiguous(self) -> Self;

    /// The elements of a contiguous tensor of f32.
    fn floats(&self) -> &[f32];

    /// The elements of an integer tensor.
    ///
    /// # Panics
    /// If one is negative.
    fn indices(&self) -> Vec<usize>;

    /// A tensor of these elements, which are not copied.
    fn from_vec(data: Vec<f32>, shape: Shape) -> Self;
}

const NOT_CONTIGUOUS: &str = "kernels read contiguous f32 tensors";

#[allow(dead_code, reason = "used by the backends that are compiled in")]
fn index<T: TryInto<usize> + Copy + std::fmt::Display>(x: T) -> usize {
    x.try_into().unwrap_or_else(|_| panic!("an index must not be negative, and {x} is"))
}

#[cfg(feature = "flex")]
mod flex {
    use burn::tensor::{DType, Shape, TensorData};
    use burn_flex::FlexTensor;

    use super::{CpuTensor, NOT_CONTIGUOUS, index};

    impl CpuTensor for FlexTensor {
        fn contiguous(self) -> Self {
            if self.is_contiguous() { self } else { self.to_contiguous() }
        }

        fn floats(&self) -> &[f32] {
            self.as_slice().expect(NOT_CONTIGUOUS)
        }

        fn indices(&self) -> Vec<usize> {
            let tensor = self.to_contiguous();
            match tensor.dtype() {
                DType::I64 => tensor.storage::<i64>().iter().map(|&x| index(x)).collect(),
                DType::I32 => tensor.storage::<i32>().iter().map(|&x| index(x)).collect(),
                DType::U32 => tensor.storage::<u32>().iter().map(|&x| index(x)).collect(),
                other => panic!("indices must be i32, i64 or u32, not {other:?}"),
            }
        }

        fn from_vec(data: Vec<f32>, shape: Shape) -> Self {
            FlexTensor::from_data(TensorData::new(data, shape))
        }
    }
}

#[cfg(feature = "ndarray")]
mod ndarray {
    use burn::backend::TensorMetadata;
    use burn::tensor::Shape;
    use burn_ndarray::{NdArrayTensor, SharedArray};

    use super::{CpuTensor, NOT_CONTIGUOUS, index};

    impl CpuTensor for NdArrayTensor {
        fn contiguous(self) -> Self {
            match self {
                NdArrayTensor::F32(storage) if storage.view().is_standard_layout() => NdArrayTensor::F32(storage),
                NdArrayTensor::F32(storage) => {
                    NdArrayTensor::from(storage.view().as_standard_layout().into_owned().into_shared())
                }
                other => panic!("{NOT_CONTIGUOUS}, not {:?}", other.dtype()),
            }
        }

        fn floats(&self) -> &[f32] {
            match self {
                NdArrayTensor::F32(storage) => storage.view().to_slice().expect(NOT_CONTIGUOUS),
                other => panic!("{NOT_CONTIGUOUS}, not {:?}", other.dtype()),
            }
        }

        fn indices(&self) -> Vec<usize> {
            match self {
                NdArrayTensor::I64(storage) => storage.view().iter().map(|&x| index(x)).collect(),
                NdArrayTensor::I32(storage) => storage.view().iter().map(|&x| index(x)).collect(),
                NdArrayTensor::U32(storage) => storage.view().iter().map(|&x| index(x)).collect(),
                other => panic!("indices must be i32, i64 or u32, not {:?}", other.dtype()),
            }
        }

        fn from_vec(data: Vec<f32>, shape: Shape) -> Self {
            let array = SharedArray::from_shape_vec(shape.to_vec(), data).expect("a kernel's output fills its shape");
            NdArrayTensor::from(array)
        }
    }
}
