// What torch.optim makes of a gradient: SGD, Adam and AdamW, on the state that these optimizers keep.
#pragma once
#include <cmath>
#include <cstdint>

namespace {

enum Rule { SGD, ADAM, RULES };

// Of one parameter V. Filled in by cpu_steps.py, field by field in this order, each of 8 bytes.
struct Update {
    float *V, *dV;
    float *momentum_buffer;                              // of SGD, or null
    float *exp_avg, *exp_avg_sq, *max_exp_avg_sq, *step; // of Adam; max_exp_avg_sq or null
    int64_t size, rule, nesterov, decoupled;             // decoupled: the weight decay, as in AdamW
    double lr, weight_decay, momentum, dampening, beta1, beta2, eps;
};

inline void sgd(const Update &u, long from, long to) {
    const float lr = static_cast<float>(u.lr), decay = static_cast<float>(u.weight_decay);
    const float momentum = static_cast<float>(u.momentum), fresh = static_cast<float>(1 - u.dampening);
    float *__restrict V = u.V, *__restrict buffer = u.momentum_buffer;
    const float *__restrict dV = u.dV;
    for (long i = from; i < to; i++) {
        float d = dV[i];
        if (decay != 0) d += decay * V[i];
        if (buffer) {
            buffer[i] = momentum * buffer[i] + fresh * d;
            d = u.nesterov ? d + momentum * buffer[i] : buffer[i];
        }
        V[i] -= lr * d;
    }
}

inline void adam(const Update &u, long from, long to) {
    const double t = *u.step; // this step counts
    const float lr = static_cast<float>(u.lr / (1 - std::pow(u.beta1, t)));
    const float root = static_cast<float>(std::sqrt(1 - std::pow(u.beta2, t)));
    const float fresh1 = static_cast<float>(1 - u.beta1), fresh2 = static_cast<float>(1 - u.beta2);
    const float beta2 = static_cast<float>(u.beta2), eps = static_cast<float>(u.eps);
    const float decay = static_cast<float>(u.decoupled ? 0 : u.weight_decay);
    const float kept = static_cast<float>(u.decoupled ? 1 - u.lr * u.weight_decay : 1);
    float *__restrict V = u.V, *__restrict m = u.exp_avg, *__restrict v = u.exp_avg_sq, *__restrict top = u.max_exp_avg_sq;
    const float *__restrict dV = u.dV;
    for (long i = from; i < to; i++) {
        float d = dV[i];
        if (decay != 0) d += decay * V[i];
        m[i] += fresh1 * (d - m[i]);
        v[i] = beta2 * v[i] + fresh2 * d * d;
        float square = v[i];
        if (top) square = top[i] = top[i] > square ? top[i] : square;
        V[i] = kept * V[i] - lr * (m[i] / (std::sqrt(square) / root + eps));
    }
}

// The numbers [from, to) of a parameter; Adam's count is one more by then.
inline void update(const Update &u, long from, long to) {
    if (u.rule == SGD) sgd(u, from, to);
    else adam(u, from, to);
}

// As torch.nn.utils.clip_grad_norm_: all gradients times one number, so that their norm is `most` at most.
inline void clip(const Update *updates, int n, double most) {
    double squares[8] = {};
    for (const Update *u = updates; u < updates + n; u++)
        for (long i = 0; i < u->size; i++) squares[i % 8] += double(u->dV[i]) * u->dV[i];
    double norm = 0;
    for (double of_some : squares) norm += of_some;
    const double share = most / (std::sqrt(norm) + 1e-6);
    if (share >= 1) return; // a NaN goes on
    for (const Update *u = updates; u < updates + n; u++)
        for (long i = 0; i < u->size; i++) u->dV[i] *= static_cast<float>(share);
}

} // namespace
