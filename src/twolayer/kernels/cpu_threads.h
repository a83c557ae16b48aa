// Work on several threads, PyTorch's own where they can be had.
//
// Once woken, the threads of PyTorch's OpenMP wait for more work for some milliseconds, and keep a processor busy with
// it: other threads, made for the kernel, would stand in their way, in every step of training. And they start quicker
// than a thread that is to be made.
#pragma once

#include <exception>
#include <thread>
#include <vector>

// What GNU's OpenMP is called by, and LLVM's has too. Null where the process has loaded neither, as on macOS.
#if defined(__linux__)
#include <unistd.h>
extern "C" {
[[gnu::weak]] void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags);
[[gnu::weak]] int omp_get_thread_num();
[[gnu::weak]] int omp_get_num_threads();
}
#endif

namespace {

// Calls work(data) in each of PyTorch's threads, as many as torch.set_num_threads has set; false where there are none.
#if defined(__linux__)
const pid_t loaded_by = getpid();

inline bool on_those_of_pytorch(void (*work)(void *), void *data) {
    // In a process that was forked off since, OpenMP would wait for threads that stayed behind.
    if (!GOMP_parallel || !omp_get_thread_num || !omp_get_num_threads || getpid() != loaded_by) return false;
    GOMP_parallel(work, data, 0, 0);
    return true;
}
#else
inline bool on_those_of_pytorch(void (*)(void *), void *) { return false; }
inline int omp_get_thread_num() { return 0; }
inline int omp_get_num_threads() { return 1; }
#endif

// work(0), …, work(threads − 1), each in a thread of its own, or in turns where there are fewer; an exception in one
// comes out here.
template <class Work> void parallel(long threads, Work work) {
    if (threads == 1) return work(0);
    std::vector<std::exception_ptr> failures(threads);
    auto guarded = [&](long t) {
        try {
            work(t);
        } catch (...) {
            failures[t] = std::current_exception();
        }
    };
    auto in_turns = [&] {
        for (long t = omp_get_thread_num(); t < threads; t += omp_get_num_threads()) guarded(t);
    };
    if (!on_those_of_pytorch([](void *data) { (*static_cast<decltype(in_turns) *>(data))(); }, &in_turns)) {
        std::vector<std::thread> others;
        for (long t = 1; t < threads; t++) {
            try {
                others.emplace_back(guarded, t);
            } catch (...) { // no thread is to be had
                guarded(t);
            }
        }
        guarded(0);
        for (auto &thread : others) thread.join();
    }
    for (auto &failure : failures)
        if (failure) std::rethrow_exception(failure);
}

} // namespace
