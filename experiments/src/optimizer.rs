//! Optimisers over a whole model: clipping, decay of matrices only, and a state that can be saved.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdjustLrFn, GradientsParams, Lion, LionConfig, LionState, Muon, MuonConfig, Optimizer as _};
use burn::tensor::{Device, Tensor, TensorData};
use heddle_kernels::{AdamW, Moments, adamw, squared_norm};

use crate::config::{Rule, TrainConfig};

/// An optimiser and what it remembers of every parameter, by the parameter's path in the model.
///
/// AdamW's arithmetic is [`adamw`]'s, that of Lion and of Muon's orthogonal step Burn's; momentum is
///
/// ```text
/// v_t = μ v_{t−1} + g_t      SGD steps by v_t, Muon by the orthogonal factor of g_t + μ v_t
/// ```
///
/// Weight decay acts on the parameters of rank two or more whose name ends in `weight`; scales, biases, and matrices that
/// are not maps (Mamba's `a_log`) keep their size.
#[derive(Debug)]
pub struct Optimizer {
    config: TrainConfig,
    /// Path → what is remembered.
    memory: BTreeMap<String, Memory>,
    steps: u64,
}

/// What an optimiser remembers of a parameter, flat.
#[derive(Debug)]
struct Memory {
    rule: Rule,
    /// AdamW's first moment, the momentum of the others.
    first: Tensor<1>,
    /// AdamW's second moment.
    second: Option<Tensor<1>>,
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

impl Optimizer {
    /// An optimiser before its first step.
    pub fn new(config: &TrainConfig) -> Self {
        Self { config: config.clone(), memory: BTreeMap::new(), steps: 0 }
    }

    /// Updates `model` by one step at the learning rate `lr` against its gradients.
    ///
    /// # Errors
    /// If the gradient is not finite. The model is then lost to the caller; load the last checkpoint.
    pub fn step<M: Module>(&mut self, model: M, grads: GradientsParams, lr: f64) -> Result<(M, StepReport), NotFinite> {
        let grad_norm = global_norm(&model, &grads);
        if !grad_norm.is_finite() {
            return Err(NotFinite);
        }
        let update =
            Update { rule: self.config.optimizer, adamw: self.adamw(lr, grad_norm), momentum: self.config.momentum };
        let model = model.map(&mut Walk { memory: &mut self.memory, grads, update, path: vec![] });
        self.steps += 1;
        Ok((model, StepReport { lr, grad_norm }))
    }

    fn adamw(&self, lr: f64, grad_norm: f64) -> AdamW {
        let TrainConfig { beta1, beta2, epsilon, weight_decay, clip, .. } = self.config;
        let gradient_scale = if clip > 0.0 && grad_norm > clip { clip / grad_norm } else { 1.0 };
        AdamW { lr, beta1, beta2, epsilon, weight_decay, gradient_scale, step: self.steps + 1 }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What is remembered, by name, to be saved: `adamw.first.PATH` and `adamw.second.PATH`, or `RULE.momentum.PATH`.
    pub fn moments(&self) -> impl Iterator<Item = (String, TensorData)> {
        self.memory.iter().flat_map(|(path, Memory { rule, first, second })| {
            let name = prefix(*rule);
            let kind = if second.is_some() { "first" } else { "momentum" };
            let first = (format!("{name}.{kind}.{path}"), first.to_data());
            let second = second.as_ref().map(|second| (format!("{name}.second.{path}"), second.to_data()));
            std::iter::once(first).chain(second)
        })
    }

    /// Takes up where an optimiser with these moments stopped.
    pub fn restore(&mut self, steps: u64, mut moments: BTreeMap<String, TensorData>, device: &Device) {
        self.steps = steps;
        self.memory.clear();
        let tensor = |data| Tensor::from_data(data, device);
        while let Some((name, data)) = moments.pop_first() {
            if let Some(path) = name.strip_prefix("adamw.first.") {
                let Some(second) = moments.remove(&format!("adamw.second.{path}")) else { continue };
                let memory = Memory { rule: Rule::Adamw, first: tensor(data), second: Some(tensor(second)) };
                self.memory.insert(path.to_owned(), memory);
            } else if let Some((rule, path)) = name.split_once(".momentum.")
                && let Some(rule) = [Rule::Lion, Rule::Muon, Rule::Sgd].into_iter().find(|known| prefix(*known) == rule)
            {
                self.memory.insert(path.to_owned(), Memory { rule, first: tensor(data), second: None });
            }
        }
    }
}

/// What a rule's memory is called in a checkpoint.
fn prefix(rule: Rule) -> &'static str {
    match rule {
        Rule::Adamw => "adamw",
        Rule::Lion => "lion",
        Rule::Muon => "muon",
        Rule::Sgd => "sgd",
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

/// How parameters are moved in a step.
#[derive(Clone, Copy)]
struct Update {
    rule: Rule,
    /// AdamW's settings, of which the other rules share some.
    adamw: AdamW,
    momentum: f64,
}

impl Update {
    /// The rule for a parameter of rank `rank`: Muon is for the matrices of the layers.
    fn rule_for(&self, path: &str, rank: usize) -> Rule {
        let map = rank == 2 && path.ends_with("weight") && !path.ends_with("conv_weight") && !path.starts_with("head.");
        if self.rule == Rule::Muon && !map { Rule::Adamw } else { self.rule }
    }

    /// Steps a parameter whose weights decay as `self.adamw` says.
    fn apply<const D: usize>(
        &self,
        rule: Rule,
        parameter: Tensor<D>,
        grad: Tensor<D>,
        memory: Option<Memory>,
    ) -> (Tensor<D>, Memory) {
        let shape = parameter.shape();
        let AdamW { lr, beta1, beta2, weight_decay, gradient_scale, .. } = self.adamw;
        let earlier = |memory: Option<Memory>| memory.map(|memory| memory.first);
        let remember = |momentum| Memory { rule, first: momentum, second: None };
        match rule {
            Rule::Adamw => {
                let (parameter, grad) = (flat(parameter), flat(grad));
                let moments = match memory {
                    Some(Memory { first, second: Some(second), .. }) => Moments { first, second },
                    _ => Moments { first: parameter.zeros_like(), second: parameter.zeros_like() },
                };
                let (parameter, moments) = adamw(parameter, grad, moments, &self.adamw);
                let Moments { first, second } = moments;
                (parameter.reshape(shape), Memory { rule, first, second: Some(second) })
            }
            Rule::Lion => {
                let config = LionConfig::new().with_beta_1(beta1 as f32).with_beta_2(beta2 as f32);
                let lion: Lion = config.with_weight_decay(weight_decay as f32).build();
                let state = earlier(memory).map(LionState::new);
                let (parameter, state) = lion.step(lr, flat(parameter), flat(grad) * gradient_scale, state);
                let momentum = state.expect("Lion has a momentum").momentum;
                (parameter.reshape(shape), remember(momentum))
            }
            Rule::Muon | Rule::Sgd => {
                let grad = flat(grad) * gradient_scale;
                let momentum = match earlier(memory) {
                    Some(momentum) => momentum * self.momentum + grad.clone(),
                    None => grad.clone(),
                };
                let parameter = match rule {
                    Rule::Muon => {
                        let [rows, columns] = [shape[0], shape[1]];
                        let ahead = (grad + momentum.clone() * self.momentum).reshape([rows, columns]);
                        let parameter = parameter * (1.0 - lr * weight_decay);
                        muon().step(lr, parameter.reshape([rows, columns]), ahead, None).0.reshape(shape)
                    }
                    _ => parameter * (1.0 - lr * weight_decay) - (momentum.clone() * lr).reshape(shape),
                };
                (parameter, remember(momentum))
            }
        }
    }
}

/// Burn's Muon for the orthogonal step alone: its momentum cannot be read back, so it is kept here.
fn muon() -> Muon {
    let none = MomentumConfig { momentum: 0.0, dampening: 0.0, nesterov: false };
    MuonConfig::new().with_momentum(none).with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW).build()
}

/// A walk over the parameters, each of which takes its step.
struct Walk<'a> {
    memory: &'a mut BTreeMap<String, Memory>,
    grads: GradientsParams,
    update: Update,
    path: Vec<String>,
}

impl ModuleMapper for Walk<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(grad) = self.grads.remove::<D>(param.id) else { return param };
        let path = self.path.join(".");
        let mut update = self.update;
        if D < 2 || !path.ends_with("weight") {
            update.adamw.weight_decay = 0.0;
        }
        param.map(|tensor| {
            let (rule, memory) = (update.rule_for(&path, D), self.memory.remove(&path));
            let (tensor, memory) = update.apply(rule, tensor.inner(), grad, memory);
            self.memory.insert(path, memory);
            Tensor::from_inner(tensor).require_grad()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;
    use burn::module::ParamId;

    const LR: f64 = 0.1;

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
        TrainConfig { weight_decay: 0.5, clip: 0.0, ..Default::default() }
    }

    fn descend(config: &TrainConfig, steps: usize) -> (f32, f32, Vec<f64>) {
        let device = Device::flex().autodiff();
        let (mut model, mut adam, mut norms) = (toy(&device), Optimizer::new(config), vec![]);
        for _ in 0..steps {
            let loss =
                (model.weight.val().powi_scalar(2).sum() + model.scale.val().powi_scalar(2).sum()).mul_scalar(0.5);
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            let (next, report) = adam.step(model, grads, LR).unwrap();
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
            let (mixer, _) = Optimizer::new(&config()).step(mixer, grads, LR).unwrap();
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
        for optimizer in [Rule::Adamw, Rule::Lion, Rule::Muon, Rule::Sgd] {
            let config = TrainConfig { optimizer, ..config() };
            let step = |model: Toy, optimizer: &mut Optimizer| {
                let loss = model.weight.val().powi_scalar(2).sum() + model.scale.val().powi_scalar(4).sum();
                let grads = GradientsParams::from_grads(loss.backward(), &model);
                optimizer.step(model, grads, LR).unwrap().0
            };
            let mut whole = Optimizer::new(&config);
            let model = step(toy(&device), &mut whole);
            let mut restored = Optimizer::new(&config);
            restored.restore(whole.steps(), whole.moments().collect(), &Device::flex());
            let (on, again) = (step(model.clone(), &mut whole), step(model.clone(), &mut restored));
            assert_eq!(on.weight.val().into_data(), again.weight.val().into_data(), "{optimizer:?}");
            assert_eq!(on.scale.val().into_data(), again.scale.val().into_data(), "{optimizer:?}");
            let mut forgetful = Optimizer::new(&config);
            step(model, &mut forgetful);
            let moments = |optimizer: &Optimizer| optimizer.moments().collect::<BTreeMap<_, _>>();
            assert_eq!(moments(&whole), moments(&restored), "{optimizer:?}");
            assert_ne!(moments(&whole), moments(&forgetful), "{optimizer:?} remembers nothing");
        }
    }

    /// Steps by a rule on a weight and a scale that both are 2 and have the gradient 2.
    fn by_hand(optimizer: Rule, steps: usize) -> (f32, f32) {
        let (weight, scale, _) = descend(&TrainConfig { optimizer, ..config() }, steps);
        (weight, scale)
    }

    #[test]
    fn every_rule_takes_the_steps_of_its_paper() {
        let decayed = |weight: f64| weight * (1.0 - LR * 0.5);
        // SGD: v₁ = g = 2, v₂ = μ v₁ + g.
        let first = 2.0 - LR * 2.0;
        assert_relative_eq!(by_hand(Rule::Sgd, 1).1, first as f32, epsilon = 1e-6);
        assert_relative_eq!(by_hand(Rule::Sgd, 2).1, (first - LR * (0.95 * 2.0 + first)) as f32, epsilon = 1e-6);
        assert_relative_eq!(by_hand(Rule::Sgd, 1).0, (decayed(2.0) - LR * 2.0) as f32, epsilon = 1e-6);
        // Lion: the sign of whatever gradient.
        assert_relative_eq!(by_hand(Rule::Lion, 1).1, (2.0 - LR) as f32, epsilon = 1e-6);
        assert_relative_eq!(by_hand(Rule::Lion, 1).0, (decayed(2.0) - LR) as f32, epsilon = 1e-6);
        // Muon: the orthogonal factor of a positive number is 1, which five iterations come near, times 0.2; else AdamW.
        let moved = (decayed(2.0) - f64::from(by_hand(Rule::Muon, 1).0)) / (0.2 * LR);
        assert!((0.6..1.3).contains(&moved), "{moved}");
        assert_relative_eq!(by_hand(Rule::Muon, 1).1, by_hand(Rule::Adamw, 1).1);
    }

    #[test]
    fn muon_is_for_the_maps_of_the_layers_alone() {
        let adamw =
            AdamW { lr: LR, beta1: 0.9, beta2: 0.9, epsilon: 0.0, weight_decay: 0.0, gradient_scale: 1.0, step: 1 };
        let update = Update { rule: Rule::Muon, adamw, momentum: 0.9 };
        let rules = [
            ("layers.0.mixer.in_proj.weight", 2, Rule::Muon),
            ("layers.0.mixer.recurrent_weight", 2, Rule::Muon),
            ("layers.0.mixer.conv_weight", 2, Rule::Adamw),
            ("layers.0.mixer.a_log", 2, Rule::Adamw),
            ("layers.0.norm.weight", 1, Rule::Adamw),
            ("embedding", 2, Rule::Adamw),
            ("head.weight", 2, Rule::Adamw),
        ];
        for (path, rank, rule) in rules {
            assert_eq!(update.rule_for(path, rank), rule, "{path}");
        }
    }
}
