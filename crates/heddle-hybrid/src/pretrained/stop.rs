//! The tokens that end a text.

use serde_json::Value;

use super::error::PretrainedError;
use super::keys::{self, Keys};

/// The tokens of which a `config.json` says that they end a text: its `eos_token_id`, a token or several; none if it says
/// nothing.
///
/// ```
/// use heddle_hybrid::pretrained::stop_tokens;
/// assert_eq!(stop_tokens(r#"{"eos_token_id": 2}"#).unwrap(), [2]);
/// assert_eq!(stop_tokens(r#"{"eos_token_id": [2, 7]}"#).unwrap(), [2, 7]);
/// assert!(stop_tokens(r#"{"eos_token_id": null}"#).unwrap().is_empty());
/// ```
///
/// # Errors
/// If it is no config, or the key is no token and no list of tokens.
pub fn stop_tokens(config: &str) -> Result<Vec<u32>, PretrainedError> {
    let unreadable = |problem: String| PretrainedError::file("config.json", problem);
    let config = keys::parse(config).map_err(|error| unreadable(format!("it cannot be read: {error}")))?;
    let table = config.as_object().ok_or_else(|| unreadable("it is no table".into()))?;
    let keys = Keys::new(table, "");
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    let Some(value) = keys.get("eos_token_id") else { return Ok(vec![]) };
    let tokens = match value {
        Value::Array(tokens) => tokens.iter().map(token).collect(),
        value => token(value).map(|token| vec![token]),
    };
    let refuse =
        || keys.refuse("eos_token_id", format!("it is {value}"), "this key takes a token or an array of tokens");
    tokens.ok_or_else(refuse)
}
