/* Architecture, compiler and target-region macros: the only place that looks at the compiler.
 * A region is opened around the vector header and the kernel bodies of one ISA, so that no source needs a flag. */
#ifndef RV_TARGET_H
#define RV_TARGET_H

#if defined(__x86_64__) || defined(_M_X64)
#define RV_X86 1
#else
#define RV_X86 0
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#define RV_ARM64 1
#else
#define RV_ARM64 0
#endif

#define RV_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define RV_TARGET_BEGIN(features) RV_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define RV_TARGET_END RV_PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#define RV_TARGET_BEGIN(features) RV_PRAGMA(GCC push_options) RV_PRAGMA(GCC target(features))
#define RV_TARGET_END RV_PRAGMA(GCC pop_options)
#else
/* MSVC compiles every intrinsic anywhere; setup.py gives these files /arch for good code. */
#define RV_TARGET_BEGIN(features)
#define RV_TARGET_END
#endif

#if defined(__GNUC__)
#define RV_INLINE static inline __attribute__((always_inline, unused))
#define RV_UNUSED __attribute__((unused))
#define RV_NOINLINE __attribute__((noinline))
#define RV_PREFETCH(p) __builtin_prefetch(p)
#define RV_LIKELY(x) __builtin_expect(!!(x), 1)
#define RV_RESTRICT __restrict__
#else
#define RV_INLINE static __forceinline
#define RV_UNUSED
#define RV_NOINLINE __declspec(noinline)
#define RV_PREFETCH(p) ((void)(p))
#define RV_LIKELY(x) (x)
#define RV_RESTRICT __restrict
#endif

/* The number of the lowest bit that is set; bits is not 0. */
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static __forceinline int rv_lowest_bit(unsigned __int64 bits)
{
    unsigned long i;
    _BitScanForward64(&i, bits);
    return (int)i;
}
#else
static inline int rv_lowest_bit(unsigned long long bits) { return __builtin_ctzll(bits); }
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define RV_ALIGN(n) __declspec(align(n))
#define RV_THREAD_LOCAL __declspec(thread)
#else
#define RV_ALIGN(n) _Alignas(n)
#define RV_THREAD_LOCAL _Thread_local
#endif

#endif
