//! AdamW over a whole model: schedule, clipping, decay of matrices only, and a state that can be saved.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use heddle_kernels::{AdamW, Moments, adamw, squared_norm};

use crate::config::{Schedule, TrainConfig};

/// AdamW (arXiv:1711.05101, algorithm 2) and the moments of every parameter, by the parameter's path in the model.
///
/// The arithmetic of a step is [`adamw`]'s. Weight decay acts on the parameters of rank two or more whose name ends in
/// `weight`; scales, biases, and matrices that are not maps (Mamba's `a_log`) keep their size.
#[derive(Debug)]
pub struct Adam {
    config: TrainConfig,
    /// Path → moments.
    moments: BTreeMap<String, Moments>,
    steps: u64,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The learning rate it used.
    pub lr: f64,
    /// Global 2-norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// A gradient that is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gradient is not finite")]
pub struct NotFinite;

impl Adam {
    /// An optimiser before its first step.
    pub fn new(config: &TrainConfig) -> Self {
        Self { config: config.clone(), moments: BTreeMap::new(), steps: 0 }
    }

    /// Updates `model` by one step against its gradients.
    ///
    /// # Errors
    /// If the gradient is not finite. The model is then lost to the caller; load the last checkpoint.
    pub fn step<M: Module>(&mut self, model: M, grads: GradientsParams) -> Result<(M, StepReport), NotFinite> {
        let grad_norm = global_norm(&model, &grads);
        if !grad_norm.is_finite() {
            return Err(NotFinite);
        }
        let lr = learning_rate(&self.config, self.steps);
        let rule = self.rule(lr, grad_norm);
        let model = model.map(&mut Update { moments: &mut self.moments, grads, rule, path: vec![] });
        self.steps += 1;
        Ok((model, StepReport { lr, grad_norm }))
    }

    fn rule(&self, lr: f64, grad_norm: f64) -> AdamW {
        let TrainConfig { beta1, beta2, epsilon, weight_decay, clip, .. } = self.config;
        let gradient_scale = if clip > 0.0 && grad_norm > clip { clip / grad_norm } else { 1.0 };
        AdamW { lr, beta1, beta2, epsilon, weight_decay, gradient_scale, step: self.steps + 1 }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments by name, to be saved: `first.PATH` and `second.PATH`.
    pub fn moments(&self) -> impl Iterator<Item = (String, TensorData)> {
        self.moments.iter().flat_map(|(path, Moments { first, second })| {
            [(format!("first.{path}"), first.to_data()), (format!("second.{path}"), second.to_data())]
        })
    }

    /// Takes up where an optimiser with these moments stopped.
    pub fn restore(&mut self, steps: u64, mut moments: BTreeMap<String, TensorData>, device: &Device) {
        self.steps = steps;
        self.moments.clear();
        while let Some((name, first)) = moments.pop_first() {
            let Some(path) = name.strip_prefix("first.") else { break };
            let Some(second) = moments.remove(&format!("second.{path}")) else { continue };
            let [first, second] = [first, second].map(|data| Tensor::from_data(data, device));
            self.moments.insert(path.to_owned(), Moments { first, second });
        }
    }
}

/// The learning rate of the step after `taken` steps: linear warm-up, then the schedule.
pub fn learning_rate(config: &TrainConfig, taken: u64) -> f64 {
    let step = taken + 1;
    if step <= config.warmup {
        return config.lr * step as f64 / config.warmup as f64;
    }
    match config.schedule {
        Schedule::Constant => config.lr,
        Schedule::Cosine => {
            let left = (config.steps - config.warmup).max(1) as f64;
            let done = ((step - config.warmup) as f64 / left).min(1.0);
            let floor = config.lr_floor;
            config.lr * (floor + (1.0 - floor) * 0.5 * (1.0 + (core::f64::consts::PI * done).cos()))
        }
    }
}

/// √(Σ g²) over all gradients, summed in the order of the model's parameters.
fn global_norm<M: Module>(model: &M, grads: &GradientsParams) -> f64 {
    struct SumOfSquares<'a>(&'a GradientsParams, f64);
    impl ModuleVisitor for SumOfSquares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.get::<D>(param.id) {
                self.1 += squared_norm(flat(grad));
            }
        }
    }
    let mut visitor = SumOfSquares(grads, 0.0);
    model.visit(&mut visitor);
    visitor.1.sqrt()
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.shape().num_elements();
    tensor.reshape([count])
}

struct Update<'a> {
    moments: &'a mut BTreeMap<String, Moments>,
    grads: GradientsParams,
    rule: AdamW,
    path: Vec<String>,
}

impl Update<'_> {
    fn step<const D: usize>(&mut self, tensor: Tensor<D>, grad: Tensor<D>) -> Tensor<D> {
        let shape = tensor.shape();
        let path = self.path.join(".");
        let decays = D >= 2 && path.ends_with("weight");
        let rule = AdamW { weight_decay: if decays { self.rule.weight_decay } else { 0.0 }, ..self.rule };
        let (tensor, grad) = (flat(tensor), flat(grad));
        let moments = self.moments.remove(&path);
        let moments = moments.unwrap_or_else(|| Moments { first: tensor.zeros_like(), second: tensor.zeros_like() });
        let (tensor, moments) = adamw(tensor, grad, moments, &rule);
        self.moments.insert(path, moments);
        tensor.reshape(shape)
    }
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(grad) = self.grads.remove::<D>(param.id) else { return param };
        param.map(|tensor| Tensor::from_inner(self.step(tensor.inner(), grad)).require_grad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use burn::module::ParamId;

    #[derive(Module, Debug)]
    struct Toy {
        weight: Param<Tensor<2>>,
        scale: Param<Tensor<1>>,
    }

    fn toy(device: &Device) -> Toy {
        let param = |tensor: Tensor<1>| tensor.require_grad();
        Toy {
            weight: Param::initialized(ParamId::new(), Tensor::<2>::from_floats([[2.0]], device).require_grad()),
            scale: Param::initialized(ParamId::new(), param(Tensor::from_floats([2.0], device))),
        }
    }

    fn config() -> TrainConfig {
        TrainConfig {
            lr: 0.1,
            warmup: 0,
            steps: 10,
            schedule: Schedule::Constant,
            weight_decay: 0.5,
            clip: 0.0,
            ..Default::default()
        }
    }

    fn descend(config: &TrainConfig, steps: usize) -> (f32, f32, Vec<f64>) {
        let device = Device::flex().autodiff();
        let (mut model, mut adam, mut norms) = (toy(&device), Adam::new(config), vec![]);
        for _ in 0..steps {
            let loss =
                (model.weight.val().powi_scalar(2).sum() + model.scale.val().powi_scalar(2).sum()).mul_scalar(0.5);
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            let (next, report) = adam.step(model, grads).unwrap();
            model = next;
            norms.push(report.grad_norm);
        }
        (model.weight.val().into_scalar(), model.scale.val().into_scalar(), norms)
    }

    #[test]
    fn decay_acts_on_matrices_alone() {
        // AdamW's first step is lr·sign(g); the matrix is first shrunk by lr·decay.
        let (weight, scale, norms) = descend(&config(), 1);
        assert_relative_eq!(scale, 2.0 - 0.1, epsilon = 1e-5);
        assert_relative_eq!(weight, 2.0 * (1.0 - 0.05) - 0.1, epsilon = 1e-5);
        assert_relative_eq!(norms[0], 8f64.sqrt(), epsilon = 1e-6);
    }

    #[test]
    fn decay_leaves_norms_biases_and_rates_of_every_mixer_alone() {
        use heddle_hybrid::{Init, KindTable, MixerRegistry};
        let device = Device::flex().autodiff();
        let registry = MixerRegistry::default();
        for kind in registry.kinds() {
            let table = KindTable::from_iter([("kind".to_owned(), kind.into())]);
            let mixer = registry.build(&table, 16, &mut Init::new(0, &device)).unwrap();
            let (y, _) = mixer.forward(Tensor::ones([1, 3, 16], &device), mixer.state(1, 16, &device));
            // With gradients of zero decay is all that moves a parameter.
            let grads = GradientsParams::from_grads((y * 0.0).sum().backward(), &mixer);
            let before = crate::checkpoint::parameters(&mixer);
            let (mixer, _) = Adam::new(&config()).step(mixer, grads).unwrap();
            let after = crate::checkpoint::parameters(&mixer);
            let moved: Vec<&String> = before.keys().filter(|path| before[*path] != after[*path]).collect();
            assert!(!moved.is_empty(), "{kind}");
            for path in moved {
                let last = path.rsplit('.').next().unwrap();
                assert!(last.ends_with("weight") && before[path].shape().len() >= 2, "{kind}: `{path}` decays");
            }
            let stays = ["bias", "norm", "a_log", "skip", "rate"];
            let alone = before.keys().filter(|path| stays.iter().any(|end| path.ends_with(end)));
            alone.for_each(|path| assert!(before[path] == after[path], "{kind}: `{path}` decays"));
        }
    }

    #[test]
    fn clipping_leaves_the_direction_and_bounds_the_norm() {
        // The second moment of AdamW forgets a constant factor, ε alone tells the difference: make ε large.
        let large = TrainConfig { epsilon: 1.0, weight_decay: 0.0, ..config() };
        let (free, _, _) = descend(&large, 1);
        let (clipped, _, _) = descend(&TrainConfig { clip: 2f64.sqrt(), ..large }, 1);
        assert_relative_eq!(free, 2.0 - 0.1 * 2.0 / 3.0, epsilon = 1e-5);
        assert_relative_eq!(clipped, 2.0 - 0.1 * 1.0 / 2.0, epsilon = 1e-5);
    }

    #[test]
    fn a_restored_optimizer_goes_on_as_if_nothing_had_happened() {
        let device = Device::flex().autodiff();
        let step = |model: Toy, adam: &mut Adam| {
            let loss = model.weight.val().powi_scalar(2).sum() + model.scale.val().powi_scalar(4).sum();
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            adam.step(model, grads).unwrap().0
        };
        let mut adam = Adam::new(&config());
        let model = step(toy(&device), &mut adam);
        let mut restored = Adam::new(&config());
        restored.restore(adam.steps(), adam.moments().collect(), &Device::flex());
        let (on, again) = (step(model.clone(), &mut adam), step(model, &mut restored));
        assert_eq!(on.weight.val().into_data(), again.weight.val().into_data());
        assert_eq!(on.scale.val().into_data(), again.scale.val().into_data());
    }

    #[test]
    fn the_schedule_warms_up_and_ends_at_its_floor() {
        let config = TrainConfig {
            lr: 1.0,
            warmup: 4,
            steps: 12,
            lr_floor: 0.1,
            schedule: Schedule::Cosine,
            ..Default::default()
        };
        assert_eq!(learning_rate(&config, 0), 0.25);
        assert_eq!(learning_rate(&config, 3), 1.0);
        assert_relative_eq!(learning_rate(&config, 7), 0.55, epsilon = 1e-12);
        assert_relative_eq!(learning_rate(&config, 11), 0.1, epsilon = 1e-12);
        assert_relative_eq!(learning_rate(&config, 50), 0.1, epsilon = 1e-12);
    }
}
