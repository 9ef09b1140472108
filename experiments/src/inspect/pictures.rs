//! The maps as figures: one a layer and sentence, a panel a head.

use super::view::{LayerMaps, View};
use crate::report::format::percent;
use crate::report::{Column, Figure, Heat, Panel, Sheet};

/// Letters of a word that stand beside a row.
const LETTERS: usize = 9;

/// The figures of a view.
pub(crate) fn of(view: &View) -> Vec<Figure> {
    let of_layer = |maps| (0..view.sentences.len()).map(move |sentence| figure(view, maps, sentence));
    view.maps.iter().flat_map(of_layer).collect()
}

fn figure(view: &View, maps: &LayerMaps, sentence: usize) -> Figure {
    let LayerMaps { layer, name, heads, weights, .. } = maps;
    let words = &view.sentences[sentence].words;
    let l = words.len();
    let shares: Vec<Vec<Vec<f64>>> =
        weights[sentence].iter().map(|map| map.chunks_exact(l).map(shares).collect()).collect();
    let panel = |(head, rows): (&String, &Vec<Vec<f64>>)| Panel {
        label: format!("{} {head}", if head == "mean" { "channels," } else { "head" }),
        // Nothing is drawn of tokens that cannot be seen.
        cells: rows.iter().map(|row| row.iter().map(|share| (*share > 0.0).then_some(*share)).collect()).collect(),
    };
    let columns = ["head", "from", "to"].map(Column::text).into_iter().chain([Column::number("share, %")]);
    let numbered = |place: usize| format!("{place} {}", words[place]);
    let rows = heads.iter().zip(&shares).flat_map(|(head, map)| {
        view.rows.iter().zip(map).flat_map(move |(from, row)| {
            let cell =
                move |(to, share): (usize, &f64)| vec![head.clone(), numbered(*from), numbered(to), percent(*share)];
            row.iter().enumerate().map(cell)
        })
    });
    let letters = |place: &usize| words[*place].chars().take(LETTERS).collect::<String>();
    let title = format!("Layer {layer}, {name}: whom the tokens look at");
    let caption = "Share of the weights that a token (down) gives each token (across).".to_owned();
    let alt = format!("Heat maps of the weights of {} heads of layer {layer} over {l} tokens.", heads.len());
    let heat = Heat {
        columns: (0..l).map(|place| place.to_string()).collect(),
        rows: view.rows.iter().map(letters).collect(),
        column_title: "position of the token looked at".into(),
        row_title: "token that looks".into(),
        panels: heads.iter().zip(&shares).map(panel).collect(),
    };
    let id = match view.sentences.len() {
        1 => format!("layer-{layer}"),
        _ => format!("layer-{layer}-sentence-{}", sentence + 1),
    };
    let data = Sheet { columns: columns.collect(), rows: rows.collect() };
    Figure::of_heat(id, [title, caption, alt], data, heat)
}

/// Absolute weights over their sum.
fn shares(row: &[f32]) -> Vec<f64> {
    let total: f64 = row.iter().map(|weight| f64::from(weight.abs())).sum();
    row.iter().map(|weight| if total > 0.0 { f64::from(weight.abs()) / total } else { 0.0 }).collect()
}
