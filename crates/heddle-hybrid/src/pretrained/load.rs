//! Parameters from files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use heddle_kernels::Init;

use super::Architecture;
use super::error::PretrainedError;
use super::names::{Rule, View};
use super::source::TensorFiles;
use crate::walk::{EachParameter, for_each_parameter};
use crate::{MixerRegistry, Model};

/// A buffer that old versions of the format's main library saved beside the weights; it follows from the config.
const BUFFER: &str = ".rotary_emb.inv_freq";

/// What the names begin with of layers that predict tokens behind the next one, beside the model (Qwen3-Next, Nemotron-H).
const LATER_TOKENS: &str = "mtp.";

impl Architecture {
    /// The model with the parameters that `files` hold, on `device`.
    ///
    /// Every name, shape and kind of number is checked before the first tensor is read. Memory is never above that of the model
    /// and its largest tensor.
    ///
    /// # Errors
    /// If a tensor is missing, superfluous, of another shape than the config asks for, of numbers that cannot be read, or holds
    /// one that is not finite; or if the system fails.
    pub fn load<R: Read + Seek>(
        &self,
        files: &mut TensorFiles<R>,
        mixers: &MixerRegistry,
        device: &Device,
    ) -> Result<Model, PretrainedError> {
        if self.fewest_tensors() > files.len() {
            let problem = format!("there are only {} tensors for the layers that it asks for", files.len());
            return Err(PretrainedError::config("num_hidden_layers", problem, super::error::SAME_MODEL));
        }
        for (name, shape) in self.shared_tensors() {
            check_shape(files, &name, shape)?;
        }
        let model = Model::new(self.model(), self.vocab(), mixers, &mut Init::outline(device))?;
        let rules: BTreeMap<String, Rule> = self.rules().into_iter().map(|rule| (rule.ours.clone(), rule)).collect();
        let tied = self.tied_head();
        let aside = |name: &str| name.ends_with(BUFFER) || name.starts_with(LATER_TOKENS);
        let permitted = |name: &str| aside(name) || tied.is_some_and(|[_, head]| name == head);
        let model =
            fill(model, files, |path| rules.get(path).map(|rule| (rule.theirs.clone(), rule.view.clone())), permitted)?;
        if let Some([embedding, head]) = tied.filter(|[_, head]| files.names().any(|name| name == *head)) {
            check_copy(files, [embedding, head], self.model().d_model)?;
        }
        Ok(model)
    }
}

/// The model with the parameters that stand in `files` under their own paths behind `prefix`, as this program writes them.
///
/// # Errors
/// As [`Architecture::load`].
pub fn load_parameters<R: Read + Seek>(
    model: Model,
    files: &mut TensorFiles<R>,
    prefix: &str,
) -> Result<Model, PretrainedError> {
    let permitted = |name: &str| !name.starts_with(prefix);
    fill(model, files, |path| Some((format!("{prefix}{path}"), View::Same)), permitted)
}

/// Replaces every parameter of a model by the tensor that `source` names for its path. Tensors beside these must be
/// `permitted`.
fn fill<R: Read + Seek>(
    model: Model,
    files: &mut TensorFiles<R>,
    source: impl Fn(&str) -> Option<(String, View)>,
    permitted: impl Fn(&str) -> bool,
) -> Result<Model, PretrainedError> {
    let mut used = BTreeSet::new();
    let mut sources = vec![];
    for (path, shape) in shapes(&model) {
        let unnamed = || PretrainedError::tensor(&path, "no tensor of this family is known for this parameter");
        let (name, view) = source(&path).ok_or_else(unnamed)?;
        check_shape(files, &name, &view.theirs(&shape))?;
        used.insert(name.clone());
        sources.push((name, view));
    }
    if let Some(name) = files.names().find(|name| !used.contains(*name) && !permitted(name)) {
        return Err(PretrainedError::tensor(name, "the config has no place for it"));
    }
    let mut fill = Fill { sources: sources.into_iter(), files, error: None };
    let model = model.map(&mut fill);
    fill.error.map_or(Ok(model), Err)
}

fn check_shape<R: Read + Seek>(files: &TensorFiles<R>, name: &str, expected: &[usize]) -> Result<(), PretrainedError> {
    let there = files.shape(name)?;
    match there == expected {
        true => Ok(()),
        false => {
            let problem = format!("its shape is {there:?}, and the config asks for {expected:?}");
            Err(PretrainedError::tensor(name, problem))
        }
    }
}

/// The path and shape of every parameter, in order.
fn shapes(model: &Model) -> Vec<(String, Vec<usize>)> {
    struct Shapes(Vec<(String, Vec<usize>)>);
    impl EachParameter for Shapes {
        fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
            self.0.push((path.to_owned(), param.lazy_shape().to_vec()));
        }
    }
    let mut shapes = Shapes(vec![]);
    for_each_parameter(model, &mut shapes);
    shapes.0
}

/// Puts tensors into a model, whose parameters are visited in the order of `sources`.
struct Fill<'a, S, R> {
    sources: S,
    files: &'a mut TensorFiles<R>,
    error: Option<PretrainedError>,
}

impl<S: Iterator<Item = (String, View)>, R: Read + Seek> ModuleMapper for Fill<'_, S, R> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let source = self.sources.next();
        let (Some((name, view)), None) = (source, &self.error) else { return param };
        let (shape, device) = (param.lazy_shape(), param.lazy_device());
        match values(self.files, &name, &view, &shape.to_vec()) {
            Ok(values) => Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &device)),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// The numbers of a tensor as a parameter of shape `ours` has them.
fn values<R: Read + Seek>(
    files: &mut TensorFiles<R>,
    name: &str,
    view: &View,
    ours: &[usize],
) -> Result<Vec<f32>, PretrainedError> {
    let count = ours.iter().product();
    let mut values = vec![0.0; count];
    let mut finite = true;
    let check = |stretch: &[f32]| stretch.iter().all(|value| value.is_finite());
    match (view, ours) {
        (View::Transposed, &[row, width]) => files.read_part(name, row, 0..count, |first, stretch| {
            finite &= check(stretch);
            transpose(stretch, row, &mut values, [width, first / row]);
        })?,
        (View::Picked(picked), &[_] | &[_, _]) => {
            // A vector is a row of numbers, each of which is a column.
            let (row, width) = if let [row, width] = *ours { (row, width) } else { (1, count) };
            if row != picked.width() || width != picked.each().count() {
                return Err(PretrainedError::tensor(name, format!("its parts do not make up {ours:?}")));
            }
            let mut column = 0;
            for &[first, count] in &picked.rows {
                files.read_part(name, row, first * row..(first + count) * row, |at, stretch| {
                    finite &= check(stretch);
                    transpose(stretch, row, &mut values, [width, column + at / row]);
                })?;
                column += count;
            }
        }
        _ => files.read_part(name, 1, 0..count, |first, stretch| {
            finite &= check(stretch);
            values[first..first + stretch.len()].copy_from_slice(stretch);
        })?,
    }
    match finite {
        true => Ok(values),
        false => Err(PretrainedError::Tensor {
            name: name.to_owned(),
            problem: "it holds a number that is not finite".into(),
            remedy: super::error::FETCH_AGAIN,
        }),
    }
}

/// Writes rows of length `row` as the columns from `start` of a matrix with rows of length `width`.
fn transpose(rows: &[f32], row: usize, matrix: &mut [f32], [width, start]: [usize; 2]) {
    let count = rows.len() / row;
    for (i, to) in matrix.chunks_exact_mut(width).enumerate() {
        for (to, from) in to[start..start + count].iter_mut().zip(rows[i..].iter().step_by(row)) {
            *to = *from;
        }
    }
}

/// Refuses a head beside the embedding that it should be a copy of.
fn check_copy<R: Read + Seek>(
    files: &mut TensorFiles<R>,
    [original, copy]: [&str; 2],
    width: usize,
) -> Result<(), PretrainedError> {
    let shape = files.shape(original)?.to_vec();
    let original = values(files, original, &View::Same, &shape)?;
    let mut same = files.shape(copy)? == shape;
    if same {
        files.read_part(copy, width, 0..original.len(), |first, stretch| {
            same &= original[first..first + stretch.len()] == *stretch
        })?;
    }
    match same {
        true => Ok(()),
        false => {
            let problem = "the config says that the head shares the embedding, and this is no copy of it";
            Err(PretrainedError::tensor(copy, problem))
        }
    }
}
