//! Seeing inside: what each layer reads, whom its tokens look at, and the model without one of its parts.

mod scores;
#[cfg(test)]
mod tests;

use core::ops::Range;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use heddle_kernels::Mixer;

use crate::layer::Common;
use crate::shared::{Slot, Use};
use crate::{AnyMixer, Model};

pub use scores::{HeadScores, HeadTally, Seen};

/// A model and what its layers read of some sequences, from an empty state.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let json = r#"{"d_model": 16, "layers": ["mamba", "attention", "gru"], "mixer": {"mamba": {"kind": "mamba"},
///     "attention": {"kind": "attention", "heads": 2}, "gru": {"kind": "gru"}}}"#;
/// let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
/// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// let inside = model.inspect(Tensor::from_ints([[1, 2, 3, 4, 5]], &device));
///
/// // The last token's weights: of 32 channels, of two heads, and none of a block that is not linear in its values.
/// let maps = [0, 1, 2].map(|layer| inside.map(layer, 4..5).map(|map| map.dims()));
/// assert_eq!(maps, [Some([1, 32, 1, 5]), Some([1, 2, 1, 5]), None]);
/// assert_eq!(inside.selection(0).unwrap().dims(), [1, 5, 32]);
/// ```
#[derive(Debug)]
pub struct Inspection<'a> {
    model: &'a Model,
    /// What each layer reads, and last what the final norm reads: `[b, l, d]` each.
    streams: Vec<Tensor<3>>,
}

impl Inspection<'_> {
    /// The residual stream before layer `layer`, and behind the last where `layer` is their number: `[b, l, d]`.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn stream(&self, layer: usize) -> Tensor<3> {
        self.streams[layer].clone()
    }

    /// The normalised hidden state of every token, `[b, l, d]`: what [`Model::forward`] gives.
    pub fn hidden(&self) -> Tensor<3> {
        self.model.normalised(self.stream(self.model.layers.len()))
    }

    /// [`Mixer::attention_map`](crate::Mixer::attention_map) of a layer: `[b, heads, rows, l]`.
    ///
    /// None if the layer has no mixer, or one without a map.
    ///
    /// # Panics
    /// If there is no such layer, or `rows` is empty or goes beyond the tokens.
    pub fn map(&self, layer: usize, rows: Range<usize>) -> Option<Tensor<4>> {
        self.ask(layer, |mixer, x| mixer.attention_map(x, rows))
    }

    /// [`Mixer::selection`](crate::Mixer::selection) of a layer: `[b, l, heads]`.
    ///
    /// None if the layer has no mixer, or one without a Δ.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn selection(&self, layer: usize) -> Option<Tensor<3>> {
        self.ask(layer, AnyMixer::selection)
    }

    fn ask<R>(&self, layer: usize, question: impl FnOnce(&AnyMixer, Tensor<3>) -> Option<R>) -> Option<R> {
        let model = self.model;
        let part = &model.layers[layer];
        let x = part.mixer_input(self.stream(layer), model.common(&self.streams[0]))?;
        part.mixer.as_ref()?.with(&model.shared.mixers, |mixer| question(mixer, x))
    }

    /// Activation patching (arXiv:2202.05262, §2.1; arXiv:2404.15255): hidden states where one token's residual stream before
    /// a layer is that of another inspection of the same model.
    ///
    /// ```text
    /// row t:  x_layer[t] ← from.x_layer[t], then the layers from `layer` on
    /// ```
    ///
    /// # Shapes
    /// - both inspections: of one sequence of equal length `l`; returned: `[l, l, d]`, in row `t` all hidden states with token
    ///   `t` patched
    ///
    /// # Panics
    /// If the inspections are of several sequences or of different lengths, or there is no such layer.
    ///
    /// # Examples
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
    ///
    /// let json = r#"{"d_model": 16, "layers": ["attention * 2"], "mixer": {"attention": {"kind": "attention"}}}"#;
    /// let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
    /// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
    /// let inspect = |tokens: [i32; 3]| model.inspect(Tensor::<1, Int>::from_ints(tokens, &device).unsqueeze());
    /// let (one, other) = (inspect([1, 2, 3]), inspect([1, 7, 3]));
    /// // The texts differ in the second token alone, so to patch its embedding is to read the other text.
    /// let patched = one.patched(0, &other).narrow(0, 1, 1);
    /// assert!((patched - other.hidden()).abs().max().into_scalar::<f32>() < 1e-5);
    /// ```
    pub fn patched(&self, layer: usize, from: &Self) -> Tensor<3> {
        let (mine, theirs) = (self.stream(layer), from.stream(layer));
        let [b, l, d] = mine.dims();
        assert!(
            b == 1 && theirs.dims() == [b, l, d],
            "patching: sequences {:?} and {:?} (batch, length, width) are not one of one length",
            [b, l, d],
            theirs.dims()
        );
        let here = Tensor::<2>::eye(l, &mine.device()).reshape([l, l, 1]);
        let x = mine.clone() + here * (theirs - mine);
        let embedding = self.streams[0].clone().expand([l, l, d]);
        self.model.normalised(self.model.through(layer, x, &embedding))
    }
}

impl Model {
    /// What the layers read of sequences that begin with `tokens`, to be asked for maps.
    ///
    /// # Shapes
    /// - `tokens`: `[b, l]`
    pub fn inspect(&self, tokens: Tensor<2, Int>) -> Inspection<'_> {
        Inspection { model: self, streams: self.streams(tokens) }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// What each layer reads, and last what the final norm reads.
    pub(crate) fn streams(&self, tokens: Tensor<2, Int>) -> Vec<Tensor<3>> {
        let embedding = self.embedded(tokens);
        let mut streams = vec![embedding.clone()];
        for layer in 0..self.layers.len() {
            let x = streams[layer].clone();
            streams.push(self.through_layer(layer, x, &embedding));
        }
        streams
    }

    /// The stream behind the last layer, where `x` is that before layer `first`.
    fn through(&self, first: usize, x: Tensor<3>, embedding: &Tensor<3>) -> Tensor<3> {
        (first..self.layers.len()).fold(x, |x, layer| self.through_layer(layer, x, embedding))
    }

    fn through_layer(&self, layer: usize, x: Tensor<3>, embedding: &Tensor<3>) -> Tensor<3> {
        let (layer, [b, _, d], device) = (&self.layers[layer], x.dims(), x.device());
        layer.forward(x, layer.state(&self.shared, [b, d], &device), self.common(embedding)).0
    }

    fn common<'a>(&'a self, embedding: &'a Tensor<3>) -> Common<'a> {
        Common { pool: &self.shared, dropout: &self.dropout, embedding }
    }

    /// The same model in which the mixer of a layer adds nothing (zero ablation): what the layer knows of other tokens, it
    /// knows from the layers before. None if the layer has no mixer.
    ///
    /// # Panics
    /// If there is no such layer.
    ///
    /// # Examples
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
    ///
    /// let json = r#"{"d_model": 16, "layers": ["attention"], "mixer": {"attention": {"kind": "attention", "heads": 2}}}"#;
    /// let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
    /// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
    /// let hidden = |model: &Model| model.inspect(Tensor::from_ints([[1, 2, 3]], &device)).hidden();
    /// // Of one layer nothing is left; both heads are as much as the whole.
    /// let (without, heads) = (model.without_mixer(0).unwrap(), model.without_head(0, 0).unwrap().without_head(0, 1).unwrap());
    /// assert_eq!(hidden(&without).into_data(), hidden(&heads).into_data());
    /// assert!(model.without_head(0, 2).is_none());
    /// ```
    pub fn without_mixer(&self, layer: usize) -> Option<Self> {
        self.layers[layer].mixer.as_ref()?;
        Some(self.with_mixer(layer, Slot::Own(AnyMixer::new(Removed { d_model: self.d_model() }))))
    }

    /// The same model in which a head of a layer's mixer adds nothing (zero ablation). None if there is no such head: where
    /// every channel has a map of its own, or the layer maps what its mixer computes.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn without_head(&self, layer: usize, head: usize) -> Option<Self> {
        let slot = self.layers[layer].mixer.as_ref()?;
        if matches!(slot, Slot::Shared(Use { output_map: Some(_), .. })) {
            return None;
        }
        let mixer = slot.with(&self.shared.mixers, |mixer| mixer.without_head(head))?;
        Some(self.with_mixer(layer, Slot::Own(mixer)))
    }

    fn with_mixer(&self, layer: usize, mixer: Slot<AnyMixer>) -> Self {
        let mut other = self.clone();
        other.layers[layer].mixer = Some(mixer);
        other
    }
}

/// What stands for a mixer that was taken out.
#[derive(Module, Debug)]
struct Removed {
    #[module(skip)]
    d_model: usize,
}

impl Mixer for Removed {
    type State = ();

    fn state(&self, _batch: usize, _d_model: usize, _device: &Device) {}

    fn forward(&self, x: Tensor<3>, (): ()) -> (Tensor<3>, ()) {
        let [b, l, _] = x.dims();
        (Tensor::zeros([b, l, self.d_model], &x.device()), ())
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        0
    }

    fn flops(&self, _length: usize, _d_model: usize) -> u64 {
        0
    }
}
