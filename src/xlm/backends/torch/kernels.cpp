// Products, attention and norms of packed rows on x86-64 processors with AVX-512, in float32, bfloat16 and int8.
//
// One micro-kernel serves the three types. It holds up to 14 rows by 32 outputs of sums in registers; each step takes
// four bytes of every row (one float32, two bfloat16, four bytes) and multiplies them with as many bytes of 32 outputs:
//
//     weight, packed      [outputs / 32][inputs / group][32][group]      group = 1, 2, 4
//     rows                [rows][inputs]                                 as they are, int8 after quantization
//
// What follows a product (scales, bias, activation, residual, rounding, layer norm) is done on its sums while they are
// in the first cache. A row's sums are added in an order that depends on the number of inputs alone: the result of a row
// is the same to the last bit whatever other rows there are.
//
// Threads are those of the OpenMP runtime that PyTorch has loaded, through addresses that Python hands over; without
// them all is computed by the calling thread. Nothing here allocates inside a parallel region or throws.

#if defined(__x86_64__) && defined(__AVX512F__)

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <type_traits>

namespace {

// Beyond plain AVX-512 only what is asked for by name: the caller knows what the processor has.
#define WIDE __attribute__((target("avx512bf16,avx512vnni")))
#define INLINE WIDE __attribute__((always_inline)) inline

typedef uint16_t bf16;

constexpr int64_t COLUMNS = 32;    // outputs of a panel: two registers
constexpr int64_t ROWS = 14;       // of a block: 28 registers of sums, two of weights, one or two of the row
constexpr int64_t LINE = 64;       // bytes
constexpr int64_t PANEL = 96 << 10;   // bytes of weights that are used again for every block: part of the second cache
constexpr int64_t CHUNK = 512 << 10;  // bytes of rows that stay in the second cache beside them
constexpr int64_t MOST_ROWS = 12 * ROWS;  // of a chunk
constexpr int64_t QUERIES = 10 * ROWS;    // of one piece of attention
constexpr int64_t AHEAD = 2048;           // bytes of weights to fetch before they are needed

enum Type { FLOAT32 = 0, BFLOAT16 = 1, BYTES = 2 };
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

// -- vectors of 16 numbers ----------------------------------------------------------------------------------------------

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
    const __m512 size = _mm512_abs_ps(x);
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

INLINE __m512 read(const void* base, int64_t place, int type, __mmask16 mask) {
    if (type == FLOAT32) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(base) + place);
    const __m256i half = _mm256_maskz_loadu_epi16(mask, static_cast<const bf16*>(base) + place);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void write(void* base, int64_t place, int type, __mmask16 mask, __m512 v) {
    if (type == FLOAT32) _mm512_mask_storeu_ps(static_cast<float*>(base) + place, mask, v);
    else _mm256_mask_storeu_epi16(static_cast<bf16*>(base) + place, mask, (__m256i)_mm512_cvtneps_pbh(v));
}

INLINE __mmask16 mask_of(int64_t count) { return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

// -- packing ------------------------------------------------------------------------------------------------------------

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

// -- threads ------------------------------------------------------------------------------------------------------------

struct Runtime {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
    int (*thread)();
    int (*threads)();
} runtime = {nullptr, nullptr, nullptr};

// Where all threads of a region wait for each other.
class Barrier {
    std::atomic<int> waiting{0};
    std::atomic<unsigned> turn{0};

  public:
    void wait(int threads) {
        if (threads == 1) return;
        const unsigned now = turn.load(std::memory_order_acquire);
        if (waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            waiting.store(0, std::memory_order_relaxed);
            turn.store(now + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; turn.load(std::memory_order_acquire) == now; spins++)
            if (spins < 4096) _mm_pause();
            else std::this_thread::yield();
    }
};

// body(thread, threads, barrier) by each of at most so many threads.
template <class Body> void together(int threads, Body body) {
    struct Region {
        Body& body;
        Barrier barrier;
    } region{body, {}};
    if (threads <= 1 || runtime.parallel == nullptr) return body(0, 1, region.barrier);
    const auto enter = [](void* p) {
        auto& r = *static_cast<Region*>(p);
        r.body(runtime.thread(), runtime.threads(), r.barrier);
    };
    runtime.parallel(enter, &region, static_cast<unsigned>(threads), 0);
}

// Space that the calling thread keeps for its next call.
class Space {
    char* memory = nullptr;
    size_t size = 0;

  public:
    char* of(size_t bytes) {
        if (bytes > size) {
            free(memory);
            size = 0;
            memory = static_cast<char*>(aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
            if (memory != nullptr) size = bytes;
        }
        return memory;
    }
    ~Space() { free(memory); }
};
thread_local Space space;

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

// -- products -----------------------------------------------------------------------------------------------------------

extern "C" {

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
}

namespace {

// Rows as bytes around ``zero``, and their scales where each has its own.
WIDE void quantize(const Product& p, int64_t row, uint8_t* bytes, float* scale) {
    const int64_t first = row * p.row_stride;
    __m512 by = _mm512_setzero_ps();
    if (p.factor == nullptr) {
        // As integers, which order sizes the same way, and what is not a number above all.
        __m512i largest = _mm512_castps_si512(_mm512_set1_ps(1.17549435e-38f));
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
        const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(read(p.rows, first + i, p.row_type, mask), f));
        const __m512i in_range = _mm512_max_epi32(_mm512_add_epi32(n, zero), _mm512_setzero_si512());
        _mm_mask_storeu_epi8(bytes + i, mask, _mm512_cvtusepi32_epi8(in_range));
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
            if (p.activation == GELU) y = gelu(y);
            else if (p.activation == RELU) y = _mm512_max_ps(_mm512_setzero_ps(), y);
            if (p.residual != nullptr)
                y = _mm512_add_ps(y, read(p.residual, (row + r) * p.residual_stride + c, p.residual_type, mask));
            const int64_t place = (row + r) * p.out_stride + c;
            if (p.out_type == BYTES) {
                __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(y, _mm512_set1_ps(p.out_factor)));
                n = _mm512_max_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(p.out_zero)), _mm512_setzero_si512());
                _mm_mask_storeu_epi8(static_cast<uint8_t*>(p.out) + place, mask, _mm512_cvtusepi32_epi8(n));
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
    for (int64_t start = from; start < to; start += chunk) {
        const int64_t count = std::min(chunk, to - start), blocks = (count + ROWS - 1) / ROWS;
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
                    const int64_t low = count * b / blocks, high = count * (b + 1) / blocks;
                    MICRO<T>[high - low](x + low * apart + k, apart, weights + (panel * inputs + k) * COLUMNS, steps,
                                         sums + low * COLUMNS, COLUMNS, k == 0);
                }
            }
            finish<T>(p, sums, scales, start, count, panel * COLUMNS);
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

}  // namespace

extern "C" {

void xlm_threads(void* parallel, void* thread, void* threads) {
    runtime.parallel = reinterpret_cast<decltype(runtime.parallel)>(parallel);
    runtime.thread = reinterpret_cast<decltype(runtime.thread)>(thread);
    runtime.threads = reinterpret_cast<decltype(runtime.threads)>(threads);
}

// Numbers that a packed weight takes.
int64_t xlm_packed_size(int64_t outputs, int64_t inputs) { return up(outputs, COLUMNS) * inputs; }

// (outputs, inputs) -> [outputs / 32][inputs / group][32][group]; bytes also give their sums times ``zero``.
void xlm_pack(const void* weight, void* packed, int32_t* sums, int64_t outputs, int64_t inputs, int32_t type, int32_t zero,
              int32_t threads) {
    const int64_t size = type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1, steps = inputs * size / 4;
    const int64_t panels = up(outputs, COLUMNS) / COLUMNS;
    together(threads, [&](int thread, int of, Barrier&) {
        for (int64_t p = panels * thread / of; p < panels * (thread + 1) / of; p++) {
            const int64_t first = p * COLUMNS, last = std::min(outputs, first + COLUMNS);
            const char* rows = static_cast<const char*>(weight) + first * inputs * size;
            pack_panel(rows, inputs * size, last - first, steps, static_cast<uint32_t*>(packed) + first * steps);
            if (type != BYTES) continue;
            for (int64_t n = first; n < last; n++) {
                const int8_t* row = static_cast<const int8_t*>(weight) + n * inputs;
                int32_t sum = 0;
                for (int64_t k = 0; k < inputs; k++) sum += row[k];
                sums[n] = sum * zero;
            }
        }
    });
}

// Softmax attention inside each sequence of packed rows; native.py's structure of this name.
struct Attention {
    const void *q, *k, *v;  // (rows, heads * width), float32 or bfloat16
    void* out;              // (rows, heads * width), of the same type
    const int64_t* offsets; // (sequences + 1,)
    int64_t sequences, heads, width, stride, out_stride, longest;
    int32_t type, causal, threads;
    float scale;
};
}

namespace {

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
    const int64_t blocks = (to - from + ROWS - 1) / ROWS, apart = keys + LINE / static_cast<int64_t>(sizeof(T));
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t low = from + (to - from) * b / blocks, count = from + (to - from) * (b + 1) / blocks - low;
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
            const __m512 top = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(most)), scale);
            __m512 total = _mm512_setzero_ps();
            for (int64_t n = 0; n < last_keys; n += 16) {
                const __mmask16 mask = n < visible ? mask_of(visible - n) : 0;
                const __m512 e = _mm512_maskz_mov_ps(mask, exponential(_mm512_fmsub_ps(_mm512_loadu_ps(row + n), scale, top)));
                total = _mm512_add_ps(total, e);
                write(shares, r * apart + n, G == 1 ? FLOAT32 : BFLOAT16, 0xffff, e);
            }
            totals[r] = 1.0f / _mm512_reduce_add_ps(total);
        }
        for (int64_t panel = 0; panel < panels; panel++) {
            MICRO<T>[count](shares, apart, packed_v + panel * COLUMNS * keys, last_keys / G, sums, COLUMNS, true);
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
    int64_t pieces = 0;
    for (int64_t s = 0; s < a.sequences; s++) pieces += (a.offsets[s + 1] - a.offsets[s] + QUERIES - 1) / QUERIES;
    together(a.threads, [&](int thread, int, Barrier&) WIDE {
        int64_t s = 0, before = 0;  // the sequence of a piece, and the pieces before it
        for (int64_t n = next++; n < pieces * a.heads; n = next++) {
            const int64_t piece = n / a.heads;
            int64_t length = a.offsets[s + 1] - a.offsets[s], own = (length + QUERIES - 1) / QUERIES;
            while (piece >= before + own) {
                before += own;
                s++;
                length = a.offsets[s + 1] - a.offsets[s];
                own = (length + QUERIES - 1) / QUERIES;
            }
            const int64_t i = piece - before;
            attend<T>(a, a.offsets[s], length, n % a.heads, length * i / own, length * (i + 1) / own, memory + bytes * thread);
        }
    });
    return 0;
}

}  // namespace

namespace {

int attend_any(const Attention& a) { return a.type == FLOAT32 ? attend_all<float>(a) : attend_all<bf16>(a); }

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

extern "C" {

int32_t xlm_attention(const Attention* a) { return attend_any(*a); }

// 0, or 1 where memory ran out.
int32_t xlm_product(const Product* p) { return multiply_any(*p); }

void xlm_norm(const void* rows, int64_t stride, int32_t type, void* out, int64_t count, int64_t width, const float* scale,
              const float* bias, float eps, int32_t threads) {
    norm_rows(rows, stride, type, out, count, width, scale, bias, eps, threads);
}

// A layer's products, complete but for rows and results, and its norms where they stand before the blocks.
struct Layer {
    Product query, output, up, down;
    const float *first_scale, *first_bias, *second_scale, *second_bias;
    float first_eps, second_eps;
};

// Layers one after the other; the fields of native.py's structure of this name.
struct Stack {
    const Layer* layers;
    const void* rows;                                      // (tokens, hidden)
    void *out, *middle, *normed, *query, *context, *inner;  // (tokens, ...): hidden, hidden, hidden, 3 wide, wide, inner
    int64_t count, tokens, hidden;
    int64_t alone;    // products of fewer multiplications are one thread's
    Attention attention;  // complete but for its rows
    int32_t pre, type, inner_type, threads;
};

int32_t xlm_layers(const Stack* s) {
    const auto run = [&](const Product& made, const void* rows, int type, void* out, int out_type, const void* residual) {
        Product p = made;
        p.rows = rows, p.row_type = type, p.row_stride = p.inputs, p.count = s->tokens;
        p.out = out, p.out_type = out_type, p.out_stride = p.outputs;
        p.residual = residual, p.residual_type = s->type, p.residual_stride = p.outputs;
        p.threads = p.inputs * p.outputs * p.count < s->alone ? 1 : s->threads;
        return multiply_any(p);
    };
    const int norm_threads = 8 * s->tokens * s->hidden < s->alone ? 1 : s->threads;
    const auto normed = [&](const void* rows, const float* scale, const float* bias, float eps) -> const void* {
        if (!s->pre) return rows;
        norm_rows(rows, s->hidden, s->type, s->normed, s->tokens, s->hidden, scale, bias, eps, norm_threads);
        return s->normed;
    };
    const void* x = s->rows;
    for (int64_t i = 0; i < s->count; i++) {
        const Layer& layer = s->layers[i];
        const void* rows = normed(x, layer.first_scale, layer.first_bias, layer.first_eps);
        if (run(layer.query, rows, s->type, s->query, s->attention.type, nullptr)) return 1;
        if (attend_any(s->attention)) return 1;
        if (run(layer.output, s->context, s->attention.type, s->middle, s->type, x)) return 1;
        rows = normed(s->middle, layer.second_scale, layer.second_bias, layer.second_eps);
        if (run(layer.up, rows, s->type, s->inner, s->inner_type, nullptr)) return 1;
        if (run(layer.down, s->inner, s->inner_type, s->out, s->type, s->middle)) return 1;
        x = s->out;
    }
    return 0;
}

int32_t xlm_version() { return 2; }
}

#else

extern "C" int xlm_version() { return 0; }  // nothing for this processor: PyTorch's operations compute

#endif
