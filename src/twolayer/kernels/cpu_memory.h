// Where arrays stand: in memory that a thread keeps from one call to the next, and beyond that in malloc's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

void *memory(size_t bytes) { // of any alignment that is wanted here
    constexpr size_t line = 64, page = size_t(2) << 20;
    const size_t align = bytes < page ? line : page, whole = (bytes + align - 1) / align * align;
    void *p = std::aligned_alloc(align, whole);
#if defined(__linux__)
    if (p && bytes >= page) madvise(p, whole, MADV_HUGEPAGE); // a fault for each 4 KiB costs more than writing them
#endif
    return p;
}

// Memory that the thread which calls keeps from one call to the next: as much as one has asked for, up to MOST. In small
// steps, asking malloc for each array took a tenth of the time, and touching new pages more.
class Kept {
    static constexpr size_t MOST = 16 << 20;
    char *start = nullptr;
    size_t size = 0, used = 0, wanted = 0;
    long taken = 0;

  public:
    bool in_use = false;
    ~Kept() { std::free(start); }
    void begin() {
        in_use = true;
        if (!taken && wanted > size && wanted <= MOST) {
            std::free(start);
            start = static_cast<char *>(memory(wanted));
            size = start ? wanted : 0;
        }
        wanted = 0;
    }
    void *take(size_t bytes) { // a multiple of 64; null where it does not fit
        if (!in_use) return nullptr;
        wanted += bytes;
        if (bytes > size - used) return nullptr;
        void *p = start + used;
        used += bytes, taken++;
        return p;
    }
    bool give_back(void *p) { // room for all again when the last one is back
        if (!start || p < start || p >= start + size) return false;
        if (--taken == 0) used = 0;
        return true;
    }
};
thread_local Kept kept;

struct Free {
    void operator()(void *p) const {
        if (!kept.give_back(p)) std::free(p);
    }
};
template <class T> using Array = std::unique_ptr<T[], Free>;

template <class T> Array<T> room(long n) {
    if (!n) return nullptr;
    const size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
    void *p = kept.take(bytes);
    if (!p) p = memory(bytes);
    if (!p) throw std::bad_alloc();
    return Array<T>(static_cast<T *>(p));
}

template <class T> Array<T> zeros(long n) {
    Array<T> p = room<T>(n);
    std::fill_n(p.get(), n, T(0));
    return p;
}

} // namespace
