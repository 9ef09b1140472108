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
            Set::Portable => kernel.run(Portable(())),
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
    /// The nearest integer.
    fn round(a: Self::Vector) -> Self::Vector;
    /// `a · 2^k` for integral `k` from −127, which gives 0, to 127.
    fn scale(a: Self::Vector, k: Self::Vector) -> Self::Vector;
    /// Positive normal numbers as `m · 2^k` with `m` in [1, 2).
    fn split(a: Self::Vector) -> (Self::Vector, Self::Vector);
    /// `yes` where `a < b`, else `no`.
    fn if_less(a: Self::Vector, b: Self::Vector, yes: Self::Vector, no: Self::Vector) -> Self::Vector;

    /// The transpose of sixteen vectors.
    #[inline(always)]
    fn transpose_raw(self, rows: [Self::Vector; LANES]) -> [Self::Vector; LANES] {
        let mut from = [[0.0; LANES]; LANES];
        for (x, row) in from.iter_mut().zip(rows) {
            Self::store_raw(row, x);
        }
        let mut columns = rows;
        for (i, column) in columns.iter_mut().enumerate() {
            let mut x = [0.0; LANES];
            for (x, row) in x.iter_mut().zip(&from) {
                *x = row[i];
            }
            *column = self.load_raw(&x);
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

    /// The transpose of sixteen vectors.
    #[inline(always)]
    pub(crate) fn transpose(mut vectors: [Self; LANES]) -> [Self; LANES] {
        let mut raw = [vectors[0].raw; LANES];
        for (raw, vector) in raw.iter_mut().zip(&vectors) {
            *raw = vector.raw;
        }
        let raw = vectors[0].isa.transpose_raw(raw);
        for (vector, raw) in vectors.iter_mut().zip(raw) {
            vector.raw = raw;
        }
        vectors
    }

    /// The sum of the sixteen, always in the same order: halves onto each other, four times.
    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        let mut a = self.to_array();
        add_halves::<8>(&mut a);
        add_halves::<4>(&mut a);
        add_halves::<2>(&mut a);
        a[0] + a[1]
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

/// Adds the second `HALF` numbers to the first. (A constant, so that the loop becomes one instruction.)
#[inline(always)]
fn add_halves<const HALF: usize>(a: &mut Sixteen) {
    for i in 0..HALF {
        a[i] += a[i + HALF];
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

/// Arrays, which the compiler turns into the vectors every machine of the target has (SSE2, NEON).
#[derive(Clone, Copy)]
pub(crate) struct Portable(());

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Sixteen {
    std::array::from_fn(f)
}

impl Isa for Portable {
    // Registers of four floats: SSE2 has sixteen, NEON has thirty-two.
    const REGISTERS: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };

    type Vector = Sixteen;

    #[inline(always)]
    fn splat_raw(self, x: f32) -> Sixteen {
        [x; LANES]
    }
    #[inline(always)]
    fn load_raw(self, x: &Sixteen) -> Sixteen {
        *x
    }
    #[inline(always)]
    fn store_raw(x: Sixteen, to: &mut Sixteen) {
        *to = x;
    }
    #[inline(always)]
    fn add(a: Sixteen, b: Sixteen) -> Sixteen {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(a: Sixteen, b: Sixteen) -> Sixteen {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(a: Sixteen, b: Sixteen) -> Sixteen {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(a: Sixteen, b: Sixteen) -> Sixteen {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(a: Sixteen, b: Sixteen, c: Sixteen) -> Sixteen {
        // Without the instruction, `f32::mul_add` is a slow library call.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            each(|i| a[i].mul_add(b[i], c[i]))
        } else {
            each(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn max(a: Sixteen, b: Sixteen) -> Sixteen {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(a: Sixteen, b: Sixteen) -> Sixteen {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn round(a: Sixteen) -> Sixteen {
        // Adding 1.5 · 2^23 leaves no bits for a fraction. Good for |a| < 2^22, which is all that `exp` asks for, and
        // vectorises everywhere; larger numbers are integers to within the spacing that `exp` sees.
        const SHIFT: f32 = 12_582_912.0;
        each(|i| (a[i] + SHIFT) - SHIFT)
    }
    #[inline(always)]
    fn scale(a: Sixteen, k: Sixteen) -> Sixteen {
        // SHIFT puts k in the low bits of the mantissa, so no float-to-integer conversion is needed.
        const SHIFT: f32 = 12_582_912.0;
        each(|i| {
            let k = (k[i] + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits());
            a[i] * f32::from_bits(k.wrapping_add(127) << 23)
        })
    }
    #[inline(always)]
    fn split(a: Sixteen) -> (Sixteen, Sixteen) {
        let mantissa = each(|i| f32::from_bits((a[i].to_bits() & 0x007f_ffff) | 0x3f80_0000));
        let exponent = each(|i| (a[i].to_bits() >> 23) as i32 as f32 - 127.0);
        (mantissa, exponent)
    }
    #[inline(always)]
    fn if_less(a: Sixteen, b: Sixteen, yes: Sixteen, no: Sixteen) -> Sixteen {
        each(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
}

#[cfg(target_arch = "x86_64")]
#[path = "x86.rs"]
mod x86;
