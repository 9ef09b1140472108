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
