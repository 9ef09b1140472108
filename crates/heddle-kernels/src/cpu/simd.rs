//! Vectors of sixteen floats, and the choice of instruction set at run time.
//!
//! A kernel is written once, as a [`Kernel`] over an abstract instruction set, and compiled once for each [`Level`]. The
//! best level of the machine is found at first use, so that one binary runs everywhere and needs no compiler flags.
//!
//! An instruction set is a *token*: [`Level::run`] alone makes one, after the machine was found to have the set, and
//! vectors are made from tokens only. So no safe code can execute an instruction that the machine lacks.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};
use std::sync::OnceLock;

/// Floats in a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen floats in memory.
pub(crate) type Sixteen = [f32; LANES];

/// A computation that is compiled for every instruction set.
pub(crate) trait Kernel {
    /// What it computes.
    type Output;

    /// Computes. Mark implementations, and every function of vectors they call, `#[inline(always)]`: only what is
    /// inlined is compiled for the instruction set. A closure cannot be so marked, so write loops where vectors are many.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best level of this machine, or the one a test forces on this thread.
    pub(crate) fn current() -> Self {
        #[cfg(test)]
        if let Some(level) = FORCED.get() {
            return level;
        }
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| *Self::supported().last().expect("the portable level is always there"))
    }

    /// Every level of this machine, from the slowest to the fastest.
    pub(crate) fn supported() -> Vec<Self> {
        let mut levels = vec![Self(Set::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma");
            if avx2 {
                levels.push(Self(Set::Avx2));
            }
            if avx2 && has!("avx512f") && has!("avx512dq") && has!("avx512vl") && has!("avx512bw") {
                levels.push(Self(Set::Avx512));
            }
        }
        levels
    }

    /// Runs a kernel with the instructions of this level.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => portable::run(kernel),
            // SAFETY: levels come from `supported` alone, which found these features on this machine.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { x86::run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { x86::run_avx512(kernel) },
        }
    }

    /// Makes `level` the current one of this thread while `body` runs.
    #[cfg(test)]
    pub(crate) fn force<T>(self, body: impl FnOnce() -> T) -> T {
        let before = FORCED.replace(Some(self));
        let result = body();
        FORCED.set(before);
        result
    }
}

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

/// The operations of an instruction set on its vectors of sixteen floats.
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    /// How many vectors the registers hold.
    const REGISTERS: usize;

    /// Sixteen floats in registers.
    type Vector: Copy + Send + Sync;

    /// Sixteen times `x`.
    fn splat_raw(self, x: f32) -> Self::Vector;
    /// Sixteen floats from memory.
    fn load_raw(self, x: &Sixteen) -> Self::Vector;
    /// Sixteen floats to memory.
    fn store_raw(x: Self::Vector, to: &mut Sixteen);
    /// `a + b`
    fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a − b`
    fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b`
    fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a / b`
    fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`, rounded once where the machine can.
    fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger; `b` where either is not a number.
    fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The smaller; `b` where either is not a number.
    fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `√a`
    fn sqrt(a: Self::Vector) -> Self::Vector;
    /// The nearest integer.
    fn round(a: Self::Vector) -> Self::Vector;
    /// `a · 2^k` for integral `k` from −127, which gives 0, to 127.
    fn scale(a: Self::Vector, k: Self::Vector) -> Self::Vector;
    /// Positive normal numbers as `m · 2^k` with `m` in [1, 2).
    fn split(a: Self::Vector) -> (Self::Vector, Self::Vector);
    /// `yes` where `a < b`, else `no`.
    fn if_less(a: Self::Vector, b: Self::Vector, yes: Self::Vector, no: Self::Vector) -> Self::Vector;

    /// Lane `i` of vector `j` becomes lane `j` of vector `i`.
    #[inline(always)]
    fn transpose_raw(self, rows: [Self::Vector; LANES]) -> [Self::Vector; LANES] {
        let mut from = [[0.0; LANES]; LANES];
        for i in 0..LANES {
            Self::store_raw(rows[i], &mut from[i]);
        }
        let mut columns = rows;
        for i in 0..LANES {
            let mut column = [0.0; LANES];
            for j in 0..LANES {
                column[j] = from[j][i];
            }
            columns[i] = self.load_raw(&column);
        }
        columns
    }

    /// Sixteen times `x`.
    #[inline(always)]
    fn splat(self, x: f32) -> Lanes<Self> {
        Lanes { raw: self.splat_raw(x), isa: self }
    }

    /// Sixteen zeros.
    #[inline(always)]
    fn zero(self) -> Lanes<Self> {
        self.splat(0.0)
    }

    /// The first sixteen floats of a slice; zeros stand in for what a shorter slice lacks.
    #[inline(always)]
    fn load(self, from: &[f32]) -> Lanes<Self> {
        let raw = match from.first_chunk::<LANES>() {
            Some(full) => self.load_raw(full),
            None => {
                let mut padded = [0.0; LANES];
                padded[..from.len()].copy_from_slice(from);
                self.load_raw(&padded)
            }
        };
        Lanes { raw, isa: self }
    }
}

/// Sixteen floats in the registers of an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<I: Isa> {
    raw: I::Vector,
    isa: I,
}

impl<I: Isa> Lanes<I> {
    /// The token that made this vector.
    #[inline(always)]
    pub(crate) fn isa(self) -> I {
        self.isa
    }

    #[inline(always)]
    fn with(self, raw: I::Vector) -> Self {
        Self { raw, isa: self.isa }
    }

    /// Writes the first floats to a slice of at most sixteen.
    #[inline(always)]
    pub(crate) fn store(self, to: &mut [f32]) {
        match to.first_chunk_mut::<LANES>() {
            Some(full) => I::store_raw(self.raw, full),
            None => {
                let width = to.len();
                to.copy_from_slice(&self.to_array()[..width]);
            }
        }
    }

    /// The sixteen floats.
    #[inline(always)]
    pub(crate) fn to_array(self) -> Sixteen {
        let mut array = [0.0; LANES];
        I::store_raw(self.raw, &mut array);
        array
    }

    /// `self · factor + addend`
    #[inline(always)]
    pub(crate) fn mul_add(self, factor: Self, addend: Self) -> Self {
        self.with(I::mul_add(self.raw, factor.raw, addend.raw))
    }

    /// The larger; `self` where it is not a number.
    #[inline(always)]
    pub(crate) fn at_least(self, bound: f32) -> Self {
        self.with(I::max(self.isa.splat_raw(bound), self.raw))
    }

    /// The smaller; `self` where it is not a number.
    #[inline(always)]
    pub(crate) fn at_most(self, bound: f32) -> Self {
        self.with(I::min(self.isa.splat_raw(bound), self.raw))
    }

    /// The larger of each pair.
    #[inline(always)]
    pub(crate) fn max(self, other: Self) -> Self {
        self.with(I::max(other.raw, self.raw))
    }

    /// The magnitude.
    #[inline(always)]
    pub(crate) fn abs(self) -> Self {
        self.max(-self)
    }

    /// The square root.
    #[inline(always)]
    pub(crate) fn sqrt(self) -> Self {
        self.with(I::sqrt(self.raw))
    }

    /// The nearest integer.
    #[inline(always)]
    pub(crate) fn round(self) -> Self {
        self.with(I::round(self.raw))
    }

    /// `self · 2^k` for integral `k` from −127, which gives 0, to 127.
    #[inline(always)]
    pub(crate) fn scale(self, k: Self) -> Self {
        self.with(I::scale(self.raw, k.raw))
    }

    /// Positive normal numbers as `m · 2^k` with `m` in [1, 2).
    #[inline(always)]
    pub(crate) fn split(self) -> (Self, Self) {
        let (mantissa, exponent) = I::split(self.raw);
        (self.with(mantissa), self.with(exponent))
    }

    /// `yes` where `self < bound`, else `no`.
    #[inline(always)]
    pub(crate) fn if_less(self, bound: Self, yes: Self, no: Self) -> Self {
        self.with(I::if_less(self.raw, bound.raw, yes.raw, no.raw))
    }

    /// Lane `i` of vector `j` becomes lane `j` of vector `i`.
    #[inline(always)]
    pub(crate) fn transpose(rows: [Self; LANES]) -> [Self; LANES] {
        let mut raw = [rows[0].raw; LANES];
        for i in 0..LANES {
            raw[i] = rows[i].raw;
        }
        let raw = rows[0].isa.transpose_raw(raw);
        let mut columns = rows;
        for i in 0..LANES {
            columns[i] = rows[i].with(raw[i]);
        }
        columns
    }

    /// The sum of the sixteen, always in the same order: halves onto each other, four times.
    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        let mut a = self.to_array();
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }

    /// The largest of the sixteen.
    #[inline(always)]
    pub(crate) fn largest(self) -> f32 {
        let mut a = self.to_array();
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] = if a[i + half] > a[i] { a[i + half] } else { a[i] };
            }
        }
        a[0]
    }
}

macro_rules! operators {
    ($($operator:ident $method:ident),*) => {$(
        impl<I: Isa> $operator for Lanes<I> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.with(I::$method(self.raw, other.raw))
            }
        }

        impl<I: Isa> $operator<f32> for Lanes<I> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: f32) -> Self {
                self.with(I::$method(self.raw, self.isa.splat_raw(other)))
            }
        }
    )*};
}

operators!(Add add, Sub sub, Mul mul, Div div);

impl<I: Isa> Neg for Lanes<I> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        self * -1.0
    }
}

impl<I: Isa> AddAssign for Lanes<I> {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

#[path = "portable.rs"]
mod portable;
#[cfg(target_arch = "x86_64")]
#[path = "x86.rs"]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;

    struct Transpose;

    impl Kernel for Transpose {
        type Output = [Sixteen; LANES];

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Output {
            let mut rows = [isa.zero(); LANES];
            for (i, row) in rows.iter_mut().enumerate() {
                let mut numbers = Sixteen::default();
                for (j, number) in numbers.iter_mut().enumerate() {
                    *number = (i * LANES + j) as f32;
                }
                *row = isa.load(&numbers);
            }
            Lanes::transpose(rows).map(Lanes::to_array)
        }
    }

    #[test]
    fn lanes_and_vectors_change_places() {
        for level in Level::supported() {
            for (i, column) in level.run(Transpose).into_iter().enumerate() {
                for (j, x) in column.into_iter().enumerate() {
                    assert_eq!(x, (j * LANES + i) as f32, "{level:?}: vector {i}, lane {j}");
                }
            }
        }
    }
}
