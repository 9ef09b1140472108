//! One token, as in decoding: the recurrence itself.
//!
//! Nothing is packed and nothing transposed: a vector holds sixteen numbers of one channel's state.

use super::chunk::{Dims, Place, Ssd};
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::tasks::run_all;

/// Takes every head over the only token of its sequence.
pub(super) fn step(ssd: Ssd<'_>, y: &mut [f32], state: &mut [f32], level: Level) {
    let dims @ Dims { p, n, .. } = ssd.dims;
    let (mut y, mut state) = (y, state);
    let tasks = dims.tasks().map(|place| {
        let (mine, rest) = std::mem::take(&mut y).split_at_mut(place.heads.len() * p);
        y = rest;
        let (states, rest) = std::mem::take(&mut state).split_at_mut(place.heads.len() * p * n);
        state = rest;
        Step { ssd, place, y: mine, state: states }
    });
    run_all(tasks.collect(), dims.parallel(), |task| level.run(task));
}

/// Some heads of one group of one sequence.
struct Step<'a> {
    ssd: Ssd<'a>,
    place: Place,
    y: &'a mut [f32],
    state: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { ssd, place, y, state } = self;
        let Dims { p, n, .. } = ssd.dims;
        let (write, read) = (ssd.states(ssd.write, &place, 0), ssd.states(ssd.read, &place, 0));
        let heads = y.chunks_exact_mut(p).zip(state.chunks_exact_mut(p * n));
        for (head, (y, state)) in place.heads.clone().zip(heads) {
            let at = (place.sequence, head);
            let (delta, decay) = ssd.steps_of(isa.splat(ssd.raw_delta(at, 0)), head);
            let skip = ssd.skip_of(head);
            let rows = state.chunks_exact_mut(n).zip(ssd.head_state(ssd.state, at).chunks_exact(n));
            for ((y, &x), (after, before)) in y.iter_mut().zip(ssd.channels(ssd.x, at, 0)).zip(rows) {
                let entering = delta * x;
                let mut sum = isa.zero();
                let states = after.chunks_mut(LANES).zip(before.chunks(LANES));
                for ((after, before), (write, read)) in states.zip(write.chunks(LANES).zip(read.chunks(LANES))) {
                    let h = isa.load(before).mul_add(decay, entering * isa.load(write));
                    h.store(after);
                    sum = h.mul_add(isa.load(read), sum);
                }
                *y = skip * x + sum.sum();
            }
        }
    }
}
