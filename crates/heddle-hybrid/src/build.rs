//! From names to layers.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError};

use crate::adapter::Adapter;
use crate::layer::Layer;
use crate::norm::{Norm, NormPlacement};
use crate::parallel::{Branch, join};
use crate::part::{Sharing, Surroundings};
use crate::registry::KindTable;
use crate::shared::{Pool, Slot, Use};
use crate::{AnyMixer, ChannelMixer, LayerName, MixerRegistry, ModelConfig, ModelError};

/// Builds layers one after the other, and each shared part at its first use.
pub(crate) struct Builder<'a> {
    config: &'a ModelConfig,
    mixers: &'a MixerRegistry,
    init: &'a mut Init,
    /// Place in the pool of each shared part.
    shared: BTreeMap<(Group, String), usize>,
    /// The same of norms that are shared with their parts.
    shared_norms: BTreeMap<(Group, String), usize>,
    /// Parts whose result is added to the stream somewhere, rather than in feeds alone.
    adding: BTreeSet<(Group, String)>,
    /// What the last linear map of every part that adds to the stream is multiplied by.
    output_factor: f64,
    pub(crate) pool: Pool,
}

/// A group of named parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Mixer,
    Channel,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Mixer => "mixer",
            Self::Channel => "channel",
        }
    }

    fn error(self, name: &str, source: SettingsError) -> ModelError {
        ModelError::Part { table: self.name(), name: name.into(), source }
    }

    /// The table that describes `name`.
    fn find<'a>(self, config: &'a ModelConfig, layer: &LayerName, name: &str) -> Result<&'a KindTable, ModelError> {
        let tables = match self {
            Self::Mixer => &config.mixer,
            Self::Channel => &config.channel,
        };
        let known = || tables.keys().cloned().collect::<Vec<_>>().join(", ");
        tables.get(name).ok_or_else(|| ModelError::Undescribed {
            layer: layer.to_string(),
            name: name.into(),
            table: self.name(),
            known: if tables.is_empty() { "none".into() } else { known() },
        })
    }
}

/// Where parts stand: in a layer, or in its feed.
#[derive(Clone, Copy)]
struct Place<'a> {
    layer: &'a LayerName,
    in_feed: bool,
}

/// A part with what stands around it.
struct Built<M> {
    part: Slot<M>,
    norm: Slot<Norm>,
    out_norm: Option<Norm>,
    with_embedding: bool,
}

impl<'a> Builder<'a> {
    /// For the layers `names` of `config`.
    pub(crate) fn new(
        config: &'a ModelConfig,
        names: &[LayerName],
        mixers: &'a MixerRegistry,
        init: &'a mut Init,
    ) -> Self {
        let maps =
            |name: &&String| config.channel.get(*name).is_some_and(|table| table.get("kind") != Some(&"none".into()));
        let additions =
            names.iter().map(|name| usize::from(!name.mixers.is_empty()) + name.channel.iter().filter(maps).count());
        let additions: usize = additions.sum();
        let parts = |name: &LayerName| {
            let mixers = name.mixers.clone().into_iter().map(|mixer| (Group::Mixer, mixer));
            mixers.chain(name.channel.clone().map(|channel| (Group::Channel, channel)))
        };
        Self {
            config,
            mixers,
            output_factor: if config.depth_scaled_init { (additions.max(1) as f64).sqrt().recip() } else { 1.0 },
            init,
            shared: BTreeMap::new(),
            shared_norms: BTreeMap::new(),
            adding: names.iter().flat_map(parts).collect(),
            pool: Pool { mixers: vec![], channels: vec![], norms: vec![] },
        }
    }

    pub(crate) fn layer(&mut self, name: &LayerName) -> Result<Layer, ModelError> {
        let feed = match &name.feed {
            None => vec![],
            Some(feed) => vec![self.parts(Place { layer: feed, in_feed: true })?],
        };
        let layer = Layer { feed, ..self.parts(Place { layer: name, in_feed: false })? };
        let routes = |layer: &Layer| {
            let channel = layer.channel.as_ref().map(|channel| channel.base(&self.pool.channels));
            matches!(channel, Some(ChannelMixer::Experts(_)))
        };
        if routes(&layer) && layer.feed.iter().any(routes) {
            let problem =
                format!("layer `{name}` has experts in its feed and behind it; use another kind in one of them");
            return Err(ModelError::Layers(problem));
        }
        Ok(layer)
    }

    /// The parts of a layer without its feed, or those of a feed.
    fn parts(&mut self, place: Place<'_>) -> Result<Layer, ModelError> {
        let name = place.layer;
        let mixer = if name.mixers.is_empty() { None } else { Some(self.mixer(place)?) };
        let channel = match &name.channel {
            None => None,
            Some(channel) => self.channel(place, channel)?,
        };
        if mixer.is_none() && channel.is_none() {
            let problem =
                format!("layer `{name}` computes nothing; give it a mixer, or a channel mixer of another kind");
            return Err(ModelError::Layers(problem));
        }
        let with_embedding = mixer.as_ref().is_some_and(|mixer| mixer.with_embedding);
        let (mixer, mixer_norm, mixer_out_norm) = apart(mixer);
        let (channel, channel_norm, channel_out_norm) = apart(channel);
        Ok(Layer {
            mixer_norm,
            mixer,
            mixer_out_norm,
            channel_norm,
            channel,
            channel_out_norm,
            feed: vec![],
            with_embedding,
            placement: self.config.norm_placement,
            residual_scale: (!place.in_feed).then_some(self.config.residual_scale),
        })
    }

    /// The norm of a part, shared if `shared` names the part that it is shared with.
    fn norm(&mut self, shared: Option<(Group, &str)>, width: usize) -> Slot<Norm> {
        let new = |init: &mut Init| Norm::new(self.config, width, init);
        let Some((group, name)) = shared else { return Slot::Own(new(self.init)) };
        let index = *self.shared_norms.entry((group, name.to_owned())).or_insert_with(|| {
            self.pool.norms.push(new(self.init));
            self.pool.norms.len() - 1
        });
        Slot::Shared(Use { adapter: None, output_map: None, index })
    }

    fn out_norm(&mut self) -> Option<Norm> {
        let sandwich = self.config.norm_placement == NormPlacement::Sandwich;
        sandwich.then(|| Norm::new(self.config, self.config.d_model, self.init))
    }

    fn mixer(&mut self, place: Place<'_>) -> Result<Built<AnyMixer>, ModelError> {
        let Place { layer, .. } = place;
        let (mut shared, mut with_embedding) = (None, false);
        for name in &layer.mixers {
            let fault = |source| Group::Mixer.error(name, source);
            let mut table = Group::Mixer.find(self.config, layer, name)?.clone();
            let sharing = Sharing::take(&mut table).map_err(fault)?;
            let surroundings = Surroundings::take(&mut table).map_err(fault)?;
            for (key, set) in [("shared", sharing.shared), ("with_embedding", surroundings.with_embedding)] {
                if set && layer.mixers.len() > 1 {
                    let problem = format!("layer `{layer}` has mixers beside it");
                    let remedy = "state it of mixers that stand alone in their layers";
                    return Err(fault(SettingsError::new(key, problem, remedy)));
                }
            }
            with_embedding |= surroundings.with_embedding;
            shared = shared.or(sharing.shared.then_some((name.as_str(), sharing)));
        }
        let part = match &shared {
            Some((name, sharing)) => self.shared_mixer(place, name, sharing)?,
            None => {
                let factor = if place.in_feed { 1.0 } else { self.output_factor };
                let branch = |name: &String| self.branch(layer, name, factor);
                Slot::Own(join(layer.mixers.iter().map(branch).collect::<Result<_, _>>()?))
            }
        };
        let shared_norm = shared.as_ref().filter(|(_, sharing)| sharing.shared_norm);
        let wide = with_embedding && self.config.norm_placement != NormPlacement::Post;
        let width = if wide { 2 * self.config.d_model } else { self.config.d_model };
        let norm = self.norm(shared_norm.map(|(name, _)| (Group::Mixer, *name)), width);
        Ok(Built { part, norm, out_norm: self.out_norm(), with_embedding })
    }

    fn shared_mixer(&mut self, place: Place<'_>, name: &str, sharing: &Sharing) -> Result<Slot<AnyMixer>, ModelError> {
        let key = (Group::Mixer, name.to_owned());
        let index = match self.shared.get(&key) {
            Some(index) => *index,
            None => {
                let branch = self.branch(place.layer, name, self.shared_factor(&key, sharing))?;
                self.pool.mixers.push(join(vec![branch]));
                self.shared.insert(key, self.pool.mixers.len() - 1);
                self.pool.mixers.len() - 1
            }
        };
        let adapter = adapter(&self.pool.mixers[index], sharing, self.init);
        let adapter = adapter.map_err(|source| Group::Mixer.error(name, source))?;
        Ok(Slot::Shared(Use { adapter, output_map: self.output_map(place, sharing), index }))
    }

    fn branch(&mut self, layer: &LayerName, name: &str, factor: f64) -> Result<Branch, ModelError> {
        let fault = |source| Group::Mixer.error(name, source);
        let table = Group::Mixer.find(self.config, layer, name)?;
        let mixer = self.mixers.build(table, self.config.d_model, self.init).map_err(fault)?;
        let mixer = self.with_scaled_output(mixer, factor);
        let Surroundings { input_scale, output_scale, output_norm, with_embedding: _ } =
            Surroundings::take(&mut table.clone()).map_err(fault)?;
        let norm = output_norm.then(|| Norm::new(self.config, self.config.d_model, self.init));
        Ok(Branch { mixer, norm, input_scale, output_scale })
    }

    fn channel(&mut self, place: Place<'_>, name: &str) -> Result<Option<Built<ChannelMixer>>, ModelError> {
        let fault = |source| Group::Channel.error(name, source);
        let table = Group::Channel.find(self.config, place.layer, name)?;
        let sharing = Sharing::take(&mut table.clone()).map_err(fault)?;
        let key = (Group::Channel, name.to_owned());
        let known = self.shared.get(&key).filter(|_| sharing.shared).copied();
        let new = match known {
            Some(_) => None,
            None => match ChannelMixer::build(table, self.config.d_model, self.init).map_err(fault)? {
                None => return Ok(None),
                built => built,
            },
        };
        let part = match (new, sharing.shared) {
            (Some(channel), false) => {
                let factor = if place.in_feed { 1.0 } else { self.output_factor };
                Slot::Own(self.with_scaled_output(channel, factor))
            }
            (new, _) => {
                if let Some(channel) = new {
                    let channel = self.with_scaled_output(channel, self.shared_factor(&key, &sharing));
                    self.shared.insert(key.clone(), self.pool.channels.len());
                    self.pool.channels.push(channel);
                }
                let index = self.shared[&key];
                let adapter = adapter(&self.pool.channels[index], &sharing, self.init).map_err(fault)?;
                Slot::Shared(Use { adapter, output_map: self.output_map(place, &sharing), index })
            }
        };
        let norm = self.norm(sharing.shared_norm.then_some((Group::Channel, name)), self.config.d_model);
        Ok(Some(Built { part, norm, out_norm: self.out_norm(), with_embedding: false }))
    }

    /// What the outputs of a shared part are multiplied by, as some use of it may add to the stream.
    fn shared_factor(&self, key: &(Group, String), sharing: &Sharing) -> f64 {
        if self.adding.contains(key) && !sharing.output_map { self.output_factor } else { 1.0 }
    }

    /// What maps the result of a use of a shared part, if anything does.
    fn output_map(&mut self, place: Place<'_>, sharing: &Sharing) -> Option<Linear> {
        if !sharing.output_map {
            return None;
        }
        let map = self.init.linear(self.config.d_model, self.config.d_model, false);
        match place.in_feed || self.output_factor == 1.0 || self.init.is_outline() {
            true => Some(map),
            false => Some(Linear { weight: multiplied(map.weight, self.output_factor), ..map }),
        }
    }

    /// The part, the last linear map of it multiplied by `factor`. An outline has no numbers to multiply.
    fn with_scaled_output<M: Module>(&self, part: M, factor: f64) -> M {
        match factor == 1.0 || self.init.is_outline() {
            true => part,
            false => part.map(&mut ScaleOutputs { factor, path: vec![] }),
        }
    }
}

/// The fields of a layer that a part gives.
fn apart<M>(built: Option<Built<M>>) -> (Option<Slot<M>>, Option<Slot<Norm>>, Option<Norm>) {
    match built {
        Some(Built { part, norm, out_norm, .. }) => (Some(part), Some(norm), out_norm),
        None => (None, None, None),
    }
}

/// What a use of `part` adds to it, if anything.
fn adapter<M: Module>(part: &M, sharing: &Sharing, init: &mut Init) -> Result<Option<Adapter>, SettingsError> {
    let new = |rank| Adapter::new(part, rank, sharing.adapter_maps.as_deref(), init);
    sharing.adapter_rank.map(new).transpose()
}

/// A parameter multiplied, and cut off from what it was multiplied from, as it is that which learns.
fn multiplied<const D: usize>(param: Param<Tensor<D>>, factor: f64) -> Param<Tensor<D>> {
    param.map(|tensor| {
        let learns = tensor.is_autodiff();
        (tensor.detach() * factor).detach().set_require_grad(learns)
    })
}

/// What mixers and channel mixers call the linear map that leads back to the stream.
const OUTPUTS: [&str; 3] = ["out_proj", "output", "down"];

/// Multiplies the weights of all [`OUTPUTS`].
struct ScaleOutputs {
    factor: f64,
    path: Vec<String>,
}

impl ModuleMapper for ScaleOutputs {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match &self.path[..] {
            [.., part, weight] if OUTPUTS.contains(&part.as_str()) && weight == "weight" => {
                multiplied(param, self.factor)
            }
            _ => param,
        }
    }
}
