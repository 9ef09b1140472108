//! Parts of layers whose weights several layers share.

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};

use crate::adapter::Adapter;
use crate::norm::Norm;
use crate::{AnyMixer, ChannelMixer};

/// The shared parts of a model, each held once.
#[derive(Module, Debug)]
pub(crate) struct Pool {
    pub(crate) mixers: Vec<AnyMixer>,
    pub(crate) channels: Vec<ChannelMixer>,
    /// Norms that are shared with their parts.
    pub(crate) norms: Vec<Norm>,
}

/// A part of a layer: its own, or a use of a shared one.
///
/// Burn's derived modules put a variant's name into the path of its parameters; this one is written out so that a
/// layer's own part keeps the path that it has without sharing.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a layer's own part is mostly larger still")]
pub(crate) enum Slot<M> {
    /// The layer's own.
    Own(M),
    /// One of the pool's.
    Shared(Use),
}

/// A use of a shared part.
#[derive(Module, Debug)]
pub(crate) struct Use {
    pub(crate) adapter: Option<Adapter>,
    /// What maps what the part computes, if this use does.
    pub(crate) output_map: Option<Linear>,
    #[module(skip)]
    pub(crate) index: usize,
}

impl<M: Module> Slot<M> {
    /// The part without what this use adds to it.
    pub(crate) fn base<'a>(&'a self, pool: &'a [M]) -> &'a M {
        match self {
            Self::Own(part) => part,
            Self::Shared(part) => &pool[part.index],
        }
    }

    /// Calls `f` with the part as this use sees it.
    pub(crate) fn with<R>(&self, pool: &[M], f: impl FnOnce(&M) -> R) -> R {
        match self {
            Self::Shared(Use { adapter: Some(adapter), index, .. }) => f(&adapter.adapt(pool[*index].clone())),
            _ => f(self.base(pool)),
        }
    }

    /// The layer's own part, if it is no shared one.
    pub(crate) fn own(&self) -> Option<&M> {
        match self {
            Self::Own(part) => Some(part),
            Self::Shared(_) => None,
        }
    }

    /// What this use makes of what the part computed.
    pub(crate) fn mapped(&self, y: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Shared(Use { output_map: Some(map), .. }) => map.forward(y),
            _ => y,
        }
    }

    /// Floating-point operations of this use's adapter, once a forward pass.
    pub(crate) fn adapter_flops(&self) -> u64 {
        match self {
            Self::Shared(Use { adapter: Some(adapter), .. }) => adapter.flops(),
            _ => 0,
        }
    }

    /// Floating-point operations of this use's map, for one token.
    pub(crate) fn map_flops(&self) -> u64 {
        match self {
            Self::Shared(Use { output_map: Some(map), .. }) => 2 * map.weight.shape().num_elements() as u64,
            _ => 0,
        }
    }
}

impl<M: Module> Module for Slot<M> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        match self {
            Self::Own(part) => part.collect_devices(devices),
            Self::Shared(part) => part.collect_devices(devices),
        }
    }
    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Own(part) => Self::Own(part.fork(device)),
            Self::Shared(part) => Self::Shared(part.fork(device)),
        }
    }
    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Own(part) => Self::Own(part.to_device(device)),
            Self::Shared(part) => Self::Shared(part.to_device(device)),
        }
    }
    fn train(self) -> Self {
        match self {
            Self::Own(part) => Self::Own(part.train()),
            Self::Shared(part) => Self::Shared(part.train()),
        }
    }
    fn valid(&self) -> Self {
        match self {
            Self::Own(part) => Self::Own(part.valid()),
            Self::Shared(part) => Self::Shared(part.valid()),
        }
    }
    fn materialize(self) -> Self {
        match self {
            Self::Own(part) => Self::Own(part.materialize()),
            Self::Shared(part) => Self::Shared(part.materialize()),
        }
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        match self {
            Self::Own(part) => part.visit(visitor),
            Self::Shared(part) => part.visit(visitor),
        }
    }
    fn map<V: ModuleMapper>(self, mapper: &mut V) -> Self {
        match self {
            Self::Own(part) => Self::Own(part.map(mapper)),
            Self::Shared(part) => Self::Shared(part.map(mapper)),
        }
    }
}

impl<M: Module> ModuleDisplayDefault for Slot<M> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_debug_attribute("part", self).optional()
    }
}

impl<M: Module> ModuleDisplay for Slot<M> {}
