//! AVX2 with FMA, and AVX-512.

use std::arch::x86_64::*;

use super::{Isa, Kernel, Sixteen};

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
    fn transpose_raw(self, rows: [__m512; 16]) -> [__m512; 16] {
        // SAFETY: a token of this set shows that the machine has it; registers only.
        unsafe { transpose(rows) }
    }
    intrinsics! {
        add(a, b) -> __m512 = _mm512_add_ps(a, b);
        sub(a, b) -> __m512 = _mm512_sub_ps(a, b);
        mul(a, b) -> __m512 = _mm512_mul_ps(a, b);
        div(a, b) -> __m512 = _mm512_div_ps(a, b);
        mul_add(a, b, c) -> __m512 = _mm512_fmadd_ps(a, b, c);
        max(a, b) -> __m512 = _mm512_max_ps(a, b);
        min(a, b) -> __m512 = _mm512_min_ps(a, b);
        round(a) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
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

/// Sixteen rows as sixteen columns: blocks of four by four first, then the blocks.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    let mut blocks = rows;
    for i in (0..16).step_by(4) {
        let [a, b, c, d] = [rows[i], rows[i + 1], rows[i + 2], rows[i + 3]];
        // Pairs of columns 0 and 1 of each block, then of columns 2 and 3.
        let low = (_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpacklo_ps(c, d)));
        let high = (_mm512_castps_pd(_mm512_unpackhi_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(c, d)));
        blocks[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low.0, low.1));
        blocks[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low.0, low.1));
        blocks[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high.0, high.1));
        blocks[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high.0, high.1));
    }
    let mut columns = blocks;
    for i in 0..4 {
        // Quarters 0 and 2, and 1 and 3, of the upper and of the lower eight rows.
        let [a, b, c, d] = [blocks[i], blocks[4 + i], blocks[8 + i], blocks[12 + i]];
        let upper = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b)];
        let lower = [_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d)];
        columns[i] = _mm512_shuffle_f32x4::<0x88>(upper[0], lower[0]);
        columns[4 + i] = _mm512_shuffle_f32x4::<0x88>(upper[1], lower[1]);
        columns[8 + i] = _mm512_shuffle_f32x4::<0xdd>(upper[0], lower[0]);
        columns[12 + i] = _mm512_shuffle_f32x4::<0xdd>(upper[1], lower[1]);
    }
    columns
}

#[inline(always)]
fn halves(a: [__m256; 2], f: impl Fn(__m256) -> __m256) -> [__m256; 2] {
    [f(a[0]), f(a[1])]
}

#[inline(always)]
fn pairs(a: [__m256; 2], b: [__m256; 2], f: impl Fn(__m256, __m256) -> __m256) -> [__m256; 2] {
    [f(a[0], b[0]), f(a[1], b[1])]
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
        add(a, b) -> [__m256; 2] = pairs(a, b, |a, b| _mm256_add_ps(a, b));
        sub(a, b) -> [__m256; 2] = pairs(a, b, |a, b| _mm256_sub_ps(a, b));
        mul(a, b) -> [__m256; 2] = pairs(a, b, |a, b| _mm256_mul_ps(a, b));
        div(a, b) -> [__m256; 2] = pairs(a, b, |a, b| _mm256_div_ps(a, b));
        mul_add(a, b, c) -> [__m256; 2] = [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
        max(a, b) -> [__m256; 2] = pairs(a, b, |a, b| _mm256_max_ps(a, b));
        min(a, b) -> [__m256; 2] = pairs(a, b, |a, b| _mm256_min_ps(a, b));
        round(a) -> [__m256; 2] = halves(a, |a| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a));
        scale(a, k) -> [__m256; 2] = pairs(a, k, |a, k| {
            let k = _mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(k)))
        });
        split(a) -> ([__m256; 2], [__m256; 2]) = (
            halves(a, |a| {
                let fraction = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007f_ffff));
                _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f80_0000)))
            }),
            halves(a, |a| {
                let biased = _mm256_srli_epi32::<23>(_mm256_castps_si256(a));
                _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)))
            }),
        );
        if_less(a, b, yes, no) -> [__m256; 2] = [
            _mm256_blendv_ps(no[0], yes[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(no[1], yes[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
        ];
    }
}
