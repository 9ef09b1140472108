use thiserror::Error;

/// Why a task could not be built: which setting, what fails, and what would satisfy it.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum TaskError {
    /// No task is registered under this kind.
    #[error("no task is called '{kind}'{}; known tasks: {}", meant(nearest), known.join(", "))]
    UnknownKind {
        /// The kind that was asked for.
        kind: String,
        /// The registered kind whose spelling is nearest, if one is near.
        nearest: Option<String>,
        /// All registered kinds.
        known: Vec<String>,
    },
    /// A task is registered under this kind already.
    #[error("a task called '{kind}' is registered already: give yours another kind")]
    DuplicateKind {
        /// The kind in question.
        kind: String,
    },
    /// The task has no such setting.
    #[error("{kind} has no setting '{setting}'{}; its settings: {}", meant(nearest), known.join(", "))]
    UnknownSetting {
        /// The task's kind.
        kind: String,
        /// The setting that was given.
        setting: String,
        /// The setting whose spelling is nearest, if one is near.
        nearest: Option<String>,
        /// All settings of the task.
        known: Vec<String>,
    },
    /// What should be the task's settings is no table of them.
    #[error("{kind}: its settings are a table, not {found}; its settings: {}", known.join(", "))]
    NoTable {
        /// The task's kind.
        kind: String,
        /// What was given.
        found: String,
        /// All settings of the task.
        known: Vec<String>,
    },
    /// A setting has the wrong type or an entry of it lacks or misspells a key.
    #[error("{kind}, setting '{setting}': {cause}")]
    Malformed {
        /// The task's kind.
        kind: String,
        /// The path of the setting, such as `train[2].length`.
        setting: String,
        /// What was expected there.
        cause: String,
    },
    /// A setting is well formed but no such task exists.
    #[error("setting '{setting}': {rule} fails ({found}): {remedy}")]
    OutOfRange {
        /// The path of the setting, such as `train[2]`.
        setting: String,
        /// The condition that fails.
        rule: String,
        /// The values that fail it.
        found: String,
        /// What would satisfy it.
        remedy: String,
    },
}

fn meant(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean '{name}'?)")).unwrap_or_default()
}

impl TaskError {
    /// The same of a setting inside `outer`: `length` of `train[2]` is `train[2].length`.
    pub(crate) fn within(self, outer: &str) -> Self {
        match self {
            Self::OutOfRange { setting, rule, found, remedy } => {
                Self::OutOfRange { setting: format!("{outer}.{setting}"), rule, found, remedy }
            }
            other => other,
        }
    }
}

/// Refuses a setting whose `rule` does not hold; `explain` gives what was found and the remedy.
///
/// # Errors
/// [`TaskError::OutOfRange`] unless the rule `holds`.
///
/// ```
/// use heddle_tasks::require;
///
/// let pairs = 0;
/// let refused = require(pairs >= 1, "pairs", "1 ≤ pairs", || (format!("pairs {pairs}"), "use at least 1".into()));
/// assert_eq!(refused.unwrap_err().to_string(), "setting 'pairs': 1 ≤ pairs fails (pairs 0): use at least 1");
/// ```
pub fn require(
    holds: bool,
    setting: &str,
    rule: impl Into<String>,
    explain: impl FnOnce() -> (String, String),
) -> Result<(), TaskError> {
    if holds {
        return Ok(());
    }
    let (found, remedy) = explain();
    Err(TaskError::OutOfRange { setting: setting.to_owned(), rule: rule.into(), found, remedy })
}

/// Refuses a number outside `least` … `most`.
pub(crate) fn require_between(value: usize, setting: &str, least: usize, most: usize) -> Result<(), TaskError> {
    require((least..=most).contains(&value), setting, format!("{least} ≤ {setting} ≤ {most}"), || {
        let remedy = if value < least { format!("use at least {least}") } else { format!("use at most {most}") };
        (format!("{setting} {value}"), remedy)
    })
}
