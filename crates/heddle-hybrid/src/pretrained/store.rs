//! Parameters for files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use safetensors::{Dtype, View as TensorBytes};

use super::Architecture;
use super::error::PretrainedError;
use super::names::{Rule, View};
use crate::Model;
use crate::walk::{EachParameter, for_each_parameter};

/// A tensor as a file holds it, in f32; its numbers are fetched from the device only when they are written.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_hybrid::{Init, pretrained};
/// use safetensors::View;
///
/// let linear = Init::new(0, &Device::flex()).linear(2, 3, true);
/// let tensors = pretrained::parameters(&linear);
/// assert_eq!((tensors[0].name.as_str(), tensors[0].shape(), tensors[0].data().len()), ("weight", &[2, 3][..], 4 * 6));
/// let file = safetensors::serialize(tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)), None).unwrap();
/// assert!(file.len() > 4 * (6 + 3));
/// ```
pub struct NamedTensor {
    /// What it is called in the file.
    pub name: String,
    shape: Vec<usize>,
    /// The parameters that it is made of.
    parameters: Vec<Parameter>,
}

/// The numbers of a parameter in its own layout, and how they lie in the tensor.
struct Parameter {
    shape: Vec<usize>,
    /// Fetches rows from the device: the first, and how many.
    fetch: Box<dyn Fn(usize, usize) -> TensorData>,
    view: View,
}

/// Numbers fetched at a time, unless a row is longer.
const STRETCH: usize = 1 << 18;

impl Parameter {
    /// Writes the numbers where they belong among a tensor's bytes.
    fn write(&self, bytes: &mut [u8]) {
        let (count, width) = (self.shape[0], self.shape[1..].iter().product::<usize>());
        let picked: Vec<usize> = match &self.view {
            View::Picked(picked) => picked.each().collect(),
            _ => vec![],
        };
        let stretch = (STRETCH / width).max(1);
        for start in (0..count).step_by(stretch) {
            let data = (self.fetch)(start, stretch.min(count - start));
            let values = data.as_slice::<f32>().expect("parameters are f32");
            for (i, value) in values.iter().enumerate() {
                let (row, column) = (start + i / width, i % width);
                let at = match &self.view {
                    View::Transposed => column * count + row,
                    View::Picked(_) if self.shape.len() == 1 => picked[row],
                    View::Picked(_) => picked[column] * count + row,
                    View::Same | View::Filter => row * width + column,
                };
                bytes[4 * at..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

impl fmt::Debug for NamedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedTensor").field("name", &self.name).field("shape", &self.shape).finish_non_exhaustive()
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
        let mut bytes = vec![0; self.data_len()];
        self.parameters.iter().for_each(|parameter| parameter.write(&mut bytes));
        bytes.into()
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
    struct Collect(Vec<NamedTensor>);
    impl EachParameter for Collect {
        fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let shape = tensor.dims().to_vec();
            let fetch = Box::new(move |first, count| tensor.clone().narrow(0, first, count).into_data());
            let parameters = vec![Parameter { shape: shape.clone(), fetch, view: View::Same }];
            self.0.push(NamedTensor { name: path.to_owned(), shape, parameters });
        }
    }
    let mut collect = Collect(vec![]);
    for_each_parameter(module, &mut collect);
    collect.0
}

impl Architecture {
    /// The parameters of a model of this architecture as its family names and lays them out.
    ///
    /// # Errors
    /// If the model has a parameter that the architecture does not have.
    pub fn tensors(&self, model: &Model) -> Result<Vec<NamedTensor>, PretrainedError> {
        let rules: BTreeMap<String, Rule> = self.rules().into_iter().map(|rule| (rule.ours.clone(), rule)).collect();
        let mut tensors: BTreeMap<String, NamedTensor> = BTreeMap::new();
        for mut tensor in parameters(model) {
            let Some(rule) = rules.get(&tensor.name) else {
                let problem = "no tensor of this family is known for this parameter";
                return Err(PretrainedError::tensor(&tensor.name, problem));
            };
            let (name, shape) = (rule.theirs.clone(), rule.view.theirs(&tensor.shape));
            tensor.parameters.iter_mut().for_each(|parameter| parameter.view = rule.view.clone());
            let whole = NamedTensor { name: name.clone(), shape, parameters: vec![] };
            tensors.entry(name).or_insert(whole).parameters.append(&mut tensor.parameters);
        }
        Ok(tensors.into_values().collect())
    }
}
