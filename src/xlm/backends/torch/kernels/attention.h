// Softmax attention inside each sequence of packed rows.

#pragma once

#include "micro.h"
#include "threads.h"
#include "vectors.h"

// native.py's structure of this name.
struct Attention {
    const void *q, *k, *v;  // (rows, heads * width), float32 or bfloat16
    void* out;              // (rows, heads * width), of the same type
    const int64_t* offsets; // (sequences + 1,)
    int64_t sequences, heads, width, stride, out_stride, longest;
    int32_t type, causal, threads;
    float scale;
};

namespace {

constexpr int64_t QUERIES = 10 * ROWS;  // of one piece, where fewer pieces would leave threads idle

// One head of one sequence: keys and values as two packed weights, the queries in blocks of rows.
template <class T>
WIDE void attend(const Attention& a, int64_t first, int64_t length, int64_t head, int64_t from, int64_t to, char* memory) {
    constexpr int64_t G = Of<T>::group;
    const int64_t d = a.width, keys = up(length, COLUMNS), panels = up(d, COLUMNS) / COLUMNS;
    T* packed_k = reinterpret_cast<T*>(memory);
    T* packed_v = packed_k + keys * d;
    float* scores = reinterpret_cast<float*>(packed_v + keys * panels * COLUMNS);
    T* shares = reinterpret_cast<T*>(scores + ROWS * keys);
    T* queries = shares + ROWS * (keys + LINE / sizeof(T));
    const T* q = static_cast<const T*>(a.q) + first * a.stride + head * d;
    const T* k = static_cast<const T*>(a.k) + first * a.stride + head * d;
    const T* v = static_cast<const T*>(a.v) + first * a.stride + head * d;
    // A causal query sees no later key: what lies behind the last query of this piece is not needed.
    const int64_t seen = a.causal ? to : length, seen_keys = up(seen, COLUMNS);
    for (int64_t n = 0; n < seen_keys; n += COLUMNS)
        pack_panel(reinterpret_cast<const char*>(k + n * a.stride), a.stride * static_cast<int64_t>(sizeof(T)), seen - n,
                   d / G, reinterpret_cast<uint32_t*>(packed_k + n * d));
    for (int64_t panel = 0; panel < panels; panel++) {
        for (int64_t n = 0; n < seen_keys; n += G) {
            T* place = packed_v + panel * COLUMNS * keys + n * COLUMNS;
            for (int64_t half = 0; half < 2; half++) {
                const int64_t c = panel * COLUMNS + 16 * half;
                const __mmask16 mask = c < d ? mask_of(d - c) : 0;
                const auto row = [&](int64_t j) WIDE { return j < seen ? mask : static_cast<__mmask16>(0); };
                if constexpr (G == 1) {
                    _mm512_storeu_ps(place + 16 * half, _mm512_maskz_loadu_ps(row(n), v + n * a.stride + c));
                } else {
                    const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(row(n), v + n * a.stride + c));
                    const __m512i odd =
                        _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(row(n + 1), v + (n + 1) * a.stride + c));
                    _mm512_storeu_si512(place + 32 * half, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
                }
            }
        }
    }
    alignas(LINE) float sums[ROWS * COLUMNS];
    float totals[ROWS];
    const int64_t blocks = blocks_of(to - from), apart = keys + LINE / static_cast<int64_t>(sizeof(T));
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t low = from + cut(to - from, b), count = from + cut(to - from, b + 1) - low;
        const int64_t last = a.causal ? low + count : length, last_keys = up(last, COLUMNS);
        for (int64_t r = 0; r < count; r++) memcpy(queries + r * d, q + (low + r) * a.stride, d * sizeof(T));
        for (int64_t n = 0; n < last_keys; n += COLUMNS)
            MICRO<T>[count](queries, d, packed_k + n * d, d / G, scores + n, keys, true);
        for (int64_t r = 0; r < count; r++) {
            float* row = scores + r * keys;
            const int64_t visible = a.causal ? low + r + 1 : length;
            __m512 most = _mm512_set1_ps(-__builtin_inff());
            for (int64_t n = 0; n < visible; n += 16)
                most = _mm512_mask_max_ps(most, mask_of(visible - n), most, _mm512_loadu_ps(row + n));
            const __m512 scale = _mm512_set1_ps(a.scale);
            const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
            __m512 total = _mm512_setzero_ps();
            for (int64_t n = 0; n < last_keys; n += 16) {
                const __mmask16 mask = n < visible ? mask_of(visible - n) : 0;
                // The difference first: that of the largest is 0 exactly, however large it is.
                const __m512 below = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(row + n), top), scale);
                const __m512 e = _mm512_maskz_mov_ps(mask, exponential(below));
                total = _mm512_add_ps(total, e);
                write(shares, r * apart + n, G == 1 ? FLOAT32 : BFLOAT16, 0xffff, e);
            }
            totals[r] = 1.0f / _mm512_reduce_add_ps(total);
        }
        // A share of the next head's rows, which this thread or another is going to read.
        if (head + 1 < a.heads)
            for (int64_t r = length * b / blocks; r < length * (b + 1) / blocks; r++)
                for (int64_t c = d; c < 2 * d; c += LINE / static_cast<int64_t>(sizeof(T)))
                    for (const T* rows : {q, k, v})
                        _mm_prefetch(reinterpret_cast<const char*>(rows + r * a.stride + c), _MM_HINT_T1);
        for (int64_t panel = 0; panel < panels; panel++) {
            MICRO<T>[count](shares, apart, packed_v + panel * COLUMNS * keys, (last + G - 1) / G, sums, COLUMNS, true);
            for (int64_t r = 0; r < count; r++) {
                const int64_t place = (first + low + r) * a.out_stride + head * d + panel * COLUMNS;
                const __m512 share = _mm512_set1_ps(totals[r]);
                for (int64_t half = 0; half < 2; half++)
                    if (panel * COLUMNS + 16 * half < d)
                        write(a.out, place + 16 * half, a.type, mask_of(d - panel * COLUMNS - 16 * half),
                              _mm512_mul_ps(_mm512_loadu_ps(sums + r * COLUMNS + 16 * half), share));
            }
        }
    }
}

template <class T> int attend_all(const Attention& a) {
    const int64_t keys = up(a.longest, COLUMNS), size = sizeof(T);
    const int64_t numbers = keys * a.width + keys * up(a.width, COLUMNS) + ROWS * (keys + LINE / size) + ROWS * a.width;
    const int64_t bytes = up(numbers * size + ROWS * keys * 4, 4096) + LINE;
    char* memory = space.of(bytes * a.threads);
    if (memory == nullptr) return 1;
    std::atomic<int64_t> next{0};
    // Every piece packs its sequence's keys and values again.
    const int64_t queries = a.sequences * a.heads < 4 * a.threads ? QUERIES : std::max<int64_t>(a.longest, 1);
    int64_t pieces = 0;
    for (int64_t s = 0; s < a.sequences; s++) pieces += (a.offsets[s + 1] - a.offsets[s] + queries - 1) / queries;
    together(a.threads, [&](int thread, int, Barrier&) WIDE {
        int64_t s = 0, before = 0;  // the sequence of a piece, and the pieces before it
        for (int64_t n = next++; n < pieces * a.heads; n = next++) {
            const int64_t piece = n / a.heads;
            int64_t length = a.offsets[s + 1] - a.offsets[s], own = (length + queries - 1) / queries;
            while (piece >= before + own) {
                before += own;
                s++;
                length = a.offsets[s + 1] - a.offsets[s];
                own = (length + queries - 1) / queries;
            }
            const int64_t i = piece - before;
            attend<T>(a, a.offsets[s], length, n % a.heads, length * i / own, length * (i + 1) / own, memory + bytes * thread);
        }
    });
    return 0;
}

int attend_any(const Attention& a) { return a.type == FLOAT32 ? attend_all<float>(a) : attend_all<bf16>(a); }

}  // namespace
