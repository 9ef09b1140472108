//! Parts of layers whose weights several layers share.

use burn::module::{Content, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::Init;

use crate::{AnyMixer, ChannelMixer};

/// The shared parts of a model, each held once.
#[derive(Module, Debug)]
pub(crate) struct Pool {
    pub(crate) mixers: Vec<AnyMixer>,
    pub(crate) channels: Vec<ChannelMixer>,
}

/// A part of a layer: its own, or a use of a shared one.
///
/// Burn's derived modules put a variant's name into the path of its parameters; this one is written out so that a
/// layer's own part keeps the path that it has without sharing.
#[derive(Clone, Debug)]
pub(crate) enum Slot<M> {
    /// The layer's own.
    Own(M),
    /// One of the pool's.
    Shared(Use),
}

/// A use of a shared part.
#[derive(Module, Debug)]
pub(crate) struct Use {
    adapter: Option<Adapter>,
    #[module(skip)]
    index: usize,
}

impl Use {
    /// A use of part `index`, with an adapter of rank `rank` if there is one.
    pub(crate) fn new<M: Module>(index: usize, part: &M, rank: Option<usize>, init: &mut Init) -> Self {
        Self { adapter: rank.map(|rank| Adapter::new(part, rank, init)), index }
    }
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
            Self::Shared(Use { adapter: Some(adapter), index }) => f(&adapter.adapt(pool[*index].clone())),
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

    /// Floating-point operations of what this use adds, once a forward pass.
    pub(crate) fn adapter_flops(&self) -> u64 {
        match self {
            Self::Shared(Use { adapter: Some(adapter), .. }) => adapter.flops(),
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

/// What a use of shared weights adds to each of their linear maps: a product of low rank (arXiv:2106.09685, eq. 3;
/// arXiv:2411.15242, §2, for a block that a model uses again and again).
///
/// ```text
/// W_use = W + A B          A: [d_in, r], B: [r, d_out], which starts at zero
/// ```
///
/// The sum is taken over matrices, not over what they compute, so any mixer can be adapted and none knows of it.
#[derive(Module, Debug)]
struct Adapter {
    maps: Vec<LowRank>,
}

#[derive(Module, Debug)]
struct LowRank {
    down: Linear,
    up: Linear,
}

impl Adapter {
    fn new<M: Module>(part: &M, rank: usize, init: &mut Init) -> Self {
        let mut find = FindMaps { path: LinearPath::default(), sizes: vec![] };
        part.visit(&mut find);
        let low_rank = |[d_in, d_out]: [usize; 2]| LowRank {
            down: init.linear(d_in, rank, false),
            up: Linear { weight: init.constant([rank, d_out], 0.0), bias: None },
        };
        Self { maps: find.sizes.into_iter().map(low_rank).collect() }
    }

    fn adapt<M: Module>(&self, part: M) -> M {
        part.map(&mut AddMaps { path: LinearPath::default(), maps: self.maps.iter() })
    }

    fn flops(&self) -> u64 {
        let product = |map: &LowRank| {
            let ([d_in, rank], [_, d_out]) = (map.down.weight.dims(), map.up.weight.dims());
            (2 * rank + 1) as u64 * (d_in * d_out) as u64
        };
        self.maps.iter().map(product).sum()
    }
}

/// Whether the parameter at hand is the matrix of a linear map.
#[derive(Default)]
struct LinearPath(Vec<bool>);

impl LinearPath {
    fn enter(&mut self, name: &str, container: &str) {
        self.0.push(name == "weight" && container == "Struct:Linear");
    }
    fn exit(&mut self) {
        self.0.pop();
    }
    fn at_map(&self) -> bool {
        self.0.last() == Some(&true)
    }
}

/// Collects the sizes of all linear maps, in the module's order.
struct FindMaps {
    path: LinearPath,
    sizes: Vec<[usize; 2]>,
}

impl ModuleVisitor for FindMaps {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let (true, Ok(sizes)) = (self.path.at_map(), <[usize; 2]>::try_from(&param.dims()[..])) {
            self.sizes.push(sizes);
        }
    }
    fn visit_flag(&mut self, _flag: &Param<Flag>) {}
}

/// Adds each map's product, in the order of [`FindMaps`].
struct AddMaps<'a> {
    path: LinearPath,
    maps: core::slice::Iter<'a, LowRank>,
}

impl ModuleMapper for AddMaps<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.path.at_map() || D != 2 {
            return param;
        }
        let map = self.maps.next().expect("an adapter has a product for every map");
        let product = map.down.weight.val().matmul(map.up.weight.val());
        param.map(|weight| {
            let shape = weight.dims();
            weight + product.reshape(shape)
        })
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        flag
    }
}
