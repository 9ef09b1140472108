//! A layer.

use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::{Device, Tensor};

use crate::norm::{Norm, NormPlacement};
use crate::shared::{Pool, Slot};
use crate::{AnyMixer, AnyState, ChannelMixer, Routing};

/// A sequence mixer and, after it, a channel mixer, or one of the two; each reads the stream and adds to it.
///
/// ```text
/// x ← x + s mixer(norm(x))      x ← x + s channel(norm(x))
/// ```
///
/// `s` is the model's `residual_scale`; [`NormPlacement`] tells where else the norms may stand.
#[derive(Module, Debug)]
pub struct Layer {
    pub(crate) mixer_norm: Option<Norm>,
    pub(crate) mixer: Option<Slot<AnyMixer>>,
    pub(crate) mixer_out_norm: Option<Norm>,
    pub(crate) channel_norm: Option<Norm>,
    pub(crate) channel: Option<Slot<ChannelMixer>>,
    pub(crate) channel_out_norm: Option<Norm>,
    #[module(skip)]
    pub(crate) placement: NormPlacement,
    #[module(skip)]
    pub(crate) residual_scale: f64,
}

/// What a layer's mixer remembers; a layer without one remembers nothing.
pub(crate) type LayerState = Option<AnyState>;

/// What all layers use.
#[derive(Clone, Copy)]
pub(crate) struct Common<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) dropout: &'a Dropout,
}

/// `x · scale`, and `x` itself if that is the same.
pub(crate) fn scaled<const D: usize>(x: Tensor<D>, scale: f64) -> Tensor<D> {
    if scale == 1.0 { x } else { x * scale }
}

fn normalised(x: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

impl Layer {
    pub(crate) fn state(&self, pool: &Pool, [batch, d_model]: [usize; 2], device: &Device) -> LayerState {
        self.mixer.as_ref().map(|mixer| mixer.base(&pool.mixers).state(batch, d_model, device))
    }

    /// # Panics
    /// If the state belongs to another model.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        state: LayerState,
        common: Common<'_>,
    ) -> (Tensor<3>, LayerState, Option<Routing>) {
        let Common { pool, dropout } = common;
        let (x, state) = match &self.mixer {
            None => (x, None),
            Some(mixer) => {
                let state = state.expect("model: a state that another model made");
                let mix = |x| mixer.with(&pool.mixers, |mixer| mixer.forward(x, state));
                let norms = [self.mixer_norm.as_ref(), self.mixer_out_norm.as_ref()];
                let (x, state) = self.add(x, norms, dropout, mix);
                (x, Some(state))
            }
        };
        match &self.channel {
            None => (x, state, None),
            Some(channel) => {
                let map = |x| channel.with(&pool.channels, |channel| channel.forward(x));
                let norms = [self.channel_norm.as_ref(), self.channel_out_norm.as_ref()];
                let (x, routing) = self.add(x, norms, dropout, map);
                (x, state, routing)
            }
        }
    }

    /// Adds what `f` makes of the stream to the stream, with the norms where they belong.
    fn add<R>(
        &self,
        x: Tensor<3>,
        [norm, out_norm]: [Option<&Norm>; 2],
        dropout: &Dropout,
        f: impl FnOnce(Tensor<3>) -> (Tensor<3>, R),
    ) -> (Tensor<3>, R) {
        let post = self.placement == NormPlacement::Post;
        let (y, rest) = f(normalised(x.clone(), norm.filter(|_| !post)));
        let x = x + scaled(dropout.forward(normalised(y, out_norm)), self.residual_scale);
        (normalised(x, norm.filter(|_| post)), rest)
    }
}

impl Layer {
    /// See [`crate::Mixer::state_bytes`].
    pub(crate) fn state_bytes(&self, pool: &Pool, length: usize, d_model: usize) -> u64 {
        self.mixer.as_ref().map_or(0, |mixer| mixer.base(&pool.mixers).state_bytes(length, d_model))
    }

    /// See [`crate::Mixer::flops`].
    pub(crate) fn flops(&self, pool: &Pool, length: usize, d_model: usize) -> u64 {
        self.own_flops(pool, length, d_model) + if length > 0 { self.adapter_flops() } else { 0 }
    }

    /// See [`crate::Mixer::max_length`].
    pub(crate) fn max_length(&self, pool: &Pool) -> Option<usize> {
        self.mixer.as_ref().and_then(|mixer| mixer.base(&pool.mixers).max_length())
    }

    /// Floating-point operations of a pass over one token behind `length` others.
    pub(crate) fn next_flops(&self, pool: &Pool, length: usize, d_model: usize) -> u64 {
        self.own_flops(pool, length + 1, d_model) - self.own_flops(pool, length, d_model) + self.adapter_flops()
    }

    fn own_flops(&self, pool: &Pool, length: usize, d_model: usize) -> u64 {
        let mixer = self.mixer.as_ref().map_or(0, |mixer| mixer.base(&pool.mixers).flops(length, d_model));
        mixer + self.channel.as_ref().map_or(0, |channel| channel.base(&pool.channels).flops() * length as u64)
    }

    fn adapter_flops(&self) -> u64 {
        self.mixer.as_ref().map_or(0, Slot::adapter_flops) + self.channel.as_ref().map_or(0, Slot::adapter_flops)
    }
}
