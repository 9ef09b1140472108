//! How an operation of ours becomes an operation of Burn.
//!
//! An operation is a type that implements [`Operation`]: a forward and a backward pass over arrays. This module alone
//! knows how Burn calls it: on which backends, under automatic differentiation, with one output or several.
//!
//! - [`KernelBackend`] is what Burn's dispatcher routes: one generic entry for every operation.
//! - [`Native`] is what a concrete backend offers: running an operation's two passes on its own tensors.
//!   Every CPU backend has it (`cpu/mod.rs`); a GPU backend joins by implementing both traits.
//! - [`has_kernels`] tells the public functions whether to call [`apply`] or to fall back on the definition, which is
//!   written with Burn's tensors and therefore runs, and differentiates, everywhere.
//!
//! Burn gives a differentiable operation one output, and hands its backward pass one gradient. Ours may have several:
//! the operation is a *hub* node of one meaningless element, and each output a *branch* that depends on it. Backward,
//! every branch leaves its gradient with the hub, which runs after all of them. An output that does not reach the loss
//! leaves none, and nothing is packed, sliced or padded with zeros.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchDevice,
    DispatchTensor, DispatchTensorKind, ExtensionType, TensorMetadata, backend_extension,
};
use burn::tensor::{DType, Device, Shape, Tensor};

use crate::cpu::Array;

/// An operation on `N` float tensors and some integer tensors.
///
/// The value itself holds the settings. An optional input that is absent is passed as [`absent`] and told by a setting.
pub(crate) trait Operation<const N: usize>: Clone + Debug + Send + Sync + 'static {
    /// Computes the outputs and, if `training`, what [`backward`](Self::backward) wants to keep of the computation.
    fn forward(&self, inputs: Views<'_, N>, training: bool) -> Forward;

    /// Computes the gradients of the inputs from those of the outputs, of which at least one is there. Gradients that
    /// are not `wanted` may be left out.
    fn backward(
        &self,
        inputs: Views<'_, N>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        wanted: [bool; N],
    ) -> [Option<Array>; N];

    /// Whether [`backward`](Self::backward) reads an input; of the others it gets one meaningless element.
    fn keeps_input(&self, _index: usize) -> bool {
        true
    }

    /// Whether [`backward`](Self::backward) reads the outputs, which it gets behind what was kept.
    fn keeps_outputs(&self) -> bool {
        false
    }
}

/// The inputs of an operation as arrays.
pub(crate) struct Views<'a, const N: usize> {
    /// The float tensors.
    pub(crate) floats: [&'a [f32]; N],
    /// The elements of the integer tensors.
    pub(crate) ints: Vec<Vec<usize>>,
}

/// What a forward pass leaves.
pub(crate) struct Forward {
    /// The results.
    pub(crate) outputs: Vec<Array>,
    /// What the backward pass wants to see again.
    pub(crate) kept: Vec<Array>,
}

/// Runs an operation.
///
/// # Panics
/// If the tensors are not on a device that [`has_kernels`].
pub(crate) fn apply<const N: usize, const OUTPUTS: usize, O: Operation<N>>(
    operation: O,
    floats: [DispatchTensor; N],
    ints: Vec<DispatchTensor>,
) -> [DispatchTensor; OUTPUTS] {
    let inputs = Inputs { floats: floats.into(), ints };
    let outputs = <Dispatch as KernelBackend>::run::<N, O>(operation, inputs);
    outputs.try_into().expect("an operation has as many outputs as its caller takes")
}

/// Whether operations on tensors of this type and device run as kernels.
pub(crate) fn has_kernels<const D: usize>(tensor: &Tensor<D>) -> bool {
    let on_cpu = match tensor.device().inner().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[allow(unreachable_patterns, reason = "which other devices exist depends on the features of Burn")]
        _ => false,
    };
    on_cpu && tensor.dtype() == DType::F32
}

/// Stands for an optional input that is not there.
pub(crate) fn absent(device: &Device) -> DispatchTensor {
    Tensor::<1>::zeros([1], device).into_dispatch()
}

/// The inputs of an operation as tensors of a backend.
#[derive(Clone, Debug)]
pub(crate) struct Inputs<B: Backend> {
    /// The float tensors.
    pub(crate) floats: Vec<FloatTensor<B>>,
    /// The integer tensors.
    pub(crate) ints: Vec<IntTensor<B>>,
}

/// What stays of the forward pass until the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Saved<B: Backend> {
    /// The inputs that the operation keeps, contiguous.
    pub(crate) inputs: Inputs<B>,
    /// What the operation kept, and its outputs if it wants them.
    pub(crate) kept: Vec<FloatTensor<B>>,
}

/// A backend on which operations can be called.
#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Autodiff)]
pub(crate) trait KernelBackend: Backend {
    /// The outputs of an operation.
    fn run<const N: usize, O: Operation<N>>(
        operation: O,
        #[extension_type] inputs: Inputs<Self>,
    ) -> Vec<FloatTensor<Self>>;
}

/// A backend that runs the two passes of an operation.
pub(crate) trait Native: Backend {
    /// The same tensor in the layout that kernels read.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The outputs and, if `training`, what to keep.
    fn forward<const N: usize, O: Operation<N>>(
        operation: &O,
        inputs: &Inputs<Self>,
        training: bool,
    ) -> (Vec<FloatTensor<Self>>, Vec<FloatTensor<Self>>);

    /// The gradients of the inputs.
    fn backward<const N: usize, O: Operation<N>>(
        operation: &O,
        saved: &Saved<Self>,
        gradients: &[Option<FloatTensor<Self>>],
        wanted: [bool; N],
    ) -> [Option<FloatTensor<Self>>; N];
}

impl<B: Backend> Inputs<B> {
    fn contiguous(self) -> Self
    where
        B: Native,
    {
        Self { floats: self.floats.into_iter().map(B::contiguous).collect(), ints: self.ints }
    }
}

#[cfg(feature = "flex")]
impl KernelBackend for burn::backend::Flex {
    fn run<const N: usize, O: Operation<N>>(operation: O, inputs: Inputs<Self>) -> Vec<FloatTensor<Self>> {
        Self::forward(&operation, &inputs.contiguous(), false).0
    }
}

#[cfg(feature = "ndarray")]
impl KernelBackend for burn::backend::NdArray {
    fn run<const N: usize, O: Operation<N>>(operation: O, inputs: Inputs<Self>) -> Vec<FloatTensor<Self>> {
        Self::forward(&operation, &inputs.contiguous(), false).0
    }
}

/// The gradients of an operation's outputs, as they arrive.
type Arrived<B> = Arc<Mutex<Vec<Option<FloatTensor<B>>>>>;

/// The node of an operation in the graph.
#[derive(Debug)]
struct Hub<O>(O);

/// The node of one output of an operation in the graph.
#[derive(Debug)]
struct Branch;

impl<B: Native, O: Operation<N>, const N: usize> Backward<B, N> for Hub<O> {
    type State = (Saved<B>, Arrived<B>);

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        gradients.consume::<B>(&ops.node);
        let (saved, arrived) = ops.state;
        let arrived = std::mem::take(&mut *arrived.lock().expect(POISONED));
        let arrived: Vec<_> = arrived.into_iter().map(|gradient| gradient.map(B::contiguous)).collect();
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = B::backward(&self.0, &saved, &arrived, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(results) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}

const POISONED: &str = "no backward pass panics while it holds the gradients";

impl<B: Backend> Backward<B, 1> for Branch {
    type State = (usize, Arrived<B>);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (index, arrived) = ops.state;
        let [hub] = ops.parents;
        if let Some(hub) = hub {
            gradients.register::<B>(hub.id, one_element::<B>(&gradient));
        }
        arrived.lock().expect(POISONED)[index] = Some(gradient);
    }
}

/// The value of a hub.
fn one_element<B: Backend>(like: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros(Shape::new([1]), &like.device(), like.dtype().into())
}

impl<B: Native, C: CheckpointStrategy> KernelBackend for Autodiff<B, C> {
    fn run<const N: usize, O: Operation<N>>(operation: O, inputs: Inputs<Self>) -> Vec<FloatTensor<Self>> {
        let nodes: Vec<_> = inputs.floats.iter().map(|tensor| tensor.node()).collect();
        let nodes = nodes.try_into().expect("an operation gets as many tensors as it names");
        let floats = inputs.floats.into_iter().map(|tensor| tensor.into_primitive()).collect();
        let inputs = Inputs::<B> { floats, ints: inputs.ints }.contiguous();
        let prep = match Hub(operation.clone()).prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep,
            OpsKind::UnTracked(_) => {
                return B::forward(&operation, &inputs, false).0.into_iter().map(Self::from_inner).collect();
            }
        };
        let (outputs, mut kept) = B::forward(&operation, &inputs, true);
        if operation.keeps_outputs() {
            kept.extend(outputs.iter().cloned());
        }
        let arrived: Arrived<B> = Arc::new(Mutex::new(vec![None; outputs.len()]));
        let value = one_element::<B>(&outputs[0]);
        let floats = inputs.floats.into_iter().enumerate();
        let floats = floats.map(|(i, tensor)| if operation.keeps_input(i) { tensor } else { value.clone() });
        let inputs = Inputs::<B> { floats: floats.collect(), ints: inputs.ints };
        let hub = prep.finish((Saved { inputs, kept }, arrived.clone()), value);
        let branch = |(index, output)| match Branch.prepare::<C>([hub.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((index, arrived.clone()), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        outputs.into_iter().enumerate().map(branch).collect()
    }
}

// By hand, because the derive knows no vectors of tensors.
impl<B: Backend> ExtensionType<B> for Inputs<B> {
    type Target = Inputs<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Inputs<Dispatch>
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |tensor| DispatchTensor { kind: map_kind(tensor), autodiff };
        Inputs {
            floats: self.floats.into_iter().map(|tensor| wrap(BackendTensor::Float(tensor))).collect(),
            ints: self.ints.into_iter().map(|tensor| wrap(BackendTensor::Int(tensor))).collect(),
        }
    }

    fn map_from_dispatch<F>(target: Inputs<Dispatch>, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        Inputs {
            floats: target.floats.into_iter().map(|tensor| unwrap_kind(tensor).float()).collect(),
            ints: target.ints.into_iter().map(|tensor| unwrap_kind(tensor).int()).collect(),
        }
    }

    fn routing_tensor(target: &Inputs<Dispatch>) -> Option<&DispatchTensor> {
        target.floats.first().or(target.ints.first())
    }

    fn routing_float_tensor(target: &Inputs<Dispatch>) -> Option<&DispatchTensor> {
        target.floats.first()
    }

    fn autodiff_context(target: &Inputs<Dispatch>) -> DispatchAutodiffContext {
        let contexts = target.floats.iter().map(|tensor| tensor.autodiff);
        contexts.fold(DispatchAutodiffContext::Disabled, DispatchAutodiffContext::merge)
    }
}
