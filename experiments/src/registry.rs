//! Everything that a config file may name by its `kind`.

use std::sync::LazyLock;

use heddle_hybrid::{CHANNEL_KINDS, Init, MixerRegistry, Model, channel_defaults};
use heddle_tasks::TaskRegistry;
use serde_json::{Map, Value, json};

use crate::config::{Complaint, KindDefaults, Kinds, Texts};
use crate::device::device;

/// The mixers and tasks that config files may name.
#[derive(Debug)]
pub struct Registry {
    /// Sequence mixers.
    pub mixers: MixerRegistry,
    /// Tasks.
    pub tasks: TaskRegistry,
}

impl Default for Registry {
    /// What ships with Heddle.
    fn default() -> Self {
        Self { mixers: MixerRegistry::default(), tasks: TaskRegistry::builtin() }
    }
}

impl Registry {
    /// The kinds as the config loader reads them.
    pub fn kinds(&self) -> Kinds<'_> {
        Kinds { tasks: &self.tasks, mixers: &self.mixers, channels: &ChannelKinds }
    }
}

/// Stands for the channel mixers, which are fixed.
struct ChannelKinds;

impl KindDefaults for TaskRegistry {
    fn kinds(&self) -> Vec<String> {
        TaskRegistry::kinds(self).into_iter().map(str::to_owned).collect()
    }

    fn defaults(&self, kind: &str) -> Option<Value> {
        TaskRegistry::defaults(self, kind).ok()
    }

    fn resolve(&self, kind: &str, settings: Map<String, Value>) -> Result<Map<String, Value>, Complaint> {
        let problem = |error: heddle_tasks::TaskError| Complaint { key: String::new(), problem: error.to_string() };
        match self.complete(kind, &Value::Object(settings)).map_err(problem)? {
            Value::Object(settings) => Ok(settings),
            other => Err(Complaint { key: String::new(), problem: format!("settings are a table, not {other}") }),
        }
    }

    fn meaning(&self, kind: &str, key: &str) -> Option<String> {
        let info = self.info(kind).ok()?;
        if key.is_empty() {
            return Some(format!("{}: {}", info.title, info.doc));
        }
        let setting = info.settings.iter().find(|setting| setting.key == key)?;
        Some(format!("{} ({})", setting.meaning, setting.range))
    }
}

/// What building a model of one part says against it; the parameters are shapes without numbers.
fn complaint(part: &str, kind: &str, mut settings: Map<String, Value>, mixers: &MixerRegistry) -> Option<String> {
    settings.insert("kind".to_owned(), kind.into());
    let layer = if part == "channel" { "+x" } else { "x" };
    let model = serde_json::from_value(json!({"layers": [layer], part: {"x": settings}})).ok()?;
    let init = &mut Init::outline(&device("cpu").or_else(|_| device("ndarray")).ok()?);
    Model::new(&model, 8, mixers, init).err().map(|error| error.to_string())
}

/// What the documentation says of a part's settings, its own before those that every such part has.
fn meaning(settings: &str, shared: &[&str], key: &str) -> Option<String> {
    static TEXTS: LazyLock<Texts> = LazyLock::new(Texts::of_parts);
    let own = TEXTS.of(settings, key);
    own.or_else(|| shared.iter().find_map(|of| TEXTS.of(of, key))).map(str::to_owned)
}

impl KindDefaults for MixerRegistry {
    fn kinds(&self) -> Vec<String> {
        MixerRegistry::kinds(self).map(str::to_owned).collect()
    }

    fn defaults(&self, kind: &str) -> Option<Value> {
        MixerRegistry::defaults(self, kind)
    }

    fn complaint(&self, kind: &str, settings: Map<String, Value>) -> Option<String> {
        complaint("mixer", kind, settings, self)
    }

    fn meaning(&self, kind: &str, key: &str) -> Option<String> {
        meaning(self.settings_type(kind)?, &["Sharing", "Surroundings"], key)
    }
}

impl KindDefaults for ChannelKinds {
    fn kinds(&self) -> Vec<String> {
        CHANNEL_KINDS.map(str::to_owned).into()
    }

    fn defaults(&self, kind: &str) -> Option<Value> {
        channel_defaults(kind)
    }

    fn complaint(&self, kind: &str, settings: Map<String, Value>) -> Option<String> {
        complaint("channel", kind, settings, &MixerRegistry::default())
    }

    fn meaning(&self, kind: &str, key: &str) -> Option<String> {
        let settings = match kind {
            "mlp" => "MlpSettings",
            "swiglu" => "SwiGluSettings",
            "moe" => "ExpertsSettings",
            _ => return None,
        };
        meaning(settings, &["Sharing"], key)
    }
}
