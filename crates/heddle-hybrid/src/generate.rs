//! Continuing prompts: a prompt at once, then one token after the other.

use core::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use heddle_kernels::SettingsError;

use crate::{Model, ModelState, Sampling};

/// How prompts are continued.
///
/// With a model of ten tokens:
///
/// ```
/// # use burn::tensor::Device;
/// # use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
/// # let json = r#"{"d_model": 16, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}}"#;
/// # let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
/// # let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// use core::ops::ControlFlow;
/// use heddle_hybrid::{Generation, Sampling, generate};
///
/// let sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
/// let settings = Generation { sampling, max_tokens: 100, stop: vec![4, 5] };
/// let done = generate(&model, &[vec![1, 2]], &settings, &device, |_| ControlFlow::Continue(())).unwrap();
/// // One token in five ends the text.
/// assert!(done[0].stopped && done[0].tokens.iter().all(|token| ![4, 5].contains(token)));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// How a token is chosen.
    pub sampling: Sampling,
    /// The most tokens that a prompt is continued by.
    pub max_tokens: usize,
    /// Tokens that end a continuation and are no part of it.
    pub stop: Vec<u32>,
}

/// A token that continues a prompt.
///
/// With a model of ten tokens:
///
/// ```
/// # use burn::tensor::Device;
/// # use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
/// # let json = r#"{"d_model": 16, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}}"#;
/// # let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
/// # let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// use core::ops::ControlFlow;
/// use heddle_hybrid::{Generation, NewToken, Sampling, generate};
///
/// let settings = Generation { sampling: Sampling::default(), max_tokens: 5, stop: vec![] };
/// let mut heard = vec![];
/// let each = |NewToken { prompt, step, token }| {
///     heard.push((prompt, step));
///     if step == 2 || token > 9 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
/// };
/// generate(&model, &[vec![1, 2]], &settings, &device, each).unwrap();
/// assert_eq!(heard, [(0, 0), (0, 1), (0, 2)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// The prompt, from 0.
    pub prompt: usize,
    /// The token's place in the continuation, from 0.
    pub step: usize,
    /// The token.
    pub token: u32,
}

/// What a prompt is continued by.
///
/// With a model of ten tokens:
///
/// ```
/// # use burn::tensor::Device;
/// # use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
/// # let json = r#"{"d_model": 16, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}}"#;
/// # let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
/// # let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// use core::ops::ControlFlow;
/// use heddle_hybrid::{Continuation, Generation, Sampling, generate};
///
/// let mut settings = Generation { sampling: Sampling::default(), max_tokens: 5, stop: vec![] };
/// let run = |settings: &Generation| {
///     generate(&model, &[vec![1, 2]], settings, &device, |_| ControlFlow::Continue(())).unwrap().remove(0)
/// };
/// let free = run(&settings);
/// assert_eq!((free.tokens.len(), free.stopped), (5, false));
/// // The token that ends a text is no part of it.
/// settings.stop = vec![free.tokens[0]];
/// assert_eq!(run(&settings), Continuation { tokens: vec![], stopped: true });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuation {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Whether a stop token came behind them.
    pub stopped: bool,
}

/// Prompts that cannot be continued.
///
/// With a model of ten tokens:
///
/// ```
/// # use burn::tensor::Device;
/// # use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
/// # let json = r#"{"d_model": 16, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}}"#;
/// # let (config, device): (ModelConfig, _) = (serde_json::from_str(json).unwrap(), Device::flex());
/// # let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device)).unwrap();
/// use core::ops::ControlFlow;
/// use heddle_hybrid::{GenerateError, Generation, Sampling, generate};
///
/// let settings = Generation { sampling: Sampling::default(), max_tokens: 5, stop: vec![] };
/// let prompts = [vec![1], vec![2, 10]];
/// let error = generate(&model, &prompts, &settings, &device, |_| ControlFlow::Continue(())).unwrap_err();
/// assert_eq!(error, GenerateError::Unknown { prompt: 1, token: 10, vocab: 10 });
/// assert_eq!(error.to_string(), "token 10 of prompt 2 is not one of the model's 10; use 0 to 9");
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GenerateError {
    /// A setting of the sampling.
    #[error(transparent)]
    Sampling(#[from] SettingsError),
    /// A prompt without tokens.
    #[error("prompt {} has no tokens; give one at least", prompt + 1)]
    Empty {
        /// The prompt, from 0.
        prompt: usize,
    },
    /// A token that the model does not know.
    #[error("token {token} of prompt {} is not one of the model's {vocab}; use 0 to {}", prompt + 1, vocab - 1)]
    Unknown {
        /// The prompt, from 0.
        prompt: usize,
        /// The token.
        token: u32,
        /// Number of tokens known.
        vocab: usize,
    },
    /// A sequence beyond the model's positions.
    #[error(
        "prompt {} has {length} tokens, and with {max_tokens} more it passes the {longest} positions that the model \
         learned; ask for fewer tokens or shorten the prompt",
        prompt + 1
    )]
    TooLong {
        /// The prompt, from 0.
        prompt: usize,
        /// Its tokens.
        length: usize,
        /// The most that it may be continued by.
        max_tokens: usize,
        /// The longest sequence that the model can read.
        longest: usize,
    },
    /// The model computed something that is no number.
    #[error("the scores behind prompt {} are not finite after {step} new tokens; the model has diverged", prompt + 1)]
    NotFinite {
        /// The prompt, from 0.
        prompt: usize,
        /// The tokens that continue it.
        step: usize,
    },
}

/// Continues prompts of any lengths; `each` sees every token as it comes, and may break off.
///
/// A prompt goes through the model at once and the tokens behind it one at a time, from the state that those before them
/// left. Prompts of one length go together; there is no padding, so no prompt can leak into another. A continuation is the
/// one that its prompt has alone: the random numbers depend on the seed and the step, not on the place among the prompts.
///
/// # Errors
/// If a setting or prompt cannot be used (before anything is computed), or the model's scores are not finite.
///
/// # Examples
///
/// ```
/// use core::ops::ControlFlow;
///
/// use burn::tensor::Device;
/// use heddle_hybrid::{Generation, Init, MixerRegistry, Model, ModelConfig, Sampling, generate};
///
/// let config: ModelConfig =
///     serde_json::from_str(r#"{"d_model": 16, "layers": ["mamba"], "mixer": {"mamba": {"kind": "mamba"}}}"#)?;
/// let device = Device::flex();
/// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut Init::new(0, &device))?;
/// let settings = Generation { sampling: Sampling::default(), max_tokens: 4, stop: vec![] };
/// let prompts = [vec![1, 2, 3], vec![7]];
/// let both = generate(&model, &prompts, &settings, &device, |_| ControlFlow::Continue(()))?;
/// let second = generate(&model, &prompts[1..], &settings, &device, |_| ControlFlow::Continue(()))?;
/// assert_eq!((both[0].tokens.len(), &both[1]), (4, &second[0]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn generate(
    model: &Model,
    prompts: &[Vec<u32>],
    settings: &Generation,
    device: &Device,
    mut each: impl FnMut(NewToken) -> ControlFlow<()>,
) -> Result<Vec<Continuation>, GenerateError> {
    settings.sampling.check()?;
    prompts.iter().enumerate().try_for_each(|(prompt, tokens)| check(model, prompt, tokens, settings.max_tokens))?;
    let mut all = vec![Continuation::default(); prompts.len()];
    for rows in by_length(prompts) {
        let group = Group { model, settings, rows, device };
        if group.run(prompts, &mut all, &mut each)?.is_break() {
            break;
        }
    }
    Ok(all)
}

/// Checks a prompt before anything is computed.
fn check(model: &Model, prompt: usize, tokens: &[u32], max_tokens: usize) -> Result<(), GenerateError> {
    let (length, vocab) = (tokens.len(), model.vocab());
    if length == 0 {
        return Err(GenerateError::Empty { prompt });
    }
    if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab) {
        return Err(GenerateError::Unknown { prompt, token, vocab });
    }
    // The last new token is not read.
    let read = length.saturating_add(max_tokens.saturating_sub(1));
    match model.max_length().filter(|longest| read > *longest) {
        Some(longest) => Err(GenerateError::TooLong { prompt, length, max_tokens, longest }),
        None => Ok(()),
    }
}

/// The prompts of each length, in the order in which the lengths first appear.
fn by_length(prompts: &[Vec<u32>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = vec![];
    for (row, prompt) in prompts.iter().enumerate() {
        match groups.iter_mut().find(|group| prompts[group[0]].len() == prompt.len()) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// Prompts of one length.
struct Group<'a> {
    model: &'a Model,
    settings: &'a Generation,
    /// Their places among all prompts.
    rows: Vec<usize>,
    device: &'a Device,
}

impl Group<'_> {
    fn run(
        &self,
        prompts: &[Vec<u32>],
        all: &mut [Continuation],
        each: &mut impl FnMut(NewToken) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, GenerateError> {
        let mut state = self.model.state(self.rows.len(), self.device);
        let mut tokens: Vec<u32> = self.rows.iter().flat_map(|row| prompts[*row].iter().copied()).collect();
        for step in 0..self.settings.max_tokens {
            let (scores, next) = self.scores(&tokens, state);
            state = next;
            // Rows that have ended go on unseen until the last one ends.
            for (i, scores) in scores.chunks(self.model.vocab()).enumerate() {
                let row = self.rows[i];
                if all[row].stopped {
                    continue;
                }
                // Without a way out of the loop, which would take a score at a time.
                if scores.iter().fold(false, |found, score| found | !score.is_finite()) {
                    return Err(GenerateError::NotFinite { prompt: row, step });
                }
                let token = self.settings.sampling.pick(scores, step as u64) as u32;
                if self.settings.stop.contains(&token) {
                    all[row].stopped = true;
                    continue;
                }
                all[row].tokens.push(token);
                if each(NewToken { prompt: row, step, token }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if self.rows.iter().all(|row| all[*row].stopped) {
                break;
            }
            // A row that has ended reads token 0; nobody sees what comes of it.
            let last = |row: &usize| all[*row].tokens.last().copied().filter(|_| !all[*row].stopped).unwrap_or(0);
            tokens = self.rows.iter().map(last).collect();
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The scores behind the last of each row's `tokens`, row after row, and the state there.
    fn scores(&self, tokens: &[u32], state: ModelState) -> (Vec<f32>, ModelState) {
        let b = self.rows.len();
        let l = tokens.len() / b;
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [b, l]), self.device);
        let (scores, state) = self.model.score_next(ids, state);
        (scores.into_data().try_to_vec().expect("scores are f32"), state)
    }
}

#[cfg(test)]
mod tests;
