// How many of the levels this processor runs for which cpu.cpp is compiled, the lowest first: see hatch_build.py.
//
// In a library of its own, compiled for no level: so it can be asked before any of the others is loaded.

extern "C" int twolayer_levels() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return 3;
    if (__builtin_cpu_supports("x86-64-v3")) return 2;
    if (__builtin_cpu_supports("x86-64-v2")) return 1;
    return 0;
#else
    return 1;
#endif
}
