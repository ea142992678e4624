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
//
//     micro.h        the micro-kernel and its packed weights         product.h      linear layers, norms
//     vectors.h      functions of 16 numbers                         attention.h    attention
//     threads.h      threads and their space                         kernels.cpp    what Python calls

#if defined(__x86_64__) && defined(__AVX512F__)

#include "attention.h"
#include "product.h"

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
    const int64_t size = size_of(type), steps = inputs * size / 4;
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

// Each of these gives 0, or 1 where memory ran out.
int32_t xlm_attention(const Attention* a) {
    const int failed = attend_any(*a);
    space.give_back();
    return failed;
}

int32_t xlm_product(const Product* p) {
    const int failed = multiply_any(*p);
    space.give_back();
    return failed;
}

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
    struct Done {
        ~Done() { space.give_back(); }
    } done;
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

int32_t xlm_version() { return 3; }
}

#else

extern "C" int xlm_version() { return 0; }  // nothing for this processor: PyTorch's operations compute

#endif
