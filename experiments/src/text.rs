//! Texts as tokens, by a published `tokenizer.json`.

use std::path::{Path, PathBuf};

use tokenizers::tokenizer::DecodeStream;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer,
};

use crate::files::FileError;

/// The file that a model's directory holds if the model reads texts.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// A tokenizer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is no tokenizer.
    #[error("{}: {problem}; fetch it again", path.display())]
    Format { path: PathBuf, problem: String },
    /// A text or tokens that it fails on.
    #[error("{}: {problem}; give token ids with `--tokens`", path.display())]
    Use { path: PathBuf, problem: String },
}

/// What turns a text into tokens and back.
pub(crate) struct Texts {
    path: PathBuf,
    tokenizer: Tokenizer,
}

impl Texts {
    /// The tokenizer of a directory, if it holds one.
    pub(crate) fn of(directory: &Path) -> Result<Option<Self>, TextError> {
        std::fs::metadata(directory).map_err(FileError::of("read", directory))?;
        let path = directory.join(TOKENIZER);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(FileError::of("read", &path))?;
        let wrong = |error: tokenizers::Error| TextError::Format { path: path.clone(), problem: error.to_string() };
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(wrong)?;
        // These belong to training; a prompt is neither cut nor filled up.
        tokenizer.with_padding(None).with_truncation(None).map_err(wrong)?;
        Ok(Some(Self { path, tokenizer }))
    }

    /// The tokens of a text, with those that the tokenizer puts around every text.
    pub(crate) fn tokens(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|error| self.fails(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text that comes behind `prompt`, token by token.
    pub(crate) fn behind(&self, prompt: &[u32]) -> Result<Behind<'_>, TextError> {
        let mut behind = Behind { texts: self, stream: self.tokenizer.decode_stream(true) };
        prompt.iter().try_for_each(|token| behind.push(*token).map(drop))?;
        Ok(behind)
    }

    fn fails(&self, error: &tokenizers::Error) -> TextError {
        TextError::Use { path: self.path.clone(), problem: error.to_string() }
    }
}

type Stream<'a> =
    DecodeStream<'a, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// A text that grows.
pub(crate) struct Behind<'a> {
    texts: &'a Texts,
    stream: Stream<'a>,
}

impl Behind<'_> {
    /// What a token adds to the text: nothing while a character is not whole.
    pub(crate) fn push(&mut self, token: u32) -> Result<String, TextError> {
        let piece = self.stream.step(token).map_err(|error| self.texts.fails(&error))?;
        Ok(piece.unwrap_or_default())
    }
}
