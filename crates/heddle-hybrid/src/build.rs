//! From names to layers.

use std::collections::BTreeMap;

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
    pub(crate) fn new(config: &'a ModelConfig, mixers: &'a MixerRegistry, init: &'a mut Init) -> Self {
        let pool = Pool { mixers: vec![], channels: vec![] };
        Self { config, mixers, init, shared_mixers: BTreeMap::new(), shared_channels: BTreeMap::new(), pool }
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
            _ => match (sharing.shared, ChannelMixer::build(table, self.config.d_model, self.init).map_err(fault)?) {
                (_, None) => return Ok(None),
                (false, Some(channel)) => return Ok(Some(Slot::Own(channel))),
                (true, Some(channel)) => {
                    self.pool.channels.push(channel);
                    let index = self.pool.channels.len() - 1;
                    self.shared_channels.insert(name.to_owned(), index);
                    index
                }
            },
        };
        let part = &self.pool.channels[index];
        Ok(Some(Slot::Shared(Use::new(index, part, sharing.adapter_rank, self.init))))
    }
}
