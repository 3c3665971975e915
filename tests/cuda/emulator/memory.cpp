/*
 * memory.cpp - device and pinned memory: each block of device memory has pages of its own that end in an inaccessible
 * one, opened only while operations run, to the thread that runs them; what surrounds the block within its pages is
 * checked for stray writes.
 */
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <map>

#include "internal.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifdef SANITIZED
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)   (static_cast<void>(address), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) (static_cast<void>(address), static_cast<void>(size))
#endif

namespace emulator {

namespace {

constexpr unsigned char fresh = 0xFF, canary = 0xA5; /* NaN in every floating-point type; -1 */
constexpr uint64_t alignment = 256;
constexpr size_t rest = 32; /* blocks of a size that are given back before the first of them is used again */

struct block {
    char *pages;
    uint64_t page_bytes; /* without the guard page after them */
    uint64_t bytes;
};

std::map<const char *, block> device_blocks;       /* by address */
std::map<const char *, uint64_t> pinned_blocks;    /* by address: bytes */
std::map<uint64_t, std::deque<char *>> free_pages; /* by page_bytes */
int open_depth;

uint64_t page() {
    static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    return size;
}

/* Memory is opened and closed through a protection key where the processor has them, else page by page. */
int key() {
    static const int made = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    return made;
}

void protect_pages(const block &b, bool open) {
    if (key() < 0) mprotect(b.pages, b.page_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* One block is opened, or closed again unless all are open. */
void protect_block(const block &b, bool open) {
    if (key() >= 0)
        pkey_set(key(), open || open_depth > 0 ? 0 : PKEY_DISABLE_ACCESS);
    else
        protect_pages(b, open || open_depth > 0);
}

void protect(bool open) {
    if (key() >= 0) {
        pkey_set(key(), open ? 0 : PKEY_DISABLE_ACCESS);
        return;
    }
    for (const auto &entry : device_blocks) protect_pages(entry.second, open);
}

bool all_are(const char *begin, const char *end, unsigned char value) {
    int different = 0;
    for (const char *p = begin; p < end; p++) different |= static_cast<unsigned char>(*p) ^ value;
    return different == 0;
}

void check_edges(const char *start, const block &b) {
    if (!all_are(b.pages, start, canary) || !all_are(start + b.bytes, b.pages + b.page_bytes, canary))
        misuse("memory beside a device block of %llu bytes was written", static_cast<unsigned long long>(b.bytes));
}

void poison(const char *start, const block &b) {
    ASAN_POISON_MEMORY_REGION(b.pages, static_cast<size_t>(start - b.pages));
    ASAN_POISON_MEMORY_REGION(start + b.bytes, static_cast<size_t>(b.pages + b.page_bytes - start) - b.bytes);
}

void unpoison(const block &b) {
    ASAN_UNPOISON_MEMORY_REGION(b.pages, b.page_bytes);
}

/* Pages with an inaccessible one behind them; NULL when there are none. */
char *new_pages(uint64_t bytes) {
    std::deque<char *> &given_back = free_pages[bytes];
    if (given_back.size() > rest) {
        char *pages = given_back.front();
        given_back.pop_front();
        return pages;
    }
    void *made = mmap(nullptr, bytes + page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) return nullptr;
    /* Opening and closing costs as many steps as a block has pages, so that large blocks get large pages. */
    if (bytes >= 4 << 20) madvise(made, bytes, MADV_HUGEPAGE);
    if (key() >= 0) pkey_mprotect(made, bytes, PROT_READ | PROT_WRITE, key());
    return static_cast<char *>(made);
}

template <typename Map> typename Map::const_iterator holder(const Map &blocks, const char *pointer) {
    auto it = blocks.upper_bound(pointer);
    return it == blocks.begin() ? blocks.end() : --it;
}

uint64_t size_of(const block &b) {
    return b.bytes;
}
uint64_t size_of(uint64_t bytes) {
    return bytes;
}

/* Bytes from pointer to the end of the block that holds it, or -1. */
template <typename Map> int64_t left(const Map &blocks, const void *pointer) {
    const char *p = static_cast<const char *>(pointer);
    const auto it = holder(blocks, p);
    if (it == blocks.end() || p > it->first + size_of(it->second)) return -1;
    return it->first + size_of(it->second) - p;
}

} // namespace

kind kind_of(const void *pointer) {
    if (left(device_blocks, pointer) >= 0) return kind::device;
    return left(pinned_blocks, pointer) >= 0 ? kind::pinned : kind::none;
}

void need_device(const char *who, const void *pointer, uint64_t bytes) {
    const int64_t there = left(device_blocks, pointer);
    if (bytes > 0 && (there < 0 || static_cast<uint64_t>(there) < bytes))
        misuse("%s: %llu bytes at %p where device memory has %lld", who, static_cast<unsigned long long>(bytes),
               pointer, static_cast<long long>(there));
}

void need_pinned(const char *who, const void *pointer, uint64_t bytes) {
    const int64_t there = left(pinned_blocks, pointer);
    if (bytes > 0 && (there < 0 || static_cast<uint64_t>(there) < bytes))
        misuse("%s: %llu bytes at %p where pinned memory has %lld", who, static_cast<unsigned long long>(bytes),
               pointer, static_cast<long long>(there));
}

opened::opened() {
    if (open_depth++ == 0) protect(true);
}

opened::~opened() {
    if (--open_depth > 0) return;
    for (const auto &entry : device_blocks) {
        unpoison(entry.second);
        check_edges(entry.first, entry.second);
        poison(entry.first, entry.second);
    }
    protect(false);
}

static cudaError_t device_alloc(void **memory, uint64_t bytes) {
    if (bytes > current.memory ||
        counts.live_device + static_cast<int64_t>(bytes) > static_cast<int64_t>(current.memory))
        return cudaErrorMemoryAllocation;
    const uint64_t inner = (bytes + alignment - 1) / alignment * alignment;
    const uint64_t whole = (inner / page() + 1) * page();
    char *pages = new_pages(whole);
    if (!pages) return cudaErrorMemoryAllocation;
    const block b = {pages, whole, bytes};
    char *start = b.pages + whole - inner;
    protect_block(b, true);
    unpoison(b);
    std::memset(b.pages, canary, whole);
    std::memset(start, fresh, bytes);
    poison(start, b);
    protect_block(b, false);
    device_blocks[start] = b;
    counts.live_device += static_cast<int64_t>(bytes);
    *memory = start;
    return cudaSuccess;
}

/* What is still read of it is NaN, once the pages are used again. */
static void device_free(const char *start) {
    const auto it = device_blocks.find(start);
    if (it == device_blocks.end()) misuse("cudaFree(%p), which is not allocated", static_cast<const void *>(start));
    const block b = it->second;
    protect_block(b, true);
    unpoison(b);
    check_edges(start, b);
    protect_block(b, false);
    counts.live_device -= static_cast<int64_t>(b.bytes);
    device_blocks.erase(it);
    ASAN_POISON_MEMORY_REGION(b.pages, b.page_bytes);
    free_pages[b.page_bytes].push_back(b.pages);
}

} // namespace emulator

using namespace emulator;

extern "C" {

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaMalloc")) return error;
    if (capturing_anywhere()) return unsafe_in_capture();
    counts.allocations++;
    *memory = nullptr;
    return bytes == 0 ? cudaSuccess : remember(device_alloc(memory, bytes));
}

cudaError_t cudaFree(void *memory) {
    const guard held(lock);
    if (!memory) return cudaSuccess;
    if (broken) return cudaErrorIllegalAddress;
    if (capturing_anywhere()) return unsafe_in_capture();
    counts.waits++;
    run_everything();
    device_free(static_cast<const char *>(memory));
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned int) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaHostAlloc")) return error;
    if (capturing_anywhere()) return unsafe_in_capture();
    counts.allocations++;
    void *block = nullptr;
    if (posix_memalign(&block, alignment, bytes ? bytes : 1) != 0) return remember(cudaErrorMemoryAllocation);
    std::memset(block, fresh, bytes);
    pinned_blocks[static_cast<const char *>(block)] = bytes;
    counts.live_host += static_cast<int64_t>(bytes);
    *memory = block;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory) {
    const guard held(lock);
    if (!memory) return cudaSuccess;
    if (broken) return cudaErrorIllegalAddress;
    if (capturing_anywhere()) return unsafe_in_capture();
    counts.waits++;
    run_everything();
    const auto it = pinned_blocks.find(static_cast<const char *>(memory));
    if (it == pinned_blocks.end()) misuse("cudaFreeHost(%p), which is not allocated", memory);
    counts.live_host -= static_cast<int64_t>(it->second);
    pinned_blocks.erase(it);
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaPointerGetAttributes")) return error;
    *attributes = {};
    const kind k = kind_of(pointer);
    attributes->type = k == kind::device   ? cudaMemoryTypeDevice
                       : k == kind::pinned ? cudaMemoryTypeHost
                                           : cudaMemoryTypeUnregistered;
    return cudaSuccess;
}

static void count_copy(size_t bytes, enum cudaMemcpyKind direction) {
    if (direction == cudaMemcpyDeviceToHost) counts.bytes_to_host += static_cast<int64_t>(bytes);
    if (direction == cudaMemcpyHostToDevice) counts.bytes_to_device += static_cast<int64_t>(bytes);
}

/* The device's side is checked; of the host's side, whether it is pinned. */
static bool copy_is_pinned(const void *to, const void *from, size_t bytes, enum cudaMemcpyKind direction) {
    if (direction == cudaMemcpyDefault || direction == cudaMemcpyHostToHost) misuse("a copy without a direction");
    if (direction != cudaMemcpyDeviceToHost) need_device("copy to", to, bytes);
    if (direction != cudaMemcpyHostToDevice) need_device("copy from", from, bytes);
    const void *host = direction == cudaMemcpyDeviceToHost ? to : from;
    if (direction != cudaMemcpyDeviceToDevice && kind_of(host) == kind::device) misuse("device memory as host memory");
    return direction == cudaMemcpyDeviceToDevice || kind_of(host) == kind::pinned;
}

/* Copies with memory that is not pinned go through the driver's staging buffer and wait. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind direction,
                            cudaStream_t stream) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaMemcpyAsync")) return error;
    if (bytes == 0) return cudaSuccess;
    const bool pinned = copy_is_pinned(to, from, bytes, direction);
    if (!pinned && capturing_anywhere()) return unsafe_in_capture();
    count_copy(bytes, direction);
    const cudaError_t error = enqueue(stream, [=] { std::memcpy(to, from, bytes); });
    if (error != cudaSuccess || pinned) return error;
    counts.waits++;
    run_everything();
    return broken ? remember(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind direction) {
    const guard held(lock);
    if (const cudaError_t error = cudaMemcpyAsync(to, from, bytes, direction, nullptr)) return error;
    counts.waits++;
    run_everything();
    return broken ? remember(cudaErrorIllegalAddress) : cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind direction, cudaStream_t stream) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaMemcpy2DAsync")) return error;
    if (width == 0 || height == 0) return cudaSuccess;
    if (width > to_pitch || width > from_pitch) return remember(cudaErrorInvalidValue);
    const size_t to_bytes = to_pitch * (height - 1) + width, from_bytes = from_pitch * (height - 1) + width;
    if (!copy_is_pinned(to, from, direction == cudaMemcpyDeviceToHost ? from_bytes : to_bytes, direction))
        misuse("a copy in two dimensions with memory that is not pinned");
    if (direction == cudaMemcpyDeviceToDevice) need_device("copy from", from, from_bytes);
    count_copy(width * height, direction);
    return enqueue(stream, [=] {
        for (size_t r = 0; r < height; r++)
            std::memcpy(static_cast<char *>(to) + r * to_pitch, static_cast<const char *>(from) + r * from_pitch,
                        width);
    });
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    const guard held(lock);
    if (const cudaError_t error = enter("cudaMemsetAsync")) return error;
    if (bytes == 0) return cudaSuccess;
    need_device("memset", memory, bytes);
    return enqueue(stream, [=] { std::memset(memory, value, bytes); });
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
    return cudaMemsetAsync(memory, value, bytes, nullptr);
}

void emulator_peek(void *to, const void *from, uint64_t bytes) {
    const guard held(lock);
    need_device("emulator_peek", from, bytes);
    const opened open;
    std::memcpy(to, from, bytes);
}

} /* extern "C" */
