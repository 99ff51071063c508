/* The k largest elements of rows and their softmax: routing of tokens to experts, and plain top-k.
 *
 * Larger elements rank first, of equal ones (-0 equals +0) that of lower index. NaN ranks above all numbers in plain top-k; a
 * row of weights that holds one is NaN, its indices are 0, 1, ..., k - 1.
 *
 * There are three ways. n, k and the row itself choose, so that its bits never depend on its neighbours:
 *   top_lanes   rows in lanes, their elements one after the other into sorted slots: nothing horizontal
 *   top_few     the k-th largest of 32 column maxima is at most the k-th largest element: what reaches it goes the same way
 *   top_row     a heap of the best so far, behind a vector comparison with its worst */

enum {
    RV_TOP_SLOTS = 16,      /* most elements of a row that slots choose */
    RV_TOP_COLUMNS = 32,
    RV_TOP_CANDIDATES = 32, /* of random rows of 1024, none has more for k = 8, one in 500 for k = 16 */
    RV_TOP_ROOM = 64        /* most elements of a row in lanes */
};

/* a[i] ranks behind a[j] */
RV_INLINE int top_behind(const real *value, const int64_t *index, int64_t i, int64_t j)
{
    return value[i] < value[j] || (value[i] == value[j] && index[i] > index[j]);
}

RV_INLINE void top_swap(real *value, int64_t *index, int64_t i, int64_t j)
{
    real v = value[i];
    int64_t at = index[i];
    value[i] = value[j];
    index[i] = index[j];
    value[j] = v;
    index[j] = at;
}

/* The heap's last in rank is its root. */
static void top_sift(real *value, int64_t *index, int64_t i, int64_t n)
{
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && top_behind(value, index, child + 1, child))
            child++;
        if (!top_behind(value, index, child, i))
            return;
        top_swap(value, index, i, child);
    }
}

static int top_any_nan(const real *x, int64_t n)
{
    vmask bad = v_nan(v_load_tail(x, n % RV_LANES));
    for (int64_t i = n % RV_LANES; i < n; i += RV_LANES)
        bad = m_or(bad, v_nan(v_load(x + i)));
    return m_any(bad);
}

/* The k first in rank of n elements, k of them in order; returns how many of the row's NaN stand before the numbers. */
static int64_t top_heap(const real *x, int64_t n, int64_t k, real *value, int64_t *index)
{
    int64_t nans = 0, size = 0, i = 0;
    if (top_any_nan(x, n))
        for (int64_t j = 0; j < n && nans < k; j++)
            if (x[j] != x[j]) {
                value[nans] = x[j];
                index[nans++] = j;
            }
    value += nans;
    index += nans;
    k -= nans;
    if (k == 0)
        return nans;
    for (; size < k; i++)
        if (x[i] == x[i]) {
            value[size] = x[i];
            index[size++] = i;
        }
    for (int64_t j = k / 2 - 1; j >= 0; j--)
        top_sift(value, index, j, k);
    while (i < n) {
        int64_t count = n - i < RV_LANES ? n - i : RV_LANES;
        /* an equal element ranks behind: its index is larger */
        unsigned bits = m_bits(v_lt(v_set1(value[0]), v_load_or(x + i, count, -INFINITY)));
        for (; bits; bits &= bits - 1) {
            int64_t at = i + rv_lowest_bit(bits);
            if (x[at] > value[0]) {
                value[0] = x[at];
                index[0] = at;
                top_sift(value, index, 0, k);
            }
        }
        i += count;
    }
    for (int64_t last = k - 1; last > 0; last--) {
        top_swap(value, index, 0, last);
        top_sift(value, index, 0, last);
    }
    return nans;
}

static void top_bad_weights(int64_t k, real *value, int64_t *index)
{
    for (int64_t j = 0; j < k; j++) {
        value[j] = (real)NAN;
        index[j] = j;
    }
}

/* One row by the heap. */
static void top_row(const real *x, int64_t n, int64_t k, rv_topk_mode mode, real *value, int64_t *index)
{
    if (top_heap(x, n, k, value, index) > 0 && mode != RV_TOPK_VALUES) {
        top_bad_weights(k, value, index);
    } else if (mode == RV_TOPK_SOFTMAX) {
        softmax_rows(value, 0, value, 0, 1, k, 0);
    } else if (mode == RV_TOPK_SHARE) {
        real top = value[0];
        double sum = exp_row(x, NULL, n, v_set1(top), 0);
        for (int64_t j = 0; j < k; j += RV_LANES) {
            int64_t count = k - j < RV_LANES ? k - j : RV_LANES;
            v_store_tail(value + j, v_exp(v_sub(v_load_tail(value + j, count), v_set1(top))), count);
        }
        for (int64_t j = 0; j < k; j++)
            value[j] = (real)(value[j] / sum);
    }
}

/* RV_LANES rows in lanes. */
typedef struct top_tile {
    RV_ALIGN(64) real column[RV_TOP_ROOM][RV_LANES];    /* what the slots choose from */
    RV_ALIGN(64) real value[RV_TOP_SLOTS][RV_LANES];
    RV_ALIGN(64) real number[RV_TOP_SLOTS][RV_LANES];   /* columns of the values */
    int64_t index[RV_TOP_SLOTS][RV_LANES];
    double sum[RV_LANES];   /* of exponentials: what RV_TOPK_SHARE divides by */
    unsigned apart;         /* rows left to top_row, by bit: NaN, too many candidates, fewer than k numbers above -inf */
} top_tile;

/* The k first in rank of n columns. slots >= k is a constant: best and at stay in registers. What x moves to slot j is the
 * lesser of x and the slot before, if it is larger than slot j: no slot waits for another. */
RV_INLINE void top_fill(top_tile *t, real (*column)[RV_LANES], int64_t n, int64_t k, const int slots)
{
    vreal best[RV_TOP_SLOTS], at[RV_TOP_SLOTS], number = v_zero();
    vmask bad = v_nan(number);
    for (int j = 0; j < slots; j++) {
        best[j] = v_set1(-INFINITY);
        at[j] = v_zero();
    }
    for (int64_t e = 0; e < n; e++) {
        vreal x = v_load(column[e]);
        bad = m_or(bad, v_nan(x));
        for (int j = slots - 1; j > 0; j--) {
            at[j] = v_select(v_lt(best[j], x), v_select(v_lt(best[j - 1], x), at[j - 1], number), at[j]);
            best[j] = v_max(v_min(best[j - 1], x), best[j]);
        }
        at[0] = v_select(v_lt(best[0], x), number, at[0]);
        best[0] = v_max(x, best[0]);
        number = v_add(number, v_set1(1));
    }
    for (int j = 0; j < slots; j++)
        if (j < k) {
            v_store(t->value[j], best[j]);
            v_store(t->number[j], at[j]);
        }
    t->apart |= m_bits(m_or(bad, v_eq(v_load(t->value[k - 1]), v_set1(-INFINITY))));
}

/* Five sizes of code for all k: unused slots cost less than slots in memory. */
static void top_slots(top_tile *t, real (*column)[RV_LANES], int64_t n, int64_t k)
{
    if (k == 1)
        top_fill(t, column, n, k, 1);
    else if (k == 2)
        top_fill(t, column, n, k, 2);
    else if (k <= 4)
        top_fill(t, column, n, k, 4);
    else if (k <= 8)
        top_fill(t, column, n, k, 8);
    else
        top_fill(t, column, n, k, RV_TOP_SLOTS);
}

/* Weights in place of the k values of every row. */
static void top_weigh(top_tile *t, int64_t k, rv_topk_mode mode)
{
    vreal top = v_load(t->value[0]);
    if (k == 1 && mode == RV_TOPK_SOFTMAX) {
        v_store(t->value[0], v_add(v_sub(top, top), v_set1(1)));    /* 1, NaN for an infinity */
        return;
    }
    if (k == 2 && mode == RV_TOPK_SOFTMAX) {
        /* 1 / (1 + e) and e / (1 + e): two roundings after exp's, within the bound of a softmax */
        vreal one = v_add(v_sub(top, top), v_set1(1)), e = v_exp(v_sub(v_load(t->value[1]), top)), sum = v_add(one, e);
        v_store(t->value[0], v_div(one, sum));
        v_store(t->value[1], v_div(e, sum));
        return;
    }
    real wide[2 * RV_LANES];
    w_zero(wide);
    for (int64_t j = 0; j < k; j++) {
        vreal e = v_exp(v_sub(v_load(t->value[j]), top));
        v_store(t->value[j], e);
        w_add(wide, e);
    }
    if (mode == RV_TOPK_SOFTMAX)
        for (int r = 0; r < RV_LANES; r++)
            t->sum[r] = w_get(wide, r);
    for (int64_t j = 0; j < k; j++)
        for (int r = 0; r < RV_LANES; r++)
            t->value[j][r] = (real)(t->value[j][r] / t->sum[r]);
}

/* Row r of the tile to row r * step of the output. */
RV_INLINE void top_store(const top_tile *t, int64_t rows, int64_t step, int64_t k, real *values, int64_t *indices)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < k; j++) {
            values[r * step * k + j] = t->value[j][r];
            indices[r * step * k + j] = t->index[j][r];
        }
}

/* The end of a tile: row r is row r * step of source and output, stride bytes apart. */
RV_INLINE void top_finish(top_tile *t, const char *x, int64_t stride, int64_t rows, int64_t step, int64_t n, int64_t k,
                          rv_topk_mode mode, real *values, int64_t *indices)
{
    if (mode != RV_TOPK_VALUES)
        top_weigh(t, k, mode);
    if (k == 2)
        top_store(t, rows, step, 2, values, indices);
    else
        top_store(t, rows, step, k, values, indices);
    for (; t->apart; t->apart &= t->apart - 1) {
        int64_t r = rv_lowest_bit(t->apart);
        if (r < rows)
            top_row((const real *)(x + r * step * stride), n, k, mode, values + r * step * k, indices + r * step * k);
    }
}

/* RV_LANES columns of `rows` rows, transposed; zeros where there are no more rows or columns. */
static void top_edge(const char *x, int64_t stride, int64_t rows, int64_t columns, real *dst)
{
    RV_ALIGN(64) real edge[RV_LANES * RV_LANES];
    for (int64_t r = 0; r < RV_LANES; r++)
        v_store(edge + r * RV_LANES, r < rows ? v_load_tail((const real *)(x + r * stride), columns) : v_zero());
    v_transpose((const char *)edge, RV_LANES * sizeof(real), dst, RV_LANES);
}

static void top_lanes(const char *x, int64_t stride, int64_t rows, int64_t n, int64_t k, rv_topk_mode mode, real *values,
                      int64_t *indices)
{
    /* Rows shorter than a vector that lie one behind the other: `step` of them in one vector, a transposition for all. */
    int64_t step = RV_LANES % n == 0 && stride == n * (int64_t)sizeof(real) ? RV_LANES / n : 1, count;
    top_tile t;
    memset(t.sum, 0, sizeof t.sum);
    for (int64_t row = 0; row < rows; row += count * step) {
        const char *tile = x + row * stride;
        count = RV_LANES;
        if (rows - row < RV_LANES * step) {
            step = 1;
            count = rows - row < RV_LANES ? rows - row : RV_LANES;
        }
        if (step > 1)
            v_transpose(tile, RV_LANES * sizeof(real), t.column[0], RV_LANES);
        else
            for (int64_t c = 0; c < n; c += RV_LANES) {
                const char *block = tile + c * (int64_t)sizeof(real);
                if (count == RV_LANES && n - c >= RV_LANES)
                    v_transpose(block, stride, t.column[c], RV_LANES);
                else
                    top_edge(block, stride, count, n - c < RV_LANES ? n - c : RV_LANES, t.column[c]);
            }
        for (int64_t part = 0; part < step; part++) {
            real(*column)[RV_LANES] = t.column + part * n;
            t.apart = 0;
            top_slots(&t, column, n, k);
            for (int64_t j = 0; j < k; j++)
                for (int r = 0; r < RV_LANES; r++)
                    t.index[j][r] = (int64_t)t.number[j][r];
            if (mode == RV_TOPK_SHARE) {
                real wide[2 * RV_LANES];
                w_zero(wide);
                for (int64_t e = 0; e < n; e++)
                    w_add(wide, v_exp(v_sub(v_load(column[e]), v_load(t.value[0]))));
                for (int r = 0; r < RV_LANES; r++)
                    t.sum[r] = w_get(wide, r);
            }
            top_finish(&t, tile + part * stride, stride, count, step, n, k, mode, values + (row + part) * k,
                       indices + (row + part) * k);
        }
    }
}

/* Maxima of the elements whose numbers are equal modulo RV_TOP_COLUMNS; returns whether there is NaN, which is left out. */
RV_INLINE int top_column_maxima(const real *x, int64_t n, real *maxima)
{
    vreal m[RV_TOP_COLUMNS / RV_LANES];
    vmask bad = v_nan(v_zero());
    int64_t i = 0;
    for (int c = 0; c < RV_TOP_COLUMNS / RV_LANES; c++)
        m[c] = v_set1(-INFINITY);
    for (; i + RV_TOP_COLUMNS <= n; i += RV_TOP_COLUMNS)
        for (int c = 0; c < RV_TOP_COLUMNS / RV_LANES; c++) {
            vreal y = v_load(x + i + c * RV_LANES);
            bad = m_or(bad, v_nan(y));
            m[c] = v_max(y, m[c]);
        }
    for (int c = 0; i < n; c++, i += RV_LANES) {
        vreal y = v_load_or(x + i, n - i < RV_LANES ? n - i : RV_LANES, -INFINITY);
        bad = m_or(bad, v_nan(y));
        m[c] = v_max(y, m[c]);
    }
    for (int c = 0; c < RV_TOP_COLUMNS / RV_LANES; c++)
        v_store(maxima + c * RV_LANES, m[c]);
    return m_any(bad);
}

/* Which of 64 elements, or of n fewer, are not less than `least`, by bit. */
RV_INLINE uint64_t top_reach(const real *x, int64_t n, vreal least)
{
    uint64_t bits = 0;
    if (n >= 64)
        for (int l = 0; l < 64; l += RV_LANES)
            bits |= (uint64_t)m_bits(v_le(least, v_load(x + l))) << l;
    else
        for (int64_t l = 0; l < n; l += RV_LANES)
            bits |= (uint64_t)m_bits(v_le(least, v_load_or(x + l, n - l < RV_LANES ? n - l : RV_LANES, (real)NAN))) << l;
    return bits;
}

/* Elements of a row that reach the threshold, in the order of their indices and RV_LANES apart; returns how many, at most
 * RV_TOP_CANDIDATES + 1. Fetches `next`, the same row of the next tile: 65536 rows of 256 floats 2.6 ms, without 4.3 (AMD EPYC,
 * Zen 5, avx512). */
RV_INLINE int top_candidates(const real *x, const real *next, int64_t n, real threshold, real *value, int64_t *index)
{
    int found = 0;
    for (int64_t i = 0; i < n; i += 64) {
        if (n - i >= 64)
            for (int l = 0; l < 64; l += 64 / (int)sizeof(real))
                RV_PREFETCH(next + i + l);
        for (uint64_t bits = top_reach(x + i, n - i, v_set1(threshold)); bits; bits &= bits - 1) {
            if (found == RV_TOP_CANDIDATES)
                return RV_TOP_CANDIDATES + 1;
            int64_t at = i + rv_lowest_bit(bits);
            index[found * RV_LANES] = at;
            value[found * RV_LANES] = x[at];
            found++;
        }
    }
    return found;
}

static void top_few(const char *x, int64_t stride, int64_t rows, int64_t n, int64_t k, rv_topk_mode mode, real *values,
                    int64_t *indices)
{
    RV_ALIGN(64) real maxima[RV_LANES * RV_TOP_COLUMNS];
    int64_t candidate[RV_TOP_CANDIDATES][RV_LANES];
    top_tile t;
    memset(t.sum, 0, sizeof t.sum);
    memset(maxima, 0, sizeof maxima);
    for (int64_t row = 0; row < rows; row += RV_LANES) {
        int64_t count = rows - row < RV_LANES ? rows - row : RV_LANES, most = k;
        const char *tile = x + row * stride;
        real *threshold = t.value[k - 1];
        t.apart = 0;
        for (int64_t r = 0; r < count; r++)
            t.apart |= (unsigned)top_column_maxima((const real *)(tile + r * stride), n, maxima + r * RV_TOP_COLUMNS) << r;
        v_store(threshold, v_set1(-INFINITY));
        if (n > RV_TOP_COLUMNS) {
            for (int c = 0; c < RV_TOP_COLUMNS; c += RV_LANES)
                v_transpose((const char *)(maxima + c), RV_TOP_COLUMNS * sizeof(real), t.column[c], RV_LANES);
            top_slots(&t, t.column, RV_TOP_COLUMNS, k);
        }
        for (int j = 0; j < RV_TOP_CANDIDATES; j++)
            v_store(t.column[j], v_set1(-INFINITY));
        for (int64_t r = 0; r < count; r++) {
            if (t.apart >> r & 1)
                continue;
            const real *own = (const real *)(tile + r * stride), *next = own;
            if (row + r + RV_LANES < rows)
                next = (const real *)(tile + (r + RV_LANES) * stride);
            int found = top_candidates(own, next, n, threshold[r], &t.column[0][r], &candidate[0][r]);
            if (found > RV_TOP_CANDIDATES) {
                t.apart |= 1u << r;
                found = RV_TOP_CANDIDATES;
            }
            most = found > most ? found : most;
        }
        top_slots(&t, t.column, most, k);
        for (int64_t r = 0; r < count; r++) {
            if (t.apart >> r & 1)
                continue;
            for (int64_t j = 0; j < k; j++)
                t.index[j][r] = candidate[(int)t.number[j][r]][r];
            if (mode == RV_TOPK_SHARE)
                t.sum[r] = exp_row((const real *)(tile + r * stride), NULL, n, v_set1(t.value[0][r]), 0);
        }
        top_finish(&t, tile, stride, count, 1, n, k, mode, values + row * k, indices + row * k);
    }
}

static void topk(const void *x, int64_t stride, int64_t rows, int64_t n, int64_t k, rv_topk_mode mode, void *values,
                 int64_t *indices)
{
    if (k <= 8 && n <= (k <= 2 ? RV_TOP_ROOM : RV_TOP_COLUMNS))
        top_lanes(x, stride, rows, n, k, mode, values, indices);
    else if (k <= RV_TOP_SLOTS)
        top_few(x, stride, rows, n, k, mode, values, indices);
    else
        for (int64_t r = 0; r < rows; r++)
            top_row((const real *)((const char *)x + r * stride), n, k, mode, (real *)values + r * k, indices + r * k);
}
