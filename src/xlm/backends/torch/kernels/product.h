// What a linear layer computes and what follows it, on packed weights; and norms of rows.

#pragma once

#include "micro.h"
#include "threads.h"
#include "vectors.h"

// What a linear layer computes, and what follows; the fields of native.py's structure of this name.
struct Product {
    const void* rows;         // (rows, inputs), float32 or bfloat16, or bytes
    const void* weight;       // packed
    const float* bias;        // (outputs,) or null
    const void* residual;     // (rows, outputs) or null
    void* out;                // (rows, outputs)
    const float* scale;       // int8: (outputs,), of the weights
    const int32_t* sums;      // int8: (outputs,), of the weights, times zero
    const float* factor;      // int8: (inputs,), what rows are multiplied by before rounding; null: each by its largest
    const float* norm_scale;  // (outputs,): layer norm of the result, or null
    const float* norm_bias;
    int64_t count, inputs, outputs;
    int64_t row_stride, residual_stride, out_stride;  // numbers
    int32_t type;                                     // of the weights
    int32_t row_type, residual_type, out_type;
    int32_t activation, zero, out_zero, threads;
    float out_factor, eps;  // bytes out: round(x * out_factor) + out_zero
};

namespace {

constexpr int64_t PANEL = 96 << 10;       // bytes of weights that are used again for every block: part of the second cache
constexpr int64_t CHUNK = 512 << 10;      // bytes of rows that stay in the second cache beside them
constexpr int64_t MOST_ROWS = 12 * ROWS;  // of a chunk
constexpr float LEAST = 1e-30f;           // the largest number of a row of bytes, at least: its quotients are finite

// Rows as bytes around ``zero``, and their scales where each has its own.
WIDE void quantize(const Product& p, int64_t row, uint8_t* bytes, float* scale) {
    const int64_t first = row * p.row_stride;
    __m512 by = _mm512_setzero_ps();
    if (p.factor == nullptr) {
        // As integers, which order sizes the same way, and what is not a number above all.
        __m512i largest = _mm512_castps_si512(_mm512_set1_ps(LEAST));
        for (int64_t i = 0; i < p.inputs; i += 16)
            largest = _mm512_max_epu32(largest, _mm512_castps_si512(_mm512_abs_ps(
                                                    read(p.rows, first + i, p.row_type, mask_of(p.inputs - i)))));
        const uint32_t bits = _mm512_reduce_max_epu32(largest);
        float most;
        memcpy(&most, &bits, 4);
        *scale = most / 127.0f;
        by = _mm512_set1_ps(127.0f / most);
    }
    const __m512i zero = _mm512_set1_epi32(p.zero);
    for (int64_t i = 0; i < p.inputs; i += 16) {
        const __mmask16 mask = mask_of(p.inputs - i);
        const __m512 f = p.factor == nullptr ? by : _mm512_maskz_loadu_ps(mask, p.factor + i);
        _mm_mask_storeu_epi8(bytes + i, mask, to_bytes(_mm512_mul_ps(read(p.rows, first + i, p.row_type, mask), f), zero));
    }
}

// Fetch what ``finish`` is going to read and write, while the sums are made.
INLINE void expect(const Product& p, int64_t row, int64_t count, int64_t column) {
    const int64_t out_size = size_of(p.out_type), size = size_of(p.residual_type);
    const char* out = static_cast<const char*>(p.out) + (row * p.out_stride + column) * out_size;
    for (int64_t r = 0; r < count; r++, out += p.out_stride * out_size) {
        _mm_prefetch(out, _MM_HINT_T1);
        if (out_size == 4) _mm_prefetch(out + LINE, _MM_HINT_T1);
    }
    if (p.residual == nullptr) return;
    const char* old = static_cast<const char*>(p.residual) + (row * p.residual_stride + column) * size;
    for (int64_t r = 0; r < count; r++, old += p.residual_stride * size) {
        _mm_prefetch(old, _MM_HINT_T0);
        if (size == 4) _mm_prefetch(old + LINE, _MM_HINT_T0);
    }
}

// What follows the sums (count, 32) of rows from ``row`` on and outputs from ``column`` on.
template <class T>
WIDE void finish(const Product& p, const typename Of<T>::sum* sums, const float* scales, int64_t row, int64_t count,
                 int64_t column) {
    for (int half = 0; half < 2; half++) {
        const int64_t c = column + 16 * half;
        if (c >= p.outputs) return;
        const __mmask16 mask = mask_of(p.outputs - c);
        const __m512 bias = p.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, p.bias + c);
        __m512 scale = _mm512_setzero_ps();
        __m512i zeros = _mm512_setzero_si512();
        if constexpr (std::is_same_v<T, uint8_t>) {
            scale = _mm512_maskz_loadu_ps(mask, p.scale + c);
            zeros = _mm512_maskz_loadu_epi32(mask, p.sums + c);
        }
        for (int64_t r = 0; r < count; r++) {
            __m512 y;
            if constexpr (std::is_same_v<T, uint8_t>) {
                const __m512i exact = _mm512_sub_epi32(_mm512_loadu_si512(sums + r * COLUMNS + 16 * half), zeros);
                const __m512 own = p.factor == nullptr ? _mm512_mul_ps(scale, _mm512_set1_ps(scales[row + r])) : scale;
                y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), own, bias);
            } else {
                y = _mm512_add_ps(_mm512_loadu_ps(sums + r * COLUMNS + 16 * half), bias);
            }
            if (p.activation == GELU) y = std::is_same_v<T, float> ? gelu(y) : rough_gelu(y);
            else if (p.activation == RELU) y = _mm512_max_ps(_mm512_setzero_ps(), y);
            if (p.residual != nullptr)
                y = _mm512_add_ps(y, read(p.residual, (row + r) * p.residual_stride + c, p.residual_type, mask));
            const int64_t place = (row + r) * p.out_stride + c;
            if (p.out_type == BYTES) {
                const __m128i n = to_bytes(_mm512_mul_ps(y, _mm512_set1_ps(p.out_factor)), _mm512_set1_epi32(p.out_zero));
                _mm_mask_storeu_epi8(static_cast<uint8_t*>(p.out) + place, mask, n);
            } else {
                write(p.out, place, p.out_type, mask, y);
            }
        }
    }
}

// (x - mean) / sqrt(variance + eps) * scale + bias of one row; ``to`` may be the row itself.
WIDE void norm_row(const void* from, int64_t place, int type, void* to, int64_t to_place, int to_type, int64_t width,
                   const float* scale, const float* bias, float eps) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) sum = _mm512_add_ps(sum, read(from, place + i, type, mask_of(width - i)));
    const float mean = _mm512_reduce_add_ps(sum) / static_cast<float>(width);
    const __m512 means = _mm512_set1_ps(mean);
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
        const __mmask16 mask = mask_of(width - i);
        const __m512 d = _mm512_maskz_sub_ps(mask, read(from, place + i, type, mask), means);
        squares = _mm512_fmadd_ps(d, d, squares);
    }
    const __m512 by = _mm512_set1_ps(1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / static_cast<float>(width) + eps));
    for (int64_t i = 0; i < width; i += 16) {
        const __mmask16 mask = mask_of(width - i);
        const __m512 d = _mm512_mul_ps(_mm512_sub_ps(read(from, place + i, type, mask), means), by);
        write(to, to_place + i, to_type, mask,
              _mm512_fmadd_ps(d, _mm512_maskz_loadu_ps(mask, scale + i), _mm512_maskz_loadu_ps(mask, bias + i)));
    }
}

// How threads share rows and panels: the division whose largest part is smallest.
void divide(int64_t blocks, int64_t panels, int threads, int& by_rows, int& by_panels) {
    int64_t least = INT64_MAX;
    for (int across = threads; across >= 1; across--) {
        if (threads % across) continue;
        const int down = threads / across;
        const int64_t part = (panels + across - 1) / across * ((blocks + down - 1) / down);
        if (part < least) least = part, by_rows = down, by_panels = across;
    }
}

// The part of one thread: rows [from, to), panels [first, last).
template <class T>
WIDE void part(const Product& p, const T* rows, int64_t stride, const float* scales, T* copy, int64_t from, int64_t to,
               int64_t first, int64_t last) {
    constexpr int64_t G = Of<T>::group;
    alignas(LINE) typename Of<T>::sum sums[MOST_ROWS * COLUMNS];
    const int64_t inputs = p.inputs, size = sizeof(T);
    const int64_t chunk = std::clamp(CHUNK / (inputs * size) / ROWS * ROWS, 2 * ROWS, MOST_ROWS);
    const int64_t depth = std::min(inputs, PANEL / (COLUMNS * size));
    const T* weights = static_cast<const T*>(p.weight);
    const int64_t all = (to - from + ROWS - 1) / ROWS, chunks = (to - from + chunk - 1) / chunk;
    for (int64_t i = 0; i < chunks; i++) {
        const int64_t start = from + all * i / chunks * ROWS;
        const int64_t count = std::min(to, from + all * (i + 1) / chunks * ROWS) - start, blocks = blocks_of(count);
        const T* x = rows + start * stride;
        int64_t apart = stride;
        if (copy != nullptr) {
            apart = inputs + LINE / size;
            for (int64_t r = 0; r < count; r++) memcpy(copy + r * apart, x + r * stride, inputs * size);
            x = copy;
        }
        for (int64_t panel = first; panel < last; panel++) {
            for (int64_t k = 0; k < inputs; k += depth) {
                const int64_t steps = std::min(depth, inputs - k) / G;
                for (int64_t b = 0; b < blocks; b++) {
                    const int64_t low = cut(count, b), high = cut(count, b + 1);
                    if (k + depth >= inputs) expect(p, start + low, high - low, panel * COLUMNS);
                    MICRO<T>[high - low](x + low * apart + k, apart, weights + (panel * inputs + k) * COLUMNS, steps,
                                         sums + low * COLUMNS, COLUMNS, k == 0);
                    if (k + depth >= inputs)  // at once: its stores are done while the next block's sums are made
                        finish<T>(p, sums + low * COLUMNS, scales, start + low, high - low, panel * COLUMNS);
                }
            }
        }
    }
}

template <class T> int multiply(const Product& p) {
    const int64_t panels = up(p.outputs, COLUMNS) / COLUMNS, size = sizeof(T);
    const bool bytes = std::is_same_v<T, uint8_t>;
    const bool quantized = bytes && p.row_type != BYTES;
    const int64_t width = p.inputs + LINE / size;
    // Rows a multiple of 2 KB apart fall into the same few places of the first cache: they are copied, chunk by chunk.
    const bool copied = !quantized && p.row_stride * size % 2048 == 0 && p.count > 1;
    const int64_t chunk = std::clamp(CHUNK / (p.inputs * size) / ROWS * ROWS, 2 * ROWS, MOST_ROWS);
    const int64_t rows_bytes = quantized ? up(p.count * width, LINE) : 0;
    const int64_t copy_bytes = copied ? up(std::min(chunk, p.count) * width * size, 4096) : 0;
    const int64_t scale_bytes = quantized ? p.count * 4 : 0;
    char* memory = space.of(rows_bytes + scale_bytes + copy_bytes * p.threads + LINE);
    if (memory == nullptr) return 1;
    char* copies = memory;
    uint8_t* as_bytes = reinterpret_cast<uint8_t*>(memory + copy_bytes * p.threads);
    float* scales = reinterpret_cast<float*>(as_bytes + rows_bytes);
    together(p.threads, [&](int thread, int threads, Barrier& barrier) WIDE {
        const T* rows = static_cast<const T*>(p.rows);
        int64_t stride = p.row_stride;
        if constexpr (bytes) {
            if (quantized) {
                for (int64_t r = p.count * thread / threads; r < p.count * (thread + 1) / threads; r++)
                    quantize(p, r, as_bytes + r * width, scales + r);
                barrier.wait(threads);
                rows = as_bytes;
                stride = width;
            }
        }
        int down = 1, across = 1;
        const int64_t blocks = (p.count + ROWS - 1) / ROWS;
        divide(blocks, panels, threads, down, across);
        const int64_t i = thread / across, j = thread % across;
        const int64_t from = std::min(p.count, blocks * i / down * ROWS), to = std::min(p.count, blocks * (i + 1) / down * ROWS);
        T* copy = copied ? reinterpret_cast<T*>(copies + copy_bytes * thread) : nullptr;
        part<T>(p, rows, stride, scales, copy, from, to, panels * j / across, panels * (j + 1) / across);
        if (p.norm_scale == nullptr) return;
        barrier.wait(threads);
        for (int64_t r = p.count * thread / threads; r < p.count * (thread + 1) / threads; r++)
            norm_row(p.out, r * p.out_stride, p.out_type, p.out, r * p.out_stride, p.out_type, p.outputs, p.norm_scale,
                     p.norm_bias, p.eps);
    });
    return 0;
}

int multiply_any(const Product& p) {
    if (p.count == 0) return 0;
    switch (p.type) {
    case FLOAT32: return multiply<float>(p);
    case BFLOAT16: return multiply<bf16>(p);
    default: return multiply<uint8_t>(p);
    }
}

void norm_rows(const void* rows, int64_t stride, int type, void* out, int64_t count, int64_t width, const float* scale,
               const float* bias, float eps, int threads) {
    together(threads, [&](int thread, int of, Barrier&) WIDE {
        for (int64_t r = count * thread / of; r < count * (thread + 1) / of; r++)
            norm_row(rows, r * stride, type, out, r * width, type, width, scale, bias, eps);
    });
}

}  // namespace
