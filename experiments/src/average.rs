//! An exponential moving average of a model's parameters.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use heddle_hybrid::Model;

/// A model whose parameters follow those of another, smoothed.
///
/// ```text
/// a_t = β_t a_{t−1} + (1 − β_t) θ_t      β_t = min(β, (1 + t) / (10 + t))
/// ```
///
/// The average begins at the initial parameters; the bound on `β_t` lets it forget them at once (as TensorFlow's
/// `ExponentialMovingAverage` does with `num_updates`).
#[derive(Debug)]
pub struct Average {
    decay: f64,
    model: Model,
}

impl Average {
    /// An average with decay `β` that stands at `model`, which holds plain tensors, without gradients.
    pub fn new(decay: f64, model: Model) -> Self {
        Self { decay, model }
    }

    /// The average.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Takes up the parameters `model` after step number `step`, from 1.
    pub fn update(&mut self, model: &Model, step: u64) {
        let t = step as f64;
        let mut follow = Follow { decay: self.decay.min((1.0 + t) / (10.0 + t)), latest: GradientsParams::new() };
        model.valid().visit(&mut follow);
        self.model = self.model.clone().map(&mut follow);
    }
}

/// Gathers the latest parameters as a visitor, and moves the average towards them as a mapper.
struct Follow {
    decay: f64,
    /// Parameters by the identity that both models share.
    latest: GradientsParams,
}

impl ModuleVisitor for Follow {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.latest.register(param.id, param.val());
    }
}

impl ModuleMapper for Follow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let latest = self.latest.remove::<D>(param.id).expect("the average has the parameters of its model");
        param.map(|average| average * self.decay + latest * (1.0 - self.decay))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use heddle_hybrid::{Init, MixerRegistry};
    use serde_json::json;

    use super::*;
    use crate::checkpoint::{Tensors, parameters, with_parameters};

    #[test]
    fn an_average_follows_by_its_decay_and_at_first_faster() {
        let config = json!({"d_model": 8, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}});
        let config = serde_json::from_value(config).unwrap();
        let device = Device::flex().autodiff();
        let model = Model::new(&config, 8, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
        let all = |value: f32| -> Tensors {
            let fill = |(path, data): (String, burn::tensor::TensorData)| {
                let filled = data.iter::<f32>().map(|_| value).collect::<Vec<_>>();
                (path, burn::tensor::TensorData::new(filled, data.shape().clone()))
            };
            parameters(&model).into_iter().map(fill).collect()
        };
        let at = |value: f32| with_parameters(model.clone(), &all(value)).unwrap();
        let assert_at = |average: &Average, expected: f32| {
            for (path, data) in parameters(average.model()) {
                assert!(data.iter::<f32>().all(|value| (value - expected).abs() < 1e-6), "{path} is not {expected}");
            }
        };
        let mut average = Average::new(0.75, at(0.0).valid());
        average.update(&at(1.0), 1);
        assert_at(&average, 9.0 / 11.0);
        average.update(&at(0.0), 1000);
        assert_at(&average, 0.75 * 9.0 / 11.0);
    }
}
