//! The `heddle` program with one more block: lightning attention, in this file alone.
//!
//! `cargo run --release -p custom-mixer -- sweep examples/custom-mixer/lightning.toml` compares it with what ships with
//! Heddle; every other verb knows it too, as `bench blocks --only lightning_attention,mamba2`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{Init, Mixer, MixerSettings, SettingsError, SsdInput, rms_norm, sigmoid_mul, silu, ssd};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut registry = experiments::Registry::default();
    registry.mixers.register::<LightningAttentionSettings>("lightning_attention");
    experiments::cli::main(&registry)
}

/// What a config file may say of a [`LightningAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LightningAttentionSettings {
    /// Heads `h`; they divide the model's width.
    pub heads: usize,
    /// Factor of every head's rate of decay. The authors let it fall from 1 in the first layer to 0 in the last.
    pub decay: f64,
}

impl Default for LightningAttentionSettings {
    fn default() -> Self {
        Self { heads: 4, decay: 1.0 }
    }
}

impl MixerSettings for LightningAttentionSettings {
    type Mixer = LightningAttention;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<LightningAttention, SettingsError> {
        let (d, h) = (d_model, self.heads);
        if h == 0 || !d.is_multiple_of(h) {
            let problem = format!("{h} heads do not divide the model's width {d}");
            return Err(SettingsError::new("heads", problem, "use a divisor of `d_model`"));
        }
        if !(self.decay >= 0.0 && self.decay.is_finite()) {
            let problem = format!("{} is no rate of decay", self.decay);
            return Err(SettingsError::new("decay", problem, "use 0 (which forgets nothing) or more"));
        }
        Ok(LightningAttention {
            query: init.linear(d, d, false),
            key: init.linear(d, d, false),
            value: init.linear(d, d, false),
            gate: init.linear(d, d, false),
            norm: init.constant([d], 1.0),
            output: init.linear(d, d, false),
            heads: h,
            decay: self.decay,
        })
    }
}

/// Lightning attention, the linear attention of MiniMax-01 (arXiv:2501.08313, §2.2; arXiv:2401.04658).
///
/// ```text
/// (q, k, v) = SiLU((W_q, W_k, W_v) x)      S_t = exp(−s) S_{t−1} + v_t k_tᵀ      s_h = decay · 2^(−8 h / heads)
/// y_t = W_o [σ(W_g x_t) · RMSNorm(S_t q_t)]
/// ```
///
/// That is state-space duality with a step of one and a decay that no input changes, so its kernel does the work.
#[derive(Module, Debug)]
pub struct LightningAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    gate: Linear,
    norm: Param<Tensor<1>>,
    output: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    decay: f64,
}

/// ε of the norm.
const NORM_EPS: f64 = 1e-5;

impl Mixer for LightningAttention {
    /// `S` of each head, `[b, h, p, p]`.
    type State = Tensor<4>;

    fn state(&self, batch: usize, d_model: usize, device: &Device) -> Tensor<4> {
        let p = d_model / self.heads;
        Tensor::zeros([batch, self.heads, p, p], device)
    }

    fn forward(&self, x: Tensor<3>, state: Tensor<4>) -> (Tensor<3>, Tensor<4>) {
        let ([b, l, d], h) = (x.dims(), self.heads);
        let device = x.device();
        let heads = |map: &Linear| silu(map.forward(x.clone())).reshape([b, l, h, d / h]);
        let rates: Vec<f32> = (1..=h).map(|i| (-self.decay * 2f64.powf(-8.0 * i as f64 / h as f64)) as f32).collect();
        let input = SsdInput {
            x: heads(&self.value),
            delta: Tensor::ones([b, l, h], &device),
            delta_bias: None,
            softplus: false,
            a: Tensor::from_floats(rates.as_slice(), &device),
            write: heads(&self.key),
            read: heads(&self.query),
            skip: None,
        };
        let (mixed, state) = ssd(input, state);
        let normed = rms_norm(mixed.reshape([b, l, d]), self.norm.val(), NORM_EPS);
        (self.output.forward(sigmoid_mul(self.gate.forward(x), normed)), state)
    }

    fn state_bytes(&self, _length: usize, d_model: usize) -> u64 {
        4 * (d_model * d_model / self.heads) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        // Five matrices; per number of the state a decay, a write and a read.
        (length * d_model * (10 * d_model + 5 * d_model / self.heads)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_of_a_sequence_gives_the_outputs_of_the_whole() {
        let device = Device::flex();
        let mut init = Init::new(0, &device);
        let block = LightningAttentionSettings::default().init(16, &mut init).unwrap();
        let x = init.normal([2, 9, 16], 1.0).val();
        let (whole, end) = block.forward(x.clone(), block.state(2, 16, &device));
        for cut in 1..9 {
            let (first, state) = block.forward(x.clone().narrow(1, 0, cut), block.state(2, 16, &device));
            let (second, last) = block.forward(x.clone().narrow(1, cut, 9 - cut), state);
            let pieces = Tensor::cat(vec![first, second], 1);
            assert!((pieces - whole.clone()).abs().max().into_scalar::<f32>() < 1e-5);
            assert!((last - end.clone()).abs().max().into_scalar::<f32>() < 1e-5);
        }
    }

    #[test]
    fn a_head_reads_what_is_left_of_the_values() {
        // One channel, one head and no projection: S_t = e^−s S_{t−1} + v_t k_t, with s = decay · 2^−8.
        let device = Device::flex();
        let settings = LightningAttentionSettings { heads: 1, decay: 256.0 };
        let mut block = settings.init(1, &mut Init::new(0, &device)).unwrap();
        for map in [&mut block.query, &mut block.key, &mut block.value, &mut block.gate, &mut block.output] {
            map.weight = Param::from_tensor(Tensor::ones([1, 1], &device));
        }
        let x = [1.0f32, -2.0, 0.5];
        let (_, state) = block.forward(Tensor::from_floats([x.map(|x| [x])], &device), block.state(1, 1, &device));
        let sum = x.iter().fold(0.0, |sum, x| (-1f32).exp() * sum + (x / (1.0 + (-x).exp())).powi(2));
        assert!((state.into_scalar::<f32>() - sum).abs() < 1e-6);
    }
}
