//! What a use of shared weights adds to them.

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError};

/// What a use of shared weights adds to their linear maps: products of low rank (arXiv:2106.09685, eq. 3;
/// arXiv:2411.15242, §2, for a block that a model uses again and again).
///
/// ```text
/// W_use = W + A B          A: [d_in, r], B: [r, d_out], which starts at zero
/// ```
///
/// Maps that read the same tokens may have `A` in common; the columns of `B` are then those of one map after the other. The
/// sum is taken over matrices, not over what they compute, so any mixer can be adapted and none knows of it.
#[derive(Module, Debug)]
pub(crate) struct Adapter {
    maps: Vec<LowRank>,
    /// What is added to each linear map, in the module's order.
    #[module(skip)]
    additions: Vec<Option<Columns>>,
}

#[derive(Module, Debug)]
struct LowRank {
    down: Linear,
    up: Linear,
}

/// Columns of a product.
#[derive(Clone, Copy, Debug)]
struct Columns {
    product: usize,
    first: usize,
    count: usize,
}

impl Adapter {
    /// Products of rank `rank` for the maps of each of the `lists`; none means all maps, each by itself.
    ///
    /// # Errors
    /// If a list names no map or several, or maps of different inputs.
    pub(crate) fn new<M: Module>(
        part: &M,
        rank: usize,
        lists: Option<&[Vec<String>]>,
        init: &mut Init,
    ) -> Result<Self, SettingsError> {
        let mut find = FindMaps { path: LinearPath::default(), maps: vec![] };
        part.visit(&mut find);
        let lists: Vec<Vec<usize>> = match lists {
            None => (0..find.maps.len()).map(|map| vec![map]).collect(),
            Some(lists) => lists.iter().map(|list| find.places(list)).collect::<Result<_, _>>()?,
        };
        let mut additions = vec![None; find.maps.len()];
        let mut maps = vec![];
        for (product, list) in lists.iter().enumerate() {
            let mut width = 0;
            for &map in list {
                let count = find.maps[map].sizes[1];
                if additions[map].replace(Columns { product, first: width, count }).is_some() {
                    let problem = format!("`{}` is listed twice", find.maps[map].name);
                    return Err(SettingsError::new("adapter_maps", problem, "list every map once"));
                }
                width += count;
            }
            let d_in = find.maps[list[0]].sizes[0];
            maps.push(LowRank {
                down: init.linear(d_in, rank, false),
                up: Linear { weight: init.constant([rank, width], 0.0), bias: None },
            });
        }
        Ok(Self { maps, additions })
    }

    pub(crate) fn adapt<M: Module>(&self, part: M) -> M {
        let product = |map: &LowRank| map.down.weight.val().matmul(map.up.weight.val());
        let products = self.maps.iter().map(product).collect();
        part.map(&mut AddMaps { path: LinearPath::default(), products, additions: self.additions.iter() })
    }

    /// Floating-point operations of [`adapt`](Self::adapt).
    pub(crate) fn flops(&self) -> u64 {
        let product = |map: &LowRank| {
            let ([d_in, rank], [_, d_out]) = (map.down.weight.dims(), map.up.weight.dims());
            (2 * rank + 1) as u64 * (d_in * d_out) as u64
        };
        self.maps.iter().map(product).sum()
    }
}

/// Whether the parameter at hand is the matrix of a linear map, and of which.
#[derive(Default)]
struct LinearPath(Vec<(String, bool)>);

impl LinearPath {
    fn enter(&mut self, name: &str, container: &str) {
        self.0.push((name.to_owned(), name == "weight" && container == "Struct:Linear"));
    }
    fn exit(&mut self) {
        self.0.pop();
    }
    /// The map's name.
    fn map(&self) -> Option<&str> {
        match &self.0[..] {
            [.., (name, _), (_, true)] => Some(name),
            // A linear map that is the whole module.
            [(_, true)] => Some(""),
            _ => None,
        }
    }
}

/// Collects all linear maps, in the module's order.
struct FindMaps {
    path: LinearPath,
    maps: Vec<FoundMap>,
}

struct FoundMap {
    name: String,
    sizes: [usize; 2],
}

impl FindMaps {
    /// The places of the maps that have these names.
    fn places(&self, names: &[String]) -> Result<Vec<usize>, SettingsError> {
        let refuse = |problem: String, remedy: String| SettingsError::new("adapter_maps", problem, remedy);
        let place = |name: &String| {
            let named = |map: &usize| self.maps[*map].name == *name;
            match (0..self.maps.len()).filter(named).collect::<Vec<_>>()[..] {
                [place] => Ok(place),
                ref places => {
                    let known = self.maps.iter().map(|map| map.name.as_str()).collect::<Vec<_>>().join(", ");
                    let count = if places.is_empty() { "no".to_owned() } else { places.len().to_string() };
                    let problem = format!("{count} linear maps are called `{name}`");
                    Err(refuse(problem, format!("name one of the part's: {known}")))
                }
            }
        };
        let places = names.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let inputs = || places.iter().map(|&place| self.maps[place].sizes[0]);
        match inputs().next() {
            None => Err(refuse("a list is empty".into(), "name a linear map, or leave the list out".into())),
            Some(first) if inputs().any(|input| input != first) => {
                let problem = format!("{names:?} read tokens of different widths");
                Err(refuse(problem, "put them in lists of their own".into()))
            }
            Some(_) => Ok(places),
        }
    }
}

impl ModuleVisitor for FindMaps {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let (Some(name), Ok(sizes)) = (self.path.map(), <[usize; 2]>::try_from(&param.dims()[..])) {
            self.maps.push(FoundMap { name: name.to_owned(), sizes });
        }
    }
    fn visit_flag(&mut self, _flag: &Param<Flag>) {}
}

/// Adds to each map its columns of a product, in the order of [`FindMaps`].
struct AddMaps<'a> {
    path: LinearPath,
    products: Vec<Tensor<2>>,
    additions: core::slice::Iter<'a, Option<Columns>>,
}

impl ModuleMapper for AddMaps<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.path.map().is_none() || D != 2 {
            return param;
        }
        let addition = self.additions.next().expect("an adapter knows of every map");
        let Some(Columns { product, first, count }) = *addition else { return param };
        let product = &self.products[product];
        let added = if product.dims()[1] == count { product.clone() } else { product.clone().narrow(1, first, count) };
        param.map(|weight| {
            let shape = weight.dims();
            weight + added.reshape(shape)
        })
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        flag
    }
}
