//! `heddle model generate`: prompts continued by a model of a directory.

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Args;
use heddle_hybrid::{Continuation, GenerateError, Generation, NewToken, Sampling, generate};
use serde_json::json;

use crate::Registry;
use crate::cli::{Out, complain, positive};
use crate::device::device;
use crate::pretrained::{ModelDirError, load_model, stop_tokens_of};
use crate::text::{Behind, TextError, Texts};

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Directory of the model
    dir: PathBuf,
    /// Text to continue; may be repeated
    #[arg(long = "prompt", value_name = "TEXT", required_unless_present = "tokens")]
    prompts: Vec<String>,
    /// Tokens to continue, such as 1,2,3; may be repeated, and come behind the texts
    #[arg(long, value_name = "IDS")]
    tokens: Vec<TokenList>,
    /// The most tokens that a prompt is continued by
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    max_tokens: usize,
    /// What the scores are divided by; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the K likeliest tokens only [default: all]
    #[arg(long, value_name = "K", value_parser = positive)]
    top_k: Option<usize>,
    /// Draw from the fewest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Seed of the draws; the same seed gives the same tokens
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Where to run: `cpu` (Burn's Flex backend) or `ndarray`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Print a JSON object a prompt
    #[arg(long)]
    json: bool,
}

/// A list of tokens on the command line.
#[derive(Clone, Debug)]
pub(crate) struct TokenList(pub(crate) Vec<u32>);

impl FromStr for TokenList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let token = |token: &str| {
            let wrong =
                |_| format!("`{}` is no token; use numbers with commas between them, as in 1,2,3", token.trim());
            token.trim().parse::<u32>().map_err(wrong)
        };
        text.split(',').map(token).collect::<Result<_, _>>().map(Self)
    }
}

/// Why nothing, or not everything, was generated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerateVerbError {
    /// A text for a model that reads none.
    #[error(
        "`--prompt`: {} holds no tokenizer.json; give token ids with `--tokens 1,2,3`, or put the model's tokenizer.json \
         there",
        .0.display()
    )]
    NoTokenizer(PathBuf),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A setting or prompt, and the flag that gave it.
    #[error("`--{flag}`: {problem}")]
    Flag { flag: String, problem: String },
    /// The model's scores are no numbers.
    #[error(transparent)]
    Failed(GenerateError),
}

impl GenerateVerbError {
    /// Whether the fault lies in what was given, not in what happened.
    pub(crate) fn is_usage(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

pub(crate) fn execute(args: &GenerateArgs, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    let settings = Generation {
        sampling: Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed },
        max_tokens: args.max_tokens,
        stop: stop_tokens_of(&args.dir)?,
    };
    settings.sampling.check().map_err(|error| blame(error.into(), args))?;
    let device = device(&args.device).map_err(ModelDirError::from)?;
    let texts = Texts::of(&args.dir).map_err(GenerateVerbError::from)?;
    let prompts = prompts(args, texts.as_ref())?;
    let model = load_model(&args.dir, registry, &device)?;
    let mut speakers =
        prompts.iter().map(|prompt| Speaker::new(texts.as_ref(), prompt)).collect::<Result<Vec<_>, _>>()?;

    let live = prompts.len() == 1 && !args.json;
    let (mut pace, mut failure) = (Pace::new(), None);
    let each = |new: NewToken| {
        let said = speakers[new.prompt].say(new).map_err(anyhow::Error::from);
        let printed = said.and_then(|piece| if live && !piece.is_empty() { out.text(&piece) } else { Ok(()) });
        pace.count(new, prompts[new.prompt].len());
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let done = generate(&model, &prompts, &settings, &device, each).map_err(|error| blame(error, args))?;
    if let Some(error) = failure {
        return Err(error);
    }
    if live {
        out.line("")?;
    } else {
        for (i, (done, speaker)) in done.iter().zip(&speakers).enumerate() {
            out.line(&if args.json {
                as_json(&prompts[i], done, speaker)
            } else {
                format!("[{}] {}", i + 1, speaker.said)
            })?;
        }
    }
    complain(&pace.to_string());
    Ok(())
}

/// The prompts as tokens: texts first.
fn prompts(args: &GenerateArgs, texts: Option<&Texts>) -> Result<Vec<Vec<u32>>, GenerateVerbError> {
    let no_tokenizer = || GenerateVerbError::NoTokenizer(args.dir.clone());
    let read = |text: &String| Ok(texts.ok_or_else(no_tokenizer)?.tokens(text)?);
    let lists = args.tokens.iter().map(|list| Ok(list.0.clone()));
    args.prompts.iter().map(read).chain(lists).collect()
}

/// Names the flag at fault.
fn blame(error: GenerateError, args: &GenerateArgs) -> GenerateVerbError {
    let (flag, problem) = match &error {
        GenerateError::NotFinite { .. } => return GenerateVerbError::Failed(error),
        GenerateError::Sampling(setting) => {
            (setting.key.replace('_', "-"), format!("{}; {}", setting.problem, setting.remedy))
        }
        GenerateError::TooLong { .. } => ("max-tokens".to_owned(), error.to_string()),
        GenerateError::Empty { prompt } | GenerateError::Unknown { prompt, .. } => {
            (if *prompt < args.prompts.len() { "prompt" } else { "tokens" }.to_owned(), error.to_string())
        }
    };
    GenerateVerbError::Flag { flag, problem }
}

fn as_json(prompt: &[u32], done: &Continuation, speaker: &Speaker<'_>) -> String {
    let mut object = json!({"prompt": prompt, "tokens": done.tokens, "stopped": done.stopped});
    if speaker.behind.is_some() {
        object["text"] = speaker.said.as_str().into();
    }
    object.to_string()
}

/// What is printed of a continuation: its text, or its tokens with commas between them.
struct Speaker<'a> {
    behind: Option<Behind<'a>>,
    said: String,
}

impl<'a> Speaker<'a> {
    fn new(texts: Option<&'a Texts>, prompt: &[u32]) -> Result<Self, GenerateVerbError> {
        let behind = texts.map(|texts| texts.behind(prompt)).transpose()?;
        Ok(Self { behind, said: String::new() })
    }

    /// What a token adds.
    fn say(&mut self, new: NewToken) -> Result<String, GenerateVerbError> {
        let piece = match &mut self.behind {
            Some(behind) => behind.push(new.token)?,
            None if new.step == 0 => new.token.to_string(),
            None => format!(",{}", new.token),
        };
        self.said.push_str(&piece);
        Ok(piece)
    }
}

/// How fast prompts were read and tokens were made.
struct Pace {
    last: Instant,
    /// Tokens and time up to the first new token, and behind it.
    phases: [(usize, Duration); 2],
}

impl Pace {
    fn new() -> Self {
        Self { last: Instant::now(), phases: [(0, Duration::ZERO); 2] }
    }

    /// Counts a token behind a prompt of `length`: the first one ends the reading of the prompt.
    fn count(&mut self, new: NewToken, length: usize) {
        let now = Instant::now();
        let (tokens, time) = &mut self.phases[usize::from(new.step > 0)];
        *tokens += if new.step > 0 { 1 } else { length };
        *time += now - self.last;
        self.last = now;
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, (tokens, time)) in ["prefill: ", "; decoding: "].into_iter().zip(self.phases) {
            write!(f, "{what}{tokens} tokens")?;
            if tokens > 0 {
                write!(f, ", {:.1} tokens/s", tokens as f64 / time.as_secs_f64().max(1e-9))?;
            }
        }
        Ok(())
    }
}
