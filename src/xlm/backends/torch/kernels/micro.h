// The micro-kernel, and how weights are packed for it.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

// Beyond plain AVX-512 only what is asked for by name: the caller knows what the processor has.
#define WIDE __attribute__((target("avx512bf16,avx512vnni")))
#define INLINE WIDE __attribute__((always_inline)) inline

typedef uint16_t bf16;

constexpr int64_t COLUMNS = 32;  // outputs of a panel: two registers
constexpr int64_t ROWS = 14;     // of a block: 28 registers of sums, two of weights, one or two of the row
constexpr int64_t LINE = 64;     // bytes
constexpr int64_t AHEAD = 2048;  // bytes of weights to fetch before they are needed

enum Type { FLOAT32 = 0, BFLOAT16 = 1, BYTES = 2 };
constexpr int64_t size_of(int type) { return type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1; }
enum Activation { NONE = 0, GELU = 1, RELU = 2 };

template <class T> struct Of;
template <> struct Of<float> { static constexpr int64_t group = 1; typedef __m512 vector; typedef float sum; };
template <> struct Of<bf16> { static constexpr int64_t group = 2; typedef __m512 vector; typedef float sum; };
template <> struct Of<uint8_t> { static constexpr int64_t group = 4; typedef __m512i vector; typedef int32_t sum; };

template <class T> INLINE typename Of<T>::vector load(const void* p) {
    if constexpr (std::is_same_v<T, uint8_t>) return _mm512_loadu_si512(p);
    else return _mm512_loadu_ps(p);
}

template <class T> INLINE void store(void* p, typename Of<T>::vector v) {
    if constexpr (std::is_same_v<T, uint8_t>) _mm512_storeu_si512(p, v);
    else _mm512_storeu_ps(p, v);
}

template <class T> INLINE typename Of<T>::vector repeat(const T* four_bytes) {
    int32_t bits;
    memcpy(&bits, four_bytes, 4);
    if constexpr (std::is_same_v<T, uint8_t>) return _mm512_set1_epi32(bits);
    else return _mm512_castsi512_ps(_mm512_set1_epi32(bits));
}

// Assembly, because compilers copy the accumulators around the intrinsics of the last two.
template <class T>
INLINE void multiply_add(typename Of<T>::vector& sum, typename Of<T>::vector row, typename Of<T>::vector weight) {
    if constexpr (std::is_same_v<T, float>) sum = _mm512_fmadd_ps(row, weight, sum);
    else if constexpr (std::is_same_v<T, bf16>) asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(row), "v"(weight));
    else asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(weight));
}

// sums (R, 32), ``apart`` numbers from row to row, = or += rows (R, steps * group) x panel (steps, 32, group)
template <class T, int R>
WIDE __attribute__((noinline)) void micro(const T* rows, int64_t stride, const T* panel, int64_t steps,
                                          typename Of<T>::sum* sums, int64_t apart, bool first) {
    constexpr int64_t G = Of<T>::group;
    typedef typename Of<T>::vector Vector;
    Vector s[R][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        s[r][0] = first ? Vector{} : load<T>(sums + r * apart);
        s[r][1] = first ? Vector{} : load<T>(sums + r * apart + 16);
    }
    for (int64_t k = 0; k < steps; k++) {
        const T* weights = panel + k * COLUMNS * G;
        _mm_prefetch(reinterpret_cast<const char*>(weights) + AHEAD, _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(weights) + AHEAD + LINE, _MM_HINT_T0);
        const Vector low = load<T>(weights), high = load<T>(weights + 16 * G);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const Vector x = repeat(rows + r * stride + k * G);
            multiply_add<T>(s[r][0], x, low);
            multiply_add<T>(s[r][1], x, high);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        store<T>(sums + r * apart, s[r][0]);
        store<T>(sums + r * apart + 16, s[r][1]);
    }
}

template <class T> using Micro = void (*)(const T*, int64_t, const T*, int64_t, typename Of<T>::sum*, int64_t, bool);
template <class T>
constexpr Micro<T> MICRO[ROWS + 1] = {nullptr,      micro<T, 1>,  micro<T, 2>,  micro<T, 3>,  micro<T, 4>,
                                      micro<T, 5>,  micro<T, 6>,  micro<T, 7>,  micro<T, 8>,  micro<T, 9>,
                                      micro<T, 10>, micro<T, 11>, micro<T, 12>, micro<T, 13>, micro<T, 14>};

__mmask16 mask_of(int64_t count) { return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// 16 x 16 numbers of four bytes, rows to columns.
INLINE void transpose(__m512i (&r)[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // Each register now has four rows of four columns, 4 apart: quarters of 128 bits change places.
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512i even = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), odd = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        const __m512i even2 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        const __m512i odd2 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(even, even2, 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(even, even2, 0xdd);
        t[12 + j] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

// A panel [steps][32] of four bytes from up to 32 rows of ``steps`` times four bytes; rows that are not there are 0.
WIDE void pack_panel(const char* rows, int64_t stride_bytes, int64_t count, int64_t steps, uint32_t* panel) {
    for (int64_t half = 0; half < COLUMNS; half += 16) {
        for (int64_t k = 0; k < steps; k += 16) {
            const __mmask16 mask = mask_of(steps - k);
            __m512i r[16];
#pragma GCC unroll 16
            for (int64_t i = 0; i < 16; i++)
                r[i] = half + i < count ? _mm512_maskz_loadu_epi32(mask, rows + (half + i) * stride_bytes + k * 4)
                                        : _mm512_setzero_si512();
            transpose(r);
            const int64_t last = std::min<int64_t>(16, steps - k);
            for (int64_t i = 0; i < last; i++) _mm512_storeu_si512(panel + (k + i) * COLUMNS + half, r[i]);
        }
    }
}

// Blocks of at most ROWS rows: full ones, then what is left; but 13 and fewer than four rows take longer a row.
int64_t blocks_of(int64_t count) { return (count + ROWS - 1) / ROWS + (count % ROWS == ROWS - 1); }

// Where a block begins; of the number of blocks, the end.
int64_t cut(int64_t count, int64_t block) {
    const int64_t full = count / ROWS, rest = count % ROWS;
    if (full > 0 && rest > 0 && rest < 4 && block == full) return count - (ROWS + rest) / 2;
    if (rest == ROWS - 1 && block == full + 1) return full * ROWS + ROWS / 2;
    return std::min(block * ROWS, count);
}

}  // namespace
