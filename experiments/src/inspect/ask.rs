//! Which layers, heads and tokens are asked for.

use std::ops::Range;
use std::str::FromStr;

use burn::tensor::{Device, Tensor};
use heddle_hybrid::{Inspection, Model};

use super::{InspectArgs, InspectError, MOST_ROWS};

/// Positions on the command line, such as `3,8-11`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rows(Vec<Range<usize>>);

impl FromStr for Rows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| format!("`{part}` is no position; use numbers and ranges such as 3,8-11");
        let number = |part: &str| part.trim().parse::<usize>().map_err(|_| wrong(part));
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first <= last { Ok(first..last + 1) } else { Err(wrong(part)) }
        };
        let mut ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
        ranges.sort_by_key(|range| range.start);
        // Each position once.
        let mut rows: Vec<Range<usize>> = vec![];
        for range in ranges {
            match rows.last_mut().filter(|last| range.start <= last.end) {
                Some(last) => last.end = last.end.max(range.end),
                None => rows.push(range),
            }
        }
        Ok(Self(rows))
    }
}

/// What stands for each map of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Heads.
    Head,
    /// Channels, of which the mean of absolute weights is shown (arXiv:2403.01590, §4).
    Channels,
}

/// A layer that is shown.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) layer: usize,
    pub(crate) name: String,
    pub(crate) by: By,
    /// The heads shown; of channels, their mean.
    pub(crate) heads: Vec<usize>,
}

impl Shown {
    /// What a map is called: `3`, or `mean`.
    pub(crate) fn label(&self, head: usize) -> String {
        match self.by {
            By::Head => head.to_string(),
            By::Channels => "mean".to_owned(),
        }
    }

    /// The maps of this layer's heads for `rows`, of every sequence: `[b, heads, rows, l]`.
    pub(crate) fn maps(&self, inside: &Inspection<'_>, rows: &[Range<usize>]) -> Tensor<4> {
        let map = |rows: &Range<usize>| {
            let map = inside.map(self.layer, rows.clone()).expect("a layer that is shown has a map");
            match self.by {
                By::Head => Tensor::cat(self.heads.iter().map(|head| map.clone().narrow(1, *head, 1)).collect(), 1),
                By::Channels => map.abs().mean_dim(1),
            }
        };
        Tensor::cat(rows.iter().map(map).collect(), 2)
    }
}

/// What is shown.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// The names of all layers.
    pub(crate) names: Vec<String>,
    pub(crate) shown: Vec<Shown>,
    pub(crate) rows: Vec<Range<usize>>,
}

impl Choice {
    pub(crate) fn new(
        args: &InspectArgs,
        model: &Model,
        names: Vec<String>,
        length: usize,
        device: &Device,
    ) -> Result<Self, InspectError> {
        let last = model.layers() - 1;
        if let Some(&layer) = args.layers.iter().find(|layer| **layer > last) {
            return Err(InspectError::Layer { layer, last });
        }
        let layers: Vec<usize> = if args.layers.is_empty() { (0..=last).collect() } else { args.layers.clone() };
        // What a layer has is seen on a single token.
        let one = model.inspect(Tensor::from_ints([[0]], device));
        let mut shown = vec![];
        for &layer in &layers {
            let name = names[layer].clone();
            match one.map(layer, 0..1) {
                Some(map) => shown.push(Self::layer(model, layer, name, map.dims()[1], &args.heads)),
                None if args.layers.is_empty() => {}
                None => return Err(InspectError::NoMap { layer, name, remedy: "leave it out of `--layers`" }),
            }
        }
        if shown.is_empty() {
            let remedy = "no other layer has one either: inspect a model with another mixer";
            return Err(InspectError::NoMap { layer: 0, name: names[0].clone(), remedy });
        }
        let has = |head: &usize| shown.iter().any(|shown| shown.by == By::Head && shown.heads.contains(head));
        if let Some(&head) = args.heads.iter().find(|head| !has(head)) {
            let count =
                |layer: &Shown| (0..).take_while(|head| model.without_head(layer.layer, *head).is_some()).count();
            let most = shown.iter().map(count).max().unwrap_or(0);
            let has = if most == 0 { "leave `--heads` out".into() } else { format!("use 0 to {}", most - 1) };
            return Err(InspectError::Head { head, has });
        }
        shown.retain(|shown| !shown.heads.is_empty());
        Ok(Self { names, shown, rows: rows(args.rows.as_ref(), length)? })
    }

    fn layer(model: &Model, layer: usize, name: String, maps: usize, heads: &[usize]) -> Shown {
        if model.without_head(layer, 0).is_none() {
            return Shown { layer, name, by: By::Channels, heads: vec![0] };
        }
        let wanted = |head: &usize| heads.is_empty() || heads.contains(head);
        Shown { layer, name, by: By::Head, heads: (0..maps).filter(wanted).collect() }
    }

    /// The tokens that look, by position.
    pub(crate) fn positions(&self) -> Vec<usize> {
        self.rows.iter().cloned().flatten().collect()
    }
}

fn rows(rows: Option<&Rows>, length: usize) -> Result<Vec<Range<usize>>, InspectError> {
    match rows {
        None if length > MOST_ROWS => {
            let example = format!("{}-{}", length - 8, length - 1);
            Err(InspectError::TooLong { length, most: MOST_ROWS, example })
        }
        None => Ok(vec![0..length; 1]),
        Some(Rows(rows)) => match rows.last().filter(|last| last.end > length) {
            Some(last) => Err(InspectError::Row { row: last.end - 1, last: length - 1 }),
            None => Ok(rows.clone()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_once_each_and_in_order() {
        let rows = |text: &str| text.parse::<Rows>().map(|rows| rows.0);
        assert_eq!(rows("8-11,3"), Ok(vec![3..4, 8..12]));
        assert_eq!(rows("1-4, 2-6,7"), Ok(vec![1..8; 1]));
        for wrong in ["", "a", "5-3", "1,,2", "-1"] {
            assert!(rows(wrong).unwrap_err().contains("use numbers and ranges"), "{wrong}");
        }
    }

    #[test]
    fn a_long_sequence_takes_chosen_rows() {
        assert_eq!(super::rows(None, MOST_ROWS).unwrap(), vec![0..MOST_ROWS; 1]);
        let error = super::rows(None, 1000).unwrap_err().to_string();
        assert!(error.contains("`--rows 992-999`"), "{error}");
        assert_eq!(super::rows(Some(&"999".parse().unwrap()), 1000).unwrap(), vec![999..1000; 1]);
        let error = super::rows(Some(&"5,1000".parse().unwrap()), 1000).unwrap_err().to_string();
        assert_eq!(error, "`--rows`: there is no token 1000; the sequence has tokens 0 to 999");
    }
}
