// The kernel on problems drawn at random, each array of exactly its size, compared with the equations in double.
// Run under the sanitizers by test_sanitizers.py: passes SECONDS SEED MOST_THREADS.
#include "cpu.cpp"

#include <cstdio>
#include <random>
#include <string>

namespace {

struct Draw {
    std::mt19937_64 engine;
    long integer(long low, long high) { return std::uniform_int_distribution<long>(low, high)(engine); }
    bool coin(double p = 0.5) { return std::bernoulli_distribution(p)(engine); }
    double uniform() { return std::uniform_real_distribution<double>()(engine); }
    // Eighths: sums of some products are exact in float, so that no unit falls on another side of a kink.
    float eighth() { return static_cast<float>(integer(-12, 12)) / 8; }
    float normal() { return std::normal_distribution<float>()(engine); }
    long size() { // often at the edges of blocks
        if (coin(0.6)) return integer(1, 9);
        return std::max(1L, integer(1, 4) * NR + integer(-2, 2));
    }
    std::vector<float> eighths(long n) {
        std::vector<float> all(n);
        for (float &x : all) x = eighth();
        return all;
    }
};

// A value, and the sum of the magnitudes of its terms, by which roundings are measured.
struct Sum {
    double value = 0, size = 0;
    void add(double x) { value += x, size += std::fabs(x); }
};

double g(long activation, double z, double slope) {
    switch (activation) {
    case SIGMOID: return 1 / (1 + std::exp(-z));
    case TANH: return std::tanh(z);
    case RELU: return z > 0 ? z : 0;
    default: return z > 0 ? z : slope * z;
    }
}
double g_prime(long activation, double a, double slope) {
    switch (activation) {
    case SIGMOID: return a * (1 - a);
    case TANH: return 1 - a * a;
    case RELU: return a > 0;
    default: return a > 0 ? 1 : slope;
    }
}

struct Problem {
    Args a{};
    std::vector<float> X, W1, b1, W2, b2, dX, dW1, db1, dW2, db2;
    std::vector<char> Y, sample_weight;
    std::vector<double> class_weight, dense, w; // as the reference reads them
    std::vector<int64_t> rows;                  // of these examples among more, or none
    std::vector<float> X_mean, X_std, Y_mean, Y_std;
    long of; // examples there are
    float cost = 0;
    std::string words;

    Problem(Draw &draw, long most_threads, bool gathers) {
        a.n_x = draw.size(), a.n_h = draw.size(), a.task = draw.integer(0, TASKS - 1);
        a.n_y = a.task == BINARY ? 1 : draw.size();
        a.m = draw.coin(0.3) ? draw.integer(1, 1000) : draw.size();
        a.m = std::clamp(20'000 / (a.n_h * (a.n_x + a.n_y)), 1L, long(a.m)); // quick ones, of which there are many
        if (draw.coin(0.002)) a.m = draw.integer(SPAN - 2, 2 * SPAN);
        if (a.m > 1000) a.n_x = draw.integer(1, 3), a.n_h = draw.integer(1, 5), a.n_y = std::min<long>(a.n_y, 3);
        if (draw.coin(0.02)) a.n_x = 256, a.n_h = draw.integer(1, 3); // rows that are copied
        if (draw.coin(0.03)) a.n_x = draw.integer(65, 99), a.n_h = draw.integer(256, 290), a.m = draw.integer(1, 20); // groups of features
        if (draw.coin(0.02)) a.n_x = draw.integer(1, 9), a.n_h = draw.integer(1024, 1060), a.m = draw.integer(1, 40); // of rows
        of = a.m;
        if (gathers && draw.coin()) {
            of = draw.integer(1, a.m + 9);
            for (long r = 0; r < a.m; r++) rows.push_back(draw.integer(0, of - 1));
        }
        const long strides[] = {0, 1, a.n_x, a.n_x + 3, 256};
        a.X_stride = strides[draw.integer(0, 4)];
        a.activation = draw.integer(0, ACTIVATIONS - 1), a.mean = draw.coin(), a.threads = draw.integer(1, most_threads);
        a.leaky_slope = 0.01, a.label_smoothing = a.task < REGRESSION && draw.coin(0.3) ? 0.1 : 0;
        X = draw.eighths((of - 1) * a.X_stride + a.n_x);
        auto powers = [&](long n) { // of two, by which a division is exact
            std::vector<float> all(n);
            for (float &x : all) x = static_cast<float>(std::exp2(draw.integer(-1, 1)));
            return all;
        };
        if (gathers && draw.coin()) X_mean = draw.eighths(a.n_x), X_std = powers(a.n_x);
        W1 = draw.eighths(a.n_h * a.n_x), b1 = draw.eighths(a.n_h), W2 = draw.eighths(a.n_y * a.n_h), b2 = draw.eighths(a.n_y);
        for (float &x : W1) x /= 4;
        if (draw.coin()) dX.resize(a.m * a.n_x);
        dW1.resize(W1.size()), db1.resize(b1.size()), dW2.resize(W2.size()), db2.resize(b2.size());

        a.Y_is_dense = a.task != MULTICLASS || draw.coin();
        a.Y_dtype = a.task == REGRESSION || a.task == PAIRING ? draw.integer(FLOAT32, FLOAT64)
                    : a.Y_is_dense                            ? draw.integer(0, DTYPES - 1)
                                                              : draw.integer(UINT8, DTYPES - 1);
        const long width = a.Y_is_dense ? a.n_y : 1;
        a.Y_stride = draw.coin(0.3) ? width + 2 : draw.coin(0.1) ? 0 : width;
        if (gathers && a.task == REGRESSION && draw.coin()) Y_mean = draw.eighths(a.n_y), Y_std = powers(a.n_y);
        const double scale = a.task == PAIRING ? std::pow(10, draw.integer(-44, 30)) : 1;
        as(a.Y_dtype, nullptr, [&](auto *type) {
            using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
            const bool floats = std::is_floating_point_v<T>;
            std::vector<T> values((of - 1) * a.Y_stride + width);
            for (T &y : values)
                y = static_cast<T>(!a.Y_is_dense            ? draw.integer(0, std::min<long>(a.n_y - 1, 127))
                                   : a.task == REGRESSION   ? draw.normal()
                                   : a.task == PAIRING      ? draw.normal() * scale
                                   : floats && draw.coin()  ? draw.uniform()
                                                            : draw.integer(0, 1));
            Y.resize(values.size() * sizeof(T)), std::memcpy(Y.data(), values.data(), Y.size());
            for (long r = 0; r < a.m; r++)
                for (long j = 0; j < a.n_y; j++) {
                    const T *y = &values[place(r) * a.Y_stride];
                    float found = a.Y_is_dense ? static_cast<float>(y[j]) : y[0] == static_cast<T>(j);
                    if (!Y_std.empty()) found = (found - Y_mean[j]) / Y_std[j];
                    dense.push_back(found);
                }
        });
        w.assign(a.m, 1);
        if (draw.coin(0.4)) {
            a.weight_dtype = draw.integer(FLOAT32, FLOAT64), a.weight_stride = draw.integer(0, 2);
            const double unit = std::pow(10.0, draw.integer(-42, 37));
            as(a.weight_dtype, nullptr, [&](auto *type) {
                using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
                std::vector<T> values((of - 1) * a.weight_stride + 1);
                for (T &v : values) v = draw.coin(0.2) ? T(0) : static_cast<T>((0.1 + draw.uniform()) * unit);
                values[place(0) * a.weight_stride] = static_cast<T>(unit);
                sample_weight.resize(values.size() * sizeof(T));
                std::memcpy(sample_weight.data(), values.data(), sample_weight.size());
                for (long r = 0; r < a.m; r++) w[r] = static_cast<double>(values[place(r) * a.weight_stride]);
            });
        }
        if ((a.task == BINARY || a.task == MULTICLASS) && draw.coin(0.3)) {
            for (long j = 0; j < (a.task == BINARY ? 2 : a.n_y); j++) class_weight.push_back(0.1 + draw.uniform());
            for (long r = 0; r < a.m; r++) {
                double by_class = 0;
                if (a.task == BINARY) by_class = (1 - dense[r]) * class_weight[0] + dense[r] * class_weight[1];
                else
                    for (long j = 0; j < a.n_y; j++) by_class += dense[r * a.n_y + j] * class_weight[j];
                w[r] *= by_class;
            }
        }
        for (double &y : dense)
            y = (1 - a.label_smoothing) * y + a.label_smoothing / (a.task == MULTICLASS ? a.n_y : 2);

        auto pointer = [](auto &v) { return v.empty() ? nullptr : v.data(); };
        a.X = X.data(), a.W1 = W1.data(), a.b1 = b1.data(), a.W2 = W2.data(), a.b2 = b2.data(), a.Y = Y.data();
        a.sample_weight = pointer(sample_weight), a.class_weight = pointer(class_weight), a.dX = pointer(dX);
        a.dW1 = dW1.data(), a.db1 = db1.data(), a.dW2 = dW2.data(), a.db2 = db2.data(), a.cost = &cost;
        a.rows = pointer(rows), a.X_mean = pointer(X_mean), a.X_std = pointer(X_std);
        a.Y_mean = pointer(Y_mean), a.Y_std = pointer(Y_std);
        char text[400];
        std::snprintf(text, sizeof text, "m %ld n_x %ld n_h %ld n_y %ld strides %ld %ld %ld activation %ld task %ld dtypes %ld %ld "
                      "dense %ld mean %ld threads %ld smoothing %g weights %d %d dX %d of %ld rows %d standard %d %d", long(a.m), long(a.n_x), long(a.n_h),
                      long(a.n_y), long(a.X_stride), long(a.Y_stride), long(a.weight_stride), long(a.activation),
                      long(a.task), long(a.Y_dtype), long(a.weight_dtype), long(a.Y_is_dense), long(a.mean), long(a.threads),
                      a.label_smoothing, !sample_weight.empty(), !class_weight.empty(), !dX.empty(), of, !rows.empty(),
                      !X_std.empty(), !Y_std.empty());
        words = text;
    }

    long place(long r) const { return rows.empty() ? r : rows[r]; }

    // Compares with the equations, row by row, in double.
    bool right() const {
        const long m = a.m, n_x = a.n_x, n_h = a.n_h, n_y = a.n_y;
        double divisor = 0;
        for (double of_row : w) divisor += of_row;
        if (!a.mean) divisor = 1;
        if (divisor == 0) return true; // rows of probabilities that are all zero have no class, and so no weight
        Sum J;
        std::vector<Sum> dX_(m * n_x), dW1_(n_h * n_x), db1_(n_h), dW2_(n_y * n_h), db2_(n_y);
        std::vector<double> x(n_x), A1(n_h), Z2(n_y), dZ2(n_y), softmax(n_y);
        for (long r = 0; r < m; r++) {
            for (long k = 0; k < n_x; k++) {
                x[k] = X[place(r) * a.X_stride + k];
                if (!X_std.empty()) x[k] = (x[k] - X_mean[k]) / X_std[k];
            }
            const double *y = &dense[r * n_y], share = w[r] / divisor;
            for (long h = 0; h < n_h; h++) {
                double z = b1[h];
                for (long k = 0; k < n_x; k++) z += x[k] * W1[h * n_x + k];
                A1[h] = g(a.activation, z, a.leaky_slope);
            }
            double top = -INFINITE, total = 0, of_y = 0;
            for (long j = 0; j < n_y; j++) {
                Z2[j] = b2[j];
                for (long h = 0; h < n_h; h++) Z2[j] += A1[h] * W2[j * n_h + h];
                top = std::max(top, Z2[j]), of_y += y[j];
            }
            for (long j = 0; j < n_y; j++) total += softmax[j] = std::exp(Z2[j] - top);
            for (long j = 0; j < n_y; j++) {
                const double z = Z2[j];
                double l, d;
                if (a.task == MULTICLASS) l = y[j] * (std::log(total) + top - z), d = softmax[j] / total * of_y - y[j];
                else if (a.task == REGRESSION) l = (z - y[j]) * (z - y[j]) / 2, d = z - y[j];
                else if (a.task == PAIRING) l = z * y[j], d = y[j];
                else l = std::max(z, 0.0) - z * y[j] + std::log1p(std::exp(-std::fabs(z))), d = 1 / (1 + std::exp(-z)) - y[j];
                J.add(share * l), J.size += share * std::fabs(z), dZ2[j] = share * d;
                db2_[j].add(dZ2[j]), db2_[j].size += share * (a.task == PAIRING ? 0 : 1 + std::fabs(z));
            }
            for (long j = 0; j < n_y; j++)
                for (long h = 0; h < n_h; h++) {
                    dW2_[j * n_h + h].add(dZ2[j] * A1[h]);
                    if (a.task != PAIRING) dW2_[j * n_h + h].size += share * (1 + std::fabs(Z2[j])) * (1 + std::fabs(A1[h]));
                }
            for (long h = 0; h < n_h; h++) {
                double d = 0, size = 0;
                for (long j = 0; j < n_y; j++) {
                    d += dZ2[j] * W2[j * n_h + h];
                    size += (std::fabs(dZ2[j]) + (a.task == PAIRING ? 0 : share * (1 + std::fabs(Z2[j])))) * std::fabs(W2[j * n_h + h]);
                }
                d *= g_prime(a.activation, A1[h], a.leaky_slope);
                db1_[h].add(d), db1_[h].size += size;
                for (long k = 0; k < n_x; k++) {
                    dW1_[h * n_x + k].add(d * x[k]), dW1_[h * n_x + k].size += size * std::fabs(x[k]);
                    dX_[r * n_x + k].add(d * W1[h * n_x + k]), dX_[r * n_x + k].size += size * std::fabs(W1[h * n_x + k]);
                }
            }
        }
        return near("J", &cost, {J}) && near("dX", dX.data(), dX.empty() ? std::vector<Sum>{} : dX_) &&
               near("dW1", dW1.data(), dW1_) && near("db1", db1.data(), db1_) && near("dW2", dW2.data(), dW2_) &&
               near("db2", db2.data(), db2_);
    }

    bool near(const char *name, const float *found, const std::vector<Sum> &truth) const {
        for (size_t i = 0; i < truth.size(); i++) {
            if (std::fabs(truth[i].value) > 3e38) continue; // float has no number for it
            // A rounding for each term of a sum and some more, each of a part in 2²⁴; and what float has no smaller
            // numbers for.
            const double roundings = 50 + a.n_x + a.n_h + a.n_y + std::min<long>(a.m, SPAN);
            const double allowed = roundings * 0x1p-24 * truth[i].size + 1e-44;
            if (!(std::fabs(found[i] - truth[i].value) <= allowed)) {
                std::printf("%s[%zu] is %g, must be %g up to %g\n", name, i, found[i], truth[i].value, allowed);
                return false;
            }
        }
        return true;
    }
};

unsigned mode() {
#if defined(__SSE__)
    return _mm_getcsr() & 0xffc0; // what is set, without what has been met
#else
    return 0;
#endif
}

bool run(Problem &p, int expected = NOTHING) {
    const unsigned before = mode();
    const int found = twolayer_pass(&p.a);
    if (mode() != before) std::printf("the mode of the processor is another one\n");
    else if (found != expected) std::printf("returned %d, not %d\n", found, expected);
    else if (expected != NOTHING || p.right()) return true;
    std::printf("%s\n", p.words.c_str());
    return false;
}

// What is refused, with the mode of the processor as before: values in the last row, names and sizes that are none.
bool refuses(Draw &draw, long most_threads) {
    Problem p(draw, most_threads, false);
    Args &a = p.a;
    auto last = [&](auto &bytes, long stride, long dtype, double value) {
        as(dtype, bytes.data(), [&](auto *data) {
            using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
            const_cast<T *>(data)[(a.m - 1) * stride] = static_cast<T>(value);
        });
    };
    const double nan = std::numeric_limits<double>::quiet_NaN();
    switch (draw.integer(0, 8)) {
    case 0:
        if (a.task >= REGRESSION || a.Y_dtype == BOOL) return true;
        last(p.Y, a.Y_stride, a.Y_dtype, !a.Y_is_dense ? a.n_y : a.Y_dtype <= FLOAT64 && draw.coin() ? nan : 2);
        return run(p, TARGETS);
    case 1: {
        if (!a.sample_weight) return true;
        const double wrong[] = {-1, nan, INFINITE};
        last(p.sample_weight, a.weight_stride, a.weight_dtype, wrong[draw.integer(0, 2)]);
        return run(p, SAMPLE_WEIGHT);
    }
    case 2:
        if (!a.sample_weight) return true;
        std::fill(p.sample_weight.begin(), p.sample_weight.end(), 0);
        return run(p, SAMPLE_WEIGHT);
    case 3:
        if (!a.class_weight) return true;
        p.class_weight.back() = draw.coin() ? 0 : nan;
        return run(p, CLASS_WEIGHT);
    case 4: a.activation = draw.coin() ? ACTIVATIONS : -1; return run(p, UNKNOWN);
    case 5: a.task = TASKS; return run(p, UNKNOWN);
    case 6: a.Y_dtype = DTYPES; return run(p, UNKNOWN);
    case 7: {
        int64_t *sizes[] = {&a.n_x, &a.n_h, &a.n_y, &a.threads};
        *sizes[draw.integer(0, 3)] = 0;
        return run(p, UNKNOWN);
    }
    default: a.n_x = int64_t(1) << 44; return run(p, NO_MEMORY); // more than there is
    }
}

double product(const std::vector<float> &a, const std::vector<float> &b, double &size) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++) sum += double(a[i]) * b[i], size += std::fabs(double(a[i]) * b[i]);
    return sum;
}

// The parts of the pass, held against the pass itself.
bool parts_agree(Draw &draw, long most_threads) {
    Problem p(draw, most_threads, false);
    auto gradients = [&](Args a) {
        std::vector<float> all;
        const int failed = twolayer_pass(&a);
        if (failed) std::printf("returned %d\n", failed);
        for (auto *dV : {&p.dW1, &p.db1, &p.dW2, &p.db2, &p.dX}) all.insert(all.end(), dV->begin(), dV->end());
        return all;
    };
    auto agree = [&](bool so, const char *what) {
        if (!so) std::printf("%s: %s\n", what, p.words.c_str());
        return so;
    };
    // FORWARD and BACKWARD are the pass of the cost Σ Z2 ⊙ Y, to the last bit.
    std::vector<float> Z2(p.a.m * p.a.n_y), A1(p.a.m * p.a.n_h), dZ2(p.a.m * p.a.n_y), norms(p.a.m);
    for (float &d : dZ2) d = draw.normal();
    Args forward = p.a, pairing = p.a;
    forward.pass = FORWARD, forward.Y = forward.sample_weight = nullptr, forward.class_weight = nullptr;
    forward.Z2 = Z2.data(), forward.A1 = A1.data();
    if (!agree(!twolayer_pass(&forward), "FORWARD")) return false;
    pairing.task = PAIRING, pairing.Y = dZ2.data(), pairing.Y_dtype = FLOAT32, pairing.Y_stride = p.a.n_y;
    pairing.Y_is_dense = true, pairing.sample_weight = nullptr, pairing.class_weight = nullptr;
    pairing.mean = false, pairing.label_smoothing = 0;
    const auto whole = gradients(pairing);
    double cost = 0, size = 0;
    for (long r = 0; r < p.a.m * p.a.n_y; r++) cost += double(Z2[r]) * dZ2[r], size += std::fabs(double(Z2[r]) * dZ2[r]);
    if (!agree(std::fabs(cost - p.cost) <= 1e-5 * size + 1e-6, "the logits")) return false;
    pairing.pass = BACKWARD, pairing.A1 = A1.data();
    if (!agree(gradients(pairing) == whole, "BACKWARD")) return false;

    // NORMS are those of the pass over a single example.
    Args one = p.a;
    one.sample_weight = nullptr, one.class_weight = nullptr, one.dX = nullptr;
    Args all = one;
    all.pass = NORMS, all.norms = norms.data();
    if (!agree(!twolayer_pass(&all), "NORMS")) return false;
    const long r = draw.integer(0, p.a.m - 1);
    one.X += r * p.a.X_stride, one.m = 1, one.Y = nullptr;
    as(p.a.Y_dtype, p.Y.data(), [&](auto *Y) { one.Y = Y + r * p.a.Y_stride; });
    gradients(one);
    size = 0;
    for (auto *dV : {&p.dW1, &p.db1, &p.dW2, &p.db2}) product(*dV, *dV, size);
    const double norm = std::sqrt(size);
    const bool in_range = norm > 1e-15 && norm < 1e15; // its square too
    if (!agree(!in_range || std::fabs(norms[r] - norm) <= 1e-5 * norm, "the norm")) return false;

    // PRODUCT is symmetrical: u H v = v H u.
    auto draws = [&](long n) {
        std::vector<float> v(n);
        for (float &x : v) x = draw.normal();
        return v;
    };
    std::vector<float> u[4], v[4], Hu[4], Hv[4];
    std::vector<float> *dP[] = {&p.dW1, &p.db1, &p.dW2, &p.db2};
    for (int i = 0; i < 4; i++) u[i] = draws(dP[i]->size()), v[i] = draws(dP[i]->size());
    auto times = [&](std::vector<float> *t, std::vector<float> *found) {
        Args a = p.a;
        a.pass = PRODUCT, a.dX = nullptr;
        a.tW1 = t[0].data(), a.tb1 = t[1].data(), a.tW2 = t[2].data(), a.tb2 = t[3].data();
        const int failed = twolayer_pass(&a);
        for (int i = 0; i < 4; i++) found[i] = *dP[i];
        return !failed;
    };
    if (!agree(times(u, Hu) && times(v, Hv), "PRODUCT")) return false;
    double uHv = 0, vHu = 0;
    size = 0;
    for (int i = 0; i < 4; i++) uHv += product(u[i], Hv[i], size), vHu += product(v[i], Hu[i], size);
    // Each of some thousand numbers is rounded, of denormal ones by 1e-45 whatever their size.
    return agree(p.a.task == PAIRING || !std::isfinite(size) || std::fabs(uHv - vHu) <= 1e-4 * size + 1e-40, "the product");
}

// An optimizer's step in double: what it makes of a float's worth of parameter and state.
void reference(const Update &u, double d, double &V, double &buffer, double &m, double &v, double &top, double t) {
    if (!u.decoupled) d += u.weight_decay * V;
    if (u.rule == SGD) {
        buffer = u.momentum * buffer + (1 - u.dampening) * d;
        if (u.momentum_buffer) d = u.nesterov ? d + u.momentum * buffer : buffer;
        V -= u.lr * d;
        return;
    }
    if (u.decoupled) V *= 1 - u.lr * u.weight_decay;
    m = u.beta1 * m + (1 - u.beta1) * d, v = u.beta2 * v + (1 - u.beta2) * d * d, top = std::max(top, v);
    const double square = u.max_exp_avg_sq ? top : v;
    V -= u.lr * m / (1 - std::pow(u.beta1, t)) / (std::sqrt(square / (1 - std::pow(u.beta2, t))) + u.eps);
}

// The optimizer's state and parameters, of which a copy can be taken.
struct State {
    std::vector<float> V[4], buffer[4], m[4], v[4], top[4], t;
    bool operator==(const State &o) const {
        for (int p = 0; p < 4; p++)
            if (V[p] != o.V[p] || buffer[p] != o.buffer[p] || m[p] != o.m[p] || v[p] != o.v[p] || top[p] != o.top[p])
                return false;
        return t == o.t;
    }
};

// Steps on batches: one after the other as in one call, each that of the equations, and no step on a row there is not.
bool steps_agree(Draw &draw, long most_threads) {
    Problem p(draw, most_threads, true);
    p.a.dX = nullptr, p.a.rows = nullptr, p.a.task = p.a.task == PAIRING ? REGRESSION : p.a.task;
    std::vector<int64_t> rows;
    std::vector<Batch> batches;
    for (long i = draw.integer(1, 4); i > 0; i--) {
        const long n = draw.integer(1, p.a.m);
        batches.push_back({static_cast<int64_t>(rows.size()), n, draw.integer(1, most_threads)});
        for (long r = 0; r < n; r++) rows.push_back(draw.integer(0, p.of - 1));
    }
    std::vector<float> *P[] = {&p.W1, &p.b1, &p.W2, &p.b2}, *dP[] = {&p.dW1, &p.db1, &p.dW2, &p.db2};
    State start;
    start.t = {0, 5, 17, 100};
    Update of[4]{};
    const bool momentum = draw.coin(), amsgrad = draw.coin();
    for (int i = 0; i < 4; i++) {
        const long n = P[i]->size();
        of[i].rule = draw.integer(0, RULES - 1), of[i].size = n;
        of[i].nesterov = draw.coin(), of[i].decoupled = of[i].rule == ADAM && draw.coin();
        of[i].lr = 0.01, of[i].weight_decay = draw.coin() ? 0 : 0.3, of[i].momentum = 0.9, of[i].dampening = draw.coin() ? 0 : 0.2;
        of[i].beta1 = 0.8, of[i].beta2 = 0.95, of[i].eps = 0.1;
        start.V[i] = *P[i], start.buffer[i] = draw.eighths(n), start.m[i] = draw.eighths(n);
        start.v[i] = draw.eighths(n), start.top[i] = draw.eighths(n);
        for (auto *positive : {&start.v[i], &start.top[i]})
            for (float &x : *positive) x = std::fabs(x);
    }
    const double most_norm = draw.coin() ? INFINITE : 0.5;
    const bool repeated = rows.size() % 2 == 0; // those of each step, though they are alike
    auto take = [&](State &s, std::vector<Batch> taken, std::vector<float> &costs) { // what is refused
        Steps steps{taken.data(), rows.data(), costs.data(), nullptr, static_cast<int64_t>(taken.size()), p.of, most_norm,
                    nullptr, repeated ? 4 : 0};
        int64_t done = 0;
        steps.done = &done;
        Args a = p.a;
        a.W1 = s.V[0].data(), a.b1 = s.V[1].data(), a.W2 = s.V[2].data(), a.b2 = s.V[3].data();
        std::vector<Update> updates;
        for (std::size_t i = 0; i < (repeated ? 4 * taken.size() : 4); i++) updates.push_back(of[i % 4]);
        for (std::size_t k = 0; k < updates.size(); k++) {
            const std::size_t i = k % 4;
            Update &u = updates[k];
            u.V = s.V[i].data(), u.dV = dP[i]->data(), u.momentum_buffer = momentum ? s.buffer[i].data() : nullptr;
            u.exp_avg = s.m[i].data(), u.exp_avg_sq = s.v[i].data(), u.step = &s.t[i];
            u.max_exp_avg_sq = amsgrad ? s.top[i].data() : nullptr;
        }
        steps.updates = updates.data();
        const int failed = twolayer_steps(&a, &steps);
        return std::make_pair(failed, done);
    };
    auto agree = [&](bool so, const char *what) {
        if (!so) std::printf("%s: %s\n", what, p.words.c_str());
        return so;
    };
    State at_once = start, singly = start;
    std::vector<float> costs(batches.size()), cost(1);
    const auto [failed, done] = take(at_once, batches, costs);
    for (long i = 0; i < done; i++) {
        const State before = singly;
        if (!agree(take(singly, {batches[i]}, cost).first == NOTHING, "a step by itself")) return false;
        if (!agree(cost[0] == costs[i] || cost[0] != cost[0], "the cost of a step")) return false;
        double size = 0;
        for (auto *dV : dP) product(*dV, *dV, size);
        if (!agree(!(std::sqrt(size) > most_norm * (1 + 1e-5)), "the norm of clipped gradients")) return false;
        for (int q = 0; q < 4; q++)
            for (size_t j = 0; j < P[q]->size(); j++) {
                double V = before.V[q][j], buffer = before.buffer[q][j], m = before.m[q][j], v = before.v[q][j];
                double top = before.top[q][j];
                const double d = (*dP[q])[j], large = std::fabs(V) + std::fabs(d) + std::fabs(buffer) + std::fabs(m) + 1;
                Update u = of[q];
                u.momentum_buffer = momentum ? singly.buffer[q].data() : nullptr;
                u.max_exp_avg_sq = amsgrad ? singly.top[q].data() : nullptr;
                reference(u, d, V, buffer, m, v, top, before.t[q] + 1);
                if (!std::isfinite(V + d * d) || large > 1e15) continue;
                if (!agree(std::fabs(singly.V[q][j] - V) <= 1e-6 * large, "a step")) return false;
            }
    }
    if (!agree(failed || done == static_cast<int64_t>(batches.size()), "how many steps")) return false;
    bool finite = true;
    for (auto &V : at_once.V)
        for (float x : V) finite &= std::isfinite(x);
    if (!agree(at_once == singly || !finite, "steps in one call")) return false;
    rows[draw.integer(0, rows.size() - 1)] = draw.coin() ? -1 : p.of;
    State again = start;
    const auto [refused, taken] = take(again, batches, costs);
    return agree(refused && taken < static_cast<int64_t>(batches.size()), "a row that there is not");
}

// NaN and infinity anywhere: any result, but no fault.
void survives(Draw &draw, long most_threads) {
    Problem p(draw, most_threads, true);
    const float wrong[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f};
    for (auto *array : {&p.X, &p.W1, &p.b1, &p.W2, &p.b2})
        if (draw.coin(0.4)) (*array)[draw.integer(0, array->size() - 1)] = wrong[draw.integer(0, 5)];
    twolayer_pass(&p.a);
}

} // namespace

int main(int, char **arguments) {
    const long problems = std::stol(arguments[1]), most_threads = std::stol(arguments[3]);
    Draw draw{std::mt19937_64(std::stoul(arguments[2]))};
    for (long i = 0; i < problems; i++) {
        Problem p(draw, most_threads, true);
        if (!run(p) || !refuses(draw, most_threads) || !parts_agree(draw, most_threads)) return 1;
        if (!steps_agree(draw, most_threads)) return 1;
        survives(draw, most_threads);
    }
}
