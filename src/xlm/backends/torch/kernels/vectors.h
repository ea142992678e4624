// Functions of 16 numbers at once, and how they are read, rounded and written.

#pragma once

#include "micro.h"

namespace {

constexpr float FAR = 1e6f;  // beyond all bytes, and still an integer

// exp(x) for x <= 0 or small, within 2 units of the last place: 2^n times a polynomial of what is left.
INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);  // in this order what is not a number stays so
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

// x Phi(x) by the error function of Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7.
INLINE __m512 gelu(__m512 x) {
    const __m512 size = _mm512_min_ps(_mm512_set1_ps(16.0f), _mm512_abs_ps(x));  // beyond, what is taken off is 0
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 d = _mm512_fmadd_ps(_mm512_set1_ps(0.3275911f * 0.70710678f), size, one);
    __m512 t = _mm512_rcp14_ps(d);
    t = _mm512_mul_ps(t, _mm512_fnmadd_ps(d, t, _mm512_set1_ps(2.0f)));
    __m512 p = _mm512_set1_ps(1.061405429f);
    for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
        p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(c));
    const __m512 e = exponential(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f)));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), e);
    return _mm512_fnmadd_ps(_mm512_mul_ps(size, _mm512_set1_ps(0.5f)), tail, _mm512_max_ps(x, _mm512_setzero_ps()));
}

// The same within 3e-6, for results that are rounded to fewer bits: x (1/2 + x P(x^2) / Q(x^2)), outside 5.6 0 or x.
INLINE __m512 rough_gelu(__m512 x) {
    const __m512 t = _mm512_mul_ps(x, x);
    __m512 p = _mm512_set1_ps(-3.62146604e-7f), q = _mm512_set1_ps(-9.59706219e-6f);
    for (float c : {1.54060329e-5f, 3.93183708e-3f, 2.45689985e-2f, 3.98962750e-1f})
        p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(c));
    for (float c : {1.18484754e-3f, 2.27581105e-2f, 2.28410202e-1f, 1.0f}) q = _mm512_fmadd_ps(q, t, _mm512_set1_ps(c));
    __m512 r = _mm512_rcp14_ps(q);
    r = _mm512_mul_ps(r, _mm512_fnmadd_ps(q, r, _mm512_set1_ps(2.0f)));
    const __m512 inside = _mm512_mul_ps(x, _mm512_fmadd_ps(_mm512_mul_ps(p, x), r, _mm512_set1_ps(0.5f)));
    const __mmask16 near = _mm512_cmp_ps_mask(t, _mm512_set1_ps(31.0f), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_max_ps(_mm512_setzero_ps(), x), near, inside);
}

INLINE __m512 read(const void* base, int64_t place, int type, __mmask16 mask) {
    if (type == FLOAT32) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(base) + place);
    const __m256i half = _mm256_maskz_loadu_epi16(mask, static_cast<const bf16*>(base) + place);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void write(void* base, int64_t place, int type, __mmask16 mask, __m512 v) {
    if (type == FLOAT32) _mm512_mask_storeu_ps(static_cast<float*>(base) + place, mask, v);
    else _mm256_mask_storeu_epi16(static_cast<bf16*>(base) + place, mask, (__m256i)_mm512_cvtneps_pbh(v));
}

// round(x) + zero, from 0 to 255: what is beyond becomes the end, what is not a number the lower one.
INLINE __m128i to_bytes(__m512 x, __m512i zero) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-FAR)), _mm512_set1_ps(FAR));
    const __m512i n = _mm512_add_epi32(_mm512_cvtps_epi32(x), zero);
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(n, _mm512_setzero_si512()));
}

}  // namespace
