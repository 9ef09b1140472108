//! Published architectures as data.

use serde::Deserialize;

use crate::ModelConfig;

/// Lists the files of `presets` that are called as the models are.
macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        /// Names of the presets.
        pub const PRESETS: &[&str] = &[$($name),*];

        /// The file of a preset: TOML, with a table `model` as a run file has it.
        pub fn preset_text(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some(include_str!(concat!("../presets/", $name, ".toml"))),)*
                _ => None,
            }
        }
    };
}

presets!(
    "transformer",
    "gpt2-like",
    "llama3",
    "mistral",
    "mamba",
    "mamba2",
    "jamba",
    "samba",
    "griffin",
    "falcon-h1",
    "nemotron-h",
    "granite-hybrid",
    "bamba",
    "qwen3-next",
    "lfm2",
    "zamba2",
);

/// A published model: its architecture and sizes.
///
/// ```
/// let mistral = heddle_hybrid::preset("mistral").unwrap();
/// assert_eq!((mistral.vocab, mistral.model.d_model), (32_000, 4096));
/// assert_eq!(mistral.model.mixer["attention"]["window"], 4096);
/// assert!(mistral.about.contains("Mistral"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// Which model it is, where its numbers are from, and what is different here.
    pub about: String,
    /// Tokens that the published model knows.
    pub vocab: usize,
    /// Longest sequence that it was made for.
    pub length: usize,
    /// The model.
    pub model: ModelConfig,
}

/// The preset of that name.
///
/// ```
/// let jamba = heddle_hybrid::preset("jamba").unwrap();
/// let layers = jamba.model.layer_names().unwrap();
/// assert_eq!(layers.len(), 32);
/// assert!(jamba.about.starts_with("Jamba v0.1"));
/// ```
pub fn preset(name: &str) -> Option<Preset> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        vocab: usize,
        length: usize,
        model: ModelConfig,
    }
    let text = preset_text(name)?;
    let File { vocab, length, model } =
        toml::from_str(text).unwrap_or_else(|error| panic!("the preset `{name}` cannot be read: {error}"));
    let lines = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    Some(Preset { about: lines.collect::<Vec<_>>().join(" "), vocab, length, model })
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use super::*;
    use crate::{Cost, Init, MixerRegistry, Model};

    const GIB: u64 = 1 << 30;

    fn outline(preset: &Preset) -> Model {
        let init = &mut Init::outline(&Device::flex());
        Model::new(&preset.model, preset.vocab, &MixerRegistry::default(), init).unwrap()
    }

    fn cost(name: &str, length: usize) -> Cost {
        let preset = preset(name).unwrap();
        Cost::new(&preset.model, &outline(&preset), length)
    }

    #[test]
    fn every_preset_has_the_size_that_is_published() {
        // Parameters and, where they differ, those active for a token; in millions, some published to two digits.
        for (name, total, active) in [
            ("transformer", 6_738.4, None),
            ("gpt2-like", 124.4 + 11.0 * 0.786, None),
            ("llama3", 8_030.3, None),
            ("mistral", 7_241.7, None),
            ("mamba", 2_768.3, None),
            ("mamba2", 2_702.6, None),
            ("jamba", 51_570.3, Some(12_110.0)),
            ("samba", 421.8, None),
            ("griffin", 2_682.9, None),
            ("falcon-h1", 7_585.7, None),
            ("nemotron-h", 8_101.0, None),
            ("granite-hybrid", 3_191.4, None),
            ("bamba", 9_780.0, None),
            // Its name rounds the active ones down.
            ("qwen3-next", 80_000.0, Some(3_870.0)),
            ("lfm2", 1_170.3, None),
            ("zamba2", 7_400.0, None),
        ] {
            let cost = cost(name, 1);
            let near = |found: u64, published: f64| (found as f64 / 1e6 / published - 1.0).abs() < 0.01;
            assert!(near(cost.parameters, total), "{name}: {} parameters", cost.parameters);
            let active = active.unwrap_or(total);
            assert!(near(cost.active_parameters, active), "{name}: {} active", cost.active_parameters);
        }
        assert_eq!(PRESETS.len(), 16);
    }

    #[test]
    fn caches_at_262144_tokens_are_those_of_the_jamba_paper() {
        // arXiv:2403.19887, table 1, in bf16; Mistral without its window.
        let growing = |cost: Cost| cost.state.growing / 2;
        assert_eq!(growing(cost("jamba", 262_144)), 4 * GIB);
        assert_eq!(growing(cost("transformer", 262_144)), 128 * GIB);
        let mut mistral = preset("mistral").unwrap();
        let window = mistral.model.mixer.get_mut("attention").unwrap().remove("window").unwrap();
        assert_eq!(growing(Cost::new(&mistral.model, &outline(&mistral), 262_144)), 32 * GIB);
        let windowed = cost("mistral", 262_144).state;
        assert_eq!(windowed.growing, 4 * 32 * 2 * 8 * 128 * (window.as_u64().unwrap() - 1));
        // What a recurrence keeps does not grow.
        let mamba = cost("mamba", 262_144).state;
        assert_eq!((mamba.growing, mamba.fixed), (0, 4 * 64 * 5120 * (16 + 3)));
    }

    #[test]
    fn an_outline_says_of_a_model_what_the_model_says() {
        let registry = MixerRegistry::default();
        let device = Device::flex();
        let check = |config: &ModelConfig, what: &str| {
            let build = |mut init: Init| Model::new(config, 50, &registry, &mut init).unwrap();
            let (real, outlined) = (build(Init::new(0, &device)), build(Init::outline(&device)));
            assert_eq!(real.num_params(), outlined.num_params(), "{what}");
            assert_eq!(Cost::new(config, &real, 37), Cost::new(config, &outlined, 37), "{what}");
        };
        let config = |json: String| serde_json::from_str::<ModelConfig>(&json).unwrap();
        for kind in registry.kinds() {
            let json = format!(r#"{{"d_model": 16, "layers": ["x * 2"], "mixer": {{"x": {{"kind": "{kind}"}}}}}}"#);
            check(&config(json), kind);
        }
        for kind in ["mlp", "swiglu", "moe"] {
            let json = format!(r#"{{"d_model": 16, "layers": ["+x * 2"], "channel": {{"x": {{"kind": "{kind}"}}}}}}"#);
            check(&config(json), kind);
        }
        let shared = r#"{"d_model": 16, "layers": ["x", "x"], "norm": "layer", "head_bias": true,
            "mixer": {"x": {"kind": "gru", "shared": true, "adapter_rank": 2}}}"#;
        check(&config(shared.into()), "shared");
        let fed = r#"{"d_model": 16, "layers": ["x+y>z", "x+y>z"], "depth_scaled_init": true, "mixer": {"z": {"kind": "gru"},
            "x": {"kind": "attention", "shared": true, "shared_norm": true, "with_embedding": true}}, "channel": {"y":
            {"kind": "swiglu", "shared": true, "output_map": true, "adapter_rank": 2, "adapter_maps": [["gate", "up"]]}}}"#;
        check(&config(fed.into()), "fed");
    }

    #[test]
    fn decoding_costs_two_operations_a_parameter_and_four_a_number_of_cache_and_query() {
        // The rule of thumb, exact for a transformer without its embedding (arXiv:2001.08361, §2.1).
        let transformer = cost("transformer", 4096);
        let matrices = transformer.parameters - 32_000 * 4096 - 65 * 4096;
        assert_eq!(transformer.decoding_flops, 2 * matrices + 32 * 4 * 4097 * 4096);
        // A training token sees half of the sequence on average, and backward costs twice forward.
        assert_eq!(transformer.training_flops, 3 * (2 * matrices + 32 * 4 * 4096 * 4097 / 2));
    }
}
