//! What was measured, as tables.

use super::measure::{Ablation, Counted, HeadRow, RolePatching};
use super::pairs::Pairs;
use super::view::View;
use crate::report::format::{NONE, or_none, percent, points, short, whole};
use crate::report::{Column, Sheet};

/// Every table that there is, with its title.
pub(crate) fn all(view: &View) -> Vec<(&'static str, Sheet)> {
    let scores = (!view.scores.is_empty()).then(|| ("Scores of heads", scores(view)));
    let ablation = view.ablation.as_ref().map(|ablation| ("Accuracy without a part", without(ablation, &view.layers)));
    let pairs = view.pairs.as_ref().map(|pairs| ("Pairs in which the weights turn", turns(pairs, &view.layers)));
    let patching = view.patching_by_mark.as_ref().filter(|patching| patching.pairs > 0);
    let patching =
        patching.map(|patching| ("How far a patched token turns the answer", patched(patching, &view.layers)));
    [scores, ablation, pairs, patching].into_iter().flatten().collect()
}

fn named(layer: usize, layers: &[String]) -> String {
    format!("{layer} {}", layers[layer])
}

fn scores(view: &View) -> Sheet {
    let numbers = ["previous, %", "induction, %", "retrieval, %", "evidence first, %", "distance", "entropy, nats"];
    let columns = [Column::text("layer"), Column::text("head")].into_iter().chain(numbers.map(Column::number));
    let row = |HeadRow { layer, head, scores }: &HeadRow| {
        let shares = [scores.previous, scores.induction, scores.retrieval, scores.retrieved];
        let shares = shares.map(|share| or_none(share, percent));
        let others = [scores.distance, scores.entropy].map(|number| or_none(number, short));
        [named(*layer, &view.layers), head.clone()].into_iter().chain(shares).chain(others).collect()
    };
    Sheet { columns: columns.collect(), rows: view.scores.iter().map(row).collect() }
}

fn counted(Counted { right, of, share, low, high }: &Counted) -> [String; 3] {
    let interval = format!("{}–{}", percent(*low), percent(*high));
    [format!("{} of {}", whole(*right), whole(*of)), percent(*share), interval]
}

fn without(ablation: &Ablation, layers: &[String]) -> Sheet {
    let numbers = ["answers right", "accuracy, %", "95 % interval", "change, points"];
    let columns = [Column::text("layer"), Column::text("without")].into_iter().chain(numbers.map(Column::number));
    let whole_model = ["all".to_owned(), "nothing".to_owned()];
    let mut rows: Vec<Vec<String>> =
        vec![whole_model.into_iter().chain(counted(&ablation.whole)).chain([NONE.to_owned()]).collect()];
    rows.extend(ablation.without.iter().map(|part| {
        let name = part.head.map_or_else(|| "the mixer".to_owned(), |head| format!("head {head}"));
        let change = points(part.counted.share - ablation.whole.share);
        [named(part.layer, layers), name].into_iter().chain(counted(&part.counted)).chain([change]).collect()
    }));
    Sheet { columns: columns.collect(), rows }
}

fn turns(pairs: &Pairs, layers: &[String]) -> Sheet {
    let texts = ["layer", "head", "as seen from"].map(Column::text);
    let numbers = ["turn", "turn, %", "95 % interval", "to the right noun", "to the right noun, %", "95 % interval"];
    let rows = pairs.heads.iter().map(|turns| {
        let names = [named(turns.layer, layers), turns.head.clone(), turns.from.to_owned()];
        names.into_iter().chain(counted(&turns.turns)).chain(counted(&turns.to_the_right)).collect()
    });
    let mut rows: Vec<Vec<String>> = rows.collect();
    let answers = ["all".to_owned(), NONE.to_owned(), "both answers".to_owned()];
    let nothing = [NONE, NONE, NONE].map(str::to_owned);
    rows.push(answers.into_iter().chain(nothing).chain(counted(&pairs.both_right)).collect());
    Sheet { columns: texts.into_iter().chain(numbers.map(Column::number)).collect(), rows }
}

fn patched(patching: &RolePatching, layers: &[String]) -> Sheet {
    let columns = patching.roles.iter().map(Column::number);
    let row = |(layer, turned): (usize, &Vec<f64>)| {
        let before = layers.get(layer).map_or_else(|| "behind the last".to_owned(), |_| named(layer, layers));
        std::iter::once(before).chain(turned.iter().map(|turned| short(*turned))).collect()
    };
    Sheet {
        columns: std::iter::once(Column::text("before layer")).chain(columns).collect(),
        rows: patching.turned.iter().enumerate().map(row).collect(),
    }
}
