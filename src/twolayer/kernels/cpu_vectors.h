// What stands in registers of a processor's whole width, and what is computed with them: sums, transposes, functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace {

#if defined(__AVX512F__)
constexpr long VL = 16, MR = 14; // floats in a register; rows whose sums of two registers each fill the registers
#elif defined(__AVX2__)
constexpr long VL = 8, MR = 6;
#elif defined(__aarch64__)
constexpr long VL = 4, MR = 12;
#else
constexpr long VL = 4, MR = 6;
#endif
constexpr long NR = 2 * VL;

typedef float vec __attribute__((vector_size(4 * VL), may_alias));
typedef float loose __attribute__((vector_size(4 * VL), may_alias, aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * VL), may_alias));

inline vec &at(float *p) { return *reinterpret_cast<vec *>(p); }
inline vec at(const float *p) { return *reinterpret_cast<const vec *>(p); }
inline loose anywhere(const float *p) { return *reinterpret_cast<const loose *>(p); } // not aligned
inline void store(float *p, vec x) { std::memcpy(p, &x, sizeof x); } // as a reference, Clang would take it for aligned
inline vec all(float x) { return x - vec{}; }
inline ivec bits(vec x) { return reinterpret_cast<ivec>(x); }
inline vec from_bits(ivec x) { return reinterpret_cast<vec>(x); }
inline ivec lanes_up_to(long n) { // all bits of the first n
    ivec lanes;
    for (long i = 0; i < VL; i++) lanes[i] = i < n ? -1 : 0;
    return lanes;
}
inline vec magnitude(vec x) { return from_bits(bits(x) & 0x7fffffff); }
template <long N> inline float sum(const float *x) { // one half plus the other, again and again
    if constexpr (N == 1) return *x;
    else {
        typedef float half __attribute__((vector_size(2 * N), may_alias));
        half y = *reinterpret_cast<const half *>(x) + *reinterpret_cast<const half *>(x + N / 2);
        return sum<N / 2>(reinterpret_cast<const float *>(&y));
    }
}
inline float sum(vec x) { return sum<VL>(reinterpret_cast<const float *>(&x)); }

template <size_t... i> inline vec picked(vec x, vec y, std::index_sequence<i...>) { // from x, then y
#if defined(__clang__)
    return __builtin_shufflevector(x, y, i...);
#else
    return __builtin_shuffle(x, y, ivec{i...});
#endif
}
// Of two registers, each of some groups of G floats: one half of each group plus the other.
template <long G, size_t... i> inline vec folded(vec x, vec y, std::index_sequence<i...>) {
    return picked(x, y, std::index_sequence<i / (G / 2) * G + i % (G / 2)...>()) +
           picked(x, y, std::index_sequence<i / (G / 2) * G + i % (G / 2) + G / 2 ...>());
}
// The sum of each of N registers, by the same halves as `sum`, in VL / N lanes.
template <long N> inline vec sum_each(const float *x) {
    if constexpr (N == 1) return at(x);
    else return folded<2 * VL / N>(sum_each<N / 2>(x), sum_each<N / 2>(x + N / 2 * VL), std::make_index_sequence<VL>());
}

// Of x[VL], a VL × VL matrix: its off-diagonal blocks of w × w change places, and so on within each. It is transposed.
template <long w, size_t... i> inline void exchange(vec *x, std::index_sequence<i...> lanes) {
#pragma GCC unroll 16
    for (long r = 0; r < VL; r++)
        if (!(r & w)) {
            const vec upper = x[r], lower = x[r + w];
            x[r] = picked(upper, lower, std::index_sequence<(i & w ? VL + i - w : i)...>());
            x[r + w] = picked(upper, lower, std::index_sequence<(i & w ? VL + i : i + w)...>());
        }
    if constexpr (w > 1) exchange<w / 2>(x, lanes);
}

// The transpose of a matrix whose rows are `ldf` apart, to rows that are `ldt` apart.
void transpose(long rows, long columns, const float *from, long ldf, float *to, long ldt) {
    long r = 0;
    for (; r + VL <= rows; r += VL) {
        long c = 0;
        for (; c + VL <= columns; c += VL) {
            vec x[VL];
#pragma GCC unroll 16
            for (long i = 0; i < VL; i++) x[i] = anywhere(from + (r + i) * ldf + c);
            exchange<VL / 2>(x, std::make_index_sequence<VL>());
#pragma GCC unroll 16
            for (long i = 0; i < VL; i++) store(to + (c + i) * ldt + r, x[i]);
        }
        for (; c < columns; c++)
            for (long i = r; i < r + VL; i++) to[c * ldt + i] = from[i * ldf + c];
    }
    for (; r < rows; r++)
        for (long c = 0; c < columns; c++) to[c * ldt + r] = from[r * ldf + c];
}

// The greatest magnitude among n numbers, none of which counts that is NaN.
inline float greatest(const float *x, long n) {
    float top = 0;
    long i = 0;
    if (n >= VL) {
        vec tops{};
        for (; i + VL <= n; i += VL) {
            const vec y = magnitude(anywhere(x + i));
            tops = y > tops ? y : tops;
        }
        for (long lane = 0; lane < VL; lane++) top = std::max(top, tops[lane]);
    }
    for (; i < n; i++) top = std::max(top, std::fabs(x[i]));
    return top;
}

// The greatest of n numbers, or NaN where one is.
inline float greatest_or_nan(const float *x, long n) {
    auto greater = [](auto a, auto b) { return ((a > b) | (a != a)) ? a : b; };
    float top = x[0];
    long i = 0;
    if (n >= VL) {
        vec tops = anywhere(x);
        for (i = VL; i + VL <= n; i += VL) tops = greater(vec(anywhere(x + i)), tops);
        for (long lane = 0; lane < VL; lane++) top = greater(float(tops[lane]), top);
    }
    for (; i < n; i++) top = greater(x[i], top);
    return top;
}

inline double sum_in_double(const float *x, long n) {
    double parts[VL] = {}, sum = 0;
    long i = 0;
    for (; i + VL <= n; i += VL)
        for (long lane = 0; lane < VL; lane++) parts[lane] += x[i + lane];
    for (; i < n; i++) sum += x[i];
    for (long lane = 0; n >= VL && lane < VL; lane++) sum += parts[lane];
    return sum;
}

// 2ⁿ and r with eˣ = 2ⁿ eʳ, |r| ≤ ½ log 2, for x of up to 88. Comparisons are such that a NaN stays one.
struct Reduced {
    vec power, r;
    explicit Reduced(vec x) {
        const vec lo = all(-87.0f), round = all(0x1.8p23f);
        x = x < lo ? lo : x;
        vec t = x * 0x1.715476p0f + round; // adding this rounds to an integer, which then stands in the lowest bits
        vec n = t - round;
        r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
        power = from_bits((bits(t) - bits(round) + 127) << 23);
    }
    // eʳ − 1, by its Taylor series: the next term is below 2⁻²⁴ of the sum.
    vec expm1() const {
        vec p = all(1.0f / 5040);
        for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f}) p = p * r + c;
        return p * r;
    }
};

inline vec exp(vec x) {
    Reduced e(x);
    vec y = e.expm1() * e.power + e.power;
    return x < -87.0f ? vec{} : y;
}

inline vec tanh(vec x) { // by e⁻²ˣ − 1, which loses no digits near zero
    Reduced e(-2 * magnitude(x));
    vec em1 = e.expm1() * e.power + (e.power - 1);
    return from_bits(bits(em1 / (2 + em1)) ^ (~bits(x) & INT32_MIN)); // em1 is negative
}

inline vec log1p(vec t) { // of t in [0, 1]: 2 artanh(t / (2 + t))
    vec s = t / (2 + t), s2 = s * s, p = all(1.0f / 15);
    for (float c : {1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f}) p = p * s2 + c;
    return 2 * s * p;
}

} // namespace
