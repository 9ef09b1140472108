//! A walk over the parameters of a module that knows where it is.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// What is done with each parameter of a module; see [`for_each_parameter`].
///
/// A trait and not a closure, because a parameter's rank is part of its type.
///
/// ```
/// use burn::{module::Param, tensor::{Device, Tensor}};
/// use heddle_hybrid::{EachParameter, Init, for_each_parameter};
///
/// struct Shapes(Vec<(String, Vec<usize>)>);
/// impl EachParameter for Shapes {
///     fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
///         self.0.push((path.to_owned(), param.lazy_shape().to_vec()));
///     }
/// }
///
/// let mut shapes = Shapes(vec![]);
/// for_each_parameter(&Init::new(0, &Device::flex()).linear(2, 3, true), &mut shapes);
/// assert_eq!(shapes.0, [("weight".to_owned(), vec![2, 3]), ("bias".to_owned(), vec![3])]);
/// ```
pub trait EachParameter {
    /// A parameter at a path, such as `layers.0.mixer.out_proj.weight`.
    fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>);
}

/// Shows every parameter of a module, in the module's order.
pub fn for_each_parameter<M: Module>(module: &M, each: &mut impl EachParameter) {
    module.visit(&mut Walk { path: vec![], each });
}

struct Walk<'a, E> {
    path: Vec<String>,
    each: &'a mut E,
}

impl<E: EachParameter> ModuleVisitor for Walk<'_, E> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.each.parameter(&self.path.join("."), param);
    }
}
