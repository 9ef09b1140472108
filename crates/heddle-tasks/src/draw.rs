use std::collections::BTreeMap;
use std::fmt::Write;

use crate::{Example, Label, Task};

/// Draws an example as plain text, one line a position: the token, what it stands for, what is asked there, and for
/// which later positions it is the evidence.
///
/// ```text
/// position  token  stands for  asked
///        0      1  key 1
///        1     15  value 15    ◂ the answer at 8
///        …
///        8      1  key 1       ▸ value 15, to be found at 1
/// ```
pub fn draw(task: &dyn Task, example: &Example) -> String {
    let mut asked: BTreeMap<u32, Vec<&Label>> = BTreeMap::new();
    example.labels.iter().for_each(|label| asked.entry(label.position).or_default().push(label));
    let mut answers: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for label in &example.labels {
        answers.entry(label.evidence).or_default().push(label.position.to_string());
    }
    let meanings: Vec<String> = example.tokens.iter().map(|token| task.describe_token(*token)).collect();
    let width = meanings.iter().map(|meaning| meaning.chars().count()).max().unwrap_or(0).max("stands for".len());

    let mut text = format!("position  token  {:width$}  asked\n", "stands for");
    for (position, (token, meaning)) in example.tokens.iter().zip(&meanings).enumerate() {
        let position = position as u32;
        let mut notes = Vec::new();
        match asked.get(&position).map_or(&[][..], |labels| labels) {
            [] => {}
            [Label { target, evidence, .. }] => {
                notes.push(format!("▸ {}, to be found at {evidence}", task.describe_token(*target)));
            }
            several => notes.push(format!("▸ {} tokens, each to be found where it is the answer", several.len())),
        }
        if let Some(positions) = answers.get(&position) {
            notes.push(format!("◂ the answer at {}", positions.join(", ")));
        }
        let line = format!("{position:8}  {token:5}  {meaning:width$}  {}", notes.join("  "));
        writeln!(text, "{}", line.trim_end()).expect("writing to a string succeeds");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::mqar::{Filler, Mqar, MqarSettings, TrainSegment};

    /// The example that the reference page of the task explains.
    const DRAWN: &str = "\
position  token  stands for  asked
       0      1  key 1
       1     15  value 15    ◂ the answer at 8
       2      6  key 6
       3      9  value 9     ◂ the answer at 6
       4      4  key 4
       5     14  value 14    ◂ the answer at 10
       6      6  key 6       ▸ value 9, to be found at 3
       7      0  filler
       8      1  key 1       ▸ value 15, to be found at 1
       9      0  filler
      10      4  key 4       ▸ value 14, to be found at 5
      11      0  filler
";

    #[test]
    fn a_drawing_shows_every_position_what_is_asked_and_its_evidence() {
        let settings = MqarSettings {
            vocab: 16,
            filler: Filler::Zero,
            train: vec![TrainSegment { length: 12, pairs: 3, weight: 1.0, examples: None }],
            ..MqarSettings::default()
        };
        let task = Mqar::new(settings).unwrap();
        let mut example = Example::default();
        task.example(Split::Train, 0, 0, 0, &mut example);
        assert_eq!(draw(&task, &example), DRAWN);
    }

    #[test]
    fn evidence_of_two_labels_names_both() {
        let task = Mqar::new(MqarSettings::default()).unwrap();
        let label = |position| Label { position, target: 5000, evidence: 0 };
        let example = Example { tokens: vec![5000, 0, 0], labels: vec![label(1), label(2)], marks: Vec::new() };
        let drawn = draw(&task, &example);
        assert_eq!(drawn.lines().nth(1), Some("       0   5000  value 5000  ◂ the answer at 1, 2"));
    }
}
