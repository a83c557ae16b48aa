// Work on several threads, PyTorch's own where they can be had.
//
// Once woken, the threads of PyTorch's OpenMP wait for more work for some milliseconds, and keep a processor busy with
// it: other threads, made for the kernel, would stand in their way in every step of training. And they start quicker
// than a thread that is to be made.
#pragma once

#include <exception>
#include <thread>
#include <vector>

// By these names GNU's OpenMP starts its threads, and LLVM's does too. Null where the process has loaded neither.
#if defined(__linux__)
#include <unistd.h>
extern "C" {
[[gnu::weak]] void GOMP_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags);
[[gnu::weak]] int omp_get_thread_num();
[[gnu::weak]] int omp_get_num_threads();
[[gnu::weak]] int omp_get_max_threads();
}
inline int this_process() { return getpid(); }
#else
inline void (*const GOMP_parallel)(void (*)(void *), void *, unsigned, unsigned) = nullptr;
inline int omp_get_thread_num() { return 0; }
inline int omp_get_num_threads() { return 1; }
inline int omp_get_max_threads() { return 1; }
inline int this_process() { return 0; }
#endif

// In which process the package was imported; library.py says so. In one that was forked off since, OpenMP would wait for
// threads that stayed behind.
extern "C" int twolayer_process;
int twolayer_process = this_process();

namespace {

// All of PyTorch's threads are woken at once, and would end if only some of them were. Where few are needed there are
// processors for others.
inline bool are_those_of_pytorch(long threads) {
    return GOMP_parallel && this_process() == twolayer_process && 4 * threads >= omp_get_max_threads();
}

// work(0), …, work(threads − 1), in turns where there are fewer threads; an exception in one comes out here.
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
    if (are_those_of_pytorch(threads)) // as many as torch.set_num_threads has set
        GOMP_parallel([](void *data) { (*static_cast<decltype(in_turns) *>(data))(); }, &in_turns, 0, 0);
    else {
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
