/* Softmax over the edges of a row, and the sum of their source rows, all heads of a row in one pass:
 *
 *     s[edge][head]: logits from the halves of both ends, or pair by pair; p[edge][head]: weights
 *     out[head * v_dim + c] = sum_edge p[edge][head] * value[source(edge)][head * v_dim + c]
 *
 * Heads are padded so that they divide the lanes, or lanes them: a vector holds the same heads of several edges, or several
 * heads of one, and what is reduced over edges ends with a few steps for all heads at once. Short rows go through each step
 * together, as many as fit, so that their chains of dependent operations overlap. Sums run in chains of RV_GRAPH_CHAIN, then
 * RV_GRAPH_EDGES, then wide: the error does not depend on the degree. */

enum {
    RV_GRAPH_CHAIN = 16,    /* terms in one chain of a sum */
    RV_GRAPH_AT_ONCE = 4,   /* vectors of logits that registers hold */
    RV_GRAPH_AHEAD = 64,    /* how many edges ahead source rows are fetched, */
    RV_GRAPH_FETCHED = 1 << 14,     /* of so many bytes together, a third of a first-level cache, */
    RV_GRAPH_NEAR = 1 << 19 /* unless all have fewer than these and lie in the second level */
};

typedef struct graph_room {
    int64_t heads;          /* padded */
    real *s, *p;            /* [EDGES][heads], and AT_ONCE vectors that may be run over: parts of logits, weights */
    real *b;                /* the same: the mask's terms */
    real *target;           /* [EDGES][heads, repeated to a vector]: the rows' own terms */
    real *o;                /* [columns]: a row before its mean over heads, or a chunk's sums */
    double *sums;           /* [heads] */
    char *state;            /* of a row longer than RV_GRAPH_EDGES */
    size_t bytes;
} graph_room;

typedef struct graph_part_room {
    real *m;                /* [heads, repeated to a vector]: references, integral */
    real *f;                /* the same: largest logits, then the factors of sums whose reference grew */
    real *l;                /* the same, wide: lane sums of the weights */
    real *wide;             /* [columns], wide */
    size_t bytes;
} graph_part_room;

static int64_t graph_columns(const rv_gat_args *a) { return (a->heads * a->v_dim + RV_LANES - 1) / RV_LANES * RV_LANES; }

/* The least power of two that holds the heads, or whole vectors. */
static int64_t graph_heads(const rv_gat_args *a)
{
    int64_t heads = 1;
    while (heads < a->heads && heads < RV_LANES)
        heads *= 2;
    return a->heads <= heads ? heads : (a->heads + RV_LANES - 1) / RV_LANES * RV_LANES;
}

static int64_t graph_repeated(int64_t heads) { return heads < RV_LANES ? RV_LANES : heads; }

static graph_part_room graph_part_layout(const rv_gat_args *a, char *base)
{
    graph_part_room room;
    size_t at = 0, repeated = (size_t)graph_repeated(graph_heads(a));
#define PLACE(field, type, count) room.field = base ? (type *)(base + at) : NULL; at += ((size_t)(count) * sizeof(type) + 63) / 64 * 64
    PLACE(m, real, repeated);
    PLACE(f, real, repeated);
    PLACE(l, real, 2 * repeated);
    PLACE(wide, real, 2 * (size_t)graph_columns(a));
    room.bytes = at;
    return room;
}

static size_t graph_state(const rv_gat_args *a) { return graph_part_layout(a, NULL).bytes; }

static graph_room graph_layout(const rv_gat_args *a, char *base)
{
    graph_room room;
    room.heads = graph_heads(a);
    size_t at = 0, flat = RV_GRAPH_EDGES * (size_t)room.heads + RV_GRAPH_AT_ONCE * (size_t)graph_repeated(room.heads);
    PLACE(s, real, flat);
    PLACE(p, real, flat);
    PLACE(b, real, a->mask ? flat : 0);
    PLACE(target, real, RV_GRAPH_EDGES * (size_t)graph_repeated(room.heads));
    PLACE(o, real, graph_columns(a));
    PLACE(sums, double, room.heads);
    PLACE(state, char, graph_state(a));
#undef PLACE
    room.bytes = at;
    return room;
}

static size_t graph_scratch(const rv_gat_args *a) { return graph_layout(a, NULL).bytes; }

static size_t graph_half_row(const rv_gat_args *a) { return (size_t)graph_heads(a) * sizeof(real); }

/* half[row][h] = x[row][h] . a[h], 0 for the heads that pad. */
static void graph_halves(const rv_gat_args *a, const void *x, int64_t stride, int64_t rows, const void *vector, void *half)
{
    const int64_t heads = a->heads, padded = graph_heads(a), dim = a->dim;
    real *to = half;
    for (int64_t r = 0; r < rows; r++, to += padded) {
        const real *row = (const real *)((const char *)x + r * stride), *w = vector;
        int64_t h = 0;
        if (dim == RV_LANES)        /* 5.7 to 3.4 us for 1000 rows */
            for (; h + 4 <= heads; h += 4, row += 4 * RV_LANES, w += 4 * RV_LANES)
                v_sum4(v_mul(v_load(row), v_load(w)), v_mul(v_load(row + RV_LANES), v_load(w + RV_LANES)),
                       v_mul(v_load(row + 2 * RV_LANES), v_load(w + 2 * RV_LANES)),
                       v_mul(v_load(row + 3 * RV_LANES), v_load(w + 3 * RV_LANES)), to + h);
        for (; h + 4 <= heads; h += 4, row += 4 * dim, w += 4 * dim)
            v_sum4(dot_lanes(row, w, dim), dot_lanes(row + dim, w + dim, dim), dot_lanes(row + 2 * dim, w + 2 * dim, dim),
                   dot_lanes(row + 3 * dim, w + 3 * dim, dim), to + h);
        for (; h < heads; h++, row += dim, w += dim)
            to[h] = v_sum(dot_lanes(row, w, dim));
        for (; h < padded; h++)
            to[h] = 0;
    }
}

RV_INLINE vreal graph_leaky(vreal x, vreal slope) { return v_select(v_lt(v_zero(), x), x, v_mul(x, slope)); }

RV_INLINE int64_t graph_number(const rv_gat_args *a, int64_t e) { return a->order ? a->order[e] : e; }

RV_INLINE const real *graph_edge(const rv_gat_args *a, int64_t e)
{
    return (const real *)((const char *)a->edge + graph_number(a, e) * a->edge_stride);
}

/* Version 1: what sources and edges bring to the logits of n edges. */
static void graph_gather(const rv_graph *g, int64_t first, int n, real *s, const int64_t heads)
{
    const rv_gat_args *a = g->a;
    const real *half = g->source_half;
    const int32_t *index = a->indices + first;
#define GATHER(count) for (int e = 0; e < n; e++) memcpy(s + e * (count), half + index[e] * (count), (size_t)(count) * sizeof(real)); break
    switch (heads) {
    case 1: GATHER(1);
    case 2: GATHER(2);
    case 4: GATHER(4);
    case 8: GATHER(8);
    case 16: GATHER(16);
    default: GATHER(heads);
    }
#undef GATHER
    if (a->edge)
        for (int e = 0; e < n; e++) {
            const real *x = graph_edge(a, first + e);
            for (int64_t h = 0; h < a->heads; h++)
                s[e * heads + h] += x[h];
        }
}

/* w . leaky(x + y + edge w_edge) over `lanes` columns, added to sum lane by lane; w_edge has `stride` columns. */
RV_INLINE vreal graph_pair_step(const real *w, const real *x, const real *y, const real *edge, int64_t edge_dim, const real *w_edge,
                                int64_t stride, int64_t lanes, vreal slope, vreal sum)
{
    const int whole = lanes == RV_LANES;
    vreal z = whole ? v_add(v_load(x), v_load(y)) : v_add(v_load_tail(x, lanes), v_load_tail(y, lanes));
    if (edge)
        for (int64_t f = 0; f < edge_dim; f++, w_edge += stride)
            z = v_fma(v_set1(edge[f]), whole ? v_load(w_edge) : v_load_tail(w_edge, lanes), z);
    return v_fma(whole ? v_load(w) : v_load_tail(w, lanes), graph_leaky(z, slope), sum);
}

/* The same over the `dim` columns of head h, in chains; `few`: they are 1 or 2 vectors, or 0 for any number. */
RV_INLINE vreal graph_pair_lanes(const rv_gat_args *a, const real *w, const real *x, const real *y, const real *edge, int64_t h,
                                 vreal slope, const int few)
{
    const int64_t dim = few ? few * RV_LANES : a->dim, at = h * dim, stride = a->heads * dim, edge_dim = a->edge_dim;
    const real *w_edge = edge ? (const real *)a->w_edge + at : w;
    w += at;
    x += at;
    y += at;
    vreal total = v_zero();
    for (int i = 0; i < few; i++)
        total = graph_pair_step(w + i * RV_LANES, x + i * RV_LANES, y + i * RV_LANES, edge, edge_dim, w_edge + i * RV_LANES, stride,
                                RV_LANES, slope, total);
    if (few)
        return total;
    for (int64_t d = 0; d < dim;) {
        vreal sum = v_zero();
        int64_t end = dim - d < RV_DOT_CHAIN * RV_LANES ? dim : d + RV_DOT_CHAIN * RV_LANES;
        for (; d + RV_LANES <= end; d += RV_LANES)
            sum = graph_pair_step(w + d, x + d, y + d, edge, edge_dim, w_edge + d, stride, RV_LANES, slope, sum);
        if (d < end) {
            sum = graph_pair_step(w + d, x + d, y + d, edge, edge_dim, w_edge + d, stride, end - d, slope, sum);
            d = end;
        }
        total = v_add(total, sum);
    }
    return total;
}

/* A row that is needed soon; the last byte stands for the line that a row which begins inside one reaches into. */
RV_INLINE void graph_fetch(const char *row, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        RV_PREFETCH(row + i);
    RV_PREFETCH(row + bytes - 1);
}

/* How many edges ahead rows of so many bytes are fetched, and from which position on there is none: 21 to 13 ms for a million
 * edges. Not where all rows are near: 30 to 27 us for a thousand. */
RV_INLINE int64_t graph_ahead(const rv_gat_args *a, int64_t stride, int64_t bytes, int64_t *until)
{
    int64_t ahead = RV_GRAPH_FETCHED / bytes;
    ahead = ahead < 4 ? 4 : ahead < RV_GRAPH_AHEAD ? ahead : RV_GRAPH_AHEAD;
    *until = a->sources * stride < RV_GRAPH_NEAR ? 0 : a->edges - ahead;
    return ahead;
}

/* Version 2: the logits of n edges of one row, before their scale. */
RV_INLINE void graph_pairs_of(const rv_gat_args *a, int64_t row, int64_t first, int n, real *s, const int64_t heads, const int few,
                              const int edged)
{
    const real *x = (const real *)((const char *)a->query + row * a->query_stride), *w = a->a_source;
    const vreal slope = v_set1((real)a->slope);
    const int64_t bytes = a->heads * a->dim * (int64_t)sizeof(real);
    int64_t until, ahead = graph_ahead(a, a->key_stride, bytes, &until);
    for (int e = 0; e < n; e++, s += heads) {
        if (first + e < until)
            graph_fetch((const char *)a->key + a->indices[first + e + ahead] * a->key_stride, bytes);
        const real *y = (const real *)((const char *)a->key + a->indices[first + e] * a->key_stride);
        const real *edge = edged ? graph_edge(a, first + e) : NULL;
        int64_t h = 0;
        for (; h + 4 <= a->heads; h += 4)
            v_sum4(graph_pair_lanes(a, w, x, y, edge, h, slope, few), graph_pair_lanes(a, w, x, y, edge, h + 1, slope, few),
                   graph_pair_lanes(a, w, x, y, edge, h + 2, slope, few), graph_pair_lanes(a, w, x, y, edge, h + 3, slope, few),
                   s + h);
        for (; h < a->heads; h++)
            s[h] = v_sum(graph_pair_lanes(a, w, x, y, edge, h, slope, few));
        for (; h < heads; h++)
            s[h] = 0;
    }
}

static void graph_pairs(const rv_graph *g, int64_t row, int64_t first, int n, real *s, const int64_t heads)
{
    const rv_gat_args *a = g->a;
    if (a->edge)
        graph_pairs_of(a, row, first, n, s, heads, 0, 1);
    else if (a->dim == RV_LANES)
        graph_pairs_of(a, row, first, n, s, heads, 1, 0);
    else if (a->dim == 2 * RV_LANES)
        graph_pairs_of(a, row, first, n, s, heads, 2, 0);
    else
        graph_pairs_of(a, row, first, n, s, heads, 0, 0);
}

static void graph_mask(const rv_gat_args *a, int64_t first, int n, real *b, const int64_t heads)
{
    for (int e = 0; e < n; e++)
        for (int64_t h = 0; h < heads; h++)
            *b++ = ((const real *)a->mask)[graph_number(a, first + e)] * (real)RV_LOG2E;
}

/* A row's own terms of the logits, repeated to whole vectors. */
RV_INLINE void graph_repeat(const rv_graph *g, int64_t row, real *to, const int64_t heads)
{
    for (int64_t i = 0; i < graph_repeated(heads); i += heads)
        memcpy(to + i, (const real *)g->target_half + row * heads, (size_t)heads * sizeof(real));
}

/* How logits are made of s. */
typedef struct graph_terms {
    vreal slope, c;
    int version, masked;
} graph_terms;

static graph_terms graph_terms_of(const rv_graph *g)
{
    const rv_gat_args *a = g->a;
    graph_terms t = {v_set1((real)a->slope), v_set1((real)(a->scale * RV_LOG2E)), a->version, a->mask != NULL};
    return t;
}

RV_INLINE vreal graph_logit(const graph_terms *t, const graph_room *room, int64_t at, const real *target)
{
    vreal x = v_load(room->s + at);
    if (t->version == 1)
        x = graph_leaky(v_add(x, v_load(target)), t->slope);
    x = v_mul(x, t->c);
    return t->masked ? v_add(x, v_load(room->b + at)) : x;
}

/* Largest and sum over the edges of a vector, for each head: `heads` of them divide the lanes. */
RV_INLINE vreal graph_top(vreal x, const int heads)
{
    if (heads <= RV_LANES / 2 && RV_LANES > 1) x = v_max(x, v_swap(x, RV_LANES / 2));
    if (heads <= RV_LANES / 4 && RV_LANES > 2) x = v_max(x, v_swap(x, RV_LANES / 4));
    if (heads <= RV_LANES / 8 && RV_LANES > 4) x = v_max(x, v_swap(x, RV_LANES / 8));
    if (heads <= RV_LANES / 16 && RV_LANES > 8) x = v_max(x, v_swap(x, RV_LANES / 16));
    return x;
}
RV_INLINE vreal graph_sum(vreal x, const int heads)
{
    if (heads <= RV_LANES / 2 && RV_LANES > 1) x = v_add(x, v_swap(x, RV_LANES / 2));
    if (heads <= RV_LANES / 4 && RV_LANES > 2) x = v_add(x, v_swap(x, RV_LANES / 4));
    if (heads <= RV_LANES / 8 && RV_LANES > 4) x = v_add(x, v_swap(x, RV_LANES / 8));
    if (heads <= RV_LANES / 16 && RV_LANES > 8) x = v_add(x, v_swap(x, RV_LANES / 16));
    return x;
}

/* Vectors of n edges: one follows the other, or each head's stand apart; in the last one, `lanes` count. */
typedef struct graph_run {
    int64_t step;
    int vectors;
    int64_t lanes;
} graph_run;

RV_INLINE graph_run graph_run_of(int n, int64_t heads)
{
    if (heads >= RV_LANES)
        return (graph_run){heads, n, RV_LANES};
    int64_t flat = n * heads, vectors = (flat + RV_LANES - 1) / RV_LANES;
    return (graph_run){RV_LANES, (int)vectors, flat - (vectors - 1) * RV_LANES};
}

RV_INLINE vreal graph_last(const graph_run *run, vreal x)
{
    return v_select(v_lt(v_iota(), v_set1((real)run->lanes)), x, v_set1(-INFINITY));
}

/* p = the logits, -inf after the last; returns their largest, lane by lane, NaN left out. */
RV_INLINE vreal graph_logits(const graph_terms *t, const graph_room *room, const graph_run *run, int64_t at, const real *target)
{
    vreal top = v_set1(-INFINITY);
    for (int i = 0; i < run->vectors; i++, at += run->step) {
        vreal x = graph_logit(t, room, at, target);
        if (i + 1 == run->vectors)
            x = graph_last(run, x);
        v_store(room->p + at, x);
        top = v_max(x, top);
    }
    return top;
}

/* p = 2^(p - m); returns the sum, lane by lane. */
RV_INLINE vreal graph_powers(const graph_run *run, real *p, vreal m)
{
    vreal total = v_zero();
    for (int i = 0; i < run->vectors;) {
        int end = run->vectors - i < RV_GRAPH_CHAIN ? run->vectors : i + RV_GRAPH_CHAIN;
        vreal sum = v_zero();
        for (; i < end; i++, p += run->step) {
            vreal y = v_exp2_flush(v_sub(v_load(p), m));
            v_store(p, y);
            sum = v_add(sum, y);
        }
        total = v_add(total, sum);
    }
    return total;
}

/* The weights of a row whose logits fit `most` vectors, 2 or 4, in registers: no branch on the degree, which is hard to foresee. */
RV_INLINE void graph_weights_of(const graph_terms *t, const graph_room *room, const graph_run *run, int64_t at, const real *target,
                                const int heads, const int most)
{
    const vreal least = v_set1(-INFINITY);
    const int64_t n = (run->vectors - 1) * RV_LANES + run->lanes, step = run->step;
    real *p = room->p + at;
#define LOGIT(i) (i < most ? v_select(v_lt(v_iota(), v_set1((real)(n - i * RV_LANES))), graph_logit(t, room, at + i * step, target), least) : least)
    vreal x0 = LOGIT(0), x1 = LOGIT(1), x2 = LOGIT(2), x3 = LOGIT(3);
#undef LOGIT
    vreal top = v_max(x1, v_max(x0, least));
    if (most > 2)
        top = v_max(x3, v_max(x2, top));
    top = graph_top(top, heads);
    x0 = v_exp2_flush(v_sub(x0, top));
    x1 = v_exp2_flush(v_sub(x1, top));
    vreal sum = v_add(x0, x1);
    if (most > 2) {
        x2 = v_exp2_flush(v_sub(x2, top));
        x3 = v_exp2_flush(v_sub(x3, top));
        sum = v_add(sum, v_add(x2, x3));
    }
    reciprocal r = reciprocals_of(graph_sum(sum, heads));
    v_store(p, over(x0, r));
    v_store(p + step, over(x1, r));
    if (most > 2) {
        v_store(p + 2 * step, over(x2, r));
        v_store(p + 3 * step, over(x3, r));
    }
}

/* The weights of a whole row from its s: e / sum, never exp(x - lse). `heads`: those that fit a vector. */
RV_INLINE void graph_weights(const graph_terms *t, const graph_room *room, const graph_run *run, int64_t at, const real *target,
                             const int heads)
{
    if (run->vectors <= 2) {
        graph_weights_of(t, room, run, at, target, heads, 2);
    } else if (run->vectors <= 4) {
        graph_weights_of(t, room, run, at, target, heads, 4);
    } else {
        vreal top = graph_top(graph_logits(t, room, run, at, target), heads);
        reciprocal r = reciprocals_of(graph_sum(graph_powers(run, room->p + at, top), heads));
        for (int i = 0; i < run->vectors; i++, at += run->step)
            v_store(room->p + at, over(v_load(room->p + at), r));
    }
}

/* The weights of the rows [first, last), whose edges follow each other; s is filled in. */
RV_INLINE void graph_softmax(const rv_graph *g, const graph_room *room, int64_t first, int64_t last, const int heads)
{
    const rv_gat_args *a = g->a;
    const graph_terms t = graph_terms_of(g);
    const int64_t start = a->starts[first], padded = heads < RV_LANES ? heads : room->heads, repeated = graph_repeated(padded);
    if (a->version == 1)
        for (int64_t row = first; row < last; row++)
            graph_repeat(g, row, room->target + (row - first) * repeated, padded);
    for (int64_t row = first; row < last; row++) {
        int n = a->ends[row] - a->starts[row];
        graph_run run = graph_run_of(n, padded);
        if (n > 0)
            for (int64_t h = 0; h < padded; h += heads)
                graph_weights(&t, room, &run, (a->starts[row] - start) * padded + h, room->target + (row - first) * repeated + h, heads);
    }
}

/* Drops weights; position j of the row draws with key (row, head). */
static void graph_drop(const rv_graph *g, int64_t row, int64_t first, int n, real *p, const int64_t heads)
{
    const rv_gat_args *a = g->a;
    for (int64_t h = 0; h < a->heads; h++) {
        uint64_t key = rv_draw_row(a->dropout_seed, row * a->heads + h);
        for (int e = 0; e < n; e++) {
            real *x = p + e * heads + h;
            *x = rv_draw(key, first - a->starts[row] + e) < g->dropout_below ? 0 : *x * (real)g->dropout_gain;
        }
    }
}

static void graph_store_weights(const rv_gat_args *a, int64_t first, int n, const real *p, const int64_t heads)
{
    for (int e = 0; e < n; e++)
        memcpy((real *)a->weights + graph_number(a, first + e) * a->heads, p + e * heads, (size_t)a->heads * sizeof(real));
}

/* What the heads of `lanes` columns from column c on have at p: a vector may cover many. */
RV_INLINE vreal graph_spread(const real *p, int64_t c, int64_t v_dim, int64_t lanes)
{
    int64_t h = c / v_dim, until = (h + 1) * v_dim - c;
    vreal w = v_set1(p[h]);
    for (; until < lanes; until += v_dim)
        w = v_select(v_lt(v_iota(), v_set1((real)until)), w, v_set1(p[++h]));
    return w;
}

/* o[0 .. 4 lanes) = sums over n edges of their weights times four vectors of their source rows, which begin at `value`.
 * parts: heads in a vector, 1 or 2; q0 .. q3: the weight of the first head of each, `heads` apart from edge to edge. */
RV_INLINE void graph_sum4(const char *value, int64_t stride, const int32_t *index, int n, int64_t ahead, int64_t until,
                          const real *q0, const real *q1, const real *q2, const real *q3, int64_t heads, const int parts, real *o)
{
    const vmask low = v_lt(v_iota(), v_set1(RV_LANES / 2));
#define WEIGHT(q) (parts == 1 ? v_set1(q[at]) : v_select(low, v_set1(q[at]), v_set1(q[at + 1])))
    vreal t0 = v_zero(), t1 = v_zero(), t2 = v_zero(), t3 = v_zero();
    int64_t at = 0;
    for (int e = 0; e < n;) {
        int end = n - e < RV_GRAPH_CHAIN ? n : e + RV_GRAPH_CHAIN;
        vreal a0 = v_zero(), a1 = v_zero(), a2 = v_zero(), a3 = v_zero();
        for (; e < end; e++, at += heads) {
            const real *v = (const real *)(value + index[e] * stride);
            if (e < until)
                graph_fetch(value + index[e + ahead] * stride, 4 * RV_LANES * sizeof(real));
            a0 = v_fma(WEIGHT(q0), v_load(v), a0);
            a1 = v_fma(WEIGHT(q1), v_load(v + RV_LANES), a1);
            a2 = v_fma(WEIGHT(q2), v_load(v + 2 * RV_LANES), a2);
            a3 = v_fma(WEIGHT(q3), v_load(v + 3 * RV_LANES), a3);
        }
        t0 = v_add(t0, a0);
        t1 = v_add(t1, a1);
        t2 = v_add(t2, a2);
        t3 = v_add(t3, a3);
    }
#undef WEIGHT
    v_store(o, t0);
    v_store(o + RV_LANES, t1);
    v_store(o + 2 * RV_LANES, t2);
    v_store(o + 3 * RV_LANES, t3);
}

/* o[c] = sum over n edges of p[edge][head of c] * value[source(edge)][c]. */
static void graph_values(const rv_gat_args *a, int64_t first, int n, const real *p, real *o, const int64_t heads)
{
    const int32_t *index = a->indices + first;
    const int64_t stride = a->value_stride, v_dim = a->v_dim, columns = a->heads * v_dim;
    int64_t until, ahead = graph_ahead(a, stride, 4 * RV_LANES * sizeof(real), &until), c = 0;
    until -= first;
    for (; c + 4 * RV_LANES <= columns; c += 4 * RV_LANES) {
        const char *value = (const char *)((const real *)a->value + c);
        if (v_dim % RV_LANES == 0)
            graph_sum4(value, stride, index, n, ahead, until, p + c / v_dim, p + (c + RV_LANES) / v_dim,
                       p + (c + 2 * RV_LANES) / v_dim, p + (c + 3 * RV_LANES) / v_dim, heads, 1, o + c);
        else if (2 * v_dim == RV_LANES)
            graph_sum4(value, stride, index, n, ahead, until, p + c / v_dim, p + c / v_dim + 2, p + c / v_dim + 4,
                       p + c / v_dim + 6, heads, 2, o + c);
        else
            break;
    }
    for (; c < columns; c += RV_LANES) {
        int64_t lanes = columns - c < RV_LANES ? columns - c : RV_LANES;
        vreal total = v_zero();
        for (int e = 0; e < n;) {
            int end = n - e < RV_GRAPH_CHAIN ? n : e + RV_GRAPH_CHAIN;
            vreal sum = v_zero();
            for (; e < end; e++) {
                const real *v = (const real *)((const char *)a->value + index[e] * stride) + c;
                if (e < until)
                    RV_PREFETCH((const real *)((const char *)a->value + index[e + ahead] * stride) + c);
                sum = v_fma(graph_spread(p + e * heads, c, v_dim, lanes), lanes == RV_LANES ? v_load(v) : v_load_tail(v, lanes), sum);
            }
            total = v_add(total, sum);
        }
        v_store_tail(o + c, total, lanes);
    }
}

static real *graph_out(const rv_gat_args *a, int64_t row) { return (real *)((char *)a->out + row * a->out_stride); }

/* A row's sums, which are in o, to their place: the mean over heads where it is wanted, then the bias. */
static void graph_end_row(const rv_gat_args *a, int64_t row, const real *o)
{
    const real *bias = a->bias;
    real *out = graph_out(a, row);
    if (!a->mean && !bias)
        return;
    const int64_t columns = a->mean ? a->v_dim : a->heads * a->v_dim;
    const vreal share = v_set1((real)(1.0 / (double)a->heads));
    for (int64_t c = 0; c < columns; c += RV_LANES) {
        int64_t lanes = columns - c < RV_LANES ? columns - c : RV_LANES;
        vreal x = v_load_tail(o + c, lanes);
        if (a->mean) {
            for (int64_t h = 1; h < a->heads; h++)
                x = v_add(x, v_load_tail(o + h * a->v_dim + c, lanes));
            x = v_mul(x, share);
        }
        v_store_tail(out + c, bias ? v_add(x, v_load_tail(bias + c, lanes)) : x, lanes);
    }
}

/* Every column's sum times its head's factor. */
static void graph_scale(const rv_gat_args *a, const graph_part_room *part)
{
    const int64_t columns = a->heads * a->v_dim;
    for (int64_t c = 0; c < columns; c += RV_LANES)
        w_scale(part->wide + 2 * c, graph_spread(part->f, c, a->v_dim, columns - c < RV_LANES ? columns - c : RV_LANES));
}

/* graph_top for a number of heads that is known only here. */
static vreal graph_top_of(vreal x, int64_t heads)
{
    switch (heads) {
    case 1: return graph_top(x, 1);
    case 2: return graph_top(x, 2);
    case 4: return graph_top(x, 4);
    case 8: return graph_top(x, 8);
    default: return x;
    }
}

/* The state of the edges [first, last) of a row. */
static void graph_part(const rv_graph *g, int64_t row, int64_t first, int64_t last, char *state, char *scratch)
{
    const rv_gat_args *a = g->a;
    const graph_room room = graph_layout(a, scratch);
    const graph_part_room part = graph_part_layout(a, state);
    const graph_terms t = graph_terms_of(g);
    const int64_t columns = a->heads * a->v_dim, repeated = graph_repeated(room.heads);
    if (a->version == 1)
        graph_repeat(g, row, room.target, room.heads);
    for (int64_t h = 0; h < repeated; h += RV_LANES) {
        v_store(part.m + h, v_set1(RV_LOWEST));
        w_zero(part.l + 2 * h);
    }
    for (int64_t c = 0; c < columns; c += RV_LANES)
        w_zero(part.wide + 2 * c);
    for (; first < last; first += RV_GRAPH_EDGES) {
        int n = (int)(last - first < RV_GRAPH_EDGES ? last - first : RV_GRAPH_EDGES), grown = 0;
        const graph_run run = graph_run_of(n, room.heads);
        if (a->version == 1)
            graph_gather(g, first, n, room.s, room.heads);
        else
            graph_pairs(g, row, first, n, room.s, room.heads);
        if (a->mask)
            graph_mask(a, first, n, room.b, room.heads);
        for (int64_t h = 0; h < repeated; h += RV_LANES)
            v_store(part.f + h, graph_top_of(graph_logits(&t, &room, &run, h, room.target + h), room.heads));
        if (a->weights)
            graph_store_weights(a, first, n, room.p, room.heads);       /* as logits: graph_finish knows the sum */
        for (int64_t h = 0; h < repeated; h += RV_LANES) {
            vreal old = v_load(part.m + h), m = v_max(v_ceil(v_load(part.f + h)), old), factor = v_exp2_flush(v_sub(old, m));
            v_store(part.m + h, m);
            v_store(part.f + h, factor);
            if (m_any(m_not(m_or(v_eq(factor, v_set1(1)), v_eq(old, v_set1(RV_LOWEST)))))) {
                grown = 1;
                w_scale(part.l + 2 * h, factor);
            }
            w_add(part.l + 2 * h, graph_powers(&run, room.p + h, m));
        }
        if (grown)
            graph_scale(a, &part);
        if (g->dropout_below)
            graph_drop(g, row, first, n, room.p, room.heads);
        graph_values(a, first, n, room.p, room.o, room.heads);
        for (int64_t c = 0; c < columns; c += RV_LANES)
            w_add(part.wide + 2 * c, v_load_tail(room.o + c, columns - c < RV_LANES ? columns - c : RV_LANES));
    }
}

/* state += later, that of later edges of the same row. */
static void graph_merge(const rv_graph *g, char *state, char *later)
{
    const rv_gat_args *a = g->a;
    const graph_part_room to = graph_part_layout(a, state), from = graph_part_layout(a, later);
    for (int64_t h = 0; h < graph_repeated(graph_heads(a)); h += RV_LANES) {
        vreal m = v_load(to.m + h), n = v_load(from.m + h), top = v_max(m, n);
        vreal keep = v_exp2_flush(v_sub(m, top)), take = v_exp2_flush(v_sub(n, top));
        w_scale(to.l + 2 * h, keep);
        w_scale(from.l + 2 * h, take);
        w_merge(to.l + 2 * h, from.l + 2 * h);
        v_store(to.m + h, top);
        v_store(to.f + h, keep);
        v_store(from.f + h, take);
    }
    graph_scale(a, &to);
    graph_scale(a, &from);
    for (int64_t c = 0; c < a->heads * a->v_dim; c += RV_LANES)
        w_merge(to.wide + 2 * c, from.wide + 2 * c);
}

/* The weights of a row from its logits, which are in their place, and its state. */
static void graph_finish_weights(const rv_graph *g, int64_t row, const graph_part_room *part, const graph_room *room)
{
    const rv_gat_args *a = g->a;
    for (int64_t first = a->starts[row]; first < a->ends[row]; first += RV_GRAPH_EDGES) {
        int n = (int)(a->ends[row] - first < RV_GRAPH_EDGES ? a->ends[row] - first : RV_GRAPH_EDGES);
        const graph_run run = graph_run_of(n, room->heads);
        for (int e = 0; e < n; e++)
            memcpy(room->p + e * room->heads, (const real *)a->weights + graph_number(a, first + e) * a->heads,
                   (size_t)a->heads * sizeof(real));
        for (int64_t h = 0; h < graph_repeated(room->heads); h += RV_LANES) {
            graph_powers(&run, room->p + h, v_load(part->m + h));
            reciprocal r = reciprocals_of(v_load(part->f + h));
            for (int i = 0; i < run.vectors; i++) {
                real *p = room->p + h + i * run.step;
                v_store(p, over(v_load(p), r));
            }
        }
        if (g->dropout_below)
            graph_drop(g, row, first, n, room->p, room->heads);
        graph_store_weights(a, first, n, room->p, room->heads);
    }
}

/* The row's result from the state of all its edges, of which there are some. */
static void graph_finish(const rv_graph *g, int64_t row, char *state, char *scratch)
{
    const rv_gat_args *a = g->a;
    const graph_room room = graph_layout(a, scratch);
    const graph_part_room part = graph_part_layout(a, state);
    const int64_t columns = a->heads * a->v_dim, repeated = graph_repeated(room.heads);
    real *o = a->mean ? room.o : graph_out(a, row), total[2 * RV_LANES];
    for (int64_t h = 0; h < room.heads; h++) {
        /* NaN where all logits are -inf */
        double sum = w_total_of(part.l + 2 * (h / RV_LANES * RV_LANES), (int)(h % RV_LANES), (int)room.heads);
        room.sums[h] = sum == 0 ? NAN : sum;
        for (int64_t i = h; i < repeated; i += room.heads)
            part.f[i] = (real)room.sums[h];
    }
    for (int64_t c = 0; c < columns; c += RV_LANES) {
        const real *wide = part.wide + 2 * c;
        int64_t h = c / a->v_dim, lanes = columns - c < RV_LANES ? columns - c : RV_LANES;
        if (c + lanes <= (h + 1) * a->v_dim) {
            w_set1(total, room.sums[h]);
            v_store_tail(o + c, w_quotient(wide, total), lanes);
        } else {
            for (int i = 0; i < lanes; i++)
                o[c + i] = (real)(w_get(wide, i) / room.sums[(c + i) / a->v_dim]);
        }
    }
    graph_end_row(a, row, o);
    if (a->weights)
        graph_finish_weights(g, row, &part, &room);
}

/* The rows [first, last), each of at most RV_GRAPH_SPLIT edges. */
static void graph_rows(const rv_graph *g, int64_t first, int64_t last, char *scratch)
{
    const rv_gat_args *a = g->a;
    const graph_room room = graph_layout(a, scratch);
    const int64_t heads = room.heads;
    while (first < last) {
        int64_t start = a->starts[first], n = a->ends[first] - start, end = first + 1;
        if (n > RV_GRAPH_EDGES) {
            graph_part(g, first, start, start + n, room.state, scratch);
            graph_finish(g, first, room.state, scratch);
            first = end;
            continue;
        }
        /* rows whose edges follow each other share the steps */
        while (end < last && end - first < RV_GRAPH_EDGES && a->starts[end] == start + n && a->ends[end] - start <= RV_GRAPH_EDGES)
            n = a->ends[end++] - start;
        if (a->version == 1)
            graph_gather(g, start, (int)n, room.s, heads);
        else
            for (int64_t row = first; row < end; row++)
                graph_pairs(g, row, a->starts[row], a->ends[row] - a->starts[row], room.s + (a->starts[row] - start) * heads, heads);
        if (a->mask)
            graph_mask(a, start, (int)n, room.b, heads);
        switch (heads) {
        case 1: graph_softmax(g, &room, first, end, 1); break;
#if RV_LANES >= 2
        case 2: graph_softmax(g, &room, first, end, 2); break;
#endif
#if RV_LANES >= 4
        case 4: graph_softmax(g, &room, first, end, 4); break;
#endif
#if RV_LANES >= 8
        case 8: graph_softmax(g, &room, first, end, 8); break;
#endif
        default: graph_softmax(g, &room, first, end, RV_LANES);
        }
        if (g->dropout_below)
            for (int64_t row = first; row < end; row++)
                graph_drop(g, row, a->starts[row], a->ends[row] - a->starts[row], room.p + (a->starts[row] - start) * heads, heads);
        if (a->weights)
            graph_store_weights(a, start, (int)n, room.p, heads);
        for (; first < end; first++) {
            real *o = a->mean ? room.o : graph_out(a, first);
            graph_values(a, a->starts[first], a->ends[first] - a->starts[first], room.p + (a->starts[first] - start) * heads, o, heads);
            graph_end_row(a, first, o);
        }
    }
}
