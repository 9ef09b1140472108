//! S4D: a time-invariant diagonal state-space layer.

use core::f64::consts::PI;
use core::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{
    ComplexInput, Init, Mixer, MixerSettings, SettingsError, complex_recurrence, gelu, linear, map_by_channel,
    sigmoid_mul,
};
use serde::{Deserialize, Serialize};

use crate::settings::{at_least, check_dt};

/// Settings of [`S4d`]; the defaults are those of the authors' code.
///
/// ```
/// use burn::tensor::Device;
/// use heddle_kernels::{Init, MixerSettings};
/// use heddle_ssm::S4dSettings;
///
/// let settings: S4dSettings = toml::from_str("d_state = 7\nspectrum = 'inverse'").unwrap();
/// let error = settings.init(16, &mut Init::new(0, &Device::flex())).unwrap_err();
/// let expected = "`d_state`: 7 is odd, and states come in conjugate pairs; use an even number";
/// assert_eq!(error.to_string(), expected);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S4dSettings {
    /// Real state size of each channel: twice the number of its complex states.
    pub d_state: usize,
    /// How fast the states turn at the start.
    pub spectrum: Spectrum,
    /// Smallest initial Δ.
    pub dt_min: f64,
    /// Largest initial Δ.
    pub dt_max: f64,
}

impl Default for S4dSettings {
    fn default() -> Self {
        Self { d_state: 64, spectrum: Spectrum::Linear, dt_min: 1e-3, dt_max: 0.1 }
    }
}

/// The frequencies that the states of a channel start with (arXiv:2206.11893, §4), N of them in conjugate pairs.
///
/// What one pair of states takes up of earlier tokens, at a step of 1 and with the real part −1/2:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings};
/// use heddle_ssm::{S4dSettings, Spectrum};
///
/// let ratios = |spectrum| {
///     let (device, settings) = (Device::flex(), S4dSettings { d_state: 2, spectrum, dt_min: 1.0, dt_max: 1.0 });
///     let block = settings.init(1, &mut Init::new(0, &device)).unwrap();
///     let map = block.attention_map(Tensor::ones([1, 9, 1], &device), 8..9).unwrap();
///     let weights = map.into_data().to_vec::<f32>().unwrap();
///     weights[..8].windows(2).map(|pair| pair[0] / pair[1]).collect::<Vec<f32>>()
/// };
/// // Frequency 0: each weight is e^{−1/2} of the one behind it.
/// assert!(ratios(Spectrum::Linear).iter().all(|ratio| (ratio - (-0.5f32).exp()).abs() < 1e-4));
/// // Frequency 2/π: within five tokens half a turn is done, and the sign changes.
/// assert!(ratios(Spectrum::Inverse).iter().any(|ratio| *ratio < 0.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spectrum {
    /// `πn`, S4D-Lin: those of a Fourier series.
    Linear,
    /// `N/π (N/(2n + 1) − 1)`, S4D-Inv: close to those of S4's own matrix.
    Inverse,
}

impl Spectrum {
    /// The frequency of pair `n` of the `d_state / 2` pairs.
    fn frequency(self, n: usize, d_state: usize) -> f32 {
        let (n, all) = (n as f64, d_state as f64);
        let frequency = match self {
            Self::Linear => PI * n,
            Self::Inverse => all / PI * (all / (2.0 * n + 1.0) - 1.0),
        };
        frequency as f32
    }
}

impl MixerSettings for S4dSettings {
    type Mixer = S4d;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<S4d, SettingsError> {
        at_least("d_state", self.d_state, 2)?;
        if !self.d_state.is_multiple_of(2) {
            let problem = format!("{} is odd, and states come in conjugate pairs", self.d_state);
            return Err(SettingsError::new("d_state", problem, "use an even number"));
        }
        check_dt(self.dt_min, self.dt_max)?;
        let (e, n) = (d_model, self.d_state / 2);
        let (low, high) = (self.dt_min.ln() as f32, self.dt_max.ln() as f32);
        Ok(S4d {
            log_dt: init.uniform_between([e, 1], low, high),
            // The real part of A is −1/2 (arXiv:2206.11893, §4).
            log_rate: init.constant([e, n], 0.5f32.ln()),
            frequency: init.from_fn([e, n], |_, i| self.spectrum.frequency(i % n, self.d_state)),
            // Complex normal with variance one.
            read_re: init.normal([e, n], 0.5f32.sqrt()),
            read_im: init.normal([e, n], 0.5f32.sqrt()),
            skip: init.normal([e], 1.0),
            gate_proj: init.linear(e, e, true),
            out_proj: init.linear(e, e, true),
        })
    }
}

/// S4D (arXiv:2206.11893, §3 and §4): channels with complex states that turn and fade at rates of their own, the same at
/// every token.
///
/// ```text
/// Ā = exp(ΔA)      B̄ = (Ā − 1) / A      h_t = Ā h_{t−1} + B̄ u_t      s_t = 2 Re(C h_t) + D u_t      z = GELU(s)
/// y = (W_out z) · σ(W_g z)
/// ```
///
/// A = −exp(rate) + i·frequency is a diagonal of `n = d_state / 2` numbers of each channel, discretised by zero-order hold.
/// The state holds `h / B̄`, real and imaginary, whatever the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
/// use heddle_ssm::S4dSettings;
///
/// let device = Device::flex();
/// let block = S4dSettings { d_state: 8, ..Default::default() }.init(16, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 16], &device), block.state(1, 16, &device));
/// assert_eq!((y.dims(), state.bytes()), ([1, 5, 16], 4 * 16 * 8));
/// ```
#[derive(Module, Debug)]
pub struct S4d {
    log_dt: Param<Tensor<2>>,
    log_rate: Param<Tensor<2>>,
    frequency: Param<Tensor<2>>,
    read_re: Param<Tensor<2>>,
    read_im: Param<Tensor<2>>,
    skip: Param<Tensor<1>>,
    gate_proj: Linear,
    out_proj: Linear,
}

impl S4d {
    /// `Ā` and `C B̄`, each as its real and its imaginary part, `[e, n]`.
    fn discretised(&self) -> ([Tensor<2>; 2], [Tensor<2>; 2]) {
        let dt = self.log_dt.val().exp();
        let (rate, frequency) = (self.log_rate.val().exp().neg(), self.frequency.val());
        let (size, angle) = ((rate.clone() * dt.clone()).exp(), frequency.clone() * dt);
        let decay = [size.clone() * angle.clone().cos(), size * angle.sin()];
        // (Ā − 1) / A = (Ā − 1) conj(A) / |A|²
        let (re, im) = (decay[0].clone() - 1.0, decay[1].clone());
        let scale = rate.clone().square() + frequency.clone().square();
        let enter_re = (re.clone() * rate.clone() + im.clone() * frequency.clone()) / scale.clone();
        let enter_im = (im * rate - re * frequency) / scale;
        let (c_re, c_im) = (self.read_re.val(), self.read_im.val());
        let read =
            [c_re.clone() * enter_re.clone() - c_im.clone() * enter_im.clone(), c_re * enter_im + c_im * enter_re];
        (decay, read)
    }

    /// `s` of `u`, and the state behind it.
    fn filter(&self, u: Tensor<3>, (re, im): (Tensor<3>, Tensor<3>)) -> (Tensor<3>, [Tensor<3>; 2]) {
        let (decay, read) = self.discretised();
        complex_recurrence(ComplexInput { decay, u, read, skip: self.skip.val() }, [re, im])
    }
}

impl Mixer for S4d {
    /// Real and imaginary part, each `[b, e, n]`.
    type State = (Tensor<3>, Tensor<3>);

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Self::State {
        let [e, n] = self.frequency.dims();
        (Tensor::zeros([batch, e, n], device), Tensor::zeros([batch, e, n], device))
    }

    fn forward(&self, u: Tensor<3>, state: Self::State) -> (Tensor<3>, Self::State) {
        let (s, [re, im]) = self.filter(u, state);
        let z = gelu(s);
        (sigmoid_mul(linear(z.clone(), &self.gate_proj), linear(z, &self.out_proj)), (re, im))
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        let [e, n] = self.frequency.dims();
        4 * (2 * e * n) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let [e, n] = self.frequency.dims();
        // A complex product and a real part, as multiply-adds.
        2 * (length * (2 * d_model * e + e * n * 6)) as u64
    }

    /// The filter of each channel, the same whatever the tokens. The values are the tokens themselves.
    fn attention_map(&self, u: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, e], device) = (u.dims(), u.device());
        Some(map_by_channel([b, l, e], &rows, &device, |u, times| self.filter(u, self.state(times * b, e, &device)).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_map_gives, block_and_tokens};

    #[test]
    fn the_map_by_the_tokens_is_what_the_filter_gives() {
        let (block, x) = block_and_tokens(S4dSettings::default());
        let (s, _) = block.filter(x.clone(), block.state(2, 24, &x.device()));
        assert_map_gives(&block, x.clone(), x, s);
    }
}
