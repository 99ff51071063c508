/* What this instruction set can do at the most, for the benchmark: a loop of fused multiply-adds and a loop of loads.
 * Accumulators have names: gcc 12 keeps an array of vectors on the stack (118 -> 72 GFLOP/s where it was measured). */

#if RV_TILE_ROWS >= 8
#define RV_PEAK_CHAINS 24       /* the accumulators of the attention tile; 8 hide an FMA's latency on two pipes */
#define RV_PEAK_ALL(do) \
    do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11) \
    do(12) do(13) do(14) do(15) do(16) do(17) do(18) do(19) do(20) do(21) do(22) do(23)
#else
#define RV_PEAK_CHAINS 12
#define RV_PEAK_ALL(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11)
#endif

/* Each chain is a -> a * x + y, whose value the compiler cannot know and no product of which is the same twice; it converges
 * to y / (1 - x) = 1, so that no step meets an infinity or a subnormal number. */
static double peak_fma(int64_t rounds, double *operations)
{
    volatile real factor = (real)0.5;
    vreal x = v_set1(factor), y = v_set1(1 - factor);
#define CHAIN(i) vreal a##i = v_set1((real)(i + 2));
    RV_PEAK_ALL(CHAIN)
#undef CHAIN
    for (int64_t k = 0; k < rounds; k++) {
#define STEP(i) a##i = v_fma(a##i, x, y);
        RV_PEAK_ALL(STEP)
#undef STEP
    }
    vreal sum = v_zero();
#define TOTAL(i) sum = v_add(sum, a##i);
    RV_PEAK_ALL(TOTAL)
#undef TOTAL
    *operations = 2.0 * RV_LANES * RV_PEAK_CHAINS * (double)rounds;
    return v_sum(sum);
}

#if RV_HAVE_DOT2
/* The same of products of pairs of bfloat16, added to sums that are rounded to themselves once they are large. */
static double peak_dot2(int64_t rounds, double *operations)
{
    volatile real factor = (real)0.5;
    vpair x = p_zip(v_set1(factor), v_set1(factor)), y = p_ones();
#define CHAIN(i) vreal a##i = v_set1((real)(i + 2));
    RV_PEAK_ALL(CHAIN)
#undef CHAIN
    for (int64_t k = 0; k < rounds; k++) {
#define STEP(i) a##i = v_dot2(a##i, x, y);
        RV_PEAK_ALL(STEP)
#undef STEP
    }
    vreal sum = v_zero();
#define TOTAL(i) sum = v_add(sum, a##i);
    RV_PEAK_ALL(TOTAL)
#undef TOTAL
    *operations = 4.0 * RV_LANES * RV_PEAK_CHAINS * (double)rounds;
    return v_sum(sum);
}
#endif

/* Every byte of whole blocks of eight vectors, loaded once a pass. */
static double peak_read(const void *x, int64_t bytes, int64_t passes, double *read)
{
    const int64_t block = 8 * RV_LANES, n = bytes / (int64_t)sizeof(real) / block * block;
    const real *p = x;
    vreal s0 = v_zero(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    for (int64_t k = 0; k < passes; k++)
        for (int64_t i = 0; i < n; i += block) {
            s0 = v_add(s0, v_load(p + i));
            s1 = v_add(s1, v_load(p + i + RV_LANES));
            s2 = v_add(s2, v_load(p + i + 2 * RV_LANES));
            s3 = v_add(s3, v_load(p + i + 3 * RV_LANES));
            s4 = v_add(s4, v_load(p + i + 4 * RV_LANES));
            s5 = v_add(s5, v_load(p + i + 5 * RV_LANES));
            s6 = v_add(s6, v_load(p + i + 6 * RV_LANES));
            s7 = v_add(s7, v_load(p + i + 7 * RV_LANES));
        }
    *read = (double)n * (double)sizeof(real) * (double)passes;
    return v_sum(v_add(v_add(v_add(s0, s1), v_add(s2, s3)), v_add(v_add(s4, s5), v_add(s6, s7))));
}
