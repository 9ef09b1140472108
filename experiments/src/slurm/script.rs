//! The array job of a submission: one script, and the table of runs that its tasks look themselves up in.

use std::fmt::Write as _;
use std::path::Path;

use shlex::try_quote;

use super::{SlurmError, Waiting};
use crate::config::SlurmConfig;
use crate::run::axes_to_json;

/// What a script is made from.
pub(super) struct Array<'a> {
    /// Name of the job.
    pub(super) name: &'a str,
    /// The program.
    pub(super) program: &'a Path,
    /// The directory that runs go to.
    pub(super) out: &'a Path,
    /// The directory of the submission: its script, its table and a log for each task.
    pub(super) folder: &'a Path,
    /// What is asked of Slurm.
    pub(super) asked: &'a SlurmConfig,
    /// Number of runs.
    pub(super) runs: usize,
}

/// Name of the table: a run a line, its config and its values of the sweep's axes, with a tab between.
pub(super) const TABLE: &str = "runs.tsv";

/// Seconds before the time limit at which a run is told to save itself.
const WARNING: usize = 60;

/// The text of the script.
///
/// # Errors
/// If a path cannot be written in a script.
pub(super) fn script(array: &Array<'_>) -> Result<String, SlurmError> {
    let Array { name, program, out, folder, asked, runs } = array;
    let quoted = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains(char::is_control));
        text.and_then(|text| try_quote(text).ok()).map(String::from).ok_or_else(|| SlurmError::Path(path.to_owned()))
    };
    let at_once = if asked.at_once > 0 { format!("%{}", asked.at_once) } else { String::new() };
    // Slurm replaces `%a` in the name of a log by the task's number.
    let log = folder.join("log-%a.txt");
    let log = log.to_str().filter(|text| !text.contains(|c: char| c.is_control() || c == '"'));
    let log = log.ok_or_else(|| SlurmError::Path(folder.to_path_buf()))?;
    let log = format!("{}log-%a.txt", log.trim_end_matches("log-%a.txt").replace('%', "%%"));
    let mut text = format!(
        "#!/usr/bin/env bash\n#SBATCH --job-name={name}\n#SBATCH --array=0-{}{at_once}\n#SBATCH --output=\"{log}\"\n",
        runs - 1
    );
    // A run that is preempted goes back into the queue, and there on from its last checkpoint.
    let signal = format!("--signal=B:TERM@{WARNING}");
    for option in ["--open-mode=append", "--requeue", &signal] {
        let _ = writeln!(text, "#SBATCH {option}");
    }
    for option in asked.directives() {
        let _ = writeln!(text, "#SBATCH {option}");
    }
    let _ = writeln!(text, "set -euo pipefail");
    for line in &asked.setup {
        let _ = writeln!(text, "{line}");
    }
    let _ = write!(
        text,
        "export RAYON_NUM_THREADS=\"${{SLURM_CPUS_PER_TASK:-1}}\"\n\
         line=$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {})\n\
         IFS=$'\\t' read -r config axes <<<\"$line\"\n\
         exec {} run \"$config\" --out {} --axes \"$axes\"\n",
        quoted(&folder.join(TABLE))?,
        quoted(program)?,
        quoted(out)?,
    );
    Ok(text)
}

/// The table of the runs, in the order of the tasks.
///
/// # Errors
/// If a path cannot be written in it.
pub(super) fn table(runs: &[&Waiting<'_>]) -> Result<String, SlurmError> {
    let mut text = String::new();
    for run in runs {
        let config = run.directory.join("config.toml");
        let path = config.to_str().filter(|text| !text.contains(char::is_control));
        let path = path.ok_or_else(|| SlurmError::Path(config.clone()))?;
        let _ = writeln!(text, "{path}\t{}", axes_to_json(&run.planned.axes));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(folder: &str, asked: &SlurmConfig) -> Result<String, SlurmError> {
        let [program, out] = ["/opt/heddle", "/data/my runs"].map(Path::new);
        script(&Array { name: "recall", program, out, folder: Path::new(folder), asked, runs: 3 })
    }

    #[test]
    fn a_script_asks_for_what_the_config_names_and_no_more() {
        let asked = SlurmConfig {
            partition: Some("gpu".into()),
            at_once: 2,
            setup: vec!["module load vulkan".into()],
            options: vec!["--exclude=node7".into()],
            ..SlurmConfig::default()
        };
        let text = text("/data/my runs/recall/slurm/1", &asked).unwrap();
        for line in [
            "#SBATCH --array=0-2%2",
            "#SBATCH --output=\"/data/my runs/recall/slurm/1/log-%a.txt\"",
            "#SBATCH --partition=gpu",
            "#SBATCH --exclude=node7",
            "module load vulkan",
            "exec /opt/heddle run \"$config\" --out '/data/my runs' --axes \"$axes\"",
        ] {
            assert!(text.lines().any(|other| other == line), "no `{line}` in\n{text}");
        }
        assert!(!text.contains("--time") && !text.contains("--gpus"), "{text}");
        let first = text.lines().position(|line| line == "set -euo pipefail").unwrap();
        assert!(text.lines().skip(first).all(|line| !line.starts_with("#SBATCH")), "Slurm stops reading at a command");
    }

    #[test]
    fn a_percent_sign_in_a_path_is_no_pattern_of_slurm() {
        let text = text("/data/100%a", &SlurmConfig::default()).unwrap();
        assert!(text.contains("--output=\"/data/100%%a/log-%a.txt\""), "{text}");
    }

    #[test]
    fn a_path_that_would_break_the_script_is_refused() {
        let error = text("/data/a\nb", &SlurmConfig::default()).unwrap_err();
        assert!(error.to_string().contains("rename"), "{error}");
    }
}
