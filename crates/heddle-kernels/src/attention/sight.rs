//! Which keys some neighbouring queries see.
//!
//! Keys come in tiles of [`KEYS`], always cut at the same places, so that the order in which a query meets its keys is the
//! same whichever task visits them. Of a tile only the runs of keys that somebody sees are computed, and only those that
//! not everybody sees are masked.

use std::ops::Range;

use super::AttentionRule;

/// Keys in a tile.
pub(super) const KEYS: usize = 64;

/// The keys that queries may see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    pub(super) rule: &'a AttentionRule,
    pub(super) m: usize,
}

/// Neighbouring keys that the same queries see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) keys: Range<usize>,
    /// Every query sees every key.
    pub(super) whole: bool,
    /// The column of the block mask in which the queries differ, if they do.
    pub(super) column: Option<usize>,
}

impl Sight<'_> {
    /// The keys outside of which no query at positions `first..=last` sees any: sinks, then keys near by.
    fn ranges(&self, first: usize, last: usize) -> [Range<usize>; 2] {
        let end = if self.rule.causal { self.m.min(last + 1) } else { self.m };
        let Some(window) = self.rule.window else { return [0..0, 0..end] };
        let near = end.min((first + 1).saturating_sub(window))..end.min(last.saturating_add(window));
        let sinks = self.rule.sinks.min(end);
        if sinks < near.start { [0..sinks, near] } else { [0..0, 0..sinks.max(near.end)] }
    }

    /// The tiles, of those that begin within `keys`, in which a query at positions `first..=last` may see a key, in order.
    #[inline(always)]
    pub(super) fn tiles(
        &self,
        first: usize,
        last: usize,
        keys: &Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let [far, near] = self.ranges(first, last);
        let (start, end) = (keys.start.div_ceil(KEYS), keys.end.div_ceil(KEYS));
        let far = start..end.min(far.end.div_ceil(KEYS));
        let near = far.end.max(near.start / KEYS).max(start)..end.min(near.end.div_ceil(KEYS));
        let m = self.m;
        far.chain(near).map(move |tile| tile * KEYS..m.min((tile + 1) * KEYS))
    }

    /// The keys of a tile that queries at positions `first..=last` see, in order.
    pub(super) fn runs(&self, first: usize, last: usize, tile: &Range<usize>, runs: &mut Vec<Run>) {
        runs.clear();
        for range in self.ranges(first, last) {
            let keys = range.start.max(tile.start)..range.end.min(tile.end);
            if keys.is_empty() {
                continue;
            }
            if self.rule.blocks.is_some() {
                self.split_at_blocks(first, last, keys, runs);
            } else {
                runs.push(Run { whole: self.all_see(first, last, &keys), keys, column: None });
            }
        }
    }

    fn split_at_blocks(&self, first: usize, last: usize, keys: Range<usize>, runs: &mut Vec<Run>) {
        let Some(blocks) = &self.rule.blocks else { return };
        let size = blocks.size();
        let before = runs.len();
        let mut start = keys.start;
        while start < keys.end {
            let column = start / size;
            let end = keys.end.min((column + 1) * size);
            let mut rows = first / size..=last / size;
            let all = rows.clone().all(|row| blocks.has(row, column));
            match runs[before..].last_mut() {
                Some(run) if all && run.column.is_none() && run.keys.end == start => run.keys.end = end,
                _ if rows.any(|row| blocks.has(row, column)) => {
                    runs.push(Run { keys: start..end, whole: false, column: (!all).then_some(column) });
                }
                _ => {}
            }
            start = end;
        }
        for run in &mut runs[before..] {
            run.whole = run.column.is_none() && self.all_see(first, last, &run.keys);
        }
    }

    /// Whether causality and window let all queries at positions `first..=last` see all `keys`.
    fn all_see(&self, first: usize, last: usize, keys: &Range<usize>) -> bool {
        let past = !self.rule.causal || keys.end - 1 <= first;
        let near = |w| last.saturating_sub(keys.start) < w && (keys.end - 1).saturating_sub(first) < w;
        past && (keys.end <= self.rule.sinks || self.rule.window.is_none_or(near))
    }

    /// The distances `query − key` at which `key` is seen lie strictly between these, block masks aside.
    #[inline(always)]
    pub(super) fn bounds(&self, key: usize) -> (f32, f32) {
        let window = if key < self.rule.sinks { None } else { self.rule.window };
        let high = window.map_or(f32::INFINITY, |w| w as f32);
        (if self.rule.causal { -1.0 } else { -high }, high)
    }
}

#[cfg(test)]
mod tests {
    use super::super::BlockMask;
    use super::*;

    /// Rules that differ in everything that decides sight.
    fn rules() -> Vec<AttentionRule> {
        let mask = |size: usize| {
            BlockMask::new(size, [200_usize.div_ceil(size); 2], |row, column| (row + 2 * column) % 3 != 0)
        };
        let mut rules = vec![];
        for causal in [false, true] {
            for (window, sinks) in
                [(None, 0), (Some(1), 0), (Some(70), 0), (Some(9), 3), (Some(9), 66), (Some(0), 0), (Some(500), 1)]
            {
                for blocks in [None, Some(mask(1)), Some(mask(7)), Some(mask(64)), Some(mask(100))] {
                    rules.push(AttentionRule { causal, window, sinks, blocks, ..AttentionRule::full(1) });
                }
            }
        }
        rules
    }

    #[test]
    fn runs_cover_all_keys_that_are_seen_once_and_in_order() {
        for rule in rules() {
            for (m, first, last) in
                [(150, 0, 15), (150, 60, 75), (200, 190, 199), (64, 64, 64), (5, 130, 145), (1, 0, 0)]
            {
                let sight = Sight { rule: &rule, m };
                let (mut all, mut runs) = (vec![], vec![]);
                for tile in sight.tiles(first, last, &(0..m)) {
                    sight.runs(first, last, &tile, &mut runs);
                    assert!(runs.iter().all(|run| tile.start <= run.keys.start && run.keys.end <= tile.end));
                    all.append(&mut runs);
                }
                assert!(all.is_sorted_by(|a, b| a.keys.end <= b.keys.start), "{rule:?}: {all:?}");
                for key in 0..m {
                    let run = all.iter().find(|run| run.keys.contains(&key));
                    for query in first..=last {
                        assert!(run.is_some() || !rule.sees(query, key), "{rule:?}: {query} misses {key}");
                        assert!(
                            run.is_none_or(|run| !run.whole) || rule.sees(query, key),
                            "{rule:?}: {query} must not see {key}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn spans_of_keys_share_out_the_tiles() {
        const SPAN: usize = 2 * KEYS;
        for rule in rules() {
            let (sight, m) = (Sight { rule: &rule, m: 500 }, 500_usize);
            let whole: Vec<_> = sight.tiles(300, 310, &(0..m)).collect();
            let spans = (0..m).step_by(SPAN).flat_map(|start| sight.tiles(300, 310, &(start..m.min(start + SPAN))));
            assert_eq!(spans.collect::<Vec<_>>(), whole, "{rule:?}");
        }
    }

    #[test]
    fn bounds_and_blocks_together_are_the_rule() {
        for rule in rules() {
            let sight = Sight { rule: &rule, m: 200 };
            for (query, key) in
                [(0, 0), (5, 7), (7, 5), (100, 31), (100, 30), (100, 92), (100, 91), (80, 2), (80, 65), (80, 66)]
            {
                let (low, high) = sight.bounds(key);
                let distance = query as f32 - key as f32;
                let present = rule.blocks.as_ref().is_none_or(|blocks| blocks.sees(query, key));
                assert_eq!(
                    low < distance && distance < high && present,
                    rule.sees(query, key),
                    "{rule:?} {query} {key}"
                );
            }
        }
    }

    #[test]
    fn a_window_visits_as_many_tiles_wherever_the_query_stands() {
        let rule = AttentionRule { window: Some(256), ..AttentionRule::causal(1, 0) };
        let m = 1 << 20;
        let tiles = |first| Sight { rule: &rule, m }.tiles(first, first + 15, &(0..m)).count();
        assert!((1000..1_000_000).step_by(997).all(|first| tiles(first) <= 6));
    }
}
