//! Slower rotation for sequences longer than a model was trained on.

use std::f64::consts::TAU;

use super::Rotary;

/// How the frequencies of a rotation change for longer sequences.
///
/// Over 8192 tokens one radian a token makes 1304 turns, which is fast, and 10⁻⁴ radians make 0.13, which is slow:
///
/// ```
/// use heddle_kernels::{Pairing, Rotary, RotaryScaling};
///
/// let rotary = Rotary { frequencies: vec![1.0, 1e-4], pairing: Pairing::Halves, offset: 0 };
/// let scaling = RotaryScaling::Llama3 { factor: 8.0, low_turns: 1.0, high_turns: 4.0, original_length: 8192.0 };
/// assert_eq!(rotary.scaled(scaling).frequencies, [1.0, 1e-4 / 8.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RotaryScaling {
    /// All frequencies divided by a factor (position interpolation, arXiv:2306.15595, eq. 3).
    Linear {
        /// How much longer the sequences are.
        factor: f64,
    },
    /// Slow frequencies divided by a factor, fast ones kept, those between blended, as Llama 3.1 does
    /// (arXiv:2407.21783 names it; the blend is that of the released model).
    Llama3 {
        /// How much slower the slow frequencies become.
        factor: f64,
        /// Frequencies that turn fewer times than this over the original length are slow.
        low_turns: f64,
        /// Frequencies that turn more times than this over the original length are fast.
        high_turns: f64,
        /// Tokens that the model was first trained on.
        original_length: f64,
    },
}

impl Rotary {
    /// The same rotation with scaled frequencies.
    ///
    /// ```
    /// use heddle_kernels::{Pairing, Rotary, RotaryScaling};
    /// let rotary = Rotary::new(100.0, 4, Pairing::Halves, 0);
    /// assert_eq!(rotary.scaled(RotaryScaling::Linear { factor: 2.0 }).frequencies, [0.5, 0.05]);
    /// ```
    pub fn scaled(mut self, scaling: RotaryScaling) -> Self {
        for frequency in &mut self.frequencies {
            *frequency *= match scaling {
                RotaryScaling::Linear { factor } => 1.0 / factor,
                RotaryScaling::Llama3 { factor, low_turns, high_turns, original_length } => {
                    let turns = original_length * *frequency / TAU;
                    let kept = ((turns - low_turns) / (high_turns - low_turns)).clamp(0.0, 1.0);
                    kept + (1.0 - kept) / factor
                }
            };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;
    use crate::Pairing;

    #[test]
    fn llama_3_keeps_fast_frequencies_slows_slow_ones_and_blends_between() {
        let scaling = RotaryScaling::Llama3 { factor: 8.0, low_turns: 1.0, high_turns: 4.0, original_length: 8192.0 };
        // By transformers 5.23 for these settings, pairs 27 to 37.
        let expected = [
            3.942276e-3,
            3.211446e-3,
            2.166571e-3,
            1.371894e-3,
            8.567515e-4,
            5.248460e-4,
            3.126936e-4,
            1.785078e-4,
            9.556212e-5,
            7.784655e-5,
            6.341514e-5,
        ];
        let scaled = Rotary::new(500_000.0, 128, Pairing::Halves, 0).scaled(scaling).frequencies;
        for (frequency, expected) in scaled[27..].iter().zip(expected) {
            assert_relative_eq!(*frequency, expected, max_relative = 1e-6);
        }
    }
}
