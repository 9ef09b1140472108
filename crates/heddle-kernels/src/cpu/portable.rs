//! Vectors without intrinsics.

use super::{Isa, Kernel, LANES, Sixteen};

/// Arrays, which the compiler turns into the vectors every machine of the target has (SSE2, NEON).
#[derive(Clone, Copy)]
pub(super) struct Portable(());

pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable(()))
}

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
    fn sqrt(a: Sixteen) -> Sixteen {
        each(|i| a[i].sqrt())
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
