/* What each math_<isa>_<dtype>.c gives test_math.c: the elementary functions of one vector header, and its own checks. */
#ifndef MATH_SUITE_H
#define MATH_SUITE_H

#include <stdint.h>
#include <stdio.h>

enum { EXP2_FLUSH, EXP, EXP2, LOG, TANH, ERF, ASINH, SINPI, COSPI, FUNCTION_COUNT };

typedef struct math_suite {
    const char *isa;
    int bits;
    void (*map[FUNCTION_COUNT])(const void *x, void *y, int64_t n);
    double bound[FUNCTION_COUNT];       /* ULP */
    void (*contract)(void);
} math_suite;

extern int passed, failed;

#define CHECK(condition, ...) \
    do { \
        if (condition) { \
            passed++; \
        } else { \
            failed++; \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            printf(__VA_ARGS__); \
            printf("\n"); \
        } \
    } while (0)

/* `bytes` bytes whose end is the end of the accessible page; the page after it traps. */
void *at_page_end(size_t bytes);
uint64_t random_bits(void);

/* Storage types done again by other means: exact scaling of the integer significand. */
double f16_value(uint16_t h);
double bf16_value(uint16_t h);
uint16_t f16_nearest(float x);
uint16_t bf16_nearest(float x);

#endif
