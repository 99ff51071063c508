/* Linear attention: features of keys and queries, sums over keys, and their products. A block is up to RV_LINEAR_ROWS rows.
 *
 *   sums[f][c] += sum_j phi[j][f] v[j][c]      chains of a block, RV_LINEAR_CARRY keys in the element type, then wide
 *   out[i][c]   = sum_f phi[i][f] sums[f][c]   chains of LINEAR_CHAIN features
 *   causal:       sum_j<=i (phi[i] . phi[j]) v[j][c] for the keys of the query's own chunk, the sums for those before it
 *
 * Exponential features are e = w . x - |x|^2 / 2 in base 2 less an integer, top[f], for each feature: 2^(e - top) is at most 1 for
 * the keys summed so far, exactly 1/2 to 1 for one of them. Queries take e + top less its largest over f, so that their product
 * with the sums is at least 1/2 and at most keys x features: neither overflows nor vanishes, whatever the inputs' size. When top
 * grows, sums are scaled by powers of two: nothing is rounded. The queries' own |x|^2 / 2 cancels. */

enum {
    LINEAR_ROWS = RV_LINEAR_ROWS,
    LINEAR_ROOM = RV_LINEAR_ROWS + 8,   /* a product's last rows may repeat one */
    LINEAR_PANEL = RV_LINEAR_PANEL,
    LINEAR_CHAIN = 64
};

/* Features of a chunk's keys may exceed the sums' top by this power of two: 2^32 x 64 keys x features x values stays finite for
 * float32 values up to 2^70. A key that exceeds it begins a chunk, and gives it its top. */
#define LINEAR_AHEAD 32

/* c[r][lane] (+)= sum_k a[r * row_step + k * k_step] * b[k * b_step + lane] for RV_TILE_ROWS rows r, the last of `rows` repeated, and
 * nv vectors of lanes. Named accumulators: gcc 12 spills an array of them. */
RV_INLINE void linear_tile(const int nv, const int rows, const real *a, int64_t row_step, int64_t k_step, const real *b,
                           int64_t b_step, int64_t k_len, real *c, int64_t c_step, int add)
{
#define EACH_DECLARE(r) \
    const real *a##r = a + (r < rows ? r : rows - 1) * row_step; \
    vreal c##r##_0 = v_zero(), c##r##_1 = v_zero(), c##r##_2 = v_zero();
    RV_EACH_ROW(EACH_DECLARE)
#undef EACH_DECLARE
    int64_t at = 0;
    for (int64_t k = 0; k < k_len; k++) {
        vreal b0 = v_load(b), b1 = nv > 1 ? v_load(b + RV_LANES) : b0, b2 = nv > 2 ? v_load(b + 2 * RV_LANES) : b0;
#define EACH_STEP(r) { \
        vreal x = v_set1(a##r[at]); \
        c##r##_0 = v_fma(x, b0, c##r##_0); \
        if (nv > 1) c##r##_1 = v_fma(x, b1, c##r##_1); \
        if (nv > 2) c##r##_2 = v_fma(x, b2, c##r##_2); }
        RV_EACH_ROW(EACH_STEP)
#undef EACH_STEP
        at += k_step;
        b += b_step;
    }
#define EACH_STORE(r) { \
    real *p = c + r * c_step; \
    v_store(p, add ? v_add(v_load(p), c##r##_0) : c##r##_0); \
    if (nv > 1) v_store(p + RV_LANES, add ? v_add(v_load(p + RV_LANES), c##r##_1) : c##r##_1); \
    if (nv > 2) v_store(p + 2 * RV_LANES, add ? v_add(v_load(p + 2 * RV_LANES), c##r##_2) : c##r##_2); }
    RV_EACH_ROW(EACH_STORE)
#undef EACH_STORE
}

/* The product of whole matrices; columns a multiple of RV_LANES. c has room for rows rounded up to RV_TILE_ROWS. */
static void linear_product(int64_t rows, const real *a, int64_t row_step, int64_t k_step, const real *b, int64_t b_step,
                           int64_t k_len, real *c, int64_t c_step, int64_t columns, int add)
{
    for (int64_t k = 0; k < k_len || k == 0; k += LINEAR_CHAIN) {
        int64_t len = k_len - k < LINEAR_CHAIN ? k_len - k : LINEAR_CHAIN;
        int more = add || k > 0;
        for (int64_t v = 0; v < columns / RV_LANES;) {
            int64_t left = columns / RV_LANES - v;
            /* four as two and two: a lone vector waits for its own sums */
            const int nv = left == 3 || left > 4 ? 3 : left == 1 ? 1 : 2;
            const real *from = b + k * b_step + v * RV_LANES;
            for (int64_t r = 0; r < rows; r += RV_TILE_ROWS) {
                const real *x = a + r * row_step + k * k_step;
                real *to = c + r * c_step + v * RV_LANES;
#define TILE(nv) \
    if (rows - r >= RV_TILE_ROWS) \
        linear_tile(nv, RV_TILE_ROWS, x, row_step, k_step, from, b_step, len, to, c_step, more); \
    else \
        linear_tile(nv, (int)(rows - r), x, row_step, k_step, from, b_step, len, to, c_step, more)
                if (nv == 3) { TILE(3); } else if (nv == 2) { TILE(2); } else { TILE(1); }
#undef TILE
            }
            v += nv;
        }
    }
}

typedef struct linear_room {
    real *query, *key;          /* [ROWS][dim]: rows converted, or of length 1 */
    real *value;                /* [ROWS][v_pad]: rows converted, padded, or with hidden ones 0 */
    real *phi, *phi_query;      /* [parts * panels][ROOM][PANEL] */
    real *turned;               /* [PANEL][ROWS]: a panel transposed */
    real *scores;               /* [ROOM][ROWS] */
    real *out;                  /* [ROOM][v_pad] */
    real *sums;                 /* [parts * pad][v_pad], not yet in the wide sums */
    real *mass;                 /* [parts * pad] */
    real *top;                  /* [parts * pad] */
    real *view;                 /* a view: causal form */
    real *norms, *rows;         /* [ROOM] */
    unsigned char *seen;        /* [ROWS] */
    size_t bytes;
} linear_room;

static int64_t linear_panels(const rv_linear *l) { return (l->pad + LINEAR_PANEL - 1) / LINEAR_PANEL; }

static linear_room linear_layout(char *base, const rv_linear *l)
{
    linear_room room;
    size_t at = 0, features = (size_t)(l->parts * l->pad), dim = (size_t)l->dim, v_pad = (size_t)l->v_pad;
    size_t phi = (size_t)(l->parts * linear_panels(l)) * LINEAR_ROOM * LINEAR_PANEL;
#define PLACE(field, type, count) room.field = base ? (type *)(base + at) : NULL; at += ((size_t)(count) * sizeof(type) + 63) / 64 * 64
    PLACE(query, real, LINEAR_ROWS * dim);
    PLACE(key, real, LINEAR_ROWS * dim);
    PLACE(value, real, LINEAR_ROWS * v_pad);
    PLACE(phi, real, phi);
    PLACE(phi_query, real, phi);
    PLACE(turned, real, LINEAR_PANEL * LINEAR_ROWS);
    PLACE(scores, real, LINEAR_ROOM * LINEAR_ROWS);
    PLACE(out, real, LINEAR_ROOM * v_pad);
    PLACE(sums, real, features * v_pad);
    PLACE(mass, real, features);
    PLACE(top, real, features);
    PLACE(view, real, features * (2 + v_pad));
    PLACE(norms, real, LINEAR_ROOM);
    PLACE(rows, real, LINEAR_ROOM);
    PLACE(seen, unsigned char, LINEAR_ROWS);
#undef PLACE
    room.bytes = at;
    return room;
}

static size_t linear_scratch(const rv_linear *l) { return linear_layout(NULL, l).bytes; }

/* Wide sums of a state: RV_LANES doubles at p, their tails at t (double arithmetic only). */
#if RV_REAL_BITS == 32
RV_INLINE void state_add(double *p, double *t, vreal x) { (void)t; w_add((real *)p, x); }
RV_INLINE void state_scale(double *p, double *t, vreal s) { (void)t; w_scale((real *)p, s); }
RV_INLINE void state_merge(double *p, double *t, const double *q, const double *u)
{
    (void)t; (void)u;
    w_merge((real *)p, (const real *)q);
}
RV_INLINE vreal state_value(const double *p, const double *t) { (void)t; return x_head(x_load((const real *)p)); }
RV_INLINE vreal state_get(const double *p) { return x_head(x_load((const real *)p)); }
RV_INLINE void state_set(double *p, vreal x) { x_store((real *)p, x_widen(x)); }
#else
RV_INLINE void state_add(double *p, double *t, vreal x)
{
    vreal a = v_load(p), s = v_add(a, x), d = v_sub(s, a);
    v_store(p, s);
    v_store(t, v_add(v_load(t), v_add(v_sub(a, v_sub(s, d)), v_sub(x, d))));
}
RV_INLINE void state_scale(double *p, double *t, vreal s)
{
    v_store(p, v_mul(v_load(p), s));
    v_store(t, v_mul(v_load(t), s));
}
RV_INLINE void state_merge(double *p, double *t, const double *q, const double *u)
{
    state_add(p, t, v_load(q));
    v_store(t, v_add(v_load(t), v_load(u)));
}
/* an infinite head leaves a NaN tail, which says nothing */
RV_INLINE vreal state_value(const double *p, const double *t)
{
    vreal head = v_load(p);
    return v_add(head, v_keep(v_eq(v_sub(head, head), v_zero()), v_load(t)));
}
RV_INLINE vreal state_get(const double *p) { return v_load(p); }
RV_INLINE void state_set(double *p, vreal x) { v_store(p, x); }
#endif

static void linear_begin(const rv_linear *l, double *state)
{
    rv_linear_sums s = rv_linear_sums_at(l, state);
    memset(state, 0, (size_t)rv_linear_state_size(l) * sizeof(double));
    for (int64_t f = 0; f < l->parts * l->pad; f++)
        s.top[f] = RV_LOWEST;
}

static void linear_top(const rv_linear *l, const rv_linear_sums *s, real *top)
{
    for (int64_t f = 0; f < l->parts * l->pad; f += RV_LANES)
        v_store(top + f, state_get(s->top + f));
}

/* Feature f of the state, and of what is carried where `carried`, times a power of two. */
static void linear_rescale(const rv_linear *l, const rv_linear_sums *s, const linear_room *room, int64_t f, real factor,
                           int carried)
{
    double *t = s->sums_tail + f * l->v_pad, *p = s->sums + f * l->v_pad;
    vreal x = v_set1(factor);
    s->mass[f] *= (double)factor;
    if (s->mass_tail != s->mass)
        s->mass_tail[f] *= (double)factor;
    for (int64_t c = 0; c < l->v_pad; c += RV_LANES)
        state_scale(p + c, t + c, x);
    if (!carried)
        return;
    room->mass[f] *= factor;
    for (int64_t c = 0; c < l->v_pad; c += RV_LANES) {
        real *q = room->sums + f * l->v_pad + c;
        v_store(q, v_mul(v_load(q), x));
    }
}

/* Rows [first, first + n) of queries or keys as reals, *step elements apart. */
static const real *linear_rows_at(const rv_linear *l, const char *p, int64_t stride, int n, real *room, int64_t *step)
{
    if (!is_half(l->storage) && l->map != RV_MAP_OF_ANGLES) {
        *step = stride / (int64_t)sizeof(real);
        return (const real *)p;
    }
    *step = l->dim;
    for (int r = 0; r < n; r++) {
        const real *x = as_real(l->storage, p + r * stride, l->dim, room + r * l->dim);
        real *to = room + r * l->dim;
        if (l->map != RV_MAP_OF_ANGLES)
            continue;
        double sum = dot(x, x, l->dim);
        if (sum > 1e-30 && sum < 1e30) {
            vreal inverse = v_set1((real)(1 / rv_sqrt(sum)));
            int64_t d = 0;
            for (; d + RV_LANES <= l->dim; d += RV_LANES)
                v_store(to + d, v_mul(v_load(x + d), inverse));
            if (d < l->dim)
                v_store_tail(to + d, v_mul(v_load_tail(x + d, l->dim - d), inverse), l->dim - d);
            continue;
        }
        /* squares of what is divided by the largest neither overflow nor vanish; a row of zeros stays one */
        real most = 0;
        for (int64_t d = 0; d < l->dim; d++) {
            real a = x[d] < 0 ? -x[d] : x[d];
            most = a > most || a != a ? a : most;
        }
        double square = 0, unit = most == 0 ? 1 : 1 / (double)most;
        unit = unit < INFINITY ? unit : 0x1p1022;
        for (int64_t d = 0; d < l->dim; d++) {
            double a = (double)x[d] * unit;
            square += a * a;
        }
        double length = square == 0 ? 1 : rv_sqrt(square);
        for (int64_t d = 0; d < l->dim; d++)
            to[d] = (real)((double)x[d] * unit / length);
    }
    return room;
}

/* Which of n keys are seen, and their values as reals, those of hidden keys 0; returns how many are seen. */
static int linear_values(const rv_linear *l, const rv_linear_rows *x, int64_t j0, int n, const linear_room *room,
                         const real **values, int64_t *step)
{
    const char *p = x->value + j0 * x->value_stride;
    int count = 0;
    for (int j = 0; j < n; j++) {
        room->seen[j] = !x->mask || x->mask[(j0 + j) * x->mask_stride] != 0;
        count += room->seen[j];
    }
    if (count == n && !is_half(l->storage) && l->v_dim == l->v_pad) {
        *values = (const real *)p;
        *step = x->value_stride / (int64_t)sizeof(real);
        return count;
    }
    *values = room->value;
    *step = l->v_pad;
    for (int j = 0; j < n; j++) {
        real *to = room->value + j * l->v_pad;
        memset(to, 0, (size_t)l->v_pad * sizeof(real));
        if (!room->seen[j])
            continue;
        const real *from = as_real(l->storage, p + j * x->value_stride, l->v_dim, to);
        if (from != to)
            memcpy(to, from, (size_t)l->v_dim * sizeof(real));
    }
    return count;
}

/* The vector of a row of panel q that starts at feature f of its part, padding replaced by `fill`. */
RV_INLINE vreal linear_padded(const rv_linear *l, int64_t f, vreal x, real fill)
{
    if (f + RV_LANES <= l->width)
        return x;
    return v_select(v_lt(v_iota(), v_set1((real)(l->width - f))), x, v_set1(fill));
}

RV_INLINE int64_t linear_columns(const rv_linear *l, int64_t panel)
{
    int64_t left = l->pad - panel * LINEAR_PANEL;
    return left < LINEAR_PANEL ? left : LINEAR_PANEL;
}

/* What a query's elements may all be raised by, which the division takes out again: elu(x) + 1 is exp(x) where no element is positive,
 * and products of exponentials that are small on both sides would vanish. */
static real linear_lift(const real *x, int64_t n)
{
    real most = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    return most < 0 && most > -INFINITY ? most : 0;
}

/* Features, or exponents, of n rows: one panel after the other. */
static void linear_features(const rv_linear *l, const real *x, int64_t step, int n, int queries, real *phi)
{
    int64_t panels = linear_panels(l), size = (int64_t)LINEAR_ROOM * LINEAR_PANEL;
    for (int64_t q = 0; q < panels; q++, phi += size) {
        int64_t f0 = q * LINEAR_PANEL, columns = linear_columns(l, q);
        if (l->map == RV_MAP_OF_ELU || l->map == RV_MAP_OF_RELU) {
            const vreal zero = v_zero(), one = v_set1(1);
            for (int r = 0; r < n; r++) {
                const vreal lift = v_set1(queries && l->map == RV_MAP_OF_ELU ? linear_lift(x + r * step, l->dim) : 0);
                for (int64_t c = 0; c < columns; c += RV_LANES) {
                    int64_t f = f0 + c, left = l->dim - f;
                    const real *from = x + r * step + f;
                    vreal y = left >= RV_LANES ? v_load(from) : left > 0 ? v_load_tail(from, left) : zero;
                    if (l->map == RV_MAP_OF_RELU)
                        y = v_max(zero, y);
                    else
                        y = v_select(v_lt(zero, y), v_add(y, one), v_exp(v_min(zero, v_sub(y, lift))));
                    v_store(phi + r * LINEAR_PANEL + c, linear_padded(l, f, y, 0));
                }
            }
            continue;
        }
        linear_product(n, x, step, 1, (const real *)l->projection + f0 * l->dim, LINEAR_PANEL, l->dim, phi, LINEAR_PANEL, columns, 0);
        if (l->map == RV_MAP_OF_ANGLES)
            for (int r = 0; r < n; r++)
                for (int64_t c = 0; c < columns; c += RV_LANES) {
                    real *p = phi + r * LINEAR_PANEL + c;
                    vreal cosine, sine = v_sincospi(v_load(p), &cosine);
                    v_store(p, linear_padded(l, f0 + c, sine, 0));
                    v_store(p + panels * size, linear_padded(l, f0 + c, cosine, 0));
                }
    }
}

/* Number p of a panel among those of all parts: its features start here in a state. */
RV_INLINE int64_t linear_first(const rv_linear *l, int64_t p, int64_t *columns)
{
    int64_t panels = linear_panels(l);
    *columns = linear_columns(l, p % panels);
    return p / panels * l->pad + p % panels * LINEAR_PANEL;
}

static void hide_rows(const unsigned char *seen, int n, real *phi)
{
    for (int j = 0; j < n; j++)
        if (!seen[j])
            memset(phi + j * LINEAR_PANEL, 0, LINEAR_PANEL * sizeof(real));
}

/* |x|^2 / 2 of rows in the units of the exponents; an infinite one is NaN, since the features it makes 0 are not. */
static void linear_norms(const rv_linear *l, const real *x, int64_t step, int n, real *norms)
{
    for (int r = 0; r < n; r++) {
        real h = (real)(dot(x + r * step, x + r * step, l->dim) * l->norm);
        norms[r] = h + (h - h);
    }
}

/* Exponents of keys less their norms, padding -inf. */
static void linear_exponents(const rv_linear *l, int n, int64_t f0, int64_t columns, const real *norms, real *phi)
{
    for (int j = 0; j < n; j++) {
        vreal h = v_set1(norms[j]);
        for (int64_t c = 0; c < columns; c += RV_LANES) {
            real *p = phi + j * LINEAR_PANEL + c;
            v_store(p, linear_padded(l, f0 + c, v_sub(v_load(p), h), -(real)INFINITY));
        }
    }
}

/* Exponents of a panel to features. */
static void linear_powers(int n, int64_t columns, const real *top, real *phi)
{
    for (int64_t c = 0; c < columns; c += RV_LANES) {
        vreal t = v_load(top + c);
        for (int j = 0; j < n; j++) {
            real *p = phi + j * LINEAR_PANEL + c;
            v_store(p, v_exp2_flush(v_sub(v_load(p), t)));
        }
    }
}

/* top of a panel's features grows to what `rows` of its keys ask for; sums follow. A NaN asks for nothing. */
static void linear_raise(const rv_linear *l, const rv_linear_sums *s, const linear_room *room, int64_t f0, int64_t columns,
                         int rows, const real *phi, int carried)
{
    for (int64_t c = 0; c < columns; c += RV_LANES) {
        vreal old = v_load(room->top + f0 + c), most = old;
        for (int j = 0; j < rows; j++)
            if (room->seen[j])
                most = v_max(v_load(phi + j * LINEAR_PANEL + c), most);
        most = v_max(v_ceil(most), old);
        if (!m_any(v_lt(old, most)))
            continue;
        real factor[RV_LANES];
        v_store(factor, v_exp2_flush(v_sub(old, most)));
        v_store(room->top + f0 + c, most);
        state_set(s->top + f0 + c, most);
        for (int i = 0; i < RV_LANES; i++)
            if (factor[i] != 1)
                linear_rescale(l, s, room, f0 + c + i, factor[i], carried);
    }
}

/* The sums over n rows of a panel's features, in four chains. Each row joins the chain that it would join in a longer block: keys
 * appended behind a mask change no bit. */
static void linear_mass(int n, int64_t columns, const real *phi, real *mass, int add)
{
    for (int64_t c = 0; c < columns; c += RV_LANES) {
        vreal sum0 = v_zero(), sum1 = v_zero(), sum2 = v_zero(), sum3 = v_zero();
        const real *p = phi + c;
        int j = 0;
        for (; j + 4 <= n; j += 4, p += 4 * LINEAR_PANEL) {
            sum0 = v_add(sum0, v_load(p));
            sum1 = v_add(sum1, v_load(p + LINEAR_PANEL));
            sum2 = v_add(sum2, v_load(p + 2 * LINEAR_PANEL));
            sum3 = v_add(sum3, v_load(p + 3 * LINEAR_PANEL));
        }
        if (j < n)
            sum0 = v_add(sum0, v_load(p));
        if (j + 1 < n)
            sum1 = v_add(sum1, v_load(p + LINEAR_PANEL));
        if (j + 2 < n)
            sum2 = v_add(sum2, v_load(p + 2 * LINEAR_PANEL));
        vreal sum = v_add(v_add(sum0, sum1), v_add(sum2, sum3));
        v_store(mass + c, add ? v_add(v_load(mass + c), sum) : sum);
    }
}

/* What is carried joins the wide sums. */
static void linear_join(const rv_linear *l, const rv_linear_sums *s, const linear_room *room, int64_t f0, int64_t features)
{
    for (int64_t f = f0; f < f0 + features; f += RV_LANES)
        state_add(s->mass + f, s->mass_tail + f, v_load(room->mass + f));
    for (int64_t i = f0 * l->v_pad; i < (f0 + features) * l->v_pad; i += RV_LANES)
        state_add(s->sums + i, s->sums_tail + i, v_load(room->sums + i));
}

/* Keys [first, last) into a state. first is a multiple of RV_LINEAR_CARRY for results that do not depend on the ranges. */
static void linear_keys(const rv_linear *l, const rv_linear_rows *x, int64_t first, int64_t last, double *state, char *scratch)
{
    linear_room room = linear_layout(scratch, l);
    rv_linear_sums s = rv_linear_sums_at(l, state);
    const int64_t size = (int64_t)LINEAR_ROOM * LINEAR_PANEL;
    int carried = 0;
    linear_top(l, &s, room.top);
    for (int64_t j0 = first; j0 < last; j0 += LINEAR_ROWS) {
        int n = (int)(last - j0 < LINEAR_ROWS ? last - j0 : LINEAR_ROWS);
        int64_t step, v_step, columns;
        const real *values;
        int count = linear_values(l, x, j0, n, &room, &values, &v_step);
        if (count) {
            const real *keys = linear_rows_at(l, x->key + j0 * x->key_stride, x->key_stride, n, room.key, &step);
            linear_features(l, keys, step, n, 0, room.phi);
            if (l->map == RV_MAP_OF_WEIGHTS)
                linear_norms(l, keys, step, n, room.norms);
            for (int64_t p = 0; p < l->parts * linear_panels(l); p++) {
                int64_t f0 = linear_first(l, p, &columns);
                real *phi = room.phi + p * size;
                if (l->map == RV_MAP_OF_WEIGHTS) {
                    linear_exponents(l, n, f0, columns, room.norms, phi);
                    linear_raise(l, &s, &room, f0, columns, n, phi, carried);
                    linear_powers(n, columns, room.top + f0, phi);
                }
                if (count < n)
                    hide_rows(room.seen, n, phi);
                linear_mass(n, columns, phi, room.mass + f0, carried);
                linear_product(columns, phi, 1, LINEAR_PANEL, values, v_step, n, room.sums + f0 * l->v_pad, l->v_pad, l->v_pad,
                               carried);
            }
            carried = 1;
        }
        if (carried && ((j0 - first + LINEAR_ROWS) % RV_LINEAR_CARRY == 0 || j0 + LINEAR_ROWS >= last)) {
            linear_join(l, &s, &room, 0, l->parts * l->pad);
            carried = 0;
        }
    }
}

/* state += later. */
static void linear_merge(const rv_linear *l, double *state, double *later)
{
    rv_linear_sums s = rv_linear_sums_at(l, state), t = rv_linear_sums_at(l, later);
    linear_room none = {0};
    for (int64_t f = 0; f < l->parts * l->pad; f++) {
        double top = s.top[f] > t.top[f] ? s.top[f] : t.top[f];
        real factor[RV_LANES];
        v_store(factor, v_exp2_flush(v_set1((real)(s.top[f] - top))));
        if (factor[0] != 1)
            linear_rescale(l, &s, &none, f, factor[0], 0);
        v_store(factor, v_exp2_flush(v_set1((real)(t.top[f] - top))));
        if (factor[0] != 1)
            linear_rescale(l, &t, &none, f, factor[0], 0);
        s.top[f] = top;
    }
    for (int64_t f = 0; f < l->parts * l->pad; f += RV_LANES)
        state_merge(s.mass + f, s.mass_tail + f, t.mass + f, t.mass_tail + f);
    for (int64_t i = 0; i < l->parts * l->pad * l->v_pad; i += RV_LANES)
        state_merge(s.sums + i, s.sums_tail + i, t.sums + i, t.sums_tail + i);
}

static void linear_view(const rv_linear *l, double *state, void *view)
{
    rv_linear_sums s = rv_linear_sums_at(l, state);
    int64_t features = l->parts * l->pad;
    real *top = view, *mass = top + features, *sums = mass + features;
    linear_top(l, &s, top);
    for (int64_t f = 0; f < features; f += RV_LANES)
        v_store(mass + f, state_value(s.mass + f, s.mass_tail + f));
    for (int64_t i = 0; i < features * l->v_pad; i += RV_LANES)
        v_store(sums + i, state_value(s.sums + i, s.sums_tail + i));
}

/* Features of n queries beside a view. */
static void linear_query(const rv_linear *l, const real *x, int64_t step, int n, const real *top, const linear_room *room)
{
    const int64_t size = (int64_t)LINEAR_ROOM * LINEAR_PANEL, panels = linear_panels(l);
    linear_features(l, x, step, n, 1, room->phi_query);
    if (l->map != RV_MAP_OF_WEIGHTS)
        return;
    for (int r = 0; r < n; r++) {
        real *row = room->phi_query + r * LINEAR_PANEL;
        vreal most = v_set1(RV_LOWEST);
        for (int64_t q = 0; q < panels; q++)
            for (int64_t c = 0; c < linear_columns(l, q); c += RV_LANES) {
                int64_t f = q * LINEAR_PANEL + c;
                vreal e = v_add(v_load(row + q * size + c), v_load(top + f));
                e = linear_padded(l, f, e, -(real)INFINITY);
                v_store(row + q * size + c, e);
                most = v_max(e, most);
            }
        vreal reference = v_set1(v_hmax(most));
        for (int64_t q = 0; q < panels; q++)
            for (int64_t c = 0; c < linear_columns(l, q); c += RV_LANES) {
                real *p = row + q * size + c;
                v_store(p, v_exp2_flush(v_sub(v_load(p), reference)));
            }
    }
}

/* out and rows = the products of n queries' features with a view. */
static void linear_past(const rv_linear *l, int n, const real *view, const linear_room *room)
{
    const real *mass = view + l->parts * l->pad, *sums = mass + l->parts * l->pad;
    for (int64_t p = 0; p < l->parts * linear_panels(l); p++) {
        int64_t columns, f0 = linear_first(l, p, &columns);
        const real *phi = room->phi_query + p * LINEAR_ROOM * LINEAR_PANEL;
        linear_product(n, phi, LINEAR_PANEL, 1, sums + f0 * l->v_pad, l->v_pad, columns, room->out, l->v_pad, l->v_pad, p > 0);
        for (int r = 0; r < n; r++) {
            vreal sum = v_zero();
            for (int64_t c = 0; c < columns; c += RV_LANES)
                sum = v_fma(v_load(phi + r * LINEAR_PANEL + c), v_load(mass + f0 + c), sum);
            real total = v_sum(sum);
            room->rows[r] = p > 0 ? room->rows[r] + total : total;
        }
    }
}

/* Rows of out divided by their weights, stored. A row without weight is 0. */
static void linear_divide(const rv_linear *l, int n, const linear_room *room, char *out, int64_t stride)
{
    for (int r = 0; r < n; r++) {
        real *row = room->out + r * l->v_pad, weight = room->rows[r], size = weight < 0 ? -weight : weight;
        if (weight == 0) {
            memset(row, 0, (size_t)l->v_pad * sizeof(real));
        } else if (size > 0x1p-100f && size < 0x1p100f) {
            reciprocal inverse = reciprocal_of((double)weight);
            for (int64_t c = 0; c < l->v_pad; c += RV_LANES)
                v_store(row + c, over(v_load(row + c), inverse));
        } else {
            vreal w = v_set1(weight);
            for (int64_t c = 0; c < l->v_pad; c += RV_LANES)
                v_store(row + c, v_div(v_load(row + c), w));
        }
        store_row(l->storage, out + r * stride, row, l->v_dim);
    }
}

/* Queries [first, last) against a view. */
static void linear_rows(const rv_linear *l, const rv_linear_rows *x, int64_t first, int64_t last, const void *view, char *scratch)
{
    linear_room room = linear_layout(scratch, l);
    for (int64_t i0 = first; i0 < last; i0 += LINEAR_ROWS) {
        int n = (int)(last - i0 < LINEAR_ROWS ? last - i0 : LINEAR_ROWS);
        int64_t step;
        const real *queries = linear_rows_at(l, x->query + i0 * x->query_stride, x->query_stride, n, room.query, &step);
        linear_query(l, queries, step, n, view, &room);
        linear_past(l, n, view, &room);
        linear_divide(l, n, &room, x->out + i0 * x->out_stride, x->out_stride);
    }
}

/* A panel of n rows' features, transposed. */
static void linear_turn(int n, int64_t columns, real *phi, real *turned)
{
    int padded = (n + RV_LANES - 1) / RV_LANES * RV_LANES;
    memset(phi + n * LINEAR_PANEL, 0, (size_t)(padded - n) * LINEAR_PANEL * sizeof(real));
    for (int j = 0; j < padded; j += RV_LANES)
        for (int64_t c = 0; c < columns; c += RV_LANES)
            v_transpose((const char *)(phi + j * LINEAR_PANEL + c), LINEAR_PANEL * (int64_t)sizeof(real),
                        turned + c * LINEAR_ROWS + j, LINEAR_ROWS);
}

/* Causal: queries from i0 on and as many keys from j0 on, at most n <= RV_LINEAR_ROWS of each, key j0 + r the last that query i0 + r
 * sees. Returns how many were done: a chunk ends before a key that exceeds the top it began with, so that no query's bits depend
 * on later keys. */
static int linear_chunk(const rv_linear *l, const rv_linear_rows *x, int64_t i0, int64_t j0, int n, double *state, char *scratch)
{
    linear_room room = linear_layout(scratch, l);
    rv_linear_sums s = rv_linear_sums_at(l, state);
    const int64_t size = (int64_t)LINEAR_ROOM * LINEAR_PANEL, panels = l->parts * linear_panels(l);
    int64_t step, v_step, columns;
    const real *values, *keys = linear_rows_at(l, x->key + j0 * x->key_stride, x->key_stride, n, room.key, &step);
    linear_values(l, x, j0, n, &room, &values, &v_step);
    linear_features(l, keys, step, n, 0, room.phi);
    if (l->map == RV_MAP_OF_WEIGHTS) {
        const vreal ahead = v_set1(LINEAR_AHEAD);
        linear_top(l, &s, room.top);
        linear_norms(l, keys, step, n, room.norms);
        for (int64_t p = 0; p < panels; p++) {
            int64_t f0 = linear_first(l, p, &columns);
            real *phi = room.phi + p * size;
            linear_exponents(l, n, f0, columns, room.norms, phi);
            linear_raise(l, &s, &room, f0, columns, 1, phi, 0);
            for (int j = 1; j < n; j++) {
                vmask past = v_lt(v_zero(), v_zero());
                for (int64_t c = 0; c < columns && room.seen[j]; c += RV_LANES)
                    past = m_or(past, v_lt(ahead, v_sub(v_load(phi + j * LINEAR_PANEL + c), v_load(room.top + f0 + c))));
                if (m_any(past))
                    n = j;
            }
        }
        for (int64_t p = 0; p < panels; p++) {
            int64_t f0 = linear_first(l, p, &columns);
            linear_powers(n, columns, room.top + f0, room.phi + p * size);
        }
    }
    if (x->mask)
        for (int64_t p = 0; p < panels; p++)
            hide_rows(room.seen, n, room.phi + p * size);

    linear_view(l, state, room.view);
    const real *queries = linear_rows_at(l, x->query + i0 * x->query_stride, x->query_stride, n, room.query, &step);
    linear_query(l, queries, step, n, room.view, &room);
    linear_past(l, n, room.view, &room);

    /* scores of the chunk, columns up to each group's diagonal */
    enum { GROUP = 16 };
    for (int64_t p = 0; p < panels; p++) {
        (void)linear_first(l, p, &columns);
        linear_turn(n, columns, room.phi + p * size, room.turned);
        for (int i = 0; i < n; i += GROUP)
            linear_product(n - i < GROUP ? n - i : GROUP, room.phi_query + p * size + i * LINEAR_PANEL, LINEAR_PANEL, 1, room.turned,
                           LINEAR_ROWS, columns, room.scores + i * LINEAR_ROWS, LINEAR_ROWS, i + GROUP, p > 0);
    }
    for (int i = 0; i < n; i++) {
        real *row = room.scores + i * LINEAR_ROWS;
        vreal sum = v_zero(), last = v_set1((real)i);
        for (int j = 0; j < i / GROUP * GROUP + GROUP; j += RV_LANES) {
            vreal seen = v_keep(v_le(v_add(v_iota(), v_set1((real)j)), last), v_load(row + j));
            v_store(row + j, seen);
            sum = v_add(sum, seen);
        }
        room.rows[i] += v_sum(sum);
    }
    if (finite_block(values, v_step, n, l->v_pad)) {
        for (int i = 0; i < n; i += RV_TILE_ROWS) {
            int rows = n - i < RV_TILE_ROWS ? n - i : RV_TILE_ROWS;
            linear_product(rows, room.scores + i * LINEAR_ROWS, LINEAR_ROWS, 1, values, v_step, i + rows, room.out + i * l->v_pad,
                           l->v_pad, l->v_pad, 1);
        }
    } else {
        /* NaN and inf of later values times 0 would be seen: row by row then, to the same bits, in a place with room for a tile */
        size_t bytes = (size_t)l->v_pad * sizeof(real);
        for (int i = 0; i < n; i++) {
            memcpy(room.sums, room.out + i * l->v_pad, bytes);
            linear_product(1, room.scores + i * LINEAR_ROWS, LINEAR_ROWS, 1, values, v_step, i + 1, room.sums, l->v_pad, l->v_pad, 1);
            memcpy(room.out + i * l->v_pad, room.sums, bytes);
        }
    }
    linear_divide(l, n, &room, x->out + i0 * x->out_stride, x->out_stride);

    for (int64_t p = 0; p < panels; p++) {
        int64_t f0 = linear_first(l, p, &columns);
        const real *phi = room.phi + p * size;
        linear_mass(n, columns, phi, room.mass + f0, 0);
        linear_product(columns, phi, 1, LINEAR_PANEL, values, v_step, n, room.sums + f0 * l->v_pad, l->v_pad, l->v_pad, 0);
        linear_join(l, &s, &room, f0, columns);
    }
    return n;
}
