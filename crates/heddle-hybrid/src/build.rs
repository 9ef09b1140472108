//! From names to layers.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError};

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
    /// Name → place in the pool.
    shared_mixers: BTreeMap<String, usize>,
    shared_channels: BTreeMap<String, usize>,
    /// What the last linear map of every part is multiplied by.
    output_factor: f64,
    pub(crate) pool: Pool,
}

/// A group of named parts.
#[derive(Clone, Copy)]
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
        Self {
            config,
            mixers,
            output_factor: if config.depth_scaled_init { (additions.max(1) as f64).sqrt().recip() } else { 1.0 },
            init,
            shared_mixers: BTreeMap::new(),
            shared_channels: BTreeMap::new(),
            pool: Pool { mixers: vec![], channels: vec![] },
        }
    }

    pub(crate) fn layer(&mut self, name: &LayerName) -> Result<Layer, ModelError> {
        let mixer = if name.mixers.is_empty() { None } else { Some(self.mixer(name)?) };
        let channel = match &name.channel {
            None => None,
            Some(channel) => self.channel(name, channel)?,
        };
        if mixer.is_none() && channel.is_none() {
            let problem =
                format!("layer `{name}` computes nothing; give it a mixer, or a channel mixer of another kind");
            return Err(ModelError::Layers(problem));
        }
        let sandwich = self.config.norm_placement == NormPlacement::Sandwich;
        Ok(Layer {
            mixer_norm: self.norm(mixer.is_some()),
            mixer_out_norm: self.norm(mixer.is_some() && sandwich),
            channel_norm: self.norm(channel.is_some()),
            channel_out_norm: self.norm(channel.is_some() && sandwich),
            mixer,
            channel,
            placement: self.config.norm_placement,
            residual_scale: self.config.residual_scale,
        })
    }

    fn norm(&mut self, wanted: bool) -> Option<Norm> {
        wanted.then(|| Norm::new(self.config, self.init))
    }

    fn mixer(&mut self, layer: &LayerName) -> Result<Slot<AnyMixer>, ModelError> {
        let fault = |name: &str, source| Group::Mixer.error(name, source);
        for name in &layer.mixers {
            let mut table = Group::Mixer.find(self.config, layer, name)?.clone();
            let sharing = Sharing::take(&mut table).map_err(|source| fault(name, source))?;
            if !sharing.shared {
                continue;
            }
            if layer.mixers.len() > 1 {
                let problem = format!("layer `{layer}` has mixers beside it");
                let remedy = "share mixers that stand alone in their layers";
                return Err(fault(name, SettingsError::new("shared", problem, remedy)));
            }
            let index = match self.shared_mixers.get(name) {
                Some(index) => *index,
                None => {
                    let branch = self.branch(layer, name)?;
                    self.pool.mixers.push(join(vec![branch]));
                    let index = self.pool.mixers.len() - 1;
                    self.shared_mixers.insert(name.clone(), index);
                    index
                }
            };
            let part = &self.pool.mixers[index];
            return Ok(Slot::Shared(Use::new(index, part, sharing.adapter_rank, self.init)));
        }
        let branches = layer.mixers.iter().map(|name| self.branch(layer, name)).collect::<Result<_, _>>()?;
        Ok(Slot::Own(join(branches)))
    }

    fn branch(&mut self, layer: &LayerName, name: &str) -> Result<Branch, ModelError> {
        let fault = |source| Group::Mixer.error(name, source);
        let table = Group::Mixer.find(self.config, layer, name)?;
        let mixer = self.mixers.build(table, self.config.d_model, self.init).map_err(fault)?;
        let mixer = self.with_scaled_output(mixer);
        let Surroundings { input_scale, output_scale, output_norm } =
            Surroundings::take(&mut table.clone()).map_err(fault)?;
        Ok(Branch { mixer, norm: self.norm(output_norm), input_scale, output_scale })
    }

    fn channel(&mut self, layer: &LayerName, name: &str) -> Result<Option<Slot<ChannelMixer>>, ModelError> {
        let fault = |source| Group::Channel.error(name, source);
        let table = Group::Channel.find(self.config, layer, name)?;
        let sharing = Sharing::take(&mut table.clone()).map_err(fault)?;
        let known = self.shared_channels.get(name).copied();
        let index = match (sharing.shared, known) {
            (true, Some(index)) => index,
            _ => {
                let built = ChannelMixer::build(table, self.config.d_model, self.init).map_err(fault)?;
                let Some(channel) = built.map(|channel| self.with_scaled_output(channel)) else { return Ok(None) };
                if !sharing.shared {
                    return Ok(Some(Slot::Own(channel)));
                }
                self.pool.channels.push(channel);
                let index = self.pool.channels.len() - 1;
                self.shared_channels.insert(name.to_owned(), index);
                index
            }
        };
        let part = &self.pool.channels[index];
        Ok(Some(Slot::Shared(Use::new(index, part, sharing.adapter_rank, self.init))))
    }

    /// The part, the last linear map of it multiplied as the config says. An outline has no numbers to multiply.
    fn with_scaled_output<M: Module>(&self, part: M) -> M {
        match self.output_factor == 1.0 || self.init.is_outline() {
            true => part,
            false => part.map(&mut ScaleOutputs { factor: self.output_factor, path: vec![] }),
        }
    }
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
                // Cut off from what it was multiplied from, as it is that which learns.
                param.map(|tensor| (tensor.detach() * self.factor).detach().set_require_grad(true))
            }
            _ => param,
        }
    }
}
