//! Parameters for files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use safetensors::{Dtype, View as TensorBytes};

use super::Architecture;
use super::error::PretrainedError;
use super::names::{Rule, View};
use crate::Model;

/// A parameter as a file holds it, in f32; its numbers are fetched from the device only when they are written.
pub struct NamedTensor {
    /// What it is called in the file.
    pub name: String,
    shape: Vec<usize>,
    /// The numbers of the parameter, in its own layout.
    values: Box<dyn Fn() -> Vec<f32>>,
    /// The shape of the parameter, if the file holds its transpose.
    transposed: bool,
}

impl fmt::Debug for NamedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedTensor").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl NamedTensor {
    /// Its shape in the file.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its numbers in the file's order.
    pub fn values(&self) -> Vec<f32> {
        let values = (self.values)();
        match self.shape.as_slice() {
            [rows, columns] if self.transposed => {
                (0..values.len()).map(|i| values[i % columns * rows + i / columns]).collect()
            }
            _ => values,
        }
    }
}

impl TensorBytes for NamedTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values().into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}

/// The parameters of a module under their own paths.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_hybrid::{Init, pretrained};
///
/// let linear = Init::new(0, &Device::flex()).linear(2, 3, true);
/// let names: Vec<String> = pretrained::parameters(&linear).into_iter().map(|tensor| tensor.name).collect();
/// assert_eq!(names, ["weight", "bias"]);
/// ```
pub fn parameters<M: Module>(module: &M) -> Vec<NamedTensor> {
    #[derive(Default)]
    struct Collect {
        path: Vec<String>,
        found: Vec<NamedTensor>,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            self.found.push(NamedTensor {
                name: self.path.join("."),
                shape: tensor.dims().to_vec(),
                values: Box::new(move || tensor.to_data().iter::<f32>().collect()),
                transposed: false,
            });
        }
    }
    let mut collect = Collect::default();
    module.visit(&mut collect);
    collect.found
}

impl Architecture {
    /// The parameters of a model of this architecture as its family names and lays them out.
    ///
    /// # Errors
    /// If the model has a parameter that the architecture does not have.
    pub fn tensors(&self, model: &Model) -> Result<Vec<NamedTensor>, PretrainedError> {
        let rules: BTreeMap<String, Rule> = self.rules().into_iter().map(|rule| (rule.ours.clone(), rule)).collect();
        let rename = |tensor: NamedTensor| {
            let Some(rule) = rules.get(&tensor.name) else {
                return Err(PretrainedError::tensor(
                    &tensor.name,
                    "no tensor of this family is known for this parameter",
                ));
            };
            let shape = rule.view.theirs(&tensor.shape);
            let transposed = rule.view == View::Transposed;
            Ok(NamedTensor { name: rule.theirs.clone(), shape, transposed, ..tensor })
        };
        parameters(model).into_iter().map(rename).collect()
    }
}
