//! Mixers beside each other: several that read the same tokens, or one with multipliers.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{Mixer, MixerState};

use crate::layer::scaled;
use crate::norm::Norm;
use crate::{AnyMixer, AnyState};

/// Mixers that read the same tokens and whose results are added.
///
/// ```text
/// y = Σ_i s_i norm_i(mixer_i(a_i x))
/// ```
///
/// With `s_i = 1/count` and the norms it is the mean of normalised results that Hymba takes (arXiv:2411.13676, §2.1);
/// with multipliers and no norms it is Falcon-H1's sum (arXiv:2507.22448, §2.1).
#[derive(Module, Debug)]
pub(crate) struct Parallel {
    branches: Vec<Branch>,
}

/// One of the mixers.
#[derive(Module, Debug)]
pub(crate) struct Branch {
    pub(crate) mixer: AnyMixer,
    /// What the result is normalised by, if it is.
    pub(crate) norm: Option<Norm>,
    #[module(skip)]
    pub(crate) input_scale: f64,
    #[module(skip)]
    pub(crate) output_scale: f64,
}

impl Branch {
    /// Whether the branch is its mixer and nothing more.
    fn is_plain(&self) -> bool {
        self.norm.is_none() && self.input_scale == 1.0 && self.output_scale == 1.0
    }

    fn forward(&self, x: Tensor<3>, state: AnyState) -> (Tensor<3>, AnyState) {
        let (y, state) = self.mixer.forward(scaled(x, self.input_scale), state);
        let y = match &self.norm {
            Some(norm) => norm.forward(y),
            None => y,
        };
        (scaled(y, self.output_scale), state)
    }
}

/// The branches as one mixer; a single plain one stays what it is, so that its parameters keep their paths.
///
/// # Panics
/// If there is no branch.
pub(crate) fn join(mut branches: Vec<Branch>) -> AnyMixer {
    assert!(!branches.is_empty(), "a layer's mixer has a branch");
    match branches.len() == 1 && branches[0].is_plain() {
        true => branches.remove(0).mixer,
        false => AnyMixer::new(Parallel { branches }),
    }
}

/// The states of all branches.
#[derive(Clone, Debug)]
pub(crate) struct ParallelState(Vec<AnyState>);

impl MixerState for ParallelState {
    fn bytes(&self) -> usize {
        self.0.iter().map(AnyState::bytes).sum()
    }

    fn detach(self) -> Self {
        Self(self.0.into_iter().map(AnyState::detach).collect())
    }
}

impl Mixer for Parallel {
    type State = ParallelState;

    fn state(&self, batch: usize, d_model: usize, device: &Device) -> ParallelState {
        ParallelState(self.branches.iter().map(|branch| branch.mixer.state(batch, d_model, device)).collect())
    }

    fn forward(&self, x: Tensor<3>, state: ParallelState) -> (Tensor<3>, ParallelState) {
        let run = self.branches.iter().zip(state.0).map(|(branch, state)| branch.forward(x.clone(), state));
        let (results, states): (Vec<Tensor<3>>, Vec<AnyState>) = run.unzip();
        let sum = results.into_iter().reduce(|sum, y| sum + y).expect("a layer's mixer has a branch");
        (sum, ParallelState(states))
    }

    fn state_bytes(&self, length: usize, d_model: usize) -> u64 {
        self.branches.iter().map(|branch| branch.mixer.state_bytes(length, d_model)).sum()
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        self.branches.iter().map(|branch| branch.mixer.flops(length, d_model)).sum()
    }

    fn max_length(&self) -> Option<usize> {
        self.branches.iter().filter_map(|branch| branch.mixer.max_length()).min()
    }

    fn is_random(&self) -> bool {
        self.branches.iter().any(|branch| branch.mixer.is_random())
    }
}
