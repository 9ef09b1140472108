//! `heddle model …`: models as directories.

use std::path::PathBuf;

use burn::module::Module;
use clap::{Args, Subcommand};

use crate::Registry;
use crate::cli::{Out, positive};
use crate::generate::{self, GenerateArgs};
use crate::model_show::{self, ShowArgs};
use crate::pretrained::{self, Pieces};

#[derive(Debug, Subcommand)]
pub(crate) enum ModelVerb {
    /// Layers, parameters, operations and state of a preset or of a run file's model; without a name, the presets
    #[command(after_help = "Example: heddle model show jamba --length 262144")]
    Show(ShowArgs),
    /// Turn a published checkpoint (config.json and *.safetensors) into a model directory
    #[command(after_help = "Example: heddle model import mamba-130m-hf --out models/mamba-130m")]
    Import(MoveArgs),
    /// Turn a model directory that was imported back into a published checkpoint
    #[command(after_help = "Example: heddle model export models/mamba-130m --out mamba-130m-hf")]
    Export(MoveArgs),
    /// Compute the scores of the next token behind every token
    #[command(
        after_help = "Example: heddle model logits models/mamba-130m --input ids.safetensors --output logits.safetensors",
        long_about = "Compute the scores of the next token behind every token.\n\nReads `input_ids` (I64, [b, l]) and writes \
                      `logits` (F32, [b, l, v]). DIR is an imported model, a published checkpoint, or a finished run (its \
                      best parameters)."
    )]
    Logits(LogitsArgs),
    /// Continue prompts
    #[command(
        after_help = "Example: heddle model generate models/mamba-130m --prompt 'The loom' --max-tokens 40 --temperature 0.8 \
                      --top-p 0.95",
        long_about = "Continue prompts.\n\nDIR is an imported model, a published checkpoint, or a finished run (its best \
                      parameters). If it holds a tokenizer.json, prompts and continuations are texts; otherwise both are \
                      tokens. A continuation ends before the `eos_token_id` of config.json. Several prompts go through the \
                      model together, and none changes what is said behind another."
    )]
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// Directory to read
    dir: PathBuf,
    /// Directory to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct LogitsArgs {
    /// Directory of the model
    dir: PathBuf,
    /// File with the tokens
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// File for the scores
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Tokens read before decoding; those behind go in one at a time [default: all]
    #[arg(long, value_name = "N")]
    prefill: Option<usize>,
    /// Tokens read at a time while prefilling [default: all]
    #[arg(long, value_name = "C", value_parser = positive)]
    chunk: Option<usize>,
    /// Where to run: `cpu` (Burn's Flex backend) or `ndarray`
    #[arg(long, default_value = "cpu")]
    device: String,
}

pub(crate) fn execute(verb: &ModelVerb, registry: &Registry, out: &mut Out) -> anyhow::Result<()> {
    match verb {
        ModelVerb::Show(args) => model_show::show(args, registry, out),
        ModelVerb::Import(args) => {
            let (architecture, model) = pretrained::import(&args.dir, &args.out, registry)?;
            let (family, layers) = (architecture.family(), architecture.model().layer_names().map_or(0, |l| l.len()));
            let parameters = model.num_params();
            out.line(&format!("{family}, {layers} layers, {parameters} parameters: {}", args.out.display()))
        }
        ModelVerb::Export(args) => {
            let tensors = pretrained::export(&args.dir, &args.out, registry)?;
            out.line(&format!("{tensors} tensors: {}", args.out.display()))
        }
        ModelVerb::Generate(args) => generate::execute(args, registry, out),
        ModelVerb::Logits(args) => {
            let pieces = Pieces { prefill: args.prefill, chunk: args.chunk };
            let [b, l, v] =
                pretrained::logits_of_file(&args.dir, [&args.input, &args.output], pieces, &args.device, registry)?;
            out.line(&format!("{b} × {l} tokens, {v} scores each: {}", args.output.display()))
        }
    }
}
