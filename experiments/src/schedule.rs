//! The budget of a run and the learning rate over it.

use crate::config::{DecayForm, Schedule, TrainConfig};
use crate::result::Stop;

/// What a run has spent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens.
    pub tokens: u64,
    /// Minutes of training.
    pub minutes: f64,
}

impl Spent {
    /// The budget that is used up, if any is.
    pub fn exhausted(&self, config: &TrainConfig) -> Option<Stop> {
        let budgets = [
            (config.steps > 0 && self.steps >= config.steps, Stop::Steps),
            (config.tokens > 0 && self.tokens >= config.tokens, Stop::Tokens),
            (config.minutes > 0.0 && self.minutes >= config.minutes, Stop::Time),
        ];
        budgets.into_iter().find_map(|(reached, stop)| reached.then_some(stop))
    }

    /// The steps that the run will have taken when the first of its budgets is used up, if it goes on at its pace so far.
    ///
    /// Where every batch holds as many tokens, that of a budget of tokens is exact from the start; where it does not, it
    /// becomes so at the end.
    ///
    /// ```
    /// use experiments::config::TrainConfig;
    /// use experiments::schedule::Spent;
    ///
    /// let config = TrainConfig { steps: 1000, tokens: 6400, ..TrainConfig::default() };
    /// assert_eq!(Spent { steps: 5, tokens: 320, minutes: 0.1 }.horizon(&config), 100.0);
    /// ```
    pub fn horizon(&self, config: &TrainConfig) -> f64 {
        let taken = self.steps as f64;
        let all =
            |budget: f64, spent: f64| if budget > 0.0 && spent > 0.0 { taken * budget / spent } else { f64::INFINITY };
        let steps = if config.steps > 0 { config.steps as f64 } else { f64::INFINITY };
        steps.min(all(config.tokens as f64, self.tokens as f64)).min(all(config.minutes, self.minutes))
    }

    /// The [`horizon`](Self::horizon) of the step that comes next, which takes `tokens`; its minutes are not known yet.
    pub fn horizon_behind(&self, tokens: u64, config: &TrainConfig) -> f64 {
        let behind = Self { steps: self.steps + 1, tokens: self.tokens + tokens, minutes: 0.0 };
        behind.horizon(config).min(Self { tokens: 0, ..*self }.horizon(config))
    }
}

/// The learning rate of step number `step`, from 1, of a run of `horizon` steps: linear warm-up, then the schedule.
///
/// ```text
/// η_t = η t / warmup   up to the warm-up's end, then   η_t = η (floor + (1 − floor) f(t))
/// ```
///
/// `f` falls from 1 to 0 as [`Schedule`] says.
///
/// ```
/// use experiments::config::{Schedule, TrainConfig};
/// use experiments::schedule::learning_rate;
///
/// let config = TrainConfig { lr: 1.0, warmup: 4, schedule: Schedule::Linear, ..TrainConfig::default() };
/// assert_eq!([1, 4, 8, 12].map(|step| learning_rate(&config, step, 12.0)), [0.25, 1.0, 0.5, 0.0]);
/// ```
pub fn learning_rate(config: &TrainConfig, step: u64, horizon: f64) -> f64 {
    if step <= config.warmup {
        return config.lr * step as f64 / config.warmup as f64;
    }
    let behind = (horizon - config.warmup as f64).max(1.0);
    let done = ((step - config.warmup) as f64 / behind).min(1.0);
    let left = match config.schedule {
        Schedule::Constant => return config.lr,
        Schedule::Cosine => 0.5 * (1.0 + (core::f64::consts::PI * done).cos()),
        Schedule::Linear => 1.0 - done,
        Schedule::Wsd => {
            let steps = if config.decay < 1.0 { config.decay * horizon } else { config.decay };
            let steps = steps.min(behind);
            let done = if steps.is_finite() { (1.0 - (horizon - step as f64) / steps).clamp(0.0, 1.0) } else { 0.0 };
            match config.decay_form {
                DecayForm::Linear => 1.0 - done,
                DecayForm::OneMinusSqrt => 1.0 - done.sqrt(),
            }
        }
    };
    config.lr * (config.lr_floor + (1.0 - config.lr_floor) * left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    fn config(schedule: Schedule) -> TrainConfig {
        TrainConfig { lr: 1.0, warmup: 4, steps: 12, lr_floor: 0.1, schedule, ..TrainConfig::default() }
    }

    #[test]
    fn a_cosine_warms_up_and_ends_at_its_floor() {
        let rate = |step| learning_rate(&config(Schedule::Cosine), step, 12.0);
        assert_eq!((rate(1), rate(4)), (0.25, 1.0));
        assert_relative_eq!(rate(8), 0.55, epsilon = 1e-12);
        assert_relative_eq!(rate(12), 0.1, epsilon = 1e-12);
        assert_relative_eq!(rate(51), 0.1, epsilon = 1e-12);
    }

    #[test]
    fn warm_up_stable_decay_stays_at_the_peak_until_the_last_steps() {
        let shares = TrainConfig { decay: 0.25, lr_floor: 0.0, ..config(Schedule::Wsd) };
        let rates = |config: &TrainConfig| [4, 8, 16, 17, 18, 20].map(|step| learning_rate(config, step, 20.0));
        let expected = [1.0, 1.0, 0.8, 0.6, 0.4, 0.0];
        assert!(
            rates(&TrainConfig { decay: 5.0, ..shares.clone() })
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12)
        );
        assert_eq!(rates(&shares), rates(&TrainConfig { decay: 5.0, ..shares.clone() }));
        let root = TrainConfig { decay_form: DecayForm::OneMinusSqrt, decay: 4.0, ..shares };
        assert_eq!(rates(&root), [1.0, 1.0, 1.0, 0.5, 1.0 - 0.5f64.sqrt(), 0.0]);
        // A decay longer than what the warm-up leaves begins behind the warm-up.
        let long = TrainConfig { decay: 100.0, ..root };
        assert_relative_eq!(learning_rate(&long, 8, 20.0), 0.5, epsilon = 1e-12);
    }

    #[test]
    fn every_schedule_stays_between_floor_and_peak_and_never_rises_behind_the_warm_up() {
        for schedule in [Schedule::Constant, Schedule::Cosine, Schedule::Linear, Schedule::Wsd] {
            let rates: Vec<f64> = (4..=40).map(|step| learning_rate(&config(schedule), step, 40.0)).collect();
            assert!(rates.windows(2).all(|pair| pair[1] <= pair[0]), "{schedule:?}: {rates:?}");
            assert!(rates.iter().all(|rate| (0.1 - 1e-12..=1.0).contains(rate)), "{schedule:?}: {rates:?}");
        }
    }

    #[test]
    fn the_first_budget_that_is_used_up_ends_the_run_and_the_schedule() {
        let config = TrainConfig { steps: 100, tokens: 1000, minutes: 2.0, ..config(Schedule::Linear) };
        let spent = |steps, tokens, minutes| Spent { steps, tokens, minutes };
        assert_eq!(spent(99, 999, 1.9).exhausted(&config), None);
        assert_eq!(spent(100, 999, 1.9).exhausted(&config), Some(Stop::Steps));
        assert_eq!(spent(99, 1000, 1.9).exhausted(&config), Some(Stop::Tokens));
        assert_eq!(spent(99, 999, 2.0).exhausted(&config), Some(Stop::Time));
        assert_eq!(spent(10, 10, 0.01).horizon(&config), 100.0);
        assert_eq!(spent(10, 500, 0.01).horizon(&config), 20.0);
        assert_eq!(spent(10, 500, 1.6).horizon(&config), 12.5);
        let no_end = TrainConfig { steps: 0, tokens: 0, ..config };
        assert_eq!(spent(1, 64, 0.0).horizon(&no_end), f64::INFINITY);
        assert_eq!(learning_rate(&no_end, 5, f64::INFINITY), 1.0);
    }
}
