/*
 * blocks.cpp - runs kernels: blocks one after the other, the threads of a block as fibers that meet at barriers and
 * exchange values within warps.
 *
 * Blocks and threads run in an order drawn anew for each launch, so that results which depend on it differ from run to
 * run. A fiber is a stack and a saved stack pointer; on x86-64 the switch is a few instructions, elsewhere ucontext.
 */
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <numeric>
#include <vector>

#include "cuda_runtime.h"
#include "internal.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifdef SANITIZED
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

namespace {

constexpr size_t stack_bytes = 128 << 10;
constexpr unsigned most_threads = 1024;

/* ---- fibers ---- */

struct fiber {
    char *stack = nullptr;
#if defined(__x86_64__)
    void *pointer = nullptr;
#else
    ucontext_t context;
#endif
    void *fake_stack = nullptr; /* the address sanitizer's */
    unsigned thread = 0;
    enum { ready, at_barrier, in_exchange, finished } state = finished;
    uint64_t waiting_for = 0; /* generation of the barrier or exchange to pass */
};

struct warp {
    unsigned arrived = 0, mask = 0;
    int operation = 0;
    size_t size = 0;
    uint64_t generation = 0;
    unsigned char values[2][32 * 8] = {};
};

fiber scheduler, fibers[most_threads];
fiber *running;
warp warps[most_threads / 32];
uint64_t barrier_generation;
unsigned barrier_arrived, alive;
const std::function<void()> *kernel;
std::vector<unsigned char> shared;
unsigned char *shared_start;
uint64_t shuffle_state = 1;

#if defined(__x86_64__)
extern "C" void emulator_switch(void **save, void *load);
asm(".text\n.type emulator_switch,@function\nemulator_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size emulator_switch,.-emulator_switch\n");
#endif

void jump(fiber &from, fiber &to) {
#if defined(__x86_64__)
    emulator_switch(&from.pointer, to.pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
}

#ifdef SANITIZED
const void *main_bottom;
size_t main_size;
void announce(void **fake, const void *bottom, size_t size) {
    __sanitizer_start_switch_fiber(fake, bottom, size);
}
void arrived(void *fake, const void **bottom, size_t *size) {
    __sanitizer_finish_switch_fiber(fake, bottom, size);
}
#else
const void *main_bottom;
size_t main_size;
void announce(void **, const void *, size_t) {}
void arrived(void *, const void **, size_t *) {}
#endif

/* From the scheduler into a fiber, until that one waits or ends. */
void resume(fiber &f) {
    running = &f;
    threadIdx.x = f.thread;
    announce(&scheduler.fake_stack, f.stack, stack_bytes);
    jump(scheduler, f);
    arrived(scheduler.fake_stack, nullptr, nullptr);
}

/* From a fiber back to the scheduler. */
void pause() {
    fiber &f = *running;
    announce(f.state == fiber::finished ? nullptr : &f.fake_stack, main_bottom, main_size);
    jump(f, scheduler);
    arrived(f.fake_stack, &main_bottom, &main_size);
}

void fiber_main() {
    arrived(nullptr, &main_bottom, &main_size);
    (*kernel)();
    running->state = fiber::finished;
    pause();
    std::abort();
}

void prepare(fiber &f) {
    if (!f.stack) {
        void *stack =
            mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) misuse("no memory for the stack of a thread");
        f.stack = static_cast<char *>(stack);
    }
    f.state = fiber::ready;
    f.fake_stack = nullptr;
#if defined(__x86_64__)
    void **top = reinterpret_cast<void **>(f.stack + stack_bytes);
    *--top = nullptr; /* what fiber_main would return to; keeps the stack aligned as after a call */
    *--top = reinterpret_cast<void *>(&fiber_main);
    for (int k = 0; k < 6; k++) *--top = nullptr; /* saved registers */
    f.pointer = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = stack_bytes;
    f.context.uc_link = nullptr;
    makecontext(&f.context, fiber_main, 0);
#endif
}

/* ---- a block ---- */

bool can_run(const fiber &f) {
    switch (f.state) {
    case fiber::ready:
        return true;
    case fiber::at_barrier:
        return barrier_generation != f.waiting_for;
    case fiber::in_exchange:
        return warps[static_cast<unsigned>(&f - fibers) / 32].generation != f.waiting_for;
    default:
        return false;
    }
}

uint64_t next_random() {
    shuffle_state ^= shuffle_state << 13;
    shuffle_state ^= shuffle_state >> 7;
    return shuffle_state ^= shuffle_state << 17;
}

void shuffle(std::vector<unsigned> &order) {
    for (size_t k = order.size(); k > 1; k--) std::swap(order[k - 1], order[next_random() % k]);
}

void run_block(std::vector<unsigned> &order) {
    const unsigned threads = blockDim.x;
    std::fill(shared.begin(), shared.end(), static_cast<unsigned char>(0xFF));
    barrier_arrived = 0;
    alive = threads;
    for (unsigned w = 0; w * 32 < threads; w++) warps[w].arrived = 0;
    for (unsigned t = 0; t < threads; t++) {
        prepare(fibers[t]);
        fibers[t].thread = t;
    }
    shuffle(order);
    while (alive > 0) {
        bool moved = false;
        for (const unsigned t : order) {
            if (!can_run(fibers[t])) continue;
            moved = true;
            resume(fibers[t]);
            if (fibers[t].state == fiber::finished) alive--;
        }
        if (!moved) misuse("%u threads of a block wait for others that ended or wait elsewhere", alive);
    }
}

void run_grid(const cudaLaunchConfig_t &config) {
    std::vector<unsigned> order(config.blockDim.x);
    std::iota(order.begin(), order.end(), 0u);
    const unsigned x = config.gridDim.x, y = config.gridDim.y;
    std::vector<unsigned> blocks(static_cast<size_t>(x) * y);
    std::iota(blocks.begin(), blocks.end(), 0u);
    shuffle(blocks);
    /* a block of memory of its own for each launch, so that the address sanitizer knows its bounds */
    std::vector<unsigned char> mine(config.dynamicSmemBytes);
    shared.swap(mine);
    shared_start = shared.data();
    blockDim = config.blockDim;
    gridDim = config.gridDim;
    threadIdx = dim3(0, 0, 0);
    for (const unsigned b : blocks) {
        blockIdx = dim3(b % x, b / x, 0);
        run_block(order);
    }
}

} // namespace
} // namespace emulator

using namespace emulator;

void *emulated_shared(void) {
    return shared_start;
}

void __syncthreads(void) {
    fiber &f = *running;
    f.waiting_for = barrier_generation;
    if (++barrier_arrived == blockDim.x) {
        barrier_arrived = 0;
        barrier_generation++;
        return;
    }
    f.state = fiber::at_barrier;
    pause();
    f.state = fiber::ready;
}

const unsigned char *emulated_exchange(unsigned int mask, const void *value, size_t size, int operation) {
    fiber &f = *running;
    const unsigned lane = f.thread % 32;
    warp &w = warps[f.thread / 32];
    if (!(mask >> lane & 1)) misuse("lane %u is not in its own mask %08x", lane, mask);
    if (w.arrived && (w.mask != mask || w.operation != operation || w.size != size))
        misuse("lanes of a warp meet in different shuffles");
    w.mask = mask;
    w.operation = operation;
    w.size = size;
    unsigned char *values = w.values[w.generation & 1];
    std::memcpy(values + 8 * lane, value, size);
    w.arrived |= 1u << lane;
    f.waiting_for = w.generation;
    if (w.arrived == mask) {
        w.arrived = 0;
        w.generation++;
        return values;
    }
    f.state = fiber::in_exchange;
    pause();
    f.state = fiber::ready;
    return values;
}

void emulated_check_argument(const void *pointer) {
    const guard held(lock);
    if (pointer && kind_of(pointer) != kind::device)
        misuse("a kernel is given %p, which is not device memory", pointer);
}

cudaError_t emulated_launch(const cudaLaunchConfig_t *config, std::function<void()> body) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaLaunchKernelEx")) return error;
    const cudaLaunchConfig_t c = *config;
    const bool shape = c.gridDim.x > 0 && c.gridDim.x <= 0x7fffffffu && c.gridDim.y > 0 && c.gridDim.y <= 65535 &&
                       c.gridDim.z == 1 && c.blockDim.x > 0 && c.blockDim.x <= most_threads && c.blockDim.y == 1 &&
                       c.blockDim.z == 1 && c.dynamicSmemBytes <= 48 << 10;
    if (!shape) return remember(cudaErrorInvalidConfiguration);
    /* a real grid has 65,535 there at most, which sizes that no test here can afford would pass */
    if (c.gridDim.y != 1) misuse("a grid of %u by %u blocks: kernels take one dimension", c.gridDim.x, c.gridDim.y);
    if (c.blockDim.x % 32 != 0) misuse("a block of %u threads, not whole warps", c.blockDim.x);
    counts.launches++;
    return enqueue(c.stream, [c, body] {
        const std::function<void()> *outer = kernel;
        kernel = &body;
        run_grid(c);
        kernel = outer;
    });
}

extern "C" void emulator_shuffle(uint64_t seed) {
    const guard held(lock);
    shuffle_state = seed * 0x9E3779B97F4A7C15u + 1;
}
