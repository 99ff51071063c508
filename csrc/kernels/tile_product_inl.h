/* The register tile of tile_inl.h, included once for each kind of product:
 *
 *   PRODUCT                 the function's name
 *   LEFT, SET1(p)           element type of a; the vector of every lane's left factor at p
 *   RIGHT, LOAD(p)          element type of b; RV_LANES right factors at p
 *   FACTOR, STEP(x, y, c)   their vector type; c plus the product
 *
 * c[r][lane] (+)= sum_k a[r * row_step + k * k_step] * b[k][lane] for RV_TILE_ROWS rows r and nv vectors of lanes; rows from
 * `rows` on repeat the last one, so that nothing past it is read. Named accumulators: gcc 12 spills an array of them. */
RV_INLINE void PRODUCT(const int nv, const int rows, const LEFT *a, int64_t row_step, int64_t k_step, const RIGHT *b,
                       int64_t k_len, real *c, int add)
{
#define EACH_DECLARE(r) \
    const LEFT *a##r = a + (r < rows ? r : rows - 1) * row_step; \
    vreal c##r##_0 = v_zero(), c##r##_1 = v_zero(), c##r##_2 = v_zero();
    RV_EACH_ROW(EACH_DECLARE)
#undef EACH_DECLARE
    int64_t at = 0;
    for (int64_t k = 0; k < k_len; k++) {
        FACTOR b0 = LOAD(b), b1 = nv > 1 ? LOAD(b + RV_LANES) : b0, b2 = nv > 2 ? LOAD(b + 2 * RV_LANES) : b0;
#define EACH_STEP(r) { \
        FACTOR x = SET1(a##r + at); \
        c##r##_0 = STEP(x, b0, c##r##_0); \
        if (nv > 1) c##r##_1 = STEP(x, b1, c##r##_1); \
        if (nv > 2) c##r##_2 = STEP(x, b2, c##r##_2); }
        RV_EACH_ROW(EACH_STEP)
#undef EACH_STEP
        at += k_step;
        b += RV_TILE_Q;
    }
#define EACH_STORE(r) { \
    real *p = c + r * RV_TILE_Q; \
    v_store(p, add ? v_add(v_load(p), c##r##_0) : c##r##_0); \
    if (nv > 1) v_store(p + RV_LANES, add ? v_add(v_load(p + RV_LANES), c##r##_1) : c##r##_1); \
    if (nv > 2) v_store(p + 2 * RV_LANES, add ? v_add(v_load(p + 2 * RV_LANES), c##r##_2) : c##r##_2); }
    RV_EACH_ROW(EACH_STORE)
#undef EACH_STORE
}
#undef PRODUCT
#undef LEFT
#undef SET1
#undef RIGHT
#undef LOAD
#undef FACTOR
#undef STEP
