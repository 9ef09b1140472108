//! AVX2 with FMA, and AVX-512.

use std::arch::x86_64::*;

use super::{Isa, Kernel, Sixteen};

/// To the nearest integer, without raising a flag.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Two 256-bit registers to a vector.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// One 512-bit register to a vector.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

#[target_feature(enable = "avx2,fma")]
pub(super) fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

#[target_feature(enable = "avx2,fma,avx512f,avx512dq,avx512vl,avx512bw")]
pub(super) fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// Methods of [`Isa`] as intrinsics.
macro_rules! intrinsics {
    ($($method:ident($($argument:ident),*) -> $result:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $method($($argument: Self::Vector),*) -> $result {
            // SAFETY: the token of this set, without which there is no vector, is made where the machine was found to
            // have the instructions (`Level::run`). The intrinsics in `$body` touch registers only.
            unsafe { $body }
        }
    )*};
}

impl Isa for Avx512 {
    const REGISTERS: usize = 32;

    type Vector = __m512;

    #[inline(always)]
    fn splat_raw(self, x: f32) -> __m512 {
        // SAFETY: a token of this set shows that the machine has it; registers only.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load_raw(self, x: &Sixteen) -> __m512 {
        // SAFETY: as above; the reference covers the sixteen floats that an unaligned load reads.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store_raw(x: __m512, to: &mut Sixteen) {
        // SAFETY: as above; the reference covers the sixteen floats that an unaligned store writes.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }
    #[inline(always)]
    fn transpose_raw(self, mut rows: [__m512; 16]) -> [__m512; 16] {
        let mut columns = rows;
        // SAFETY: as above; registers only.
        unsafe {
            // Within each quarter of a register, four rows by four columns.
            for i in (0..16).step_by(4) {
                let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
                let (low, high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (low_next, high_next) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let wide = _mm512_castps_pd;
                rows[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(wide(low), wide(low_next)));
                rows[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(wide(low), wide(low_next)));
                rows[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(wide(high), wide(high_next)));
                rows[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(wide(high), wide(high_next)));
            }
            // Then four quarters of four registers.
            for i in 0..4 {
                let [a, b, c, d] = [rows[i], rows[i + 4], rows[i + 8], rows[i + 12]];
                let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (even_next, odd_next) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                columns[i] = _mm512_shuffle_f32x4::<0x88>(even, even_next);
                columns[i + 4] = _mm512_shuffle_f32x4::<0x88>(odd, odd_next);
                columns[i + 8] = _mm512_shuffle_f32x4::<0xdd>(even, even_next);
                columns[i + 12] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_next);
            }
        }
        columns
    }
    intrinsics! {
        add(a, b) -> __m512 = _mm512_add_ps(a, b);
        sub(a, b) -> __m512 = _mm512_sub_ps(a, b);
        mul(a, b) -> __m512 = _mm512_mul_ps(a, b);
        div(a, b) -> __m512 = _mm512_div_ps(a, b);
        mul_add(a, b, c) -> __m512 = _mm512_fmadd_ps(a, b, c);
        max(a, b) -> __m512 = _mm512_max_ps(a, b);
        min(a, b) -> __m512 = _mm512_min_ps(a, b);
        sqrt(a) -> __m512 = _mm512_sqrt_ps(a);
        round(a) -> __m512 = _mm512_roundscale_ps::<NEAREST>(a);
        scale(a, k) -> __m512 = {
            let k = _mm512_add_epi32(_mm512_cvtps_epi32(k), _mm512_set1_epi32(127));
            _mm512_mul_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(k)))
        };
        split(a) -> (__m512, __m512) = (
            _mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(a),
            _mm512_getexp_ps(a),
        );
        if_less(a, b, yes, no) -> __m512 = _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes);
    }
}

// As functions of half a vector and not as closures, which the compiler would call instead of inlining them.

#[target_feature(enable = "avx2,fma")]
#[inline]
fn scale_half(a: __m256, k: __m256) -> __m256 {
    let k = _mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127));
    _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(k)))
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn mantissa_half(a: __m256) -> __m256 {
    let fraction = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007f_ffff));
    _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f80_0000)))
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn exponent_half(a: __m256) -> __m256 {
    let biased = _mm256_srli_epi32::<23>(_mm256_castps_si256(a));
    _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)))
}

impl Isa for Avx2 {
    const REGISTERS: usize = 8;

    type Vector = [__m256; 2];

    #[inline(always)]
    fn splat_raw(self, x: f32) -> [__m256; 2] {
        // SAFETY: a token of this set shows that the machine has it; registers only.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn load_raw(self, x: &Sixteen) -> [__m256; 2] {
        // SAFETY: as above; the reference covers the sixteen floats that the two unaligned loads read.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }
    #[inline(always)]
    fn store_raw(x: [__m256; 2], to: &mut Sixteen) {
        // SAFETY: as above; the reference covers the sixteen floats that the two unaligned stores write.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        }
    }
    intrinsics! {
        add(a, b) -> [__m256; 2] = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])];
        sub(a, b) -> [__m256; 2] = [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])];
        mul(a, b) -> [__m256; 2] = [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])];
        div(a, b) -> [__m256; 2] = [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])];
        mul_add(a, b, c) -> [__m256; 2] = [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
        max(a, b) -> [__m256; 2] = [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])];
        min(a, b) -> [__m256; 2] = [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])];
        sqrt(a) -> [__m256; 2] = [_mm256_sqrt_ps(a[0]), _mm256_sqrt_ps(a[1])];
        round(a) -> [__m256; 2] = [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])];
        scale(a, k) -> [__m256; 2] = [scale_half(a[0], k[0]), scale_half(a[1], k[1])];
        split(a) -> ([__m256; 2], [__m256; 2]) = (
            [mantissa_half(a[0]), mantissa_half(a[1])],
            [exponent_half(a[0]), exponent_half(a[1])],
        );
        if_less(a, b, yes, no) -> [__m256; 2] = [
            _mm256_blendv_ps(no[0], yes[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(no[1], yes[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
        ];
    }
}
