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
/// x ← x + s mixer(norm(x + f))      x ← x + s channel(norm(x))
/// ```
///
/// `s` is the model's `residual_scale`; [`NormPlacement`] tells where else the norms may stand. `f` is what the layer's feed
/// makes of the stream, if it has one: a chain of the same parts, which adds nothing to the stream (arXiv:2405.16712, eq. 6).
///
/// ```text
/// f = channel(norm(mixer(norm(x))))
/// ```
///
/// A mixer that reads the embedding `e` as well reads `[x + f, e]` in place of `x + f`.
#[derive(Module, Debug)]
pub(crate) struct Layer {
    pub(crate) mixer_norm: Option<Slot<Norm>>,
    pub(crate) mixer: Option<Slot<AnyMixer>>,
    pub(crate) mixer_out_norm: Option<Norm>,
    pub(crate) channel_norm: Option<Slot<Norm>>,
    pub(crate) channel: Option<Slot<ChannelMixer>>,
    pub(crate) channel_out_norm: Option<Norm>,
    /// The feed, if there is one; a list, as no module of Burn's stands in a box.
    pub(crate) feed: Vec<Layer>,
    /// Whether the mixer reads the embedding beside the stream.
    #[module(skip)]
    pub(crate) with_embedding: bool,
    #[module(skip)]
    pub(crate) placement: NormPlacement,
    /// Multiplier of what is added to the stream; a feed adds nothing.
    #[module(skip)]
    pub(crate) residual_scale: Option<f64>,
}

/// What a layer's mixer and that of its feed remember; a layer without one remembers nothing.
#[derive(Clone, Debug)]
pub(crate) struct LayerState {
    mixer: Option<AnyState>,
    feed: Option<Box<LayerState>>,
}

impl LayerState {
    pub(crate) fn bytes(&self) -> usize {
        let feed = self.feed.as_ref().map_or(0, |feed| feed.bytes());
        self.mixer.as_ref().map_or(0, AnyState::bytes) + feed
    }

    pub(crate) fn detach(self) -> Self {
        Self { mixer: self.mixer.map(AnyState::detach), feed: self.feed.map(|feed| Box::new(feed.detach())) }
    }
}

/// What all layers use.
#[derive(Clone, Copy)]
pub(crate) struct Common<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) dropout: &'a Dropout,
    /// What the first layer reads: `[b, l, d]`.
    pub(crate) embedding: &'a Tensor<3>,
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

/// Where the norms of a part stand, and how its result is added.
struct Around<'a> {
    norm: Option<&'a Norm>,
    out_norm: Option<&'a Norm>,
    dropout: &'a Dropout,
}

impl Layer {
    pub(crate) fn state(&self, pool: &Pool, [batch, d_model]: [usize; 2], device: &Device) -> LayerState {
        LayerState {
            mixer: self.mixer.as_ref().map(|mixer| mixer.base(&pool.mixers).state(batch, d_model, device)),
            feed: self.feed.first().map(|feed| Box::new(feed.state(pool, [batch, d_model], device))),
        }
    }

    /// # Panics
    /// If the state belongs to another model.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        state: LayerState,
        common: Common<'_>,
    ) -> (Tensor<3>, LayerState, Option<Routing>) {
        let Common { pool, dropout, .. } = common;
        let (mut fed, feed_state, feed_routing) = match self.feed.first() {
            None => (None, None, None),
            Some(feed) => {
                let state = state.feed.expect(OTHER_MODEL);
                let (y, state, routing) = feed.forward(x.clone(), *state, common);
                (Some(dropout.forward(y)), Some(Box::new(state)), routing)
            }
        };
        // The first part that there is reads the feed.
        let mut read = |x: &Tensor<3>| match fed.take() {
            Some(fed) => x.clone() + fed,
            None => x.clone(),
        };
        let (x, mixer_state) = match &self.mixer {
            None => (x, None),
            Some(mixer) => {
                let state = state.mixer.expect(OTHER_MODEL);
                let mix = |x| {
                    let (y, state) = mixer.with(&pool.mixers, |mixer| mixer.forward(x, state));
                    (mixer.mapped(y), state)
                };
                let norm = self.mixer_norm.as_ref().map(|norm| norm.base(&pool.norms));
                let around = Around { norm, out_norm: self.mixer_out_norm.as_ref(), dropout };
                let read = self.read_by_mixer(read(&x), common);
                let (x, state) = self.add(x, read, around, mix);
                (x, Some(state))
            }
        };
        let (x, routing) = match &self.channel {
            None => (x, None),
            Some(channel) => {
                let map = |x| {
                    let (y, routing) = channel.with(&pool.channels, |channel| channel.forward(x));
                    (channel.mapped(y), routing)
                };
                let norm = self.channel_norm.as_ref().map(|norm| norm.base(&pool.norms));
                let around = Around { norm, out_norm: self.channel_out_norm.as_ref(), dropout };
                let read = self.before(read(&x), around.norm);
                self.add(x, read, around, map)
            }
        };
        (x, LayerState { mixer: mixer_state, feed: feed_state }, routing.or(feed_routing))
    }

    /// What the mixer is given of the stream `x`, from an empty state, for inspection; none if there is no mixer.
    pub(crate) fn mixer_input(&self, x: Tensor<3>, common: Common<'_>) -> Option<Tensor<3>> {
        self.mixer.as_ref()?;
        let ([b, _, d], device) = (x.dims(), x.device());
        let read = match self.feed.first() {
            Some(feed) => feed.forward(x.clone(), feed.state(common.pool, [b, d], &device), common).0 + x,
            None => x,
        };
        Some(self.read_by_mixer(read, common))
    }

    /// What the mixer is given of the stream, the feed already added.
    fn read_by_mixer(&self, x: Tensor<3>, common: Common<'_>) -> Tensor<3> {
        let read = match self.with_embedding {
            true => Tensor::cat(vec![x, common.embedding.clone()], 2),
            false => x,
        };
        self.before(read, self.mixer_norm.as_ref().map(|norm| norm.base(&common.pool.norms)))
    }

    /// What a part is given: normalised, if its norm stands before it.
    fn before(&self, read: Tensor<3>, norm: Option<&Norm>) -> Tensor<3> {
        normalised(read, norm.filter(|_| self.placement != NormPlacement::Post))
    }

    /// What `f` makes of what it is given, with the norms behind it; added to the stream unless this is a feed.
    fn add<R>(
        &self,
        x: Tensor<3>,
        read: Tensor<3>,
        Around { norm, out_norm, dropout }: Around<'_>,
        f: impl FnOnce(Tensor<3>) -> (Tensor<3>, R),
    ) -> (Tensor<3>, R) {
        let post = self.placement == NormPlacement::Post;
        let (y, rest) = f(read);
        let y = normalised(y, out_norm);
        let x = match self.residual_scale {
            Some(scale) => x + scaled(dropout.forward(y), scale),
            None => y,
        };
        (normalised(x, norm.filter(|_| post)), rest)
    }
}

/// What is wrong with a state that lacks a part.
const OTHER_MODEL: &str = "model: a state that another model made";

impl Layer {
    /// See [`crate::Mixer::state_bytes`].
    pub(crate) fn state_bytes(&self, pool: &Pool, length: usize, d_model: usize) -> u64 {
        let mixer = self.mixer.as_ref().map_or(0, |mixer| mixer.base(&pool.mixers).state_bytes(length, d_model));
        mixer + self.feed.iter().map(|feed| feed.state_bytes(pool, length, d_model)).sum::<u64>()
    }

    /// See [`crate::Mixer::flops`].
    pub(crate) fn flops(&self, pool: &Pool, length: usize, d_model: usize) -> u64 {
        self.own_flops(pool, length, d_model) + if length > 0 { self.adapter_flops() } else { 0 }
    }

    /// See [`crate::Mixer::max_length`].
    pub(crate) fn max_length(&self, pool: &Pool) -> Option<usize> {
        let mixer = self.mixer.as_ref().and_then(|mixer| mixer.base(&pool.mixers).max_length());
        mixer.into_iter().chain(self.feed.iter().filter_map(|feed| feed.max_length(pool))).min()
    }

    /// Whether a mixer is random; see [`crate::Mixer::is_random`].
    pub(crate) fn is_random(&self, pool: &Pool) -> bool {
        let mixer = self.mixer.as_ref().is_some_and(|mixer| mixer.base(&pool.mixers).is_random());
        mixer || self.feed.iter().any(|feed| feed.is_random(pool))
    }

    /// Floating-point operations of a pass over one token behind `length` others.
    pub(crate) fn next_flops(&self, pool: &Pool, length: usize, d_model: usize) -> u64 {
        self.own_flops(pool, length + 1, d_model) - self.own_flops(pool, length, d_model) + self.adapter_flops()
    }

    /// Channel mixers that are no shared ones, the feed's included.
    pub(crate) fn own_channels(&self) -> impl Iterator<Item = &ChannelMixer> {
        core::iter::once(self).chain(&self.feed).filter_map(|layer| layer.channel.as_ref()?.own())
    }

    /// Whether the layer or its feed reads the embedding.
    pub(crate) fn reads_embedding(&self) -> bool {
        self.with_embedding || self.feed.iter().any(Layer::reads_embedding)
    }

    fn own_flops(&self, pool: &Pool, length: usize, d_model: usize) -> u64 {
        let mixer = self
            .mixer
            .as_ref()
            .map_or(0, |mixer| mixer.base(&pool.mixers).flops(length, d_model) + mixer.map_flops() * length as u64);
        let channel = self
            .channel
            .as_ref()
            .map_or(0, |channel| (channel.base(&pool.channels).flops() + channel.map_flops()) * length as u64);
        mixer + channel + self.feed.iter().map(|feed| feed.own_flops(pool, length, d_model)).sum::<u64>()
    }

    fn adapter_flops(&self) -> u64 {
        let feed: u64 = self.feed.iter().map(Layer::adapter_flops).sum();
        let mixer = self.mixer.as_ref().map_or(0, Slot::adapter_flops);
        mixer + self.channel.as_ref().map_or(0, Slot::adapter_flops) + feed
    }
}
