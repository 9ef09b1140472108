//! What the settings of several blocks have in common.

use burn::module::Param;
use burn::tensor::Tensor;
use heddle_kernels::{Init, SettingsError};

/// Initial Δ is never below this.
const DT_FLOOR: f64 = 1e-4;

/// Refuses a number below `least`.
pub(crate) fn at_least(key: &str, value: usize, least: usize) -> Result<(), SettingsError> {
    match value < least {
        true => Err(SettingsError::new(key, format!("{value} is too small"), format!("use {least} or more"))),
        false => Ok(()),
    }
}

/// Refuses parts that do not fill a whole; `whole` says what that is.
pub(crate) fn divides(key: &str, part: usize, whole: usize, what: &str) -> Result<(), SettingsError> {
    match part == 0 || !whole.is_multiple_of(part) {
        true => Err(SettingsError::new(key, format!("{part} does not divide {what} {whole}"), "use a divisor of it")),
        false => Ok(()),
    }
}

/// Refuses bounds of the initial Δ that are no bounds.
pub(crate) fn check_dt(dt_min: f64, dt_max: f64) -> Result<(), SettingsError> {
    if !(dt_min > 0.0 && dt_min <= dt_max) {
        let problem = format!("{dt_min} is not between 0 and `dt_max` = {dt_max}");
        return Err(SettingsError::new("dt_min", problem, "use 0 < dt_min ≤ dt_max"));
    }
    Ok(())
}

/// Δ's bias, such that softplus(bias) is log-uniform in [dt_min, dt_max] (arXiv:2312.00752, §3.6).
pub(crate) fn init_dt_bias(count: usize, [dt_min, dt_max]: [f64; 2], init: &mut Init) -> Param<Tensor<1>> {
    let (low, high) = (dt_min.ln() as f32, dt_max.ln() as f32);
    init.from_fn([count], |init, _| {
        let dt = f64::from(init.draw_uniform(low, high)).exp().max(DT_FLOOR);
        // The inverse of softplus: log(e^dt − 1) = dt + log(1 − e^{−dt}).
        (dt + (-(-dt).exp_m1()).ln()) as f32
    })
}

/// Refuses what is no ε of a norm.
pub(crate) fn check_eps(key: &str, eps: f64) -> Result<(), SettingsError> {
    match eps >= 0.0 && eps.is_finite() {
        true => Ok(()),
        false => Err(SettingsError::new(key, format!("{eps} is no ε"), "use a small positive number")),
    }
}

/// The filters of a depthwise convolution: uniform in ±1/√k, PyTorch's default.
pub(crate) fn init_conv(e: usize, k: usize, init: &mut Init) -> Param<Tensor<2>> {
    init.uniform([e, k], (k as f32).sqrt().recip())
}

/// The biases of the same convolution.
pub(crate) fn init_conv_bias(e: usize, k: usize, init: &mut Init) -> Param<Tensor<1>> {
    init.uniform([e], (k as f32).sqrt().recip())
}
