//! A mixer of any type, so that layers of different types stand in one list.
//!
//! Burn's [`Module`] is generic in its visitor and therefore no trait object. [`AnyMixer`] restores what a module needs
//! by offering the visitor one method a tensor rank, which is the only thing the generic method depends on.

use core::any::Any;
use core::fmt::Debug;
use core::ops::Range;

use burn::module::{Content, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use heddle_kernels::{Mixer, MixerState};

/// A [`Mixer`] of some type, and itself a [`Module`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_attention::AttentionSettings;
/// use heddle_hybrid::{AnyMixer, Init, MixerSettings};
/// use heddle_ssm::MambaSettings;
///
/// let device = Device::flex();
/// let mut init = Init::new(0, &device);
/// let mixers = [
///     AnyMixer::new(MambaSettings::default().init(16, &mut init).unwrap()),
///     AnyMixer::new(AttentionSettings::default().init(16, &mut init).unwrap()),
/// ];
/// let start = Tensor::<3>::ones([1, 5, 16], &device);
/// let end = mixers.iter().fold(start, |x, mixer| mixer.forward(x, mixer.state(1, 16, &device)).0);
/// assert_eq!(end.dims(), [1, 5, 16]);
/// ```
#[derive(Debug)]
pub struct AnyMixer(Box<dyn ErasedMixer>);

/// The state of an [`AnyMixer`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{AnyMixer, Init, MixerSettings};
/// use heddle_ssm::MambaSettings;
///
/// let device = Device::flex();
/// let mixer = AnyMixer::new(MambaSettings::default().init(16, &mut Init::new(0, &device)).unwrap());
/// let (_, state) = mixer.forward(Tensor::ones([1, 5, 16], &device), mixer.state(1, 16, &device));
/// assert_eq!(state.bytes() as u64, mixer.state_bytes(5, 16));
/// // One beginning is gone on from twice.
/// let next = |token: f32| mixer.forward(Tensor::full([1, 1, 16], token, &device), state.clone()).0.into_data();
/// assert_ne!(next(1.0), next(2.0));
/// assert_eq!(next(1.0), next(1.0));
/// ```
#[derive(Debug)]
pub struct AnyState(Box<dyn ErasedState>);

impl AnyMixer {
    /// Forgets the type of `mixer`.
    pub fn new<M: Mixer>(mixer: M) -> Self {
        Self(Box::new(mixer))
    }

    /// See [`Mixer::state`].
    pub fn state(&self, batch: usize, d_model: usize, device: &Device) -> AnyState {
        self.0.erased_state(batch, d_model, device)
    }

    /// See [`Mixer::forward`].
    ///
    /// # Panics
    /// If `state` was made by a mixer of another type.
    pub fn forward(&self, x: Tensor<3>, state: AnyState) -> (Tensor<3>, AnyState) {
        self.0.erased_forward(x, state)
    }

    /// See [`Mixer::state_bytes`].
    pub fn state_bytes(&self, length: usize, d_model: usize) -> u64 {
        self.0.erased_state_bytes(length, d_model)
    }

    /// See [`Mixer::flops`].
    pub fn flops(&self, length: usize, d_model: usize) -> u64 {
        self.0.erased_flops(length, d_model)
    }

    /// See [`Mixer::max_length`].
    pub fn max_length(&self) -> Option<usize> {
        self.0.erased_max_length()
    }

    /// See [`Mixer::is_random`].
    pub fn is_random(&self) -> bool {
        self.0.erased_is_random()
    }

    /// See [`Mixer::attention_map`].
    ///
    /// # Panics
    /// If `rows` is empty or goes beyond the tokens of `x`.
    pub fn attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        self.0.erased_attention_map(x, rows)
    }

    /// See [`Mixer::selection`].
    pub fn selection(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        self.0.erased_selection(x)
    }

    /// See [`Mixer::without_head`].
    pub fn without_head(&self, head: usize) -> Option<Self> {
        self.0.erased_without_head(head)
    }
}

impl AnyState {
    /// See [`MixerState::bytes`].
    pub fn bytes(&self) -> usize {
        self.0.erased_bytes()
    }

    /// See [`MixerState::detach`].
    pub fn detach(self) -> Self {
        self.0.erased_detach()
    }
}

impl Clone for AnyState {
    fn clone(&self) -> Self {
        self.0.erased_clone()
    }
}

trait ErasedState: Any + Debug + Send {
    fn erased_bytes(&self) -> usize;
    fn erased_detach(self: Box<Self>) -> AnyState;
    fn erased_clone(&self) -> AnyState;
}

impl<S: MixerState> ErasedState for S {
    fn erased_bytes(&self) -> usize {
        self.bytes()
    }
    fn erased_detach(self: Box<Self>) -> AnyState {
        AnyState(Box::new(self.detach()))
    }
    fn erased_clone(&self) -> AnyState {
        AnyState(Box::new(self.clone()))
    }
}

trait ErasedMixer: Debug + Send + Sync {
    fn erased_state(&self, batch: usize, d_model: usize, device: &Device) -> AnyState;
    fn erased_forward(&self, x: Tensor<3>, state: AnyState) -> (Tensor<3>, AnyState);
    fn erased_state_bytes(&self, length: usize, d_model: usize) -> u64;
    fn erased_flops(&self, length: usize, d_model: usize) -> u64;
    fn erased_max_length(&self) -> Option<usize>;
    fn erased_is_random(&self) -> bool;
    fn erased_attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>>;
    fn erased_selection(&self, x: Tensor<3>) -> Option<Tensor<3>>;
    fn erased_without_head(&self, head: usize) -> Option<AnyMixer>;
    fn erased_clone(&self) -> AnyMixer;
    fn erased_devices(&self, devices: Vec<Device>) -> Vec<Device>;
    fn erased_fork(self: Box<Self>, device: &Device) -> AnyMixer;
    fn erased_to_device(self: Box<Self>, device: &Device) -> AnyMixer;
    fn erased_train(self: Box<Self>) -> AnyMixer;
    fn erased_valid(&self) -> AnyMixer;
    fn erased_materialize(self: Box<Self>) -> AnyMixer;
    fn erased_visit(&self, visitor: &mut dyn ErasedVisitor);
    fn erased_map(self: Box<Self>, mapper: &mut dyn ErasedMapper) -> AnyMixer;
}

impl<M: Mixer> ErasedMixer for M {
    fn erased_state(&self, batch: usize, d_model: usize, device: &Device) -> AnyState {
        AnyState(Box::new(self.state(batch, d_model, device)))
    }
    fn erased_forward(&self, x: Tensor<3>, state: AnyState) -> (Tensor<3>, AnyState) {
        let state: Box<dyn Any> = state.0;
        let state = state
            .downcast::<M::State>()
            .unwrap_or_else(|_| panic!("the state given to a mixer is not a {}", core::any::type_name::<M::State>()));
        let (y, state) = self.forward(x, *state);
        (y, AnyState(Box::new(state)))
    }
    fn erased_state_bytes(&self, length: usize, d_model: usize) -> u64 {
        self.state_bytes(length, d_model)
    }
    fn erased_flops(&self, length: usize, d_model: usize) -> u64 {
        self.flops(length, d_model)
    }
    fn erased_max_length(&self) -> Option<usize> {
        self.max_length()
    }
    fn erased_is_random(&self) -> bool {
        self.is_random()
    }
    fn erased_attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        self.attention_map(x, rows)
    }
    fn erased_selection(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        self.selection(x)
    }
    fn erased_without_head(&self, head: usize) -> Option<AnyMixer> {
        self.without_head(head).map(AnyMixer::new)
    }
    fn erased_clone(&self) -> AnyMixer {
        AnyMixer::new(self.clone())
    }
    fn erased_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.collect_devices(devices)
    }
    fn erased_fork(self: Box<Self>, device: &Device) -> AnyMixer {
        AnyMixer::new(self.fork(device))
    }
    fn erased_to_device(self: Box<Self>, device: &Device) -> AnyMixer {
        AnyMixer::new((*self).to_device(device))
    }
    fn erased_train(self: Box<Self>) -> AnyMixer {
        AnyMixer::new((*self).train())
    }
    fn erased_valid(&self) -> AnyMixer {
        AnyMixer::new(self.valid())
    }
    fn erased_materialize(self: Box<Self>) -> AnyMixer {
        AnyMixer::new((*self).materialize())
    }
    fn erased_visit(&self, visitor: &mut dyn ErasedVisitor) {
        self.visit(&mut ByRank(visitor));
    }
    fn erased_map(self: Box<Self>, mapper: &mut dyn ErasedMapper) -> AnyMixer {
        AnyMixer::new((*self).map(&mut ByRank(mapper)))
    }
}

impl Clone for AnyMixer {
    fn clone(&self) -> Self {
        self.0.erased_clone()
    }
}

impl Module for AnyMixer {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.erased_devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        self.0.erased_fork(device)
    }
    fn to_device(self, device: &Device) -> Self {
        self.0.erased_to_device(device)
    }
    fn train(self) -> Self {
        self.0.erased_train()
    }
    fn valid(&self) -> Self {
        self.0.erased_valid()
    }
    fn materialize(self) -> Self {
        self.0.erased_materialize()
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.erased_visit(&mut Generic(visitor));
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.0.erased_map(&mut Generic(mapper))
    }
}

impl ModuleDisplayDefault for AnyMixer {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_debug_attribute("mixer", &self.0).optional()
    }
}

impl ModuleDisplay for AnyMixer {}

/// A visitor as a trait object: it is handed a `&Param<Tensor<D>>` as `&dyn Any`, and its module's names.
trait ErasedVisitor {
    fn float(&mut self, param: &dyn Any);
    fn flag(&mut self, flag: &Param<Flag>);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// A mapper as a trait object: it is handed a `Param<Tensor<D>>` as `Box<dyn Any>` and gives one of the same type back.
trait ErasedMapper {
    fn float(&mut self, param: Box<dyn Any>) -> Box<dyn Any>;
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// Looks like a trait object from outside and calls a generic visitor or mapper inside.
struct Generic<'a, T>(&'a mut T);

/// Looks generic from outside and calls a trait object inside.
struct ByRank<'a, T: ?Sized>(&'a mut T);

/// Runs `$body` with `$rank` bound to the rank for which `$test` holds.
macro_rules! for_each_rank {
    ($rank:ident => $body:block) => {
        for_each_rank!(@ $rank $body 1 2 3 4 5)
    };
    (@ $rank:ident $body:block $($value:literal)*) => {
        $({
            const $rank: usize = $value;
            $body
        })*
    };
}

const RANKS: &str = "parameters of a mixer are float tensors of rank 1 to 5";

impl<V: ModuleVisitor> ErasedVisitor for Generic<'_, V> {
    fn float(&mut self, param: &dyn Any) {
        for_each_rank!(RANK => {
            if let Some(param) = param.downcast_ref::<Param<Tensor<RANK>>>() {
                return self.0.visit_float(param);
            }
        });
        panic!("{RANKS}");
    }
    fn flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag);
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl<M: ModuleMapper> ErasedMapper for Generic<'_, M> {
    fn float(&mut self, param: Box<dyn Any>) -> Box<dyn Any> {
        for_each_rank!(RANK => {
            if param.is::<Param<Tensor<RANK>>>() {
                let param = param.downcast::<Param<Tensor<RANK>>>().expect("its type was just tested");
                return Box::new(self.0.map_float(*param));
            }
        });
        panic!("{RANKS}");
    }
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container);
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container);
    }
}

impl ModuleVisitor for ByRank<'_, dyn ErasedVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.float(param);
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.flag(flag);
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}

impl ModuleMapper for ByRank<'_, dyn ErasedMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        *self.0.float(Box::new(param)).downcast().expect("a mapper keeps the type of a parameter")
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.flag(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container);
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container);
    }
}
