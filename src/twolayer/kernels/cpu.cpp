// Cost and every gradient of a two-layer network, in one pass over the examples, for one thread or several; and parts
// of that pass: the logits alone, the gradients alone, from what comes back to the logits. And what it is half of: the
// norm of each example's own gradient, the Hessian's product with a direction, and an optimizer's steps.
//
// The equations of equations.py on tiles of some rows, that stay in the cache. A tile's hidden layer stands in slabs of
// NR units, [slab][row][NR], and so do the weights, [slab][feature][NR], and their gradients: whatever is multiplied
// is then a product of a few rows with a slab, `panel`, and all four matrix products are calls of it.
// Sums are formed in float over at most SPAN rows, beyond that in double. So that neither the weights' scale nor that
// of the errors matters, float sums are in units of a power of two that is near the greatest of the errors.
#include "cpu_memory.h"
#include "cpu_optimizers.h"
#include "cpu_products.h"
#include "cpu_threads.h"
#include "cpu_vectors.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

constexpr long SPAN = 1 << 14; // rows summed in float
constexpr long FEW = 8;        // outputs up to which Z2 is formed as dot products

enum Activation { SIGMOID, TANH, RELU, LEAKY_RELU, ACTIVATIONS };
enum Task { BINARY, MULTILABEL, MULTICLASS, REGRESSION, PAIRING, TASKS }; // PAIRING: L = Σ Z2 ⊙ Y
// GRADIENTS is all of it, FORWARD gives Z2, BACKWARD starts from Y = dZ2 and what FORWARD has left in A1. NORMS are of
// each example's own gradient. PRODUCT is how the gradients change along tW1, tb1, tW2, tb2, in their place.
enum Pass { GRADIENTS, FORWARD, BACKWARD, NORMS, PRODUCT, PASSES };
enum Dtype { FLOAT32, FLOAT64, BOOL, UINT8, INT8, INT16, INT32, INT64, UINT16, UINT32, UINT64, DTYPES };
enum Refused { NOTHING, NO_MEMORY, UNKNOWN, TARGETS, SAMPLE_WEIGHT, CLASS_WEIGHT, ROWS }; // what comes back to Python

// Filled in by cpu.py, field by field in this order, each of 8 bytes.
struct Args {
    const float *X, *W1, *b1, *W2, *b2;
    const void *Y, *sample_weight;     // sample_weight or null
    const double *class_weight;        // or null
    float *dX, *dW1, *db1, *dW2, *db2; // dX or null
    float *cost;                       // out: J, or null
    float *Z2, *A1;                    // of FORWARD and BACKWARD; A1 or null
    float *norms;                      // of NORMS
    const float *tW1, *tb1, *tW2, *tb2; // of PRODUCT
    const int64_t *rows;                // the examples, by their places in X, Y and sample_weight; null for all
    const float *X_mean, *X_std;        // X is (x − mean) / std, or null
    const float *Y_mean, *Y_std;        // likewise
    int64_t m, n_x, n_h, n_y, X_stride, Y_stride, weight_stride;
    int64_t pass, activation, task, Y_dtype, weight_dtype, Y_is_dense, mean, threads;
    double label_smoothing, leaky_slope;
};

constexpr double INFINITE = std::numeric_limits<double>::infinity();
constexpr float ROUNDINGS = 4 * std::numeric_limits<float>::epsilon(); // by which targets may leave [0, 1]

constexpr long padded(long n) { return (n + NR - 1) / NR * NR; }

template <int g> inline vec activation(vec z, float slope) {
    if constexpr (g == SIGMOID) return 1 / (1 + exp(z < -88.0f ? all(88.0f) : -z));
    else if constexpr (g == TANH) return tanh(z);
    else if constexpr (g == RELU) return z < 0 ? vec{} : z;
    else if constexpr (g == LEAKY_RELU) return z < 0 ? z * slope : z;
    else static_assert(g < 0, "an activation without its equation");
}

template <int g> inline vec prime(vec a, float slope) {
    if constexpr (g == SIGMOID) return a * (1 - a);
    else if constexpr (g == TANH) return 1 - a * a;
    else if constexpr (g == RELU) return a > 0 ? all(1) : vec{};
    else if constexpr (g == LEAKY_RELU) return a > 0 ? all(1) : all(slope);
    else static_assert(g < 0, "an activation without its derivative");
}

template <int g> inline vec second(vec a) { // g''(Z1)
    if constexpr (g == SIGMOID) return a * (1 - a) * (1 - 2 * a);
    else if constexpr (g == TANH) return -2 * a * (1 - a * a);
    else return vec{};
}

struct Errors {
    vec l, dz;
};

// The loss of outputs that each stand alone, and its derivative.
template <int task> inline Errors errors(vec z, vec y) {
    if constexpr (task == REGRESSION) return {0.5f * (z - y) * (z - y), z - y};
    else if constexpr (task == PAIRING) return {z * y, y};
    else if constexpr (task == BINARY || task == MULTILABEL) {
        const vec e = exp(-magnitude(z)), wrong = z < 0 ? y : 1 - y;
        return {(wrong == 0 ? vec{} : magnitude(z) * wrong) + log1p(e), // 0 · ∞ = 0
                (z < 0 ? e : all(1)) / (1 + e) - y};
    } else static_assert(task < 0, "a task without its equation");
}

// How the derivative changes with z, where outputs stand alone.
template <int task> inline vec curvature(vec z) {
    if constexpr (task == REGRESSION) return all(1);
    else if constexpr (task == PAIRING) return vec{};
    else if constexpr (task == BINARY || task == MULTILABEL) {
        const vec e = exp(-magnitude(z)), both = 1 + e;
        return e / (both * both);
    } else static_assert(task < 0, "a task without its curvature");
}

// Parameters, or a direction of theirs, as the products want them.
struct Packed {
    Array<float> W1, b1;  // [slab][feature][NR], [slab][NR]
    Array<float> W2, W2T; // [slab][output][NR], and of several outputs [output slab][unit][NR]
};

// Sizes, and the parameters as the products want them.
struct Network {
    const Args &a;
    const long n_x = a.n_x, n_h = a.n_h, n_y = a.n_y;
    const long H = padded(n_h), slabs = H / NR, N = padded(n_y), ldz = n_y < FEW ? n_y : N, xs = padded(n_x) / NR;
    const long parameters = H * (n_x + 1 + n_y) + n_y;
    const float slope = static_cast<float>(a.leaky_slope);
    const bool forwards = a.pass != BACKWARD;                // or from what FORWARD has left
    Packed of = places(true), t = places(a.pass == PRODUCT); // the parameters, and the direction
    Array<float> W1T = room<float>(a.dX ? xs * NR * H : 0);  // [feature slab][unit][NR]

    explicit Network(const Args &args) : a(args) {}

    Packed places(bool wanted) const {
        const long n = wanted, first = wanted && forwards;
        return {room<float>(first * H * n_x), room<float>(first * H), room<float>(n * n_y * H),
                room<float>(n_y < FEW ? 0 : first * H * N)};
    }
    void pack(long s) { // what a slab's units are multiplied by
        pack(of, a.W1, a.b1, a.W2, s);
        if (a.pass == PRODUCT) pack(t, a.tW1, a.tb1, a.tW2, s);
        for (long h = s * NR; a.dX && h < s * NR + NR; h++)
            for (long k = 0; k < n_x; k += NR) {
                float *to = &W1T[(k / NR * H + h) * NR];
                const long features = h < n_h ? std::min(NR, n_x - k) : 0;
                if (features) std::memcpy(to, a.W1 + h * n_x + k, features * 4);
                std::fill_n(to + features, NR - features, 0.0f);
            }
    }
    void pack(Packed &to, const float *W1, const float *b1, const float *W2, long s) const {
        const long h = s * NR, units = std::min(NR, n_h - h);
        if (units < NR) empty(to, s);
        for (long j = 0; j < n_y; j++) std::memcpy(&to.W2[(s * n_y + j) * NR], W2 + j * n_h + h, units * 4);
        if (!forwards) return;
        transpose(units, n_x, W1 + h * n_x, n_x, &to.W1[h * n_x], NR);
        std::memcpy(&to.b1[h], b1 + h, units * 4);
        for (long j = 0; n_y >= FEW && j < n_y; j += NR)
            transpose(std::min(NR, n_y - j), units, W2 + j * n_h + h, n_h, &to.W2T[(j / NR * H + h) * NR], NR);
    }
    void empty(Packed &to, long s) const { // as units that are not there have it
        const long h = s * NR;
        std::fill_n(&to.W2[h * n_y], NR * n_y, 0.0f);
        if (!forwards) return;
        std::fill_n(&to.W1[h * n_x], NR * n_x, 0.0f);
        std::fill_n(&to.b1[h], NR, 0.0f);
        for (long j = 0; n_y >= FEW && j < n_y; j += NR) std::fill_n(&to.W2T[(j / NR * H + h) * NR], NR * NR, 0.0f);
    }
};

struct Refusal {
    Refused reason;
};

// read(p), with p a pointer to what the dtype says.
template <class Read> void as(int64_t dtype, const void *p, Read read) {
    switch (dtype) {
    case FLOAT32: return read(static_cast<const float *>(p));
    case FLOAT64: return read(static_cast<const double *>(p));
    case BOOL:
    case UINT8: return read(static_cast<const uint8_t *>(p));
    case INT8: return read(static_cast<const int8_t *>(p));
    case INT16: return read(static_cast<const int16_t *>(p));
    case INT32: return read(static_cast<const int32_t *>(p));
    case INT64: return read(static_cast<const int64_t *>(p));
    case UINT16: return read(static_cast<const uint16_t *>(p));
    case UINT32: return read(static_cast<const uint32_t *>(p));
    case UINT64: return read(static_cast<const uint64_t *>(p));
    }
    throw Refusal{UNKNOWN};
}

void check(const Args &a) {
    const bool known = 0 <= a.pass && a.pass < PASSES && 0 <= a.activation && a.activation < ACTIVATIONS && 0 <= a.task && a.task < TASKS &&
                       0 <= a.Y_dtype && a.Y_dtype < DTYPES && (a.weight_dtype == FLOAT32 || a.weight_dtype == FLOAT64);
    const bool sizes = a.m >= 0 && a.n_x > 0 && a.n_h > 0 && a.n_y > 0 && a.threads > 0;
    const bool indices = a.task == MULTICLASS && a.Y_dtype > BOOL;
    const bool classes = a.task == BINARY || a.task == MULTICLASS;
    if (!known || !sizes || (!a.Y_is_dense && !indices) || (a.class_weight && !classes)) throw Refusal{UNKNOWN};
    for (long j = 0; a.class_weight && j < (a.task == BINARY ? 2 : a.n_y); j++)
        if (!(a.class_weight[j] > 0 && a.class_weight[j] < INFINITE)) throw Refusal{CLASS_WEIGHT};
}

// While it lives, what underflows is zero: denormal numbers take many times as long.
struct FlushToZero {
#if defined(__SSE__)
    const unsigned before = _mm_getcsr();
    FlushToZero() { _mm_setcsr(before | 0x8040); }
    ~FlushToZero() { _mm_setcsr(before); }
#else
    FlushToZero() {}
#endif
    FlushToZero(const FlushToZero &) = delete;
};

// A tile's rows of X, and how the products that go along its rows and over them read it.
struct Inputs {
    const float *X;
    long stride;
    Left along, over;
};

// Some of the hidden units, slab by slab.
struct Slabs {
    long first, last;
};

// What a thread needs for itself as it goes through them.
struct Scratch {
    Array<float> D;    // of a slab, [row][NR]
    Array<float> Zsum; // its share of the outputs, [output][row][VL] or [slab][row][NR]
    Scratch(const Network &net, long R)
        : D(room<float>(R * NR)), Zsum(room<float>(R * (net.n_y < FEW ? net.n_y * VL : net.N))) {}
};

// of(g), with the number as a constant.
template <class Of, int... g> void with_constant(long number, Of of, std::integer_sequence<int, g...>) {
    (void)((number == g && (of(std::integral_constant<int, g>()), true)) || ...);
}
template <int numbers, class Of> void with_constant(long number, Of of) {
    with_constant(number, of, std::make_integer_sequence<int, numbers>());
}

// What is summed over some rows: the cost, the weights, and the gradients in slabs.
struct Part {
    const Network &net;
    const Args &a = net.a;
    const bool weighted = a.sample_weight || a.class_weight;
    const double share = a.mean && !weighted ? 1.0 / a.m : 1; // what dX is multiplied by at once
    const long R; // rows of a tile
    double cost = 0, weight = 0;
    bool some = false; // weight of an example that is not zero
    double unit = 0;                             // of what is in `sums`; 0 while there is nothing
    std::vector<std::pair<long, double>> units;  // the row from which dX has which unit
    const bool summing = a.pass != FORWARD && a.pass != NORMS;
    Array<float> sums = room<float>(summing ? net.parameters : 0);
    Array<double> totals; // what was in `sums` before
    float *dW1 = sums.get(), *db1 = dW1 + net.H * net.n_x, *dW2 = db1 + net.H, *db2 = dW2 + net.H * net.n_y;
    Array<float> A1 = room<float>(R * net.H), Y = room<float>(R * net.ldz + VL);
    Scratch own{net, R};
    Array<float> Z2 = zeros<float>(R * net.ldz + VL), L = room<float>(R * net.ldz + VL);
    Array<double> w = room<double>(R);
    Array<float> squares = room<float>(a.pass == NORMS ? R * 2 * VL : 0); // of a row's dZ1 and A1, [row][2][VL]
    const long moving = a.pass == PRODUCT; // how these change along the direction
    Array<float> RZ1 = room<float>(moving * R * net.H), RA1 = room<float>(moving * R * net.H);
    Array<float> RD = room<float>(moving * R * NR), RZ2 = zeros<float>(moving * (R * net.ldz + VL));
    // The products read X once for each slab, a few rows or features at a time: of long rows, always from other pages.
    // With enough slabs it pays to put side by side first what is read together; of rows, which takes longer, with more.
    const bool groups_over = summing && net.n_x > 64 && net.n_h >= 256, groups_along = net.forwards && net.n_h >= 1024;
    // Rows a power of two apart would share few sets of the cache. And where no forward pass has read the tile row by
    // row, the product that takes it feature by feature would wait for the memory at each row; narrow ones it reads whole.
    const bool gathers = a.rows || a.X_std || a.X_stride % 256 == 0 || (a.pass == BACKWARD && net.n_x > 64 && !groups_over);
    const long X_room = net.n_x + VL;
    Array<float> Xcopy = room<float>(gathers ? R * X_room : 0);
    Array<float> Xalong = room<float>(groups_along ? R * net.n_x : 0), Xover = room<float>(groups_over ? R * net.n_x : 0);
    Array<float> dX = room<float>(a.dX ? net.xs * NR * R : 0);

    Part(const Network &network, long rows) : net(network), R(rows) {}

    // Before the first rows: nothing is summed, of any slab or of some.
    void begin() {
        cost = weight = unit = 0, some = false;
        units.clear(), totals.reset();
    }
    void begin(Slabs of) {
        const long n_x = net.n_x, n_y = net.n_y, first = of.first * NR, units = (of.last - of.first) * NR;
        if (!summing) return;
        std::fill_n(dW1 + first * n_x, units * n_x, 0.0f);
        std::fill_n(db1 + first, units, 0.0f);
        std::fill_n(dW2 + first * n_y, units * n_y, 0.0f);
        if (first == 0) std::fill_n(db2, n_y, 0.0f);
    }

    void rows(long first, long last) {
        for (long span = first; span < last; span += SPAN) {
            const long end = std::min(span + SPAN, last);
            for (long r = span; r < end; r += R) tile(r, std::min(R, end - r));
            if (last - first > SPAN && summing) fold();
        }
    }

    void fold() {
        if (!totals) totals = zeros<double>(net.parameters);
        for (long i = 0; i < net.parameters; i++) totals[i] += sums[i] * (unit ? unit : 1), sums[i] = 0;
    }
    // What is summed, of some units from there on.
    void add_totals(long from, long units, double *to) const {
        const double factor = unit ? unit : 1;
        const float *of = &sums[from];
        if (units == NR) // of a size that the compiler knows
            for (long i = 0; i < NR; i++) to[i] += of[i] * factor;
        else
            for (long i = 0; i < units; i++) to[i] += of[i] * factor;
        for (long i = 0; totals && i < units; i++) to[i] += totals[from + i];
    }

    void tile(long first, long n) {
        with_constant<ACTIVATIONS>(a.activation, [&](auto g) { tile<g>(first, n); });
    }
    template <int g> void tile(long first, long n) {
        const Inputs x = inputs(first, n);
        const Slabs all{0, net.slabs};
        no_outputs(own);
        hidden<g>(first, n, x, all, own);
        outputs(first, n);
        switch (a.pass) {
        case FORWARD: return;
        case NORMS: // of single examples, which their weights do not change
            targets(first, n);
            losses(n);
            return norms<g>(first, n, x);
        case PRODUCT:
            along<g>(n, x);
            errors_of(first, n);
            return product<g>(n, x);
        default:
            errors_of(first, n);
            return backward<g>(first, n, x, all, own);
        }
    }

    long row(long r) const { return a.rows ? a.rows[r] : r; } // the place of the r-th example

    __attribute__((noinline)) // in a tile it would cost its loops registers
    Inputs inputs(long first, long n) {
        const float *X = a.X + first * a.X_stride;
        long stride = a.X_stride;
        if (gathers) gather(first, n), X = Xcopy.get(), stride = X_room;
        Inputs x{X, stride, {X, stride, 1}, {X, 1, stride}};
        if (groups_along) group_along(n, X, stride), x.along = {Xalong.get(), GROUPED, 0};
        if (groups_over) group_over(n, X, stride), x.over = {Xover.get(), GROUPED, 0};
        return x;
    }

    // X in groups of rows, [group][feature][row].
    void group_along(long n, const float *X, long stride) {
        each_group(n, [&](long i, long size) {
            float *to = &Xalong[i * net.n_x];
            for (long k = 0; k < net.n_x; k++, to += size)
                for (long r = 0; r < size; r++) to[r] = X[(i + r) * stride + k];
        });
    }
    // X in groups of features, [group][row][feature].
    void group_over(long n, const float *X, long stride) {
        for (long r = 0; r < n; r++)
            each_group(net.n_x, [&](long i, long size) {
                const float *x = X + r * stride + i;
                float *to = &Xover[i * n + r * size];
                if (r + 1 == n || i + size == net.n_x) std::memcpy(to, x, size * 4);
                else // in whole registers: what that is too much is the next row's, which is copied after it
                    for (long k = 0; k < MR; k += VL) store(to + k, anywhere(x + k));
            });
    }

    // The tile's rows of X side by side, standardised.
    void gather(long first, long n) {
        for (long r = 0; r < n; r++) {
            const float *x = a.X + row(first + r) * a.X_stride;
            float *to = &Xcopy[r * X_room];
            if (a.X_std)
                for (long k = 0; k < net.n_x; k++) to[k] = (x[k] - a.X_mean[k]) / a.X_std[k];
            else std::memcpy(to, x, net.n_x * 4);
        }
    }

    // Slabs of the tile's A1 to the rows that are kept, or from them. Where a row ends within a slab, as much as a slab
    // holds is copied: what that is too much is the next row's, which is copied after it if all slabs are, or is made zero.
    template <bool out> void rows_of_A1(long first, long n, Slabs of) {
        float *const rows = a.A1 + first * net.n_h, *const end = rows + n * net.n_h;
        const long last = net.n_h - (net.slabs - 1) * NR;
        const ivec is_unit[2] = {lanes_up_to(last), lanes_up_to(last - VL)};
        const bool in_order = of.first == 0 && of.last == net.slabs;
        for (long r = 0; r < n; r++)
            for (long s = of.first; s < of.last; s++) {
                float *slab = &A1[(s * R + r) * NR], *row = rows + r * net.n_h + s * NR;
                const bool is_last = s == net.slabs - 1;
                if (end - row < NR || (out && is_last && !in_order)) {
                    if (out) std::memcpy(row, slab, last * 4);
                    else std::memcpy(slab, row, last * 4), std::fill(slab + last, slab + NR, 0.0f);
                } else
                    for (long v = 0; v < 2; v++) {
                        if (out) store(row + v * VL, at(slab + v * VL));
                        else if (is_last) at(slab + v * VL) = from_bits(bits(anywhere(row + v * VL)) & is_unit[v]);
                        else at(slab + v * VL) = anywhere(row + v * VL);
                    }
            }
    }

    // Of some slabs, A1 and their share of Z2; or the A1 that FORWARD has left.
    template <int g> void hidden(long first, long n, const Inputs &x, Slabs of, Scratch &by) {
        if (!net.forwards) return rows_of_A1<false>(first, n, of);
        const FlushToZero flush;
        const long n_x = net.n_x;
        for (long s = of.first; s < of.last; s++) {
            float *A = &A1[s * R * NR];
            const long units = std::min(NR, net.n_h - s * NR);
            // Z1 = X W1ᵀ + b1
            panel(n, units, n_x, x.along, &net.of.W1[s * n_x * NR], NR, A, &net.of.b1[s * NR]);
            for (long r = 0; units <= VL && r < n; r++) at(A + r * NR + VL) = vec{};
            if (units <= VL / 4) each_of_few<g>(n, units, A, by.D.get(), net.slope); // A1 = g(Z1)
            else each_unit(n, units, [&](long i) { return activation<g>(at(A + i), net.slope); }, A);
            to_outputs(n, s, A, net.of, by);
        }
        if (a.A1) rows_of_A1<true>(first, n, of);
    }

    // Z2 of the tile, from the shares of all slabs.
    void outputs(long first, long n) {
        if (!net.forwards) return;
        const FlushToZero flush;
        outputs(n, a.b2, Z2.get()); // Z2 = A1 W2ᵀ + b2
        if (a.pass != FORWARD) return;
        for (long r = 0; net.ldz > net.n_y && r < n; r++)
            std::memcpy(a.Z2 + (first + r) * net.n_y, &Z2[r * net.ldz], net.n_y * 4);
        if (net.ldz == net.n_y) std::memcpy(a.Z2 + first * net.n_y, Z2.get(), n * net.n_y * 4);
    }

    // of(i) in the i-th place of a slab, and zero where there is no unit.
    template <class Of> static void each_unit(long n, long units, Of of, float *to) {
        if (units == NR) {
            for (long i = 0; i < n * NR; i += VL) at(to + i) = of(i);
            return;
        }
        const ivec is_unit[2] = {lanes_up_to(units), lanes_up_to(units - VL)};
        for (long i = 0; i < n * NR; i += NR) {
            at(to + i) = from_bits(bits(of(i)) & is_unit[0]);
            at(to + i + VL) = units > VL ? from_bits(bits(of(i + VL)) & is_unit[1]) : vec{};
        }
    }

    // A1 = g(Z1) of so few units that those of four rows fill one register.
    template <int g> static void each_of_few(long n, long units, float *A, float *D, float slope) {
        constexpr long few = VL / 4;
        ivec is_unit;
        for (long i = 0; i < VL; i++) is_unit[i] = i % few < units ? -1 : 0;
        for (long r = 0; r < n; r++) std::memcpy(&D[r * few], A + r * NR, few * 4);
        for (long i = 0; i < n * few; i += VL) at(&D[i]) = from_bits(bits(activation<g>(at(&D[i]), slope)) & is_unit);
        for (long r = 0; r < n; r++) {
            at(A + r * NR) = at(A + r * NR + VL) = vec{};
            std::memcpy(A + r * NR, &D[r * few], few * 4);
        }
    }

    // The share of a slab of hidden units in the outputs: Zsum += A W2ᵀ.
    void to_outputs(long n, long s, const float *A, const Packed &of, Scratch &by) const {
        const long H = net.H, n_y = net.n_y;
        if (n_y < FEW)
            for (long j = 0; j < n_y; j++) {
                const float *w = &of.W2[(s * n_y + j) * NR];
                const vec w0 = at(w), w1 = at(w + VL);
                for (long r = 0; r < n; r++)
                    at(&by.Zsum[(j * R + r) * VL]) += at(A + r * NR) * w0 + at(A + r * NR + VL) * w1;
            }
        else
            for (long j = 0; j < net.N; j += NR)
                panel(n, n_y - j, NR, {A, NR, 1}, &of.W2T[(j / NR * H + s * NR) * NR], NR, &by.Zsum[j * R]);
    }
    void outputs(long n, const float *b, float *Z) const {
        if (net.n_y >= FEW)
            for (long j = 0; j < net.n_y; j += NR)
                for (long r = 0; r < n; r++) {
                    const float *z = &own.Zsum[(j / NR * R + r) * NR];
                    for (long i = 0; i < std::min(NR, net.n_y - j); i++) Z[r * net.ldz + j + i] = b[j + i] + z[i];
                }
        for (long j = 0; net.n_y < FEW && j < net.n_y; j++) {
            long r = 0;
            for (; r + VL <= n; r += VL) {
                const vec z = b[j] + sum_each<VL>(&own.Zsum[(j * R + r) * VL]);
                for (long i = 0; i < VL; i++) Z[(r + i) * net.ldz + j] = z[i];
            }
            for (; r < n; r++) Z[r * net.ldz + j] = b[j] + sum(at(&own.Zsum[(j * R + r) * VL]));
        }
    }
    long shares() const { return R * (net.n_y < FEW ? net.n_y * VL : net.N); }
    void no_outputs(Scratch &by) const { std::memset(by.Zsum.get(), 0, shares() * 4); }
    void add_outputs(const Scratch &by) {
        for (long i = 0; i < shares(); i += VL) at(&own.Zsum[i]) += at(&by.Zsum[i]);
    }

    // How Z1, A1 and Z2 of the tile change along the direction: RZ1, RA1, RZ2.
    template <int g> void along(long n, const Inputs &x) {
        const FlushToZero flush;
        no_outputs(own);
        for (long s = 0; s < net.slabs; s++) {
            float *A = &A1[s * R * NR], *RZ = &RZ1[s * R * NR], *RA = &RA1[s * R * NR];
            const long units = std::min(NR, net.n_h - s * NR);
            // RZ1 = X tW1ᵀ + tb1
            panel(n, units, net.n_x, x.along, &net.t.W1[s * net.n_x * NR], NR, RZ, &net.t.b1[s * NR]);
            for (long r = 0; units <= VL && r < n; r++) at(RZ + r * NR + VL) = vec{};
            each_unit(n, units, [&](long i) { return at(RZ + i) * prime<g>(at(A + i), net.slope); }, RA);
            to_outputs(n, s, RA, net.of, own);
            to_outputs(n, s, A, net.t, own);
        }
        outputs(n, a.tb2, RZ2.get()); // RZ2 = RA1 W2ᵀ + A1 tW2ᵀ + tb2
    }

    // The tile's share of the product, from dZ2 in the place of Z2 and RdZ2 in that of RZ2.
    template <int g> void product(long n, const Inputs &x) {
        const FlushToZero flush;
        Array<float> &D = own.D;
        const long n_x = net.n_x, n_y = net.n_y, ldz = net.ldz;
        add_rows(n, RZ2.get(), db2); // hb2 = Σ_rows RdZ2
        for (long s = 0; s < net.slabs; s++) {
            const float *A = &A1[s * R * NR], *RZ = &RZ1[s * R * NR], *RA = &RA1[s * R * NR];
            const long units = std::min(NR, net.n_h - s * NR);
            float *hW2 = dW2 + s * n_y * NR;
            panel(n_y, units, n, {RZ2.get(), 1, ldz}, A, NR, hW2); // hW2 = RdZ2ᵀ A1 + dZ2ᵀ RA1
            panel(n_y, units, n, {Z2.get(), 1, ldz}, RA, NR, hW2);
            std::memset(D.get(), 0, n * NR * 4), std::memset(RD.get(), 0, n * NR * 4);
            panel(n, units, n_y, {Z2.get(), ldz, 1}, &net.of.W2[s * n_y * NR], NR, D.get());   // dA1 = dZ2 W2
            panel(n, units, n_y, {RZ2.get(), ldz, 1}, &net.of.W2[s * n_y * NR], NR, RD.get()); // RdA1 = RdZ2 W2 + dZ2 tW2
            panel(n, units, n_y, {Z2.get(), ldz, 1}, &net.t.W2[s * n_y * NR], NR, RD.get());
            vec h[2]{};
            for (long i = 0; i < n * NR; i += VL) { // RdZ1 = RdA1 ⊙ g'(Z1) + dA1 ⊙ g''(Z1) ⊙ RZ1, hb1 = Σ_rows RdZ1
                const vec A1 = at(A + i);
                at(&RD[i]) = at(&RD[i]) * prime<g>(A1, net.slope) + at(&D[i]) * second<g>(A1) * at(RZ + i);
                h[i / VL % 2] += at(&RD[i]);
            }
            at(db1 + s * NR) += h[0], at(db1 + s * NR + VL) += h[1];
            panel(n_x, units, n, x.over, RD.get(), NR, dW1 + s * n_x * NR); // hW1 = RdZ1ᵀ X
        }
    }

    // ‖dz1‖² (‖x‖² + 1) + ‖dz2‖² (‖a1‖² + 1), under the root: the gradients of one example are outer products. They are
    // linear in dz2, whose greatest number is taken out first: the squares of a small one would be zero.
    template <int g> void norms(long first, long n, const Inputs &x) {
        const FlushToZero flush;
        Array<float> &D = own.D;
        const long n_y = net.n_y, ldz = net.ldz;
        for (long r = 0; r < n; r++) {
            float *dz2 = &Z2[r * ldz];
            const float top = greatest(dz2, n_y);
            w[r] = top > 0 && top < INFINITE ? top : 1;
            for (long j = 0; j < n_y; j++) dz2[j] = static_cast<float>(dz2[j] / w[r]);
        }
        std::memset(squares.get(), 0, n * 2 * VL * 4);
        for (long s = 0; s < net.slabs; s++) {
            const float *A = &A1[s * R * NR];
            std::memset(D.get(), 0, n * NR * 4);
            panel(n, std::min(NR, net.n_h - s * NR), n_y, {Z2.get(), ldz, 1}, &net.of.W2[s * n_y * NR], NR, D.get());
            for (long r = 0; r < n; r++) {
                const vec a0 = at(A + r * NR), a1 = at(A + r * NR + VL);
                const vec d0 = at(&D[r * NR]) * prime<g>(a0, net.slope), d1 = at(&D[r * NR + VL]) * prime<g>(a1, net.slope);
                at(&squares[r * 2 * VL]) += d0 * d0 + d1 * d1, at(&squares[(r * 2 + 1) * VL]) += a0 * a0 + a1 * a1;
            }
        }
        for (long r = 0; r < n; r++) {
            double of_x = 1, of_dz2 = 0;
            for (long k = 0; k < net.n_x; k++) of_x += double(x.X[r * x.stride + k]) * x.X[r * x.stride + k];
            for (long j = 0; j < n_y; j++) of_dz2 += double(Z2[r * ldz + j]) * Z2[r * ldz + j];
            double of_dz1 = sum(at(&squares[r * 2 * VL])), of_a1 = 1.0 + sum(at(&squares[(r * 2 + 1) * VL]));
            if (!(of_dz1 < INFINITE && of_a1 < INFINITE)) squares_in_double<g>(r, of_dz1, of_a1);
            a.norms[first + r] = static_cast<float>(w[r] * std::sqrt(of_dz1 * of_x + of_dz2 * of_a1));
        }
    }
    // ‖dz1‖² and ‖a1‖² + 1 of a row, where float32 does not hold them.
    template <int g> void squares_in_double(long r, double &of_dz1, double &of_a1) const {
        of_dz1 = 0, of_a1 = 1;
        for (long k = 0; k < net.n_h; k++) {
            const float a1 = A1[(k / NR * R + r) * NR + k % NR];
            double dz1 = 0;
            for (long j = 0; j < net.n_y; j++) dz1 += double(Z2[r * net.ldz + j]) * net.of.W2[(k / NR * net.n_y + j) * NR + k % NR];
            dz1 *= prime<g>(all(a1), net.slope)[0];
            of_dz1 += dz1 * dz1, of_a1 += double(a1) * a1;
        }
    }

    // The tile's share of some slabs' gradients, and of db2 with the first; from dZ2 in the place of Z2. dX takes all slabs.
    template <int g> void backward(long first, long n, const Inputs &x, Slabs of, Scratch &by) {
        const FlushToZero flush;
        float *const D = by.D.get();
        const long H = net.H, n_x = net.n_x, n_y = net.n_y, ldz = net.ldz;
        if (of.first == 0) add_rows(n, Z2.get(), db2); // db2 = Σ_rows dZ2
        if (a.dX) std::memset(dX.get(), 0, net.xs * NR * R * 4);
        for (long s = of.first; s < of.last; s++) {
            const float *A = &A1[s * R * NR];
            const long units = std::min(NR, net.n_h - s * NR);
            if (n_y == 1) backward_of_one<g>(n, units, A, D, &net.of.W2[s * NR], dW2 + s * NR, db1 + s * NR);
            else {
                panel(n_y, units, n, {Z2.get(), 1, ldz}, A, NR, dW2 + s * n_y * NR); // dW2 = dZ2ᵀ A1
                std::memset(D, 0, n * NR * 4);
                panel(n, units, n_y, {Z2.get(), ldz, 1}, &net.of.W2[s * n_y * NR], NR, D); // dA1 = dZ2 W2
                vec d0{}, d1{};
                for (long r = 0; r < n; r++) { // dZ1 = dA1 ⊙ g'(Z1), db1 = Σ_rows dZ1
                    float *d = &D[r * NR];
                    d0 += at(d) *= prime<g>(at(A + r * NR), net.slope);
                    d1 += at(d + VL) *= prime<g>(at(A + r * NR + VL), net.slope);
                }
                at(db1 + s * NR) += d0, at(db1 + s * NR + VL) += d1;
            }
            panel(n_x, units, n, x.over, D, NR, dW1 + s * n_x * NR); // dW1 = dZ1ᵀ X
            for (long j = 0; a.dX && j < net.xs; j++) // dX = dZ1 W1
                panel(n, n_x - j * NR, NR, {D, NR, 1}, &net.W1T[(j * H + s * NR) * NR], NR, &dX[j * R * NR]);
        }
        for (long k = 0; a.dX && k < n_x; k += NR)
            for (long r = 0; r < n; r++) {
                const float *from = &dX[(k / NR * R + r) * NR], by = static_cast<float>(share);
                float *to = a.dX + (first + r) * n_x + k;
                for (long i = 0; i < std::min(NR, n_x - k); i++) to[i] = from[i] * by;
            }
    }

    // Where there is one output: dW2 = dZ2ᵀ A1, dZ1 = dZ2 W2 ⊙ g'(Z1) and db1 = Σ_rows dZ1 of a slab, at one look at a row.
    template <int g>
    void backward_of_one(long n, long units, const float *A, float *D, const float *W2, float *dW2, float *db1) const {
        const long read = a.dX ? NR : units; // of D
        for (long half = 0; half * VL < read; half++, A += VL, W2 += VL, dW2 += VL, db1 += VL) {
            const vec w = at(W2);
            vec of_W2 = at(dW2), of_b1 = at(db1);
            for (long r = 0; r < n; r++) {
                const vec a = at(A + r * NR), dz2 = all(Z2[r]), dz1 = dz2 * w * prime<g>(a, net.slope);
                at(&D[r * NR + half * VL]) = dz1;
                of_W2 += dz2 * a, of_b1 += dz1;
            }
            at(dW2) = of_W2, at(db1) = of_b1;
        }
    }

    void add_rows(long n, const float *Z, float *to) const {
        long r = 0;
        for (; net.n_y == 1 && r + VL <= n; r += VL) *to += sum(at(Z + r));
        for (; r < n; r++)
            for (long j = 0; j < net.n_y; j++) to[j] += Z[r * net.ldz + j];
    }

    // Each part of dX by its unit over the divisor, which is known at last.
    void scale_dX(long last, double divisor) const {
        for (size_t i = 0; i < units.size(); i++) {
            const auto [from, of_dX] = units[i];
            const double factor = of_dX * (1 / divisor / share);
            const long to = i + 1 < units.size() ? units[i + 1].first : last;
            for (long at = from * a.n_x; factor != 1 && at < to * a.n_x; at++)
                a.dX[at] = static_cast<float>(a.dX[at] * factor);
        }
    }

    void read_targets(long first, long n) {
        const long n_y = net.n_y, ldz = net.ldz;
        bool right = true;
        as(a.Y_dtype, a.Y, [&](auto *from) {
            if (!a.Y_is_dense)
                for (long r = 0; r < n; r++) {
                    const auto index = static_cast<int64_t>(from[row(first + r) * a.Y_stride]);
                    right &= 0 <= index && index < n_y;
                    for (long j = 0; j < n_y; j++) Y[r * ldz + j] = index == j;
                }
            else
                for (long r = 0; r < n; r++) {
                    const auto *y = from + row(first + r) * a.Y_stride;
                    for (long j = 0; j < n_y; j++) Y[r * ldz + j] = static_cast<float>(y[j]);
                }
        });
        for (long r = 0; a.Y_std && r < n; r++)
            for (long j = 0; j < n_y; j++) Y[r * ldz + j] = (Y[r * ldz + j] - a.Y_mean[j]) / a.Y_std[j];
        if (a.Y_is_dense && a.task != REGRESSION && a.task != PAIRING)
            for (long r = 0; r < n; r++)
                for (long j = 0; j < n_y; j++)
                    right &= Y[r * ldz + j] >= -ROUNDINGS && Y[r * ldz + j] <= 1 + ROUNDINGS;
        if (!right) throw Refusal{TARGETS};
    }

    // w[r]: the example's weight times that of its class.
    void read_weights(long first, long n) {
        if (!weighted) return;
        std::fill_n(w.get(), n, 1.0);
        bool right = true;
        if (a.sample_weight)
            as(a.weight_dtype, a.sample_weight, [&](auto *from) {
                for (long r = 0; r < n; r++) {
                    w[r] = static_cast<double>(from[row(first + r) * a.weight_stride]);
                    right &= w[r] >= 0 && w[r] < INFINITE;
                    some |= w[r] > 0;
                }
            });
        if (!right) throw Refusal{SAMPLE_WEIGHT};
        const double *c = a.class_weight;
        for (long r = 0; c && r < n; r++) {
            const float *y = &Y[r * net.ldz];
            double by_class = 0;
            if (a.task == BINARY) by_class = (1.0 - y[0]) * c[0] + y[0] * c[1];
            else
                for (long j = 0; j < net.n_y; j++) by_class += y[j] * c[j];
            w[r] *= by_class;
        }
    }

    // Z2, and RZ2 if there is one, become w times themselves in units.
    void weigh(long first, long n) {
        double top = 0;
        for (long r = 0; r < n; r++) {
            float of_row = greatest(&Z2[r * net.ldz], net.n_y);
            if (moving) of_row = std::max(of_row, greatest(&RZ2[r * net.ldz], net.n_y));
            top = std::max(top, weighted ? w[r] * of_row : of_row);
        }
        if (top > unit * 0x1p20 && top < INFINITE) {
            if (unit) fold();
            unit = top > 0x1p-20 && top < 0x1p20 ? 1 : std::exp2(std::ilogb(top));
            if (a.dX) units.emplace_back(first, unit);
        }
        const double scale = unit ? 1 / unit : 1;
        if (!weighted && scale == 1) return;
        auto by = [&](float *Z) {
            for (long r = 0; r < n; r++)
                for (long j = 0; j < net.n_y; j++) {
                    float &z = Z[r * net.ldz + j];
                    z = static_cast<float>(z * ((weighted ? w[r] : 1) * scale));
                }
        };
        by(Z2.get());
        if (moving) by(RZ2.get());
    }

    // The tile's targets, dense, and weights.
    void targets(long first, long n) {
        const float smooth = static_cast<float>(a.label_smoothing);
        const float keep = 1 - smooth, even = smooth / (a.task == MULTICLASS ? net.n_y : 2);
        read_targets(first, n);
        read_weights(first, n);
        if (smooth)
            for (long r = 0; r < n; r++)
                for (long j = 0; j < net.n_y; j++) Y[r * net.ldz + j] = keep * Y[r * net.ldz + j] + even;
    }

    // Adds the tile's weighted loss to the cost, and turns its Z2 into w (A2 − Y), and RZ2 into how that changes.
    void errors_of(long first, long n) {
        if (a.pass == BACKWARD) { // they have come back
            read_targets(first, n);
            std::swap(Z2, Y);
            weight += n;
            return weigh(first, n);
        }
        targets(first, n);
        if (moving) with_constant<TASKS>(a.task, [&](auto task) { curvatures<task>(n); });
        losses(n);
        if (!weighted) weight += n;
        for (long r = 0; r < n; r++) {
            const double l = sum_in_double(&L[r * net.ldz], net.n_y);
            if (weighted) weight += w[r];
            cost += weighted ? w[r] * l : l;
        }
        weigh(first, n);
    }

    template <int task> void curvatures(long n) {
        if constexpr (task == MULTICLASS)
            for (long r = 0; r < n; r++) curvature_of_softmax(&Z2[r * net.ldz], &Y[r * net.ldz], &RZ2[r * net.ldz]);
        else
            for (long i = 0; i < n * net.ldz; i += VL) at(&RZ2[i]) *= curvature<task>(at(&Z2[i]));
    }

    // One row: Rz becomes p ⊙ (Rz − Σ p Rz) Σ y, with p = softmax(z).
    void curvature_of_softmax(const float *z, const float *y, float *Rz) {
        const long n_y = net.n_y;
        const float top = *std::max_element(z, z + n_y);
        double total = 0, mean = 0, of_y = 0;
        for (long j = 0; j < n_y; j++) {
            const double p = std::exp(double(z[j]) - top);
            total += p, mean += p * Rz[j], of_y += y[j];
        }
        for (long j = 0; j < n_y; j++)
            Rz[j] = static_cast<float>(std::exp(double(z[j]) - top) / total * (Rz[j] - mean / total) * of_y);
    }

    void losses(long n) { with_constant<TASKS>(a.task, [&](auto task) { losses<task>(n); }); }
    template <int task> void losses(long n) {
        if constexpr (task == MULTICLASS)
            for (long r = 0; r < n; r++) softmax(&Z2[r * net.ldz], &Y[r * net.ldz], &L[r * net.ldz]);
        else
            for (long i = 0; i < n * net.ldz; i += VL) {
                const Errors found = errors<task>(at(&Z2[i]), at(&Y[i]));
                at(&L[i]) = found.l, at(&Z2[i]) = found.dz;
            }
    }

    // One row: L = −Σ y (z − log Σ eᶻ), dz = softmax(z) Σ y − y.
    void softmax(float *z, const float *y, float *l) {
        const long n_y = net.n_y;
        const float top = greatest_or_nan(z, n_y), of_y = static_cast<float>(sum_in_double(y, n_y));
        for (long j = 0; j < n_y; j += VL) {
            vec v{};
            if (j + VL <= n_y) v = anywhere(z + j) - top;
            else
                for (long i = 0; i < VL; i++) v[i] = j + i < n_y ? z[j + i] - top : -100;
            store(l + j, exp(v)); // what that is too much is the next row's, which comes after it
        }
        const double total = sum_in_double(l, n_y);
        const float log_total = static_cast<float>(std::log(total)), scale = static_cast<float>(of_y / total);
        for (long j = 0; j < n_y; j++) {
            const float probability = l[j] * scale;
            l[j] = y[j] == 0 ? 0 : -y[j] * (z[j] - top - log_total);
            z[j] = probability - y[j];
        }
    }
};

// Passes one after another, for which there is room made once: between two, the examples and what the parameters are may
// change, but not the sizes of the network; and no later one has more examples or threads than the arguments first said.
struct Passes {
    const Args &a;
    Network net{a};
    const bool is_wide = a.n_x * a.n_h > (1 << 18); // W1 and its gradient leave the cache
    const bool is_narrow = a.n_x * a.n_h < (1 << 13); // one thread has gone through W1 before the others have begun
    // Of few rows, what takes long is to go through W1 and its gradient: that is what the threads share then. Where all
    // threads need all of the outputs, or would sum the same dX, they share the rows.
    static constexpr long FEW_ROWS = 256, FEW_OUTPUTS = 64;
    const bool by_units_if_few = a.n_y <= FEW_OUTPUTS && a.pass <= BACKWARD && !a.dX;
    // A tile's hidden layer stays in the second-level cache, and what is done to a slab of it in the first. But each
    // tile reads W1 and its gradient once more, which counts where these leave the cache.
    const long cached = (256 << 10) / (4 * net.H * (a.pass == PRODUCT ? 3 : 1));
    const long tile = rows_up_to(is_wide ? 224 : std::min(std::max(32L, cached), 112L)), few = rows_up_to(FEW_ROWS);
    typedef std::vector<std::unique_ptr<Part>> Parts;
    Parts parts{static_cast<size_t>(a.threads)}, whole{1}; // of some rows, and of all of few
    std::vector<Scratch> scratch;

    explicit Passes(const Args &args) : a(args) {}

    long rows_up_to(long most) const { return (std::min(most, std::max<long>(1, a.m)) + MR - 1) / MR * MR; }

    // Which way a batch goes is a matter of its own size, whatever others come with it.
    void run(long threads) {
        if (by_units_if_few && a.m <= FEW_ROWS && (threads == 1 || 2 * threads <= net.slabs)) by_units(threads);
        else by_rows(threads);
    }

    void by_rows(long threads) {
        const long sharing = threads_for_parameters(threads);
        for (long t = 0; t < threads; t++) // here, where memory is kept
            if (!parts[t]) parts[t] = std::make_unique<Part>(net, tile);
        parallel(sharing, [&](long t) {
            const Slabs of = share(t, sharing);
            for (long s = of.first; s < of.last; s++) net.pack(s);
        });
        auto first = [&](long t) { return a.m * t / threads; };
        parallel(threads, [&](long t) {
            parts[t]->begin(), parts[t]->begin({0, net.slabs});
            parts[t]->rows(first(t), first(t + 1));
        });
        if (!parts[0]->summing) return;
        const double divisor = costs(parts, threads);
        parallel(sharing, [&](long t) { gradients(parts, threads, divisor, share(t, sharing)); });
        if (a.dX) parallel(threads, [&](long t) { parts[t]->scale_dX(first(t + 1), divisor); });
    }

    // Each thread has some slabs of all rows, so that a slab's weights are still in its cache when they are needed, and
    // its gradients when they are written.
    void by_units(long threads) {
        const long n = a.m;
        if (!whole[0]) whole[0] = std::make_unique<Part>(net, few);
        while (static_cast<long>(scratch.size()) < threads) scratch.emplace_back(net, few);
        Part &part = *whole[0];
        part.begin();
        const Inputs x = part.inputs(0, n);
        auto each_slab = [&](auto of) {
            parallel(threads, [&](long t) {
                const Slabs mine = share(t, threads);
                with_constant<ACTIVATIONS>(a.activation, [&](auto g) {
                    for (long s = mine.first; s < mine.last; s++) of(g, Slabs{s, s + 1}, scratch[t]);
                });
            });
        };
        for (Scratch &by : scratch) part.no_outputs(by);
        part.no_outputs(part.own);
        each_slab([&](auto g, Slabs of, Scratch &by) {
            net.pack(of.first);
            part.hidden<g>(0, n, x, of, by);
        });
        for (const Scratch &by : scratch) part.add_outputs(by);
        part.outputs(0, n);
        if (!part.summing) return;
        part.errors_of(0, n);
        const double divisor = costs(whole, 1);
        each_slab([&](auto g, Slabs of, Scratch &by) {
            part.begin(of);
            part.backward<g>(0, n, x, of, by);
            gradients(whole, 1, divisor, of);
        });
    }

    Slabs share(long t, long threads) const { return {net.slabs * t / threads, net.slabs * (t + 1) / threads}; }
    long threads_for_parameters(long threads) const { return is_narrow ? 1 : threads; }

    // Writes the cost of what all threads have summed; returns what it, and each gradient, is to be divided by.
    double costs(const Parts &parts, long threads) const {
        double cost = 0, weight = 0;
        bool some = false;
        for (long t = 0; t < threads; t++) cost += parts[t]->cost, weight += parts[t]->weight, some |= parts[t]->some;
        if (a.sample_weight && a.m && !some) throw Refusal{SAMPLE_WEIGHT}; // all zero
        const double divisor = a.mean ? weight : 1;
        if (a.cost) *a.cost = static_cast<float>(cost / divisor);
        return divisor;
    }

    // Writes the gradients of some slabs, and db2 with the first.
    void gradients(const Parts &parts, long threads, double divisor, Slabs of) const {
        const Part &part = *parts[0];
        const bool by_reciprocal = divisor > 1e-300 && divisor < 1e300; // which is a number then, and quicker
        // The mean over all threads of some units, which begin at p in the sums of the first.
        auto mean = [&](const float *p, long units, float *to) {
            double total[NR] = {};
            for (long t = 0; t < threads; t++) parts[t]->add_totals(p - part.sums.get(), units, total);
            for (long i = 0; i < units; i++)
                to[i] = static_cast<float>(by_reciprocal ? total[i] * (1 / divisor) : total[i] / divisor);
        };
        const long n_x = a.n_x, n_y = a.n_y;
        for (long s = of.first; s < of.last; s++) {
            const long h = s * NR, units = std::min<long>(NR, a.n_h - h);
            for (long k = 0; k < n_x; k += VL) { // to the rows of dW1
                alignas(64) float block[VL * NR];
                const long features = std::min(VL, n_x - k);
                for (long i = 0; i < features; i++) mean(part.dW1 + (s * n_x + k + i) * NR, NR, block + i * NR);
                transpose(features, units, block, NR, a.dW1 + h * n_x + k, n_x);
            }
            for (long j = 0; j < n_y; j++) mean(part.dW2 + (s * n_y + j) * NR, units, a.dW2 + j * a.n_h + h);
            mean(part.db1 + h, units, a.db1 + h);
        }
        for (long j = 0; of.first == 0 && j < n_y; j++) mean(part.db2 + j, 1, a.db2 + j);
    }
};

void pass(const Args &a) {
    check(a);
    Passes(a).run(a.threads);
}

// A batch: its examples are some of Steps::rows, or all there are where that is null.
struct Batch {
    int64_t first, m, threads;
};

// Filled in by cpu_steps.py, field by field in this order, each of 8 bytes.
struct Steps {
    const Batch *batches;
    const int64_t *rows;
    float *costs;                  // out: before each step
    int64_t *done;                 // out: how many steps
    int64_t count, of;             // steps; examples there are
    double most_norm;              // of the gradients, or infinite
    const Update *updates;         // of the parameters and gradients in Args, four
    int64_t next;                  // from those of a step to those of the next: 4, or 0 where all are alike
};

// An optimizer's step for each batch.
void steps(Args a, const Steps &s) {
    a.m = 0, a.threads = 1, a.rows = s.rows;
    for (long i = 0; i < s.count; i++)
        a.m = std::max(a.m, s.batches[i].m), a.threads = std::max(a.threads, s.batches[i].threads);
    check(a);
    for (long i = 0; i < 4 + s.next * (s.count - 1); i++)
        if (s.updates[i].rule < 0 || s.updates[i].rule >= RULES) throw Refusal{UNKNOWN};
    Passes passes(a);
    for (*s.done = 0; *s.done < s.count; ++*s.done) {
        const Batch &batch = s.batches[*s.done];
        a.m = batch.m, a.rows = s.rows ? s.rows + batch.first : nullptr, a.cost = s.costs + *s.done;
        bool right = s.rows || batch.m == s.of;
        for (long r = 0; s.rows && r < a.m; r++) right &= 0 <= a.rows[r] && a.rows[r] < s.of;
        if (!right) throw Refusal{ROWS};
        passes.run(batch.threads);
        const Update *first = s.updates + s.next * *s.done, *last = first + 4;
        if (s.most_norm < INFINITE) clip(first, 4, s.most_norm);
        for (const Update *u = first; u < last; u++)
            if (u->rule == ADAM) *u->step += 1;
        const long sharing = passes.threads_for_parameters(batch.threads);
        parallel(sharing, [&](long t) {
            for (const Update *u = first; u < last; u++) update(*u, u->size * t / sharing, u->size * (t + 1) / sharing);
        });
    }
}

template <class Run> int answered(Run run) {
    kept.begin();
    try {
        run();
        return NOTHING;
    } catch (const Refusal &refusal) {
        return refusal.reason;
    } catch (...) { // no memory, no thread
        return NO_MEMORY;
    }
}

} // namespace

// What it refuses, of enum Refused; then what stands in the results means nothing.
extern "C" int twolayer_pass(const void *args) {
    return answered([&] { pass(*static_cast<const Args *>(args)); });
}

// Likewise, at the step after Steps::done; those before it have been taken.
extern "C" int twolayer_steps(const void *args, const void *of) {
    return answered([&] { steps(*static_cast<const Args *>(args), *static_cast<const Steps *>(of)); });
}
