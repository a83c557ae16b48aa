// Products of matrices, of which the right one is a slab of NR columns: `panel`.
#pragma once

#include "cpu_vectors.h"

#include <algorithm>
#include <array>
#include <utility>

namespace {

constexpr long KC = 192; // steps of a product while its operands stay in the first-level cache

// The left factor of a product, at strides `row` and `step`, where a step is one number of each row. Or with `row`
// GROUPED in groups of its rows, as each_group makes them, [group][step][row].
struct Left {
    const float *p;
    long row, step;
};
constexpr long GROUPED = -1;

// C (M × V VL) = A B + C, or + one row `from` where C is new, with A (M × K). The rows of B are `ldb` apart, those of C
// are NR. In a group, a step's numbers stand side by side, at places that are known when this is compiled. Groups are made
// for wide networks, whose C leaves the cache: so the next block's part of it is fetched ahead.
template <long M, long V, bool is_new, bool grouped>
void block(long K, const float *A, long row, long step, const float *B, long ldb, const float *from, float *C) {
    if (grouped) row = 1;
    vec c[M][V];
#pragma GCC unroll 16
    for (long i = 0; i < M; i++)
        for (long v = 0; v < V; v++) {
            c[i][v] = is_new ? at(from + v * VL) : at(C + i * NR + v * VL);
            if (grouped) __builtin_prefetch(C + (M + i) * NR + v * VL, 1);
        }
    for (long k = 0; k < K; k++, A += step, B += ldb) {
        vec b[V];
        for (long v = 0; v < V; v++) b[v] = at(B + v * VL);
#pragma GCC unroll 16
        for (long i = 0; i < M; i++) {
            const vec a = all(A[i * row]);
            for (long v = 0; v < V; v++) c[i][v] += a * b[v];
        }
    }
#pragma GCC unroll 16
    for (long i = 0; i < M; i++)
        for (long v = 0; v < V; v++) at(C + i * NR + v * VL) = c[i][v];
}

typedef void Block(long, const float *, long, long, const float *, long, const float *, float *);

template <bool is_new, bool grouped, long V, long... M>
constexpr std::array<Block *, MR> blocks(std::integer_sequence<long, M...>) {
    return {block<M + 1, V, is_new, grouped>...};
}
constexpr auto UP_TO_MR = std::make_integer_sequence<long, MR>();
template <bool is_new, bool grouped> constexpr std::array<Block *, MR> BLOCKS[2] = {
    blocks<is_new, grouped, 1>(UP_TO_MR), blocks<is_new, grouped, 2>(UP_TO_MR)};

// of(i, size) for groups of up to MR of n, which begin at i: of sizes alike, since a small one wastes registers.
template <class Of> inline void each_group(long n, Of of) {
    const long groups = (n + MR - 1) / MR;
    for (long g = 0, i = 0; g < groups; g++) {
        const long size = n / groups + (g < n % groups);
        of(i, size);
        i += size;
    }
}

// C (rows × width) = A B + C, or + one row `from` where that is given, for a width of up to NR.
void panel(long rows, long width, long K, Left A, const float *B, long ldb, float *C, const float *from = nullptr) {
    const bool grouped = A.row == GROUPED;
    for (long k = 0; k < K; k += KC) {
        const long steps = std::min(KC, K - k);
        const bool is_new = from && k == 0;
        const auto &blocks = grouped ? (is_new ? BLOCKS<true, true> : BLOCKS<false, true>)
                                     : (is_new ? BLOCKS<true, false> : BLOCKS<false, false>);
        each_group(rows, [&](long i, long size) {
            const float *of = grouped ? A.p + i * K + k * size : A.p + i * A.row + k * A.step;
            blocks[width > VL][size - 1](steps, of, A.row, grouped ? size : A.step, B + k * ldb, ldb, from, C + i * NR);
        });
    }
}

} // namespace
