//! The weight as the products read it: panels of sixteen columns.

use crate::cpu::product::Right;
use crate::cpu::simd::LANES;

/// Below so many rows, over all products with a weight, packing it costs more than it saves.
const WORTH_PACKING: usize = 32;

/// Sixteen channels of one gate after the other, for the product of states `[·, d]` and the weight.
pub(super) struct Panels<'a> {
    data: std::borrow::Cow<'a, [f32]>,
    /// Floats from one row of a panel to the next.
    stride: usize,
    /// Floats from one gate's panel to the next gate's, and from one block of channels to the next.
    gate: usize,
    block: usize,
}

impl<'a> Panels<'a> {
    /// The panels of a weight `[d, G·d]` that is multiplied with so many rows in all. Few rows read it where it lies.
    pub(super) fn new(weight: &'a [f32], d: usize, rows: usize) -> Self {
        let columns = weight.len() / d;
        let whole = d.is_multiple_of(LANES);
        if whole && rows < WORTH_PACKING {
            return Self { data: weight.into(), stride: columns, gate: d, block: LANES };
        }
        let gates = columns / d;
        let mut data = vec![0.0; d.div_ceil(LANES) * gates * d * LANES];
        for (index, panel) in data.chunks_exact_mut(d * LANES).enumerate() {
            let (block, gate) = (index / gates, index % gates);
            let channels = block * LANES..d.min((block + 1) * LANES);
            for (row, weight) in panel.chunks_exact_mut(LANES).zip(weight.chunks_exact(columns)) {
                row[..channels.len()].copy_from_slice(&weight[gate * d..][channels.clone()]);
            }
        }
        Self { data: data.into(), stride: LANES, gate: d * LANES, block: gates * d * LANES }
    }

    /// The panel of a gate in a block of channels.
    #[inline(always)]
    pub(super) fn right(&self, block: usize, gate: usize) -> Right<'_> {
        Right { data: &self.data[block * self.block + gate * self.gate..], stride: self.stride }
    }
}

/// The panels of the transposed weight, `[block, G·d, 16]`, for the product of gradients `[·, G·d]` and it.
pub(super) fn transposed(weight: &[f32], d: usize) -> Vec<f32> {
    let columns = weight.len() / d;
    let mut data = vec![0.0; d.div_ceil(LANES) * columns * LANES];
    for (panel, rows) in data.chunks_exact_mut(columns * LANES).zip(weight.chunks(columns * LANES)) {
        for (lane, row) in rows.chunks_exact(columns).enumerate() {
            for (to, &x) in panel[lane..].iter_mut().step_by(LANES).zip(row) {
                *to = x;
            }
        }
    }
    data
}
