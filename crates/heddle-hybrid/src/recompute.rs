//! Gradients layer by layer: time for memory.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Int, Tensor};

use crate::layer::Common;
use crate::{LayerRouting, Model};

/// What [`Model::gradients_by_layer`] computes.
///
/// ```
/// use burn::optim::SgdConfig;
/// use burn::tensor::{Device, Int, Tensor};
/// use heddle_hybrid::{Init, LayerGradients, MixerRegistry, Model, ModelConfig};
///
/// let json = r#"{"d_model": 16, "layers": ["gru * 2"], "mixer": {"gru": {"kind": "gru"}}}"#;
/// let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex().autodiff());
/// let mut model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// let (mut sgd, mut losses) = (SgdConfig::new().init(), vec![]);
/// for _ in 0..2 {
///     let tokens = Tensor::<2, Int>::from_ints([[1, 2, 3]], &device);
///     let found: LayerGradients = model.gradients_by_layer(tokens, |hidden| (hidden - 1.0).square().mean());
///     losses.push(found.loss.into_scalar::<f32>());
///     model = sgd.step(0.1, model, found.gradients);
/// }
/// assert!(losses[1] < losses[0]);
/// ```
#[derive(Debug)]
pub struct LayerGradients {
    /// The loss, without those of mixtures of experts: `[1]`.
    pub loss: Tensor<1>,
    /// Gradients of the loss and of those of mixtures of experts, for every parameter.
    pub gradients: GradientsParams,
    /// Where the tokens of each mixture of experts were sent, layer by layer.
    pub routed: Vec<LayerRouting>,
}

impl Model {
    /// Gradients of `loss`, a function of the normalised hidden state, for sequences that begin with `tokens`.
    ///
    /// A first pass keeps what every layer reads and nothing else. Then, last layer first, each is computed again and
    /// differentiated by itself (arXiv:1604.06174, §4.1, with a segment a layer). So the numbers of one layer are held
    /// at a time, for one more forward pass.
    ///
    /// # Shapes
    /// - `tokens`: `[b, l]`; what `loss` takes: `[b, l, d]`, what it gives: `[1]`
    ///
    /// # Panics
    /// If the model is not on a device with gradients, or has dropout, which would draw anew.
    ///
    /// # Examples
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
    ///
    /// let config: ModelConfig = serde_json::from_str(
    ///     r#"{"d_model": 16, "layers": ["gru * 4"], "mixer": {"gru": {"kind": "gru"}}}"#,
    /// ).unwrap();
    /// let device = Device::flex().autodiff();
    /// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
    /// let tokens = Tensor::<2, Int>::from_ints([[1, 2, 3]], &device);
    /// let by_layer = model.gradients_by_layer(tokens, |hidden| hidden.abs().mean());
    /// assert!(by_layer.gradients.len() > 4 * 5);
    /// ```
    pub fn gradients_by_layer(
        &self,
        tokens: Tensor<2, Int>,
        loss: impl FnOnce(Tensor<3>) -> Tensor<1>,
    ) -> LayerGradients {
        assert!(
            self.dropout.prob == 0.0,
            "model: gradients by layer and dropout {} exclude each other",
            self.dropout.prob
        );
        if let Some(layer) = self.layers.iter().position(|layer| layer.is_random(&self.shared)) {
            panic!("model: gradients by layer and dropout in the mixer of layer {layer} exclude each other");
        }
        let mut inputs = self.valid().streams(tokens.clone().inner());
        let embedding = inputs[0].clone();
        let mut gradients = GradientsAccumulator::new();
        let mut differentiate = |objective: Tensor<1>, inputs: [Option<Tensor<3>>; 2]| {
            let mut found = objective.backward();
            let upstream = inputs.map(|input| input.and_then(|input| input.grad_remove(&mut found)));
            gradients.accumulate(self, GradientsParams::from_grads(found, self));
            upstream
        };
        let leaf = |x: Tensor<3>| Tensor::from_inner(x).require_grad();
        let mut take = || leaf(inputs.pop().expect("one for each layer and the head"));

        let x: Tensor<3> = take();
        let loss = loss(self.normalised(x.clone()));
        let [upstream, _] = differentiate(loss.clone(), [Some(x), None]);
        let mut upstream = upstream.expect("a loss depends on the hidden state");
        // What layers that read the embedding beside the stream add to its gradient.
        let mut beside: Option<Tensor<3>> = None;
        let (device, sizes) = (tokens.device(), [tokens.dims()[0], self.d_model()]);
        let mut routed = vec![];
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let (x, embedding) = (take(), leaf(embedding.clone()));
            let common = Common { pool: &self.shared, dropout: &self.dropout, embedding: &embedding };
            let (y, _, routing) = layer.forward(x.clone(), layer.state(&self.shared, sizes, &device), common);
            let mut objective = (y * Tensor::from_inner(upstream)).sum();
            if let Some(routing) = routing {
                objective = objective + routing.loss.clone();
                routed.push(LayerRouting { layer: index, routing });
            }
            let embedding = layer.reads_embedding().then_some(embedding);
            let [of_stream, of_embedding] = differentiate(objective, [Some(x), embedding]);
            upstream = of_stream.expect("a layer adds to what it reads");
            beside = match (beside, of_embedding) {
                (Some(sum), Some(more)) => Some(sum + more),
                (sum, more) => sum.or(more),
            };
        }
        if let Some(beside) = beside {
            upstream = upstream + beside;
        }
        differentiate((self.embedded(tokens) * Tensor::from_inner(upstream)).sum(), [None, None]);
        routed.reverse();
        LayerGradients { loss, gradients: gradients.grads(), routed }
    }
}
