// Threads, where they wait for each other, and the space that each keeps.

#pragma once

#include <immintrin.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>

namespace {

constexpr size_t KEPT = 32 << 20;  // bytes of space that a thread keeps from call to call

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

// Space that the calling thread keeps for its next call, unless it is large.
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
    void give_back() {
        if (size > KEPT) free(memory), memory = nullptr, size = 0;
    }
    ~Space() { free(memory); }
};
thread_local Space space;

}  // namespace
