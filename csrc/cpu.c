/* What this machine has: instruction sets and the active one, cache sizes, the brand string. */
#if defined(__linux__)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#endif

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if RV_X86 && defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#elif RV_X86
#include <cpuid.h>
#endif

enum { EAX, EBX, ECX, EDX };

#if RV_X86
/* Zeros where the leaf does not exist. */
static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
#if defined(_MSC_VER) && !defined(__clang__)
    int out[4];
    __cpuid(out, (int)(leaf & 0x80000000u));
    if ((uint32_t)out[EAX] < leaf)
        memset(out, 0, sizeof out);
    else
        __cpuidex(out, (int)leaf, (int)subleaf);
    memcpy(r, out, sizeof out);
#else
    memset(r, 0, 4 * sizeof *r);
    __get_cpuid_count(leaf, subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]);
#endif
}

/* Register state that the system saves: bit 2 ymm, bits 5-7 mask registers and zmm. */
static uint64_t saved_state(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[ECX] >> 27 & 1))        /* OSXSAVE: xgetbv faults without */
        return 0;
#if defined(_MSC_VER) && !defined(__clang__)
    uint64_t state = _xgetbv(0);
#else
    uint32_t low, high;             /* by asm: the intrinsic wants a target option */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    uint64_t state = (uint64_t)high << 32 | low;
#endif
#if defined(__APPLE__)
    /* Darwin saves zmm from a thread's first use on and sets the bits of XCR0 only then. */
    int has = 0;
    size_t size = sizeof has;
    if (sysctlbyname("hw.optional.avx512f", &has, &size, NULL, 0) == 0 && has)
        state |= 0xe0;
#endif
    return state;
}

static int has_bits(uint64_t word, uint64_t bits) { return (word & bits) == bits; }

/* Own detection: __builtin_cpu_supports answers no to everything in some toolchains, and not every one asks XCR0. */
static int usable_avx2(void)
{
    const uint32_t fma = 1u << 12, avx = 1u << 28, f16c = 1u << 29, avx2 = 1u << 5;
    uint32_t r1[4], r7[4];
    cpuid(1, 0, r1);
    cpuid(7, 0, r7);
    return has_bits(r1[ECX], fma | avx | f16c) && has_bits(r7[EBX], avx2) && has_bits(saved_state(), 0x06);
}

static int usable_avx512(void)
{
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    uint32_t r7[4];
    cpuid(7, 0, r7);
    return usable_avx2() && has_bits(r7[EBX], f | dq | bw | vl) && has_bits(saved_state(), 0xe6);
}

static int usable_avx512bf16(void)
{
    uint32_t r7[4];
    cpuid(7, 1, r7);
    return usable_avx512() && has_bits(r7[EAX], 1u << 5);
}
#endif

static int usable_always(void) { return 1; }

typedef struct rv_isa {
    const char *name;
    int (*usable)(void);
    const rv_kernels *f32, *f64;
} rv_isa;

/* Every ISA of this build in order of preference: the first usable one is the automatic choice. */
static const rv_isa isas[] = {
#if RV_X86
    {"avx512bf16", usable_avx512bf16, &rv_kernels_avx512bf16_f32, &rv_kernels_avx512_f64},
    {"avx512", usable_avx512, &rv_kernels_avx512_f32, &rv_kernels_avx512_f64},
    {"avx2", usable_avx2, &rv_kernels_avx2_f32, &rv_kernels_avx2_f64},
#elif RV_ARM64
    {"neon", usable_always, &rv_kernels_neon_f32, &rv_kernels_neon_f64},      /* part of the AArch64 baseline */
#endif
    {"scalar", usable_always, &rv_kernels_scalar_f32, &rv_kernels_scalar_f64},
};
#define ISA_COUNT ((int)(sizeof isas / sizeof *isas))

/* Bit i: isas[i] runs here; 0: not asked yet. Two threads that ask at once store the same. */
static atomic_uint usable_set;
static _Atomic(const rv_isa *) active;

static int usable(int i)
{
    unsigned set = atomic_load(&usable_set);
    if (!set) {
        for (int k = 0; k < ISA_COUNT; k++)
            set |= (unsigned)isas[k].usable() << k;
        atomic_store(&usable_set, set);
    }
    return set >> i & 1;
}

static const rv_isa *isa_now(void)
{
    const rv_isa *isa = atomic_load_explicit(&active, memory_order_acquire);
    if (RV_LIKELY(isa))
        return isa;
    int i = 0;
    while (!usable(i))
        i++;
    /* Keep what another thread has chosen meanwhile. */
    const rv_isa *none = NULL;
    return atomic_compare_exchange_strong(&active, &none, &isas[i]) ? &isas[i] : none;
}

const rv_kernels *rv_kernels_get(rv_dtype compute)
{
    const rv_isa *isa = isa_now();
    return compute == RV_F64 ? isa->f64 : isa->f32;
}

const char *rv_isa_at(int i)
{
    for (int k = 0; k < ISA_COUNT; k++)
        if (usable(k) && i-- == 0)
            return isas[k].name;
    return NULL;
}

const char *rv_isa_compiled_at(int i) { return i >= 0 && i < ISA_COUNT ? isas[i].name : NULL; }

const char *rv_isa_active(void) { return isa_now()->name; }

rv_status rv_isa_use(const char *name)
{
    for (int k = 0; name && k < ISA_COUNT; k++)
        if (usable(k) && strcmp(isas[k].name, name) == 0) {
            atomic_store(&active, &isas[k]);
            return RV_OK;
        }
    return RV_ERR_UNKNOWN;
}

rv_status rv_isa_init(const char **bad)
{
    const char *name = getenv("RUVECTOR_ISA");
    rv_status status = name && *name ? rv_isa_use(name) : RV_OK;
    if (status != RV_OK)
        *bad = name;
    return status;
}

#if RV_X86
static int64_t find_cache(int level)
{
    /* AMD describes its caches in the layout of Intel's leaf 4, in a leaf of its own; on either, the other's is empty. */
    static const uint32_t leaves[2] = {0x8000001du, 4};
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < 16; i++) {
            uint32_t r[4];
            cpuid(leaves[k], i, r);
            uint32_t type = r[EAX] & 31;
            if (type == 0)
                break;
            if (type != 2 && (int)(r[EAX] >> 5 & 7) == level)       /* 2 = instructions */
                return (int64_t)((r[EBX] >> 22) + 1) * ((r[EBX] >> 12 & 1023) + 1) * ((r[EBX] & 4095) + 1) *
                       ((int64_t)r[ECX] + 1);
        }
    return 0;
}
#elif defined(__linux__)
/* sysconf answers 0 here with glibc and does not know the names with musl. */
static int64_t find_cache(int level)
{
    for (int i = 0; i < 8; i++) {
        static const char *const items[3] = {"level", "type", "size"};
        char text[3][16] = {"", "", ""};
        for (int k = 0; k < 3; k++) {
            char path[80];
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", i, items[k]);
            FILE *file = fopen(path, "r");
            if (!file)
                return 0;
            if (!fgets(text[k], sizeof text[k], file))
                text[k][0] = 0;
            fclose(file);
        }
        if (atoi(text[0]) == level && text[1][0] != 'I') {
            char *unit;
            int64_t size = strtoll(text[2], &unit, 10);
            return *unit == 'K' ? size << 10 : *unit == 'M' ? size << 20 : size;
        }
    }
    return 0;
}
#elif defined(__APPLE__)
static int64_t find_cache(int level)
{
    static const char *const names[3][2] = {
        {"hw.perflevel0.l1dcachesize", "hw.l1dcachesize"},
        {"hw.perflevel0.l2cachesize", "hw.l2cachesize"},
        {"hw.perflevel0.l3cachesize", "hw.l3cachesize"},
    };
    for (int i = 0; i < 2; i++) {
        int64_t value = 0;      /* little-endian: a 4-byte answer lands in the low half */
        size_t size = sizeof value;
        if (sysctlbyname(names[level - 1][i], &value, &size, NULL, 0) == 0 && value > 0)
            return value;
    }
    return 0;
}
#elif defined(_WIN32)
static int64_t find_cache(int level)
{
    DWORD bytes = 0;
    GetLogicalProcessorInformation(NULL, &bytes);
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION *info = malloc(bytes ? bytes : 1);
    int64_t size = 0;
    if (info && GetLogicalProcessorInformation(info, &bytes))
        for (DWORD i = 0; i < bytes / sizeof *info && size == 0; i++)
            if (info[i].Relationship == RelationCache && info[i].Cache.Level == level &&
                info[i].Cache.Type != CacheInstruction)
                size = info[i].Cache.Size;
    free(info);
    return size;
}
#else
static int64_t find_cache(int level)
{
    (void)level;
    return 0;
}
#endif

int64_t rv_cpu_cache(int level)
{
    /* Size + 1; 0: not asked yet. CPUID costs some 20 us in all under a hypervisor, so it is asked once. */
    static _Atomic int64_t known[3];
    if (level < 1 || level > 3)
        return 0;
    int64_t size = atomic_load(&known[level - 1]);
    if (!size) {
        size = find_cache(level) + 1;
        atomic_store(&known[level - 1], size);
    }
    return size - 1;
}

/* Writes a terminated string; leaves it empty where nothing tells. */
static void find_brand(char *text, size_t size)
{
    text[0] = 0;
#if RV_X86
    uint32_t r[13] = {0};
    for (uint32_t i = 0; i < 3; i++)
        cpuid(0x80000002u + i, 0, r + 4 * i);
    snprintf(text, size, "%s", (const char *)r);
#elif defined(__APPLE__)
    if (sysctlbyname("machdep.cpu.brand_string", text, &size, NULL, 0) != 0)
        text[0] = 0;
#elif defined(_WIN32)
    if (GetEnvironmentVariableA("PROCESSOR_IDENTIFIER", text, (DWORD)size) >= size)
        text[0] = 0;
#elif defined(__linux__)
    /* AArch64 kernels tell numbers, some vendors' a name. */
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[256];
    unsigned maker = 0, part = 0;
    while (file && fgets(line, sizeof line, file)) {
        const char *value = strchr(line, ':');
        if (!value)
            continue;
        value++;
        if (strncmp(line, "model name", 10) == 0) {
            snprintf(text, size, "%s", value);
            break;
        }
        if (strncmp(line, "CPU implementer", 15) == 0)
            maker = (unsigned)strtoul(value, NULL, 0);
        if (strncmp(line, "CPU part", 8) == 0)
            part = (unsigned)strtoul(value, NULL, 0);
    }
    if (file)
        fclose(file);
    if (!text[0] && maker)
        snprintf(text, size, "ARM implementer 0x%02x part 0x%03x", maker, part);
#else
    (void)size;
#endif
    size_t from = strspn(text, " \t"), to = strlen(text);
    while (to > from && strchr(" \t\n", text[to - 1]))
        to--;
    memmove(text, text + from, to - from);
    text[to - from] = 0;
}

const char *rv_cpu_brand(void)
{
    /* Allocated once and kept: threads that ask at the same time never wait for each other, nor does a forked child. */
    static _Atomic(const char *) known;
    const char *brand = atomic_load(&known);
    if (brand)
        return brand;
    char text[64];
    find_brand(text, sizeof text);
    size_t size = strlen(text) + 1;
    char *copy = size > 1 ? malloc(size) : NULL;
    if (!copy)
        return "unknown";
    memcpy(copy, text, size);
    if (atomic_compare_exchange_strong(&known, &brand, copy))
        return copy;
    free(copy);
    return brand;
}
