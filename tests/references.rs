//! What other implementations of each block compute, for the same parameters and inputs.
//!
//! `references/make.py` writes the files and says where each comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use experiments::checkpoint::{Tensors, with_parameters};
use heddle_hybrid::{AnyMixer, CHANNEL_KINDS, ChannelMixer, Init, KindTable, MixerRegistry};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::harness::root;

/// Largest ‖ours − theirs‖ / ‖theirs‖: a few roundings of f32, and too little for another ε or another approximation to
/// pass.
const TOLERANCE: f64 = 2e-6;

/// What a file says about itself.
#[derive(Deserialize)]
struct Header {
    /// `mixer` or `channel`.
    part: String,
    table: KindTable,
    source: String,
}

/// A file of `references`.
struct Reference {
    name: String,
    table: KindTable,
    /// Whether it mixes channels instead of tokens.
    channel: bool,
    x: TensorData,
    y: TensorData,
    parameters: Tensors,
}

impl Reference {
    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let bytes = fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let header = header.metadata().as_ref().and_then(|entries| entries.get("reference"));
        let header: Header = serde_json::from_str(header.unwrap_or_else(|| panic!("{name} has no header")))
            .expect("a header says part, table and source");
        assert!(!header.source.is_empty(), "{name} does not say where it comes from");
        let mut tensors: Tensors = BTreeMap::new();
        for (key, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), DType::F32);
            tensors.insert(key, data);
        }
        let (x, y) = (tensors.remove("x").unwrap(), tensors.remove("y").unwrap());
        let parameters = tensors.into_iter().map(|(key, data)| {
            (key.strip_prefix("parameter.").unwrap_or_else(|| panic!("{name}: what is `{key}`?")).to_owned(), data)
        });
        Self { table: header.table, channel: header.part == "channel", x, y, parameters: parameters.collect(), name }
    }

    fn all() -> Vec<Self> {
        let entries = fs::read_dir(root().join("tests/references")).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn kind(&self) -> &str {
        self.table["kind"].as_str().unwrap()
    }

    fn x(&self, device: &Device) -> Tensor<3> {
        Tensor::from_data(self.x.clone(), device)
    }

    /// The block as it starts, with every one of its parameters replaced.
    fn load<M: Module>(&self, block: M) -> M {
        with_parameters(block, &self.parameters).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn mixer(&self, device: &Device) -> AnyMixer {
        let [_, _, d] = self.x(device).dims();
        let mixer = MixerRegistry::default().build(&self.table, d, &mut Init::new(0, device));
        self.load(mixer.unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }

    fn channel_mixer(&self, device: &Device) -> ChannelMixer {
        let [_, _, d] = self.x(device).dims();
        let mixer = ChannelMixer::build(&self.table, d, &mut Init::new(0, device));
        let mixer = mixer.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        self.load(mixer.unwrap_or_else(|| panic!("{}: it mixes nothing", self.name)))
    }

    /// ‖y − theirs‖ / ‖theirs‖
    fn error(&self, y: Tensor<3>) -> f64 {
        assert_eq!(&y.shape(), self.y.shape(), "{}", self.name);
        let (mut distance, mut size) = (0.0, 0.0);
        for (ours, theirs) in y.into_data().iter::<f64>().zip(self.y.iter::<f64>()) {
            distance += (ours - theirs).powi(2);
            size += theirs.powi(2);
        }
        assert!(size > 0.0, "{}: the outputs are zero", self.name);
        (distance / size).sqrt()
    }

    fn assert_equals(&self, y: Tensor<3>, how: &str) {
        let error = self.error(y);
        // Written so that a NaN fails.
        assert!(error <= TOLERANCE, "{}, {how}: off by {error:.1e}", self.name);
    }

    /// What our block computes for its inputs at once.
    fn ours(&self, device: &Device) -> Tensor<3> {
        match self.channel {
            true => self.channel_mixer(device).forward(self.x(device)).0,
            false => by_pieces(&self.mixer(device), &self.x(device), self.x.shape()[1]),
        }
    }
}

fn devices() -> [(&'static str, Device); 2] {
    #[allow(deprecated, reason = "Burn has deprecated its NdArray backend, which we still support")]
    [("flex", Device::flex()), ("ndarray", Device::ndarray())]
}

/// Runs `x` through the mixer in pieces of `length` tokens.
fn by_pieces(mixer: &AnyMixer, x: &Tensor<3>, length: usize) -> Tensor<3> {
    let [b, l, d] = x.dims();
    let mut state = mixer.state(b, d, &x.device());
    let mut outputs = vec![];
    for start in (0..l).step_by(length) {
        let (y, next) = mixer.forward(x.clone().narrow(1, start, length.min(l - start)), state);
        outputs.push(y);
        state = next;
    }
    Tensor::cat(outputs, 1)
}

#[test]
fn every_mixer_computes_what_others_compute_for_it_whole_and_token_by_token() {
    for reference in Reference::all().iter().filter(|reference| !reference.channel) {
        // What sees later tokens cannot run before they are there.
        let causal = reference.table.get("causal").is_none_or(|causal| causal == true);
        for (device_name, device) in devices() {
            let (mixer, x) = (reference.mixer(&device), reference.x(&device));
            let [_, l, _] = x.dims();
            for length in if causal { vec![l, 1] } else { vec![l] } {
                let how = format!("{device_name}, {length} tokens at a time");
                reference.assert_equals(by_pieces(&mixer, &x, length), &how);
            }
        }
    }
}

#[test]
fn every_channel_mixer_computes_what_others_compute_for_it() {
    for reference in Reference::all().iter().filter(|reference| reference.channel) {
        for (device_name, device) in devices() {
            reference.assert_equals(reference.ours(&device), device_name);
        }
    }
}

#[test]
fn every_reference_notices_a_change_of_any_parameter() {
    for mut reference in Reference::all() {
        // What the same vector adds to all keys moves all scores of a query alike, and a softmax forgets it.
        let turning = reference.table.get("positions").is_none();
        let felt = |key: &&String| turning || *key != "key.bias";
        for key in reference.parameters.keys().filter(felt).cloned().collect::<Vec<_>>() {
            let data = reference.parameters[&key].clone();
            let values = data.iter::<f32>().enumerate().map(|(i, value)| value + 0.1 * (1.0 + i as f32).sin());
            let changed = TensorData::new(values.collect::<Vec<_>>(), data.shape().clone());
            reference.parameters.insert(key.clone(), changed);
            let error = reference.error(reference.ours(&Device::flex()));
            assert!(
                error > 10.0 * TOLERANCE,
                "{}: a change of `{key}` moves the outputs by {error:.1e}",
                reference.name
            );
            reference.parameters.insert(key, data);
        }
    }
}

#[test]
fn every_registered_kind_has_a_reference() {
    let references = Reference::all();
    let of = |channel: bool| -> BTreeSet<&str> {
        references.iter().filter(|reference| reference.channel == channel).map(Reference::kind).collect()
    };
    let registry = MixerRegistry::default();
    for (part, kinds, known) in [
        ("mixer", registry.kinds().collect::<Vec<_>>(), of(false)),
        ("channel mixer", CHANNEL_KINDS.into_iter().filter(|kind| *kind != "none").collect(), of(true)),
    ] {
        for kind in kinds {
            assert!(known.contains(kind), "the {part} `{kind}` has no file in tests/references: extend make.py");
        }
    }
}

#[test]
fn a_reference_names_each_parameter_once() {
    let device = Device::flex();
    let reference = Reference::all().into_iter().find(|reference| reference.name == "mamba").unwrap();
    let refusal = |change: fn(&mut Tensors)| {
        let mut parameters = reference.parameters.clone();
        change(&mut parameters);
        with_parameters(reference.mixer(&device), &parameters).unwrap_err().to_string()
    };
    assert!(refusal(|tensors| drop(tensors.remove("a_log"))).contains("it has no `a_log`"));
    let extra = |tensors: &mut Tensors| drop(tensors.insert("b_log".into(), TensorData::new(vec![0f32], [1])));
    assert!(refusal(extra).contains("parameters that the model lacks"));
    let other_shape = |tensors: &mut Tensors| drop(tensors.insert("skip".into(), TensorData::new(vec![0f32], [1])));
    assert!(refusal(other_shape).contains("`skip` is"));
}
