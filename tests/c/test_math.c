/* The vector headers and csrc/vec/math.h on every instruction set of this machine: the contract's operations, then the error
 * of every elementary function against the C library's next wider type.
 *
 *   test_math                          samples
 *   test_math --exhaustive [name...]   every float of the named functions (exp2_flush and exp unless named): of [-126, 0],
 *                                      [-104, 0], [-150, 128], and of the positive ones for the rest, and 5e6 doubles each */
#if defined(__linux__)
#define _GNU_SOURCE
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#endif
#include "math_suite.h"
#include "ruvector.h"
#include "target.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int passed, failed;

#if RV_X86
extern const math_suite math_avx512bf16_f32, math_avx512_f32, math_avx512_f64, math_avx2_f32, math_avx2_f64;
#elif RV_ARM64
extern const math_suite math_neon_f32, math_neon_f64;
#endif
extern const math_suite math_scalar_f32, math_scalar_f64;

static const math_suite *const compiled[] = {
#if RV_X86
    &math_avx512bf16_f32, &math_avx512_f32, &math_avx512_f64, &math_avx2_f32, &math_avx2_f64,
#elif RV_ARM64
    &math_neon_f32, &math_neon_f64,
#endif
    &math_scalar_f32, &math_scalar_f64,
};
enum { COMPILED = sizeof compiled / sizeof compiled[0], CHUNK = 4096 };

static int usable(const math_suite *s)
{
    for (int i = 0; rv_isa_at(i); i++)
        if (strcmp(rv_isa_at(i), s->isa) == 0)
            return 1;
    return 0;
}

void *at_page_end(size_t bytes)
{
    static char *page;
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    if (!page) {
        page = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED || mprotect(page + size, size, PROT_NONE) != 0) {
            perror("mmap");
            exit(2);
        }
    }
    return page + size - bytes;
}

uint64_t random_bits(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

double f16_value(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 0x3ff;
    double x = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -x : x;
}

double bf16_value(uint16_t h)
{
    int e = h >> 7 & 255, m = h & 0x7f;
    double x = e == 255 ? (m ? NAN : INFINITY) : e ? ldexp(128 + m, e - 134) : ldexp(m, -133);
    return h & 0x8000 ? -x : x;
}

/* Nearest of the type's values to x by bisection over its words, which grow with the value; ties to the even word. */
static uint16_t nearest(double x, double (*value)(uint16_t), uint16_t infinity)
{
    double a = fabs(x);
    uint16_t low = 0, high = infinity;
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if (value(middle) <= a)
            low = middle;
        else
            high = middle;
    }
    /* infinity stands where the next power of two would */
    double above = high == infinity ? 2 * value(low) - value((uint16_t)(low - 1)) : value(high), middle = (value(low) + above) / 2;
    uint16_t h = a > middle || (a == middle && (low & 1)) ? high : low;
    return (uint16_t)(h | (signbit(x) ? 0x8000 : 0));
}

uint16_t f16_nearest(float x) { return nearest(x, f16_value, 0x7c00); }
uint16_t bf16_nearest(float x) { return nearest(x, bf16_value, 0x7f80); }

/* pi x reduced exactly to |r| <= 1/4, which long double holds for every double */
static long double quarter_turns(long double x, int *turns)
{
    long double a = fmodl(fabsl(x), 2), h = rintl(2 * a);
    *turns = (int)h & 3;
    return a - h / 2;
}
static long double turned(long double x, int ahead)
{
    const long double pi = 3.14159265358979323846264338327950288L;
    int turns;
    if (!isfinite(x))
        return NAN;
    long double r = quarter_turns(x, &turns) * pi, y;
    turns = (turns + ahead) & 3;
    y = turns & 1 ? cosl(r) : sinl(r);
    return turns & 2 ? -y : y;
}
static long double sin_pi_long(long double x) { return signbit(x) ? -turned(x, 0) : turned(x, 0); }
static long double cos_pi_long(long double x) { return turned(x, 1); }
static double sin_pi(double x) { return (double)sin_pi_long(x); }
static double cos_pi(double x) { return (double)cos_pi_long(x); }

static const char *const names[FUNCTION_COUNT] = {"exp2_flush", "exp", "exp2", "log", "tanh", "erf", "asinh", "sinpi",
    "cospi"};
static double (*const in_double[FUNCTION_COUNT])(double) = {exp2, exp, exp2, log, tanh, erf, asinh, sin_pi, cos_pi};
static long double (*const in_long_double[FUNCTION_COUNT])(long double) = {exp2l, expl, exp2l, logl, tanhl, erfl, asinhl,
    sin_pi_long, cos_pi_long};
/* where the results are neither 0, 1 nor infinite, and where exp2_flush is defined */
static const double from[2][FUNCTION_COUNT] = {{-130, -105, -152, 0, 0, 0, -4, -4, -4}, {-1030, -750, -1080, 0, 0, 0, -4, -4, -4}};
static const double to[2][FUNCTION_COUNT] = {{1, 90, 130, 4, 11, 4.5, 4, 4, 4}, {1, 712, 1026, 4, 22, 7, 4, 4, 4}};

typedef struct worst {
    double ulp, at;
} worst;

static worst found[COMPILED][FUNCTION_COUNT];

static float float_of(uint32_t w) { float x; memcpy(&x, &w, 4); return x; }
static double double_of(uint64_t w) { double x; memcpy(&x, &w, 8); return x; }
static uint32_t bits_of_float(float x) { uint32_t w; memcpy(&w, &x, 4); return w; }
static uint64_t bits_of_double(double x) { uint64_t w; memcpy(&w, &x, 8); return w; }

/* |y - exact| in units of the last place of a float at `exact`. */
static double float_error(double y, double exact)
{
    if (exact != exact || y != y)
        return exact != exact && y != y ? 0 : INFINITY;
    if (fabs(exact) >= 0x1p128)
        return y == (exact > 0 ? INFINITY : -INFINITY) ? 0 : INFINITY;
    if (isinf(y))
        y = y > 0 ? 0x1p128 : -0x1p128;
    int e = (int)(bits_of_double(exact) >> 52 & 0x7ff) - 1023;
    e = e < -126 ? -126 : e;
    return fabs(y - exact) * double_of((uint64_t)(1023 + 23 - e) << 52);
}

static double double_error(double y, long double exact)
{
    if (exact != exact || y != y)
        return exact != exact && y != y ? 0 : INFINITY;
    if (fabsl(exact) >= 0x1p1024L)
        return y == (exact > 0 ? INFINITY : -INFINITY) ? 0 : INFINITY;
    long double got = isinf(y) ? (y > 0 ? 0x1p1024L : -0x1p1024L) : y;
    int e;
    frexpl(exact, &e);
    e = e - 1 < -1022 || exact == 0 ? -1022 : e - 1;
    return (double)ldexpl(fabsl(got - exact), 52 - e);
}

/* Runs f of every usable suite of that width over n arguments. */
static void compare(int f, int bits, const void *x, int64_t n)
{
    static double y[CHUNK], expected[CHUNK];
    static long double expected_long[CHUNK];
    const float *xf = x;
    const double *xd = x;
    const double least = bits == 32 ? 0x1p-126 : 0x1p-1022;
    for (int64_t i = 0; i < n; i++)
        if (bits == 32)
            expected[i] = in_double[f](xf[i]);
        else
            expected_long[i] = in_long_double[f](xd[i]);
    for (int s = 0; s < COMPILED; s++) {
        if (compiled[s]->bits != bits || !usable(compiled[s]))
            continue;
        worst *w = &found[s][f];
        compiled[s]->map[f](x, y, n);
        const float *yf = (const float *)y;
        for (int64_t i = 0; i < n; i++) {
            double at = bits == 32 ? xf[i] : xd[i], got = bits == 32 ? yf[i] : y[i], e;
            if (f == EXP2_FLUSH && at < (bits == 32 ? -126 : -1022))
                e = got == 0 && !signbit(got) ? 0 : INFINITY;
            else if (f == EXP2_FLUSH && at > 1)
                continue;
            else
                e = bits == 32 ? float_error(got, expected[i]) : double_error(got, expected_long[i]);
            if (f == EXP2_FLUSH && ((got > 0 && got < least) || (at <= 0 && got > 1)))
                e = INFINITY;
            if (e > w->ulp) {
                w->ulp = e;
                w->at = at;
            }
        }
    }
}

static union {
    float f[CHUNK];
    double d[CHUNK];
} batch;
static int64_t batched;

static void put(int f, int bits, double x)
{
    if (bits == 32)
        batch.f[batched++] = (float)x;
    else
        batch.d[batched++] = x;
    if (batched == CHUNK) {
        compare(f, bits, &batch, batched);
        batched = 0;
    }
}

static void finish(int f, int bits)
{
    compare(f, bits, &batch, batched);
    batched = 0;
}

/* Where one formula hands over to another, and the ends of the types. */
static const double joints[] = {
    0, 1e-310, 1e-44, 1.17549435e-38, 2.2250738585072014e-308, 1e-20, 2.44e-4, 0.5225, 0.55, 1, 0.34657359027997264, 0.5, 0.7071067811865476,
    1.4142135623730951, 2, 4, 6, 9.01, 19.06, 20, 40, 4096, 0x1p28, 0x1p32, 0x1p64, 0x1p127, 0x1p512, 0x1p1023, 87.33654, 88.72284, 103.27893,
    103.97208, 126, 127, 127.96875, 128, 149, 149.5, 150, 708.3964185322641, 709.782712893384, 744.4400719213812, 745.1332191019412, 1022,
    1023.96875, 1024, 1074, 1074.5, 1075,
};

static void sample(int f, int bits, int64_t count)
{
    int wide = bits == 64;
    for (size_t k = 0; k < sizeof joints / sizeof joints[0]; k++)
        for (int i = -200; i <= 200; i++) {
            double x = wide ? double_of(bits_of_double(joints[k]) + (uint64_t)(int64_t)i)
                            : float_of(bits_of_float((float)joints[k]) + (uint32_t)i);
            put(f, bits, x);
            put(f, bits, -x);
        }
    for (int64_t k = 0; k < count; k++) {
        double part = (double)(random_bits() >> 11) * 0x1p-53;
        put(f, bits, from[wide][f] + (to[wide][f] - from[wide][f]) * part);
        put(f, bits, wide ? double_of(random_bits()) : float_of((uint32_t)(k * (0xffffffff / count))));
    }
    finish(f, bits);
}

static void exhaustive(int f)
{
    /* words of the negative floats count away from zero */
    const uint32_t negative = 0x80000000;
    if (f == EXP2_FLUSH || f == EXP || f == EXP2)
        for (uint32_t w = negative; w <= bits_of_float(f == EXP2_FLUSH ? -126 : f == EXP ? -104 : -150); w++)
            put(f, 32, float_of(w));
    if (f != EXP2_FLUSH && f != EXP)
        for (uint32_t w = 0; w <= bits_of_float(f == EXP2 ? 128 : INFINITY); w++)
            put(f, 32, float_of(w));
    finish(f, 32);
}

static double apply(const math_suite *s, int f, double x)
{
    if (s->bits == 32) {
        float a = (float)x, y;
        s->map[f](&a, &y, 1);
        return y;
    }
    double y;
    s->map[f](&x, &y, 1);
    return y;
}

static int same(double a, double b) { return (a != a && b != b) || bits_of_double(a) == bits_of_double(b); }

static void check_special(const math_suite *s)
{
    static const struct {
        int f;
        double x, y;
    } cases[] = {
        {EXP2_FLUSH, 0, 1}, {EXP2_FLUSH, -0.0, 1}, {EXP2_FLUSH, -INFINITY, 0}, {EXP2_FLUSH, NAN, NAN}, {EXP2_FLUSH, -1e30, 0},
        {EXP2_FLUSH, -3.4028234663852886e38, 0}, {EXP2_FLUSH, -1100, 0}, {EXP2_FLUSH, 1, 2},
        {EXP, 0, 1}, {EXP, -0.0, 1}, {EXP, -INFINITY, 0}, {EXP, INFINITY, INFINITY}, {EXP, NAN, NAN}, {EXP, -1e30, 0}, {EXP, 1e30, INFINITY},
        {EXP2, 0, 1}, {EXP2, -0.0, 1}, {EXP2, -INFINITY, 0}, {EXP2, INFINITY, INFINITY}, {EXP2, NAN, NAN}, {EXP2, -1e30, 0},
        {EXP2, 1e30, INFINITY}, {EXP2, 10, 1024}, {EXP2, -140, 0x1p-140}, {EXP2, 127, 0x1p127},
        {LOG, 0, -INFINITY}, {LOG, -0.0, -INFINITY}, {LOG, 1, 0}, {LOG, -1, NAN}, {LOG, -INFINITY, NAN}, {LOG, INFINITY, INFINITY},
        {LOG, NAN, NAN}, {LOG, -1e-40, NAN},
        {TANH, 0, 0}, {TANH, -0.0, -0.0}, {TANH, INFINITY, 1}, {TANH, -INFINITY, -1}, {TANH, NAN, NAN}, {TANH, 100, 1}, {TANH, -1e30, -1},
        {TANH, 0x1p-140, 0x1p-140},
        {ERF, 0, 0}, {ERF, -0.0, -0.0}, {ERF, INFINITY, 1}, {ERF, -INFINITY, -1}, {ERF, NAN, NAN}, {ERF, 7, 1}, {ERF, -1e30, -1},
        {ASINH, 0, 0}, {ASINH, -0.0, -0.0}, {ASINH, INFINITY, INFINITY}, {ASINH, -INFINITY, -INFINITY}, {ASINH, NAN, NAN},
        {ASINH, 0x1p-140, 0x1p-140},
        {SINPI, 0, 0}, {SINPI, -0.0, -0.0}, {SINPI, INFINITY, NAN}, {SINPI, -INFINITY, NAN}, {SINPI, NAN, NAN}, {SINPI, 0.5, 1},
        {SINPI, -0.5, -1}, {SINPI, 1.5, -1}, {SINPI, 2.5, 1}, {SINPI, 1048576.5, 1}, {SINPI, 1e30, 0},
        {COSPI, 0, 1}, {COSPI, -0.0, 1}, {COSPI, INFINITY, NAN}, {COSPI, -INFINITY, NAN}, {COSPI, NAN, NAN}, {COSPI, 1, -1},
        {COSPI, -1, -1}, {COSPI, 2, 1}, {COSPI, 1048577, -1}, {COSPI, 1e30, 1},
    };
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        double y = apply(s, cases[k].f, cases[k].x);
        CHECK(same(y, cases[k].y), "%s f%d: %s(%g) = %g", s->isa, s->bits, names[cases[k].f], cases[k].x, y);
    }
    /* 2^n exact: rescaling by it loses nothing */
    int least = s->bits == 32 ? -126 : -1022, deepest = s->bits == 32 ? -149 : -1074;
    for (int n = deepest - 3; n <= -deepest; n++) {
        double y = n <= 1 ? apply(s, EXP2_FLUSH, n) : 0;
        CHECK(n > 1 || same(y, n < least ? 0 : ldexp(1, n)), "%s f%d: exp2_flush(%d) = %g", s->isa, s->bits, n, y);
        y = apply(s, EXP2, n);
        double exact = n > 1 - least ? INFINITY : n < deepest ? 0 : ldexp(1, n);
        CHECK(same(y, exact), "%s f%d: exp2(%d) = %g", s->isa, s->bits, n, y);
    }
    /* NaN of every payload stays NaN: no integer step turns it into a number */
    for (int f = 0; f < FUNCTION_COUNT; f++) {
        int bad = 0;
        for (int k = 0; k < 52; k++)
            for (int sign = 0; sign < 2; sign++) {
                if (s->bits == 32 && k < 22) {
                    float x = float_of(0x7fc00000u | (uint32_t)sign << 31 | 1u << k), y;
                    s->map[f](&x, &y, 1);
                    bad |= y == y;
                } else if (s->bits == 64) {
                    double x = double_of(0x7ff8000000000000u | (uint64_t)sign << 63 | (uint64_t)1 << k), y;
                    s->map[f](&x, &y, 1);
                    bad |= y == y;
                }
            }
        CHECK(!bad, "%s f%d: %s of a NaN with a payload", s->isa, s->bits, names[f]);
    }
}

int main(int argc, char **argv)
{
    int all = argc > 1 && strcmp(argv[1], "--exhaustive") == 0;
    if (argc > 1 && !all) {
        printf("usage: %s [--exhaustive [%s|...]]\n", argv[0], names[0]);
        return 2;
    }
    for (int s = 0; s < COMPILED; s++)
        if (usable(compiled[s])) {
            compiled[s]->contract();
            check_special(compiled[s]);
        } else {
            printf("%s f%d: not usable on this CPU\n", compiled[s]->isa, compiled[s]->bits);
        }
    for (int f = 0; f < FUNCTION_COUNT; f++) {
        int named = argc == 2 && (f == EXP2_FLUSH || f == EXP);
        for (int i = 2; i < argc; i++)
            named |= strcmp(argv[i], names[f]) == 0;
        sample(f, 32, 300000);
        sample(f, 64, all && named ? 5000000 : 60000);
        if (all && named)
            exhaustive(f);
    }
    printf("%-8s %-4s %-11s %8s  %s\n", "isa", "type", "function", "max ULP", "at");
    for (int s = 0; s < COMPILED; s++)
        for (int f = 0; f < FUNCTION_COUNT && usable(compiled[s]); f++) {
            const worst *w = &found[s][f];
            printf("%-8s f%-3d %-11s %8.4f  %.17g\n", compiled[s]->isa, compiled[s]->bits, names[f], w->ulp, w->at);
            CHECK(w->ulp <= compiled[s]->bound[f], "%s f%d: %s is off by %g ULP at %.17g, more than %g", compiled[s]->isa,
                  compiled[s]->bits, names[f], w->ulp, w->at, compiled[s]->bound[f]);
        }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
