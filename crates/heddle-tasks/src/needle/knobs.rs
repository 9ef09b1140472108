use serde::{Deserialize, Serialize};

use crate::TaskError;
use crate::error::{require, require_between};
use crate::haystack::{check_depth, fewer_or_longer};
use crate::recipe::LARGEST;

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("needle", &json!({"train": [{"length": 256, "keys": 3, "queries": 2, "values": 2}]}))?;
/// // Two questions, each for two values of two digits.
/// assert_eq!(task.slices(Split::Train)[0].labels, 2 * 2 * 2);
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let needles = example.tokens.iter().filter(|token| task.describe_token(**token) == "needle").count();
/// assert_eq!(needles, 3 * 2);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// What the needles lie in.
    #[serde(default)]
    pub haystack: Haystack,
    /// Keys that have needles.
    #[serde(default = "one")]
    pub keys: usize,
    /// Values, and so needles, of each key.
    #[serde(default = "one")]
    pub values: usize,
    /// Keys that are asked for.
    #[serde(default = "one")]
    pub queries: usize,
    /// Tokens of a key.
    #[serde(default = "two")]
    pub key_digits: usize,
    /// Tokens of a value.
    #[serde(default = "two")]
    pub value_digits: usize,
    /// The share of the rest of the haystack that stands before the needles asked for; if absent, they stand anywhere.
    #[serde(default)]
    pub depth: Option<f64>,
}

/// What needles lie in; see the [module](super#haystack).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let needles = |haystack: &str| {
///     let settings = json!({"train": [{"length": 64, "haystack": haystack}]});
///     let task = TaskRegistry::builtin().build("needle", &settings)?;
///     let mut example = Example::default();
///     task.example(Split::Test, 0, 42, 0, &mut example);
///     let needles = example.tokens.iter().filter(|token| task.describe_token(**token) == "needle").count();
///     Ok::<usize, heddle_tasks::TaskError>(needles)
/// };
/// // The question takes 4 of the 64 tokens, and a needle 5.
/// assert_eq!([needles("noise")?, needles("text")?, needles("needles")?], [1, 1, 60 / 5]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Haystack {
    /// Uniform tokens.
    #[default]
    Noise,
    /// A fixed Markov chain.
    Text,
    /// Needles that are not asked for.
    Needles,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

impl Knobs {
    /// Tokens of the questions.
    pub(super) fn questions(&self) -> u128 {
        let [values, queries] = [self.values, self.queries].map(|n| n as u128);
        queries * (1 + self.key_digits as u128 + values * self.value_digits as u128) - 1
    }

    /// Refuses knobs that leave no room for what they ask for.
    ///
    /// # Errors
    /// [`TaskError::OutOfRange`], naming the knob.
    pub(super) fn check(&self) -> Result<(), TaskError> {
        let Knobs { length, keys, values, queries, key_digits, value_digits, depth, .. } = *self;
        require(length <= LARGEST, "length", format!("length ≤ {LARGEST}"), || {
            (format!("length {length}"), format!("use a length of at most {LARGEST}"))
        })?;
        let numbers = [
            ("keys", keys),
            ("values", values),
            ("queries", queries),
            ("key_digits", key_digits),
            ("value_digits", value_digits),
        ];
        for (name, number) in numbers {
            // The upper bound keeps the products below in range.
            require_between(number, name, 1, LARGEST)?;
        }
        require(queries <= keys, "queries", "queries ≤ keys", || {
            (
                format!("queries {queries}, keys {keys}"),
                format!("use at most {keys} queries or at least {queries} keys"),
            )
        })?;
        check_depth(depth)?;
        let width = 1 + key_digits as u128 + value_digits as u128;
        let least = keys as u128 * values as u128 * width + self.questions();
        let rule =
            "keys·values·(1 + key_digits + value_digits) + queries·(1 + key_digits + values·value_digits) − 1 ≤ length";
        require(least <= length as u128, "length", rule, || {
            let numbers = numbers.map(|(name, number)| format!("{name} {number}")).join(", ");
            let fewer = Some("fewer keys, values, queries or digits".to_owned());
            (format!("length {length}, {numbers}: {least} tokens"), fewer_or_longer(fewer, least))
        })
    }
}

/// The number of keys that so many digits make, each (setting, number), if there are at least as many as asked for, each
/// (name, number).
///
/// # Errors
/// [`TaskError::OutOfRange`], naming the number of digits.
pub(crate) fn key_space(
    (vocab, base): (&str, usize),
    (setting, digits): (&str, usize),
    (name, count): (&str, usize),
) -> Result<u64, TaskError> {
    /// Keys are numbers of at most so many bits.
    const KEY_BITS: u32 = 63;
    let power = |digits: u32| (base as u64).checked_pow(digits).filter(|space| *space <= 1 << KEY_BITS);
    let space = u32::try_from(digits).ok().and_then(power);
    require(space.is_some(), setting, format!("{vocab}^{setting} ≤ 2^{KEY_BITS}"), || {
        let most = (1..=KEY_BITS).take_while(|n| power(*n).is_some()).count();
        (format!("{vocab} {base}, {setting} {digits}"), format!("use at most {most} {setting}"))
    })?;
    let space = space.unwrap_or_default();
    require(count as u64 <= space, setting, format!("number of {name} ≤ {vocab}^{setting}"), || {
        let least = (1..=KEY_BITS).find(|n| power(*n).is_none_or(|space| space >= count as u64)).unwrap_or(1);
        let remedy = format!("use at least {least} {setting}, a larger {vocab} or fewer {name}");
        (format!("{count} {name}, {vocab} {base}, {setting} {digits}"), remedy)
    })?;
    Ok(space)
}
