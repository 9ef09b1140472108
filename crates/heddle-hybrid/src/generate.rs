//! Continuing prompts: a prompt at once, then one token after the other.

use core::ops::ControlFlow;

use burn::tensor::{Device, Int, Tensor, TensorData};
use heddle_kernels::SettingsError;

use crate::{Model, ModelState, Sampling};

/// How prompts are continued.
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuation {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Whether a stop token came behind them.
    pub stopped: bool,
}

/// Prompts that cannot be continued.
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
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Init, MixerRegistry, ModelConfig};

    const VOCAB: usize = 23;

    /// Matrix products may sum a row in another order when there are more rows; logits are of order one.
    const ROUNDING: f32 = 1e-5;

    /// A model with a layer of every sort of state.
    fn model(layers: &[&str]) -> Model {
        let config: ModelConfig = serde_json::from_value(json!({
            "d_model": 32,
            "layers": layers,
            "mixer": {
                "attention": {"kind": "attention", "heads": 4, "kv_heads": 2},
                "window": {"kind": "attention", "heads": 4, "window": 3, "sinks": 1, "positions": "none"},
                "learned": {"kind": "attention", "heads": 2, "positions": "learned", "max_length": 8},
                "mamba": {"kind": "mamba"},
                "mamba2": {"kind": "mamba2"},
                "conv": {"kind": "short_conv"},
            },
            "channel": {"experts": {"kind": "moe", "experts": 4}},
        }))
        .unwrap();
        Model::new(&config, VOCAB, &MixerRegistry::default(), &mut Init::new(5, &Device::flex())).unwrap()
    }

    const EVERY_STATE: [&str; 5] = ["attention+experts", "window", "mamba", "mamba2|attention", "conv"];

    fn prompts() -> Vec<Vec<u32>> {
        [9, 4, 9, 1, 4, 9]
            .iter()
            .enumerate()
            .map(|(i, &l)| (0..l).map(|j| (7 * i as u32 + 5 * j * j + j) % 23).collect())
            .collect()
    }

    fn settings(temperature: f64, max_tokens: usize) -> Generation {
        Generation { sampling: Sampling { temperature, seed: 3, ..Sampling::default() }, max_tokens, stop: vec![] }
    }

    fn run(model: &Model, prompts: &[Vec<u32>], settings: &Generation) -> Result<Vec<Continuation>, GenerateError> {
        generate(model, prompts, settings, &Device::flex(), |_| ControlFlow::Continue(()))
    }

    #[test]
    fn a_prompt_is_continued_as_if_it_were_alone() {
        let model = model(&EVERY_STATE);
        for temperature in [0.0, 1.0] {
            let settings = settings(temperature, 12);
            let together = run(&model, &prompts(), &settings).unwrap();
            for (prompt, together) in prompts().into_iter().zip(together) {
                assert_eq!(together.tokens.len(), 12);
                assert_eq!(run(&model, &[prompt], &settings).unwrap(), [together]);
            }
        }
    }

    #[test]
    fn scores_do_not_depend_on_the_other_rows() {
        let (model, settings, device) = (model(&EVERY_STATE), settings(0.0, 1), Device::flex());
        let rows = [prompts()[0].clone(), prompts()[2].clone(), prompts()[5].clone()];
        let group = |rows: Vec<usize>| Group { model: &model, settings: &settings, rows, device: &device };
        let (together, alone) = (group(vec![0, 1, 2]), group(vec![0]));
        let mut state = model.state(3, &device);
        let mut states = vec![model.state(1, &device); 3];
        // The prompts, and six tokens one at a time.
        for piece in [0..9, 0..1, 1..2, 2..3, 3..4, 4..5, 5..6] {
            let (scores, next) =
                together.scores(&rows.iter().flat_map(|row| row[piece.clone()].to_vec()).collect::<Vec<_>>(), state);
            state = next;
            for (i, scores) in scores.chunks(VOCAB).enumerate() {
                let (own, next) = alone.scores(&rows[i][piece.clone()], states[i].clone());
                states[i] = next;
                let furthest = own.iter().zip(scores).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(furthest <= ROUNDING && own.iter().any(|score| score.abs() > 0.1), "{furthest:e} in row {i}");
            }
        }
    }

    #[test]
    fn a_continuation_is_what_whole_passes_give() {
        let (model, device) = (model(&EVERY_STATE), Device::flex());
        let prompt = prompts()[0].clone();
        let done = run(&model, core::slice::from_ref(&prompt), &settings(0.0, 8)).unwrap().remove(0);
        let mut tokens = prompt;
        for token in done.tokens {
            let settings = settings(0.0, 1);
            let whole = Group { model: &model, settings: &settings, rows: vec![0], device: &device };
            let (scores, _) = whole.scores(&tokens, model.state(1, &device));
            assert_eq!(Sampling::default().pick(&scores, 0) as u32, token);
            tokens.push(token);
        }
    }

    #[test]
    fn a_stop_token_ends_its_own_row_only() {
        let model = model(&EVERY_STATE);
        let free = run(&model, &prompts(), &settings(1.0, 20)).unwrap();
        let stop = free[0].tokens[5];
        let stopped = run(&model, &prompts(), &Generation { stop: vec![stop], ..settings(1.0, 20) }).unwrap();
        for (free, stopped) in free.iter().zip(stopped) {
            let end = free.tokens.iter().position(|token| *token == stop);
            let expected = free.tokens[..end.unwrap_or(20)].to_vec();
            assert_eq!(stopped, Continuation { tokens: expected, stopped: end.is_some() });
        }
    }

    #[test]
    fn who_listens_hears_every_token_and_may_break_off() {
        let (model, mut heard) = (model(&["mamba"]), vec![]);
        let each = |new: NewToken| {
            heard.push(new);
            if heard.len() < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let prompts = [vec![1, 2], vec![3], vec![4, 5]];
        let done = generate(&model, &prompts, &settings(0.0, 10), &Device::flex(), each).unwrap();
        let places: Vec<_> = heard.iter().map(|new| (new.prompt, new.step)).collect();
        assert_eq!(places, [(0, 0), (2, 0), (0, 1), (2, 1), (0, 2)]);
        assert!(heard.iter().all(|new| done[new.prompt].tokens[new.step] == new.token));
        assert_eq!(done.iter().map(|done| done.tokens.len()).collect::<Vec<_>>(), [3, 0, 2]);
    }

    #[test]
    fn prompts_that_cannot_be_continued_are_refused() {
        let learned = model(&["mamba", "mamba|learned"]);
        assert_eq!(learned.max_length(), Some(8));
        let refused = |prompt: Vec<u32>, max_tokens| run(&learned, &[vec![1], prompt], &settings(0.0, max_tokens));
        assert_eq!(refused(vec![], 1), Err(GenerateError::Empty { prompt: 1 }));
        assert_eq!(refused(vec![1, 23], 1), Err(GenerateError::Unknown { prompt: 1, token: 23, vocab: 23 }));
        let too_long = GenerateError::TooLong { prompt: 1, length: 6, max_tokens: 4, longest: 8 };
        assert_eq!(refused(vec![1; 6], 4), Err(too_long));
        assert!(refused(vec![1; 6], 3).is_ok() && refused(vec![1; 8], 1).is_ok());
        assert_eq!(model(&EVERY_STATE).max_length(), None);
    }
}
