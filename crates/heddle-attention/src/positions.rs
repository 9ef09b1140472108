//! How attention knows where a token stands.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use heddle_kernels::{Init, Pairing, Rotary, RotaryScaling, SettingsError};
use serde::{Deserialize, Serialize};

use crate::AttentionSettings;

/// How attention knows where a token stands.
///
/// What the third of three tokens that are all alike looks at:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_attention::{AttentionSettings, Positions};
/// use heddle_kernels::{Init, Mixer, MixerSettings};
///
/// let weights = |positions| {
///     let (device, settings) = (Device::flex(), AttentionSettings { positions, ..Default::default() });
///     let block = settings.init(8, &mut Init::new(0, &device)).unwrap();
///     let map = block.attention_map(Tensor::ones([1, 3, 8], &device), 2..3).unwrap();
///     map.into_data().try_to_vec::<f32>().unwrap()
/// };
/// assert!(weights(Positions::None).iter().all(|weight| (weight - 1.0 / 3.0).abs() < 1e-6));
/// // The nearer, the more.
/// assert!(weights(Positions::Alibi).is_sorted_by(|further, nearer| further < nearer));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Not at all, beyond what the causal mask reveals.
    None,
    /// By rotating queries and keys (arXiv:2104.09864), with the head split in halves as Llama does.
    Rope,
    /// By scores that fall linearly with distance, at a rate of each head (arXiv:2108.12409).
    Alibi,
    /// By a learned vector that is added to each token.
    Learned,
    /// By a vector of sines that is added to each token (arXiv:1706.03762, §3.5).
    Sinusoidal,
}

/// How rotary wavelengths are stretched for sequences longer than a model was trained on.
///
/// With all wavelengths doubled, two tokens two apart look at each other as if they were neighbours:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_attention::{AttentionSettings, RopeScaling};
/// use heddle_kernels::{Init, Mixer, MixerSettings};
///
/// // What a token gives to the one `distance` before it, over what it gives to itself; all tokens are alike.
/// let ratio = |rope_scaling, distance: usize| {
///     let (device, settings) = (Device::flex(), AttentionSettings { rope_scaling, ..Default::default() });
///     let block = settings.init(8, &mut Init::new(0, &device)).unwrap();
///     let map = block.attention_map(Tensor::ones([1, 3, 8], &device), 2..3).unwrap();
///     let weights = map.into_data().try_to_vec::<f32>().unwrap();
///     weights[2 - distance] / weights[2]
/// };
/// let doubled = ratio(Some(RopeScaling::Linear { factor: 2.0 }), 2);
/// assert!((doubled - ratio(None, 1)).abs() < 1e-5 && (doubled - ratio(None, 2)).abs() > 1e-3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// All wavelengths alike (arXiv:2306.15595).
    Linear {
        /// By how much.
        factor: f64,
    },
    /// Long wavelengths fully, short ones not at all, as Llama 3.1 does.
    Llama3 {
        /// By how much.
        factor: f64,
        /// Wavelengths longer than the original length over this are stretched fully.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original length over this are kept.
        high_freq_factor: f64,
        /// Tokens that the model was first trained on.
        original_max_position_embeddings: usize,
    },
}

/// Positions as a block applies them.
#[derive(Module, Debug)]
pub(crate) struct Placement {
    /// Learned vectors, `[length, d]`.
    table: Option<Param<Tensor<2>>>,
    #[module(skip)]
    rotary: Option<Rotary>,
    /// Fall of each head's scores with distance.
    #[module(skip)]
    slopes: Option<Vec<f32>>,
    #[module(skip)]
    sinusoidal: bool,
}

/// Standard deviation of initial position vectors, as in GPT-2.
const TABLE_STD: f32 = 0.02;

/// Base of the wavelengths of sinusoidal positions.
const SINUSOIDAL_THETA: f64 = 10_000.0;

impl Placement {
    /// Positions for heads of width `p`.
    pub(crate) fn new(settings: &AttentionSettings, [d, p]: [usize; 2], init: &mut Init) -> Self {
        let is = |positions| settings.positions == positions;
        Self {
            table: is(Positions::Learned).then(|| init.normal([settings.max_length, d], TABLE_STD)),
            rotary: is(Positions::Rope).then(|| rotary(settings, p)),
            slopes: is(Positions::Alibi).then(|| alibi_slopes(settings.heads)),
            sinusoidal: is(Positions::Sinusoidal),
        }
    }

    /// Tokens with their positions added, if positions are vectors.
    ///
    /// # Panics
    /// If learned positions end before the last token.
    pub(crate) fn add_to(&self, x: Tensor<3>, offset: usize) -> Tensor<3> {
        let [_, l, d] = x.dims();
        if let (Some(table), Some(length)) = (&self.table, self.max_length()) {
            assert!(
                offset + l <= length,
                "attention: learned positions end at `max_length` = {length}, and a sequence of {} came",
                offset + l
            );
            return x + table.val().slice([offset..offset + l, 0..d]).unsqueeze();
        }
        if self.sinusoidal { x.clone() + sinusoids(offset, [l, d], &x.device()).unsqueeze() } else { x }
    }

    /// Where learned positions end.
    pub(crate) fn max_length(&self) -> Option<usize> {
        self.table.as_ref().map(|table| table.dims()[0])
    }

    /// Queries or keys, `[b, heads, l, p]`, turned by their positions, if they turn.
    pub(crate) fn rotate(&self, x: Tensor<4>, offset: usize) -> Tensor<4> {
        match &self.rotary {
            Some(rotary) => heddle_kernels::rotate(x, &Rotary { offset, ..rotary.clone() }),
            None => x,
        }
    }

    /// The slopes, if scores fall with distance.
    pub(crate) fn slopes(&self, device: &Device) -> Option<Tensor<1>> {
        self.slopes.as_ref().map(|slopes| Tensor::from_data(slopes.as_slice(), device))
    }
}

/// Width of the part of a head of width `p` that turns.
pub(crate) fn rope_width(settings: &AttentionSettings, p: usize) -> usize {
    (settings.rope_fraction * p as f64).round() as usize
}

fn rotary(settings: &AttentionSettings, p: usize) -> Rotary {
    let rotary = Rotary::new(settings.rope_theta, rope_width(settings, p), Pairing::Halves, 0);
    match settings.rope_scaling {
        None => rotary,
        Some(RopeScaling::Linear { factor }) => rotary.scaled(RotaryScaling::Linear { factor }),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            rotary.scaled(RotaryScaling::Llama3 {
                factor,
                low_turns: low_freq_factor,
                high_turns: high_freq_factor,
                original_length: original_max_position_embeddings as f64,
            })
        }
    }
}

/// Checks the settings of rotary positions for heads of width `p`.
pub(crate) fn check_rope(settings: &AttentionSettings, p: usize) -> Result<(), SettingsError> {
    let AttentionSettings { rope_theta, rope_fraction, .. } = *settings;
    if !(rope_theta > 0.0 && rope_theta.is_finite()) {
        let problem = format!("{rope_theta} is no base of wavelengths");
        return Err(SettingsError::new("rope_theta", problem, "use a positive number such as 10000"));
    }
    if !(rope_fraction > 0.0 && rope_fraction <= 1.0) {
        let problem = format!("{rope_fraction} is no part of a head");
        return Err(SettingsError::new("rope_fraction", problem, "use a number above 0 and at most 1"));
    }
    let turning = rope_width(settings, p);
    if turning == 0 || !turning.is_multiple_of(2) {
        let problem = format!("rotary positions need an even part of the head's width {p}, not {turning}");
        let key = if rope_fraction == 1.0 { "heads" } else { "rope_fraction" };
        return Err(SettingsError::new(key, problem, "change it, or use `positions = \"none\"`"));
    }
    let sound = match settings.rope_scaling {
        None => true,
        Some(RopeScaling::Linear { factor }) => factor > 0.0,
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. }) => {
            factor > 0.0 && low_freq_factor > 0.0 && low_freq_factor < high_freq_factor
        }
    };
    match sound {
        true => Ok(()),
        false => Err(SettingsError::new(
            "rope_scaling",
            "a factor is not positive, or low and high are not in order",
            "use factor > 0 and 0 < low_freq_factor < high_freq_factor",
        )),
    }
}

/// `2^{−8i/h}` for i = 1 … h; where `h` is no power of two, those of the power below and every second of the one above
/// (arXiv:2108.12409, §3 and the authors' code).
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let geometric = |count: usize| (1..=count).map(move |i| (-8.0 * i as f64 / count as f64).exp2() as f32);
    let below = 1 << heads.ilog2();
    geometric(below).chain(geometric(2 * below).step_by(2)).take(heads).collect()
}

/// Sines in the even channels and cosines in the odd ones, `[l, d]`.
fn sinusoids(offset: usize, [l, d]: [usize; 2], device: &Device) -> Tensor<2> {
    let value = |i: usize| {
        let (position, channel) = ((offset + i / d) as f64, i % d);
        let angle = position * SINUSOIDAL_THETA.powf(-((channel / 2 * 2) as f64) / d as f64);
        (if channel.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    Tensor::from_data(TensorData::new((0..l * d).map(value).collect::<Vec<_>>(), [l, d]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        assert_eq!(alibi_slopes(8), [1, 2, 3, 4, 5, 6, 7, 8].map(|i| 0.5f32.powi(i)));
        // The authors' list for twelve heads: eight of eight, then the first, third, … of sixteen.
        assert_eq!(alibi_slopes(12)[8..], [1, 3, 5, 7].map(|i| (-0.5 * f64::from(i)).exp2() as f32));
    }

    #[test]
    fn sinusoids_go_on_where_a_chunk_ended() {
        let device = Device::flex();
        let whole = sinusoids(0, [6, 4], &device);
        assert_eq!(whole.clone().slice([4..6, 0..4]).into_data(), sinusoids(4, [2, 4], &device).into_data());
        assert_eq!(whole.slice([0..1, 0..4]).into_data().try_to_vec::<f32>().unwrap(), [0.0, 1.0, 0.0, 1.0]);
    }
}
