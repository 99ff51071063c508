/* No kernel touches a byte outside its arrays: every array ends at, or starts after, a page that faults. Each ISA, dtype and
 * width 1..257, around the lane and block edges of lengths. Outputs are compared with those from plain memory, so that a
 * kernel that reads too little shows as well. */
#define _GNU_SOURCE
#include "peak.h"
#include "ruvector.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char where[256];

static void fault(int number)
{
    static const char text[] = "fault outside an array: ";
    (void)!write(1, text, sizeof text - 1);
    (void)!write(1, where, strlen(where));
    (void)!write(1, "\n0 passed, 1 failed\n", 20);
    _exit(number);
}

enum { ARRAYS = 16 };
static char *region[ARRAYS];
static size_t region_bytes, page;

/* An array of `bytes` whose end (or start) is the end (start) of its mapped pages. */
static void *guarded(int i, size_t bytes, int at_end)
{
    if (bytes > region_bytes) {
        printf("array of %zu bytes does not fit\n", bytes);
        exit(2);
    }
    return at_end ? region[i] + region_bytes - bytes : region[i];
}

static uint32_t seed = 12345;
static float draw(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1;
}

static void fill(rv_dtype dtype, void *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x = draw();
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (dtype == RV_F64) ((double *)p)[i] = x;
        else if (dtype == RV_F32) ((float *)p)[i] = x;
        else if (dtype == RV_BF16) ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
        else if (dtype == RV_I8) ((int8_t *)p)[i] = (int8_t)(x * 127);
        else ((uint16_t *)p)[i] = (uint16_t)(0x3800 | (seed >> 22)) ^ (uint16_t)((seed & 256) << 7);
    }
}

static long checks, failures;

static void same(const void *a, const void *b, size_t bytes)
{
    checks++;
    if (memcmp(a, b, bytes)) {
        failures++;
        printf("differs from plain memory: %s\n", where);
    }
}

static void ok(rv_status status)
{
    if (status != RV_OK) {
        failures++;
        printf("status %d: %s\n", status, where);
    }
}

typedef struct shape { int64_t q_len, kv_len; int heads, group; int mask; int causal; } shape;

/* Key and value stored as `kv`; scales, which RV_I8 has, are arrays of their own. */
static void attention(const char *isa, rv_dtype dtype, rv_dtype kv, int64_t d, int64_t dv, const shape *s, int at_end)
{
    size_t item = rv_dtype_size(dtype), kv_item = rv_dtype_size(kv), q_heads = (size_t)s->heads * (size_t)s->group;
    size_t n[4] = {q_heads * (size_t)(s->q_len * d), (size_t)s->heads * (size_t)(s->kv_len * d),
                   (size_t)s->heads * (size_t)(s->kv_len * dv), q_heads * (size_t)(s->q_len * dv)};
    size_t mask_item = s->mask == RV_MASK_FLOAT ? dtype == RV_F64 ? 8 : 4 : 1;
    size_t mask_bytes = s->mask ? (size_t)(s->q_len * s->kv_len) * mask_item : 0;
    size_t rows = (size_t)s->heads * (size_t)s->kv_len;
    void *p[4], *plain[4], *scales[2], *plain_scales[2];
    for (int i = 0; i < 4; i++) {
        rv_dtype type = i == 1 || i == 2 ? kv : dtype;
        size_t bytes = n[i] * rv_dtype_size(type);
        p[i] = guarded(i, bytes, at_end);
        plain[i] = malloc(bytes + 1);
        fill(type, p[i], n[i]);
        memcpy(plain[i], p[i], bytes);
    }
    for (int i = 0; i < 2; i++) {
        scales[i] = guarded(6 + i, rows * sizeof(float), at_end);
        plain_scales[i] = malloc(rows * sizeof(float));
        fill(RV_F32, scales[i], rows);
        memcpy(plain_scales[i], scales[i], rows * sizeof(float));
    }
    rv_kv_storage storage, plain_storage;
    memset(&storage, 0, sizeof storage);
    storage.dtype = kv;
    storage.key_scale.head_stride = storage.value_scale.head_stride = s->kv_len * (int64_t)sizeof(float);
    plain_storage = storage;
    storage.key_scale.data = scales[0]; storage.value_scale.data = scales[1];
    plain_storage.key_scale.data = plain_scales[0]; plain_storage.value_scale.data = plain_scales[1];
    void *mask = guarded(4, mask_bytes, at_end);
    for (size_t i = 0; s->mask && i < (size_t)(s->q_len * s->kv_len); i++) {
        float x = draw();
        if (s->mask == RV_MASK_BOOL) ((unsigned char *)mask)[i] = x > 0;
        else if (dtype == RV_F64) ((double *)mask)[i] = x > 0.5f ? -INFINITY : x;
        else ((float *)mask)[i] = x > 0.5f ? -INFINITY : x;
    }
    double *lse = guarded(5, q_heads * (size_t)s->q_len * 8, at_end);
    double *plain_lse = malloc(q_heads * (size_t)s->q_len * 8);
    rv_attn_args a;
    memset(&a, 0, sizeof a);
    a.dtype = dtype;
    a.heads = (int64_t)q_heads;
    a.key_heads = a.value_heads = s->heads;
    a.q_len = s->q_len;
    a.kv_len = s->kv_len;
    a.dim = d;
    a.v_dim = dv;
    a.query.row_stride = d * (int64_t)item;
    a.key.row_stride = d * (int64_t)kv_item;
    a.value.row_stride = dv * (int64_t)kv_item;
    a.out.row_stride = dv * (int64_t)item;
    a.query.head_stride = s->q_len * a.query.row_stride;
    a.key.head_stride = s->kv_len * a.key.row_stride;
    a.value.head_stride = s->kv_len * a.value.row_stride;
    a.out.head_stride = s->q_len * a.out.row_stride;
    a.scale = 0.125;
    a.left = RV_UNBOUNDED;
    a.right = s->causal ? 0 : RV_UNBOUNDED;
    a.offset = s->kv_len - s->q_len;
    a.threads = 1;
    a.mask_kind = (rv_mask_kind)s->mask;
    a.mask.data = mask;
    a.mask.row_stride = s->kv_len * (int64_t)mask_item;
    a.mask_col_stride = (int64_t)mask_item;
    snprintf(where, sizeof where, "%s dtype %d kv %d d %d dv %d L %d S %d heads %dx%d mask %d causal %d at_end %d", isa, dtype, kv,
             (int)d, (int)dv, (int)s->q_len, (int)s->kv_len, s->heads, s->group, s->mask, s->causal, at_end);
    a.query.data = p[0]; a.key.data = p[1]; a.value.data = p[2]; a.out.data = p[3]; a.lse = lse;
    a.storage = kv == dtype ? NULL : &storage;
    ok(rv_attn_run(&a));
    a.query.data = plain[0]; a.key.data = plain[1]; a.value.data = plain[2]; a.out.data = plain[3]; a.lse = plain_lse;
    a.storage = kv == dtype ? NULL : &plain_storage;
    ok(rv_attn_run(&a));
    same(p[3], plain[3], n[3] * item);
    same(lse, plain_lse, q_heads * (size_t)s->q_len * 8);
    for (int i = 0; i < 4; i++)
        free(plain[i]);
    for (int i = 0; i < 2; i++)
        free(plain_scales[i]);
    free(plain_lse);
}

/* Blocks (way 0), gathered rows (1, with a mask 2) and a window with shared keys (3); lists are arrays of their own. */
static void sparse(const char *isa, rv_dtype dtype, int64_t d, int64_t dv, int way, int at_end)
{
    enum { HEADS = 2, Q = 50, S = 83, LISTS = 50 };
    size_t item = rv_dtype_size(dtype), mask_item = dtype == RV_F64 ? 8 : 4;
    size_t n[4] = {(size_t)(HEADS * Q * d), (size_t)(S * d), (size_t)(S * dv), (size_t)(HEADS * Q * dv)};
    void *p[4], *plain[4];
    for (int i = 0; i < 4; i++) {
        p[i] = guarded(i, n[i] * item, at_end);
        plain[i] = malloc(n[i] * item + 1);
        fill(dtype, p[i], n[i]);
        memcpy(plain[i], p[i], n[i] * item);
    }
    int64_t block_q = way == 0 ? 20 : 1, block_k = way == 0 ? 8 : 1, lists = way == 0 ? 3 : LISTS, keys = way == 0 ? 11 : S;
    int64_t starts[LISTS + 1], shared[] = {0, 1, 3, 9, 80, 83};
    int32_t blocks[LISTS * S];
    starts[0] = 0;
    for (int64_t i = 0; i < lists; i++) {
        starts[i + 1] = starts[i];
        float most = draw();
        for (int64_t j = 0; j < keys; j++)
            if (draw() < most || (i % 5 == 4 && j > 5))
                blocks[starts[i + 1]++] = (int32_t)j;
    }
    size_t block_bytes = (size_t)starts[lists] * sizeof *blocks, start_bytes = (size_t)(lists + 1) * sizeof *starts;
    double *lse = guarded(5, HEADS * Q * sizeof(double), at_end), plain_lse[HEADS * Q];
    void *mask = guarded(4, Q * S * mask_item, at_end), *plain_mask = malloc(Q * S * mask_item);
    fill(dtype == RV_F64 ? RV_F64 : RV_F32, mask, Q * S);
    memcpy(plain_mask, mask, Q * S * mask_item);
    rv_sparse s, other;
    memset(&s, 0, sizeof s);
    s.gather = way == 1 || way == 2;
    s.block_q = block_q;
    s.block_k = block_k;
    s.lists = 1;
    s.shared_right = RV_UNBOUNDED;
    other = s;
    if (way == 3) {
        s.shared_count = other.shared_count = 3;
        s.shared = memcpy(guarded(6, sizeof shared, at_end), shared, sizeof shared);
        other.shared = shared;
    } else {
        s.starts = memcpy(guarded(6, start_bytes, at_end), starts, start_bytes);
        s.blocks = memcpy(guarded(7, block_bytes, at_end), blocks, block_bytes);
        other.starts = starts;
        other.blocks = blocks;
    }
    rv_attn_args a;
    memset(&a, 0, sizeof a);
    a.dtype = dtype;
    a.heads = HEADS;
    a.key_heads = a.value_heads = 1;
    a.q_len = Q;
    a.kv_len = S;
    a.dim = d;
    a.v_dim = dv;
    a.query.row_stride = a.key.row_stride = d * (int64_t)item;
    a.value.row_stride = a.out.row_stride = dv * (int64_t)item;
    a.query.head_stride = Q * a.query.row_stride;
    a.out.head_stride = Q * a.out.row_stride;
    a.scale = 0.125;
    a.left = way == 3 ? 4 : RV_UNBOUNDED;
    a.right = way == 3 ? 6 : RV_UNBOUNDED;
    a.offset = S - Q;
    a.threads = 1;
    if (way == 2 || way == 3) {
        a.mask_kind = RV_MASK_FLOAT;
        a.mask.row_stride = S * (int64_t)mask_item;
        a.mask_col_stride = (int64_t)mask_item;
    }
    snprintf(where, sizeof where, "%s dtype %d sparse %d d %d dv %d at_end %d", isa, dtype, way, (int)d, (int)dv, at_end);
    a.query.data = p[0]; a.key.data = p[1]; a.value.data = p[2]; a.out.data = p[3]; a.mask.data = mask; a.lse = lse; a.sparse = &s;
    ok(rv_attn_run(&a));
    a.query.data = plain[0]; a.key.data = plain[1]; a.value.data = plain[2]; a.out.data = plain[3];
    a.mask.data = plain_mask; a.lse = plain_lse; a.sparse = &other;
    ok(rv_attn_run(&a));
    same(p[3], plain[3], n[3] * item);
    same(lse, plain_lse, sizeof plain_lse);
    for (int i = 0; i < 4; i++)
        free(plain[i]);
    free(plain_mask);
}

/* Lists that do not fit are refused before anything is read or written. */
static void bad_lists(void)
{
    static const struct { int64_t starts[3], lists, block; int32_t blocks[3]; rv_status status; } cases[] = {
        {{0, 1, 3}, 1, 4, {1, 0, 2}, RV_OK},           {{0, 1, 3}, 1, 4, {1, 0, 3}, RV_ERR_INDEX},
        {{0, 1, 3}, 1, 4, {1, 1, 0}, RV_ERR_INDEX},    {{0, 1, 3}, 1, 4, {1, 2, 2}, RV_ERR_INDEX},
        {{0, 1, 3}, 1, 4, {-1, 0, 2}, RV_ERR_INDEX},   {{0, 2, 1}, 1, 4, {0, 1, 2}, RV_ERR_PARAM},
        {{1, 2, 3}, 1, 4, {0, 1, 2}, RV_ERR_PARAM},    {{0, 1, 3}, 2, 4, {1, 0, 2}, RV_ERR_PARAM},
        {{0, 1, 3}, 1, 0, {1, 0, 2}, RV_ERR_PARAM},    {{0, 1, 3}, 1, INT64_MAX, {1, 0, 2}, RV_ERR_PARAM},
    };
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        float x[12] = {0}, out[8];
        for (int j = 0; j < 8; j++)
            out[j] = 7;
        rv_sparse s = {.block_q = cases[i].block, .block_k = cases[i].block, .lists = cases[i].lists, .starts = cases[i].starts,
                       .blocks = cases[i].blocks};
        rv_attn_args a = {.dtype = RV_F32, .heads = 1, .key_heads = 1, .value_heads = 1, .q_len = 8, .kv_len = 12, .dim = 1, .v_dim = 1,
                          .scale = 1, .left = RV_UNBOUNDED, .right = RV_UNBOUNDED, .sparse = &s, .threads = 1};
        a.query.data = a.key.data = a.value.data = x;
        a.out.data = out;
        a.query.row_stride = a.key.row_stride = a.value.row_stride = a.out.row_stride = sizeof(float);
        rv_status status = rv_attn_run(&a);
        checks++;
        if (status != cases[i].status || (out[0] == 7) != (status != RV_OK)) {
            failures++;
            printf("bad lists %d: status %d, first result %g\n", i, status, (double)out[0]);
        }
    }
}

static void primitives(const char *isa, rv_dtype dtype, int64_t n, int at_end)
{
    size_t item = rv_dtype_size(dtype), bytes = (size_t)n * item;
    void *x = guarded(0, bytes, at_end), *y = guarded(1, bytes, at_end), *plain = malloc(5 * bytes + 64);
    fill(dtype, x, (size_t)n);
    snprintf(where, sizeof where, "%s dtype %d primitives n %d at_end %d", isa, dtype, (int)n, at_end);
    if (dtype == RV_F32 || dtype == RV_F64)
        for (int f = 0; f < RV_MAP_COUNT; f++) {
            ok(rv_map_run((rv_map)f, dtype, x, y, n));
            ok(rv_map_run((rv_map)f, dtype, memcpy(plain, x, bytes), plain, n));
            same(y, plain, bytes);
        }
    for (int log = 0; log < 2; log++) {
        rv_softmax_args s = {.dtype = dtype, .x = x, .y = y, .rows = 1, .n = n, .log = log, .threads = 1};
        ok(rv_softmax_run(&s));
        s.x = memcpy(plain, x, bytes);
        s.y = plain;
        ok(rv_softmax_run(&s));
        same(y, plain, bytes);
    }
    double alphas[] = {1, 1.3, 1.5, 2, 3};
    for (int i = 0; i < 5; i++) {
        rv_entmax_args e = {.dtype = dtype, .alpha = alphas[i], .x = x, .y = y, .rows = 1, .n = n, .threads = 1};
        ok(rv_entmax_run(&e));
        e.x = memcpy(plain, x, bytes);
        e.y = plain;
        ok(rv_entmax_run(&e));
        same(y, plain, bytes);
    }
    rv_dtype own = dtype == RV_F64 ? RV_F64 : RV_F32;
    size_t own_bytes = (size_t)n * rv_dtype_size(own);
    char *weight = guarded(2, own_bytes, at_end), *bias = guarded(3, own_bytes, at_end), *plain_own = malloc(2 * own_bytes);
    fill(own, weight, (size_t)n);
    fill(own, bias, (size_t)n);
    memcpy(plain_own, weight, own_bytes);
    memcpy(plain_own + own_bytes, bias, own_bytes);
    for (int way = 0; way < 4; way++) {
        rv_norm_args a = {.dtype = dtype, .x = x, .y = y, .rows = 1, .n = n, .centre = way < 3, .eps = 1e-5, .threads = 1};
        a.weight = way & 1 ? weight : NULL;
        a.bias = way & 2 ? bias : NULL;
        ok(rv_norm_run(&a));
        a.x = memcpy(plain, x, bytes);
        a.y = plain;
        a.weight = way & 1 ? plain_own : NULL;
        a.bias = way & 2 ? plain_own + own_bytes : NULL;
        ok(rv_norm_run(&a));
        same(y, plain, bytes);
    }
    free(plain_own);
    void *up = guarded(4, bytes, at_end);
    fill(dtype, up, (size_t)n);
    for (int f = RV_GELU; f <= RV_SILU; f++)
        for (int gated = 0; gated < 2; gated++) {
            rv_activation_args a = {.dtype = dtype, .f = (rv_activation)f, .x = x, .y = y, .rows = 1, .n = n, .threads = 1};
            a.up = gated ? up : NULL;
            ok(rv_activation_run(&a));
            a.x = memcpy(plain, x, bytes);
            a.up = gated ? memcpy((char *)plain + bytes, up, bytes) : NULL;
            a.y = plain;
            ok(rv_activation_run(&a));
            same(y, plain, bytes);
        }
    int64_t counts[] = {1, 3, 4, 5};
    for (int i = 0; i < 4; i++) {
        size_t rows = (size_t)counts[i];
        void *keys = guarded(2, rows * bytes, at_end), *scores = guarded(3, rows * item, at_end);
        char copy[64];
        fill(dtype, keys, rows * (size_t)n);
        rv_dots_args a = {.dtype = dtype, .query = x, .keys = keys, .scores = scores, .count = counts[i], .dim = n,
                          .key_stride = (int64_t)bytes, .threads = 1};
        ok(rv_dots_run(&a));
        a.keys = memcpy(plain, keys, rows * bytes);
        a.scores = copy;
        ok(rv_dots_run(&a));
        same(scores, copy, rows * item);
        /* two queries and more in one row's place each: of the type of the arithmetic */
        size_t real = dtype == RV_F64 ? 8 : 4, width = (size_t)n * real;
        for (int64_t q = 1; q <= 4; q++) {
            void *queries = guarded(1, (size_t)q * width, at_end), *all = guarded(3, (size_t)q * rows * real, at_end);
            void *other = malloc((size_t)q * width), *result = malloc((size_t)q * rows * real);
            fill(dtype == RV_F64 ? RV_F64 : RV_F32, queries, (size_t)(q * n));
            rv_scores_args s = {.dtype = dtype, .queries = queries, .keys = keys, .scores = all, .query_count = q,
                                .key_count = counts[i], .dim = n, .query_stride = (int64_t)width, .key_stride = (int64_t)bytes,
                                .score_stride = (int64_t)(rows * real), .scale = 0.5, .threads = 1};
            ok(rv_scores_run(&s));
            s.queries = memcpy(other, queries, (size_t)q * width);
            s.keys = plain;
            s.scores = result;
            ok(rv_scores_run(&s));
            same(all, result, (size_t)q * rows * real);
            free(other);
            free(result);
        }
    }
    free(plain);
}

/* Rows of independent numbers, one of zeros, which are equal, and one with a NaN, whose bits are all ones in every type. */
static void topk(const char *isa, rv_dtype dtype, int64_t n, int64_t rows, int64_t k, int at_end)
{
    size_t item = rv_dtype_size(dtype), count = (size_t)(rows * n), chosen = (size_t)(rows * k);
    char *x = guarded(0, count * item, at_end), *plain = malloc(count * item), *values = malloc(chosen * item);
    int64_t *indices = malloc(chosen * sizeof *indices);
    fill(dtype, x, count);
    memset(x, 0, (size_t)n * item);
    memset(x + (count - 1) * item, 0xff, rows > 2 ? item : 0);
    memcpy(plain, x, count * item);
    for (int mode = RV_TOPK_VALUES; mode <= RV_TOPK_SHARE; mode++) {
        rv_topk_args a = {.dtype = dtype, .mode = (rv_topk_mode)mode, .x = x, .rows = rows, .n = n, .k = k, .threads = 1,
                          .x_stride = n * (int64_t)item};
        a.values = guarded(1, chosen * item, at_end);
        a.indices = guarded(2, chosen * sizeof *indices, at_end);
        snprintf(where, sizeof where, "%s dtype %d top-k n %d rows %d k %d mode %d at_end %d", isa, dtype, (int)n, (int)rows,
                 (int)k, mode, at_end);
        ok(rv_topk_run(&a));
        void *own_values = a.values;
        int64_t *own_indices = a.indices;
        a.x = plain;
        a.values = values;
        a.indices = indices;
        ok(rv_topk_run(&a));
        same(own_values, values, chosen * item);
        same(own_indices, indices, chosen * sizeof *indices);
        for (size_t i = 0; i < chosen; i++)
            if (indices[i] < 0 || indices[i] >= n)
                ok(RV_ERR_SHAPE);
    }
    free(plain);
    free(values);
    free(indices);
}

static void experts(int64_t tokens, int64_t k, int64_t count, int64_t capacity, int at_end)
{
    size_t n = (size_t)(tokens * k);
    int64_t *indices = guarded(0, n * 8, at_end), *counts = guarded(1, (size_t)count * 8, at_end);
    int64_t *starts = guarded(2, (size_t)(count + 1) * 8, at_end), *order = guarded(3, n * 8, at_end);
    unsigned char *kept = guarded(4, n, at_end);
    double *gate = guarded(5, (size_t)(k * count) * 8, at_end);
    snprintf(where, sizeof where, "experts %d of %d tokens x %d, capacity %d, at_end %d", (int)count, (int)tokens, (int)k,
             (int)capacity, at_end);
    for (size_t i = 0; i < n; i++) {
        draw();
        indices[i] = (int64_t)(seed >> 8) % count;
    }
    ok(rv_expert_group(indices, tokens, k, count, capacity, counts, starts, order, kept));
    int64_t total = 0;
    for (int64_t e = 0; e < count; e++)
        for (int64_t i = starts[e]; i < starts[e + 1]; i++, total++)
            if (indices[order[i]] != e || !kept[order[i]] || (i > starts[e] && order[i] <= order[i - 1]))
                ok(RV_ERR_SHAPE);
    for (size_t i = 0; i < n; i++)
        total -= kept[i];
    checks++;
    if (total != 0 || rv_expert_group(indices, tokens, k, count, -1, counts, starts, order, kept) != RV_ERR_PARAM)
        ok(RV_ERR_SHAPE);
    ok(rv_draw_run(RV_GATE_SEED, 1, gate, k * count));
}

/* Graph attention of rows of many degrees, with every optional array (edge terms for odd widths); then the sort of edges. */
static void graph(const char *isa, rv_dtype dtype, int version, int64_t heads, int64_t dim, int64_t v_dim, int mean, int at_end)
{
    enum { TARGETS = 9, SOURCES = 11, EDGE_DIM = 3 };
    static const int64_t degrees[TARGETS] = {0, 1, 5, 16, 33, 0, 129, 300, 2};
    size_t item = rv_dtype_size(dtype);
    int64_t edges = 0, columns = mean ? v_dim : heads * v_dim;
    for (int i = 0; i < TARGETS; i++)
        edges += degrees[i];
    size_t width = (size_t)(version == 1 ? heads : EDGE_DIM), vector = (size_t)(heads * dim);
    /* what a call reads, then out and weights */
    size_t n[] = {TARGETS * vector, SOURCES * vector, SOURCES * (size_t)(heads * v_dim), vector, vector, (size_t)edges * width,
                  EDGE_DIM * vector, (size_t)edges, (size_t)columns, TARGETS * (size_t)columns, (size_t)(edges * heads)};
    enum { READ = 9, ALL = 11 };
    void *p[ALL], *plain[ALL];
    for (int i = 0; i < ALL; i++) {
        p[i] = guarded(i, n[i] * item, at_end);
        plain[i] = malloc(n[i] * item + 1);
        fill(dtype, p[i], n[i]);
        memcpy(plain[i], p[i], n[i] * item);
    }
    int32_t *starts = guarded(ALL, (TARGETS + 1) * 4, at_end), *indices = guarded(ALL + 1, (size_t)edges * 4, at_end);
    int32_t *order = guarded(ALL + 2, (size_t)edges * 4, at_end);
    starts[0] = 0;
    for (int i = 0; i < TARGETS; i++)
        starts[i + 1] = starts[i] + (int32_t)degrees[i];
    for (int64_t e = 0; e < edges; e++) {
        indices[e] = (int32_t)((seed = seed * 1664525u + 1013904223u) >> 8) % SOURCES;
        order[e] = (int32_t)((e * 7) % edges);
    }
    snprintf(where, sizeof where, "%s dtype %d graph version %d heads %d dim %d v_dim %d mean %d at_end %d", isa, dtype, version,
             (int)heads, (int)dim, (int)v_dim, mean, at_end);
    for (int guard = 1; guard >= 0; guard--) {
        void **x = guard ? p : plain;
        rv_gat_args a = {.dtype = dtype, .version = version, .heads = heads, .dim = dim, .v_dim = v_dim, .targets = TARGETS,
                         .sources = SOURCES, .edges = edges, .starts = starts, .ends = starts + 1, .indices = indices,
                         .order = order, .query = x[0], .key = x[1], .value = x[2], .a_target = x[3], .a_source = x[4],
                         .edge = dim % 2 ? x[5] : NULL, .edge_dim = EDGE_DIM, .w_edge = x[6], .mask = x[7], .bias = x[8], .out = x[9],
                         .weights = x[10], .mean = mean, .slope = 0.2, .scale = 1, .dropout = 0.25, .dropout_seed = 5,
                         .query_stride = (int64_t)(vector * item), .key_stride = (int64_t)(vector * item),
                         .value_stride = heads * v_dim * (int64_t)item, .edge_stride = (int64_t)(width * item),
                         .out_stride = columns * (int64_t)item, .threads = 1};
        ok(rv_gat_run(&a));
    }
    for (int i = 0; i < ALL; i++) {
        same(p[i], plain[i], n[i] * item);
        free(plain[i]);
    }
}

static void sorting(int wide, int64_t edges, int loops, int at_end)
{
    enum { NODES = 13 };
    size_t item = wide ? 8 : 4, room = (size_t)(edges + (loops ? NODES : 0)) * 4;
    void *source = guarded(0, (size_t)edges * item, at_end), *target = guarded(1, (size_t)edges * item, at_end);
    for (int64_t e = 0; e < edges; e++) {
        int s = (int)((seed = seed * 1664525u + 1013904223u) >> 8) % NODES, t = (int)((seed >> 20) % NODES);
        if (wide) ((int64_t *)source)[e] = s;
        else ((int32_t *)source)[e] = s;
        if (wide) ((int64_t *)target)[e] = t;
        else ((int32_t *)target)[e] = t;
    }
    snprintf(where, sizeof where, "sort wide %d edges %d loops %d at_end %d", wide, (int)edges, loops, at_end);
    int32_t *plain = malloc(2 * room + (NODES + 1) * 4);
    rv_csr_args a = {.wide = wide, .source = source, .target = target, .edges = edges, .sources = NODES, .targets = NODES,
                     .loops = loops, .starts = guarded(2, (NODES + 1) * 4, at_end), .indices = guarded(3, room, at_end),
                     .order = guarded(4, room, at_end), .threads = 1};
    ok(rv_csr_build(&a));
    rv_csr_args b = a;
    b.starts = plain;
    b.indices = plain + NODES + 1;
    b.order = (int32_t *)((char *)b.indices + room);
    ok(rv_csr_build(&b));
    same(a.starts, b.starts, (NODES + 1) * 4);
    same(a.indices, b.indices, (size_t)a.starts[NODES] * 4);
    same(a.order, b.order, (size_t)a.starts[NODES] * 4);
    free(plain);
    if (edges == 0)
        return;
    if (wide) ((int64_t *)target)[edges - 1] = NODES;
    else ((int32_t *)target)[edges - 1] = -1;
    checks++;
    if (rv_csr_build(&a) != RV_ERR_INDEX || a.bad != edges - 1) {
        failures++;
        printf("not refused: %s\n", where);
    }
}

/* Rows into a cache, from every type to every other. */
static void cache_rows(const char *isa, int64_t n, int at_end)
{
    for (int from = RV_F32; from <= RV_BF16; from++)
        for (int to = RV_F32; to <= RV_I8; to++) {
            if (from != to && (from == RV_F64 || to == RV_F64))
                continue;
            size_t item = rv_dtype_size((rv_dtype)from), size = rv_dtype_size((rv_dtype)to), count = 3 * (size_t)n;
            double plain[3 * 257], plain_out[3 * 257];
            float plain_scales[3];
            void *x = guarded(0, count * item, at_end), *y = guarded(1, count * size, at_end);
            void *scales = guarded(2, sizeof plain_scales, at_end);
            fill((rv_dtype)from, x, count);
            memcpy(plain, x, count * item);
            snprintf(where, sizeof where, "%s rows from %d to %d n %d at_end %d", isa, from, to, (int)n, at_end);
            rv_rows_args a;
            memset(&a, 0, sizeof a);
            a.from = (rv_dtype)from;
            a.to = (rv_dtype)to;
            a.batch = a.heads = 1;
            a.rows = 3;
            a.columns = n;
            a.source.row_stride = n * (int64_t)item;
            a.target.row_stride = n * (int64_t)size;
            a.source.data = x; a.target.data = y; a.scales.data = scales;
            ok(rv_rows_run(&a));
            a.source.data = plain; a.target.data = plain_out; a.scales.data = plain_scales;
            ok(rv_rows_run(&a));
            same(y, plain_out, count * size);
            if (to == RV_I8)
                same(scales, plain_scales, sizeof plain_scales);
        }
}

/* The benchmark's loops: whole blocks of each thread's part and not a byte more, work in proportion to what was asked. */
static void peaks(const char *isa)
{
    for (int threads = 1; threads <= 2; threads++)
        for (int64_t bytes = RV_PEAK_LEAST * threads - 1; bytes < RV_PEAK_LEAST * threads + 1200; bytes += 61) {
            double read = 0, twice = 0;
            void *x = guarded(0, (size_t)bytes / 8 * 8, 1);
            snprintf(where, sizeof where, "%s peak_read %d threads %d", isa, threads, (int)bytes);
            rv_status status = rv_peak_read(x, bytes / 8 * 8, 1, threads, &read);
            if (bytes / 8 * 8 < RV_PEAK_LEAST * threads) {
                failures += status != RV_ERR_SHAPE;
                continue;
            }
            ok(status);
            ok(rv_peak_read(x, bytes / 8 * 8, 2, threads, &twice));
            checks++;
            if (read > (double)bytes || read < (double)bytes - 1024 * threads || twice != 2 * read) {
                failures++;
                printf("%g and %g bytes read: %s\n", read, twice, where);
            }
        }
    for (int dtype = RV_F32; dtype <= RV_BF16; dtype++) {
        double one = 0, many = 0;
        snprintf(where, sizeof where, "%s peak_fma dtype %d", isa, dtype);
        rv_status status = rv_peak_fma((rv_dtype)dtype, 3, 1, &one);
        if (status == RV_OK)
            ok(rv_peak_fma((rv_dtype)dtype, 6, 2, &many));
        else if (dtype == RV_F32 || dtype == RV_F64)
            ok(status);
        checks++;
        if (status == RV_OK ? one < 2 * 12 * 3 || many != 4 * one : status != RV_ERR_UNKNOWN) {
            failures++;
            printf("status %d, %g and %g operations: %s\n", status, one, many, where);
        }
    }
}

/* Coordinates whose squares sum to less than 1/2 at any width up to 257. */
static void fill_points(rv_dtype dtype, void *p, size_t n, int64_t d)
{
    double scale = 0.7 / (double)(d + 1);
    for (size_t i = 0; i < n; i++) {
        float x = (float)(draw() * scale);
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (dtype == RV_F64) ((double *)p)[i] = x;
        else if (dtype == RV_F32) ((float *)p)[i] = x;
        else if (dtype == RV_BF16) ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
        else ((uint16_t *)p)[i] = (uint16_t)((bits >> 16 & 0x8000) | 0x0400 | (bits >> 8 & 0x3ff));     /* about 6e-5 */
    }
}

static void distances(const char *isa, rv_dtype dtype, rv_geometry geometry, int64_t d, int64_t m, int64_t n, int pairs, int at_end)
{
    size_t item = rv_dtype_size(dtype), bytes[3] = {(size_t)(m * d) * item, (size_t)(n * d) * item,
                                                    (size_t)(pairs ? m : m * n) * item};
    void *p[3], *plain[3];
    rv_fault fault;
    for (int i = 0; i < 3; i++) {
        p[i] = guarded(i, bytes[i], at_end);
        plain[i] = malloc(bytes[i] + 1);
        if (i < 2)
            fill_points(dtype, p[i], bytes[i] / item, d);
        memcpy(plain[i], p[i], bytes[i]);
    }
    snprintf(where, sizeof where, "%s dtype %d geometry %d d %d %d x %d pairs %d at_end %d", isa, dtype, geometry, (int)d, (int)m,
             (int)n, pairs, at_end);
    rv_hyp_args a = {.geometry = geometry, .dtype = dtype, .a = p[0], .b = p[1], .out = p[2], .a_count = m, .b_count = n,
                     .dim = d, .a_stride = d * (int64_t)item, .b_stride = d * (int64_t)item,
                     .out_stride = (pairs ? 1 : n) * (int64_t)item, .pairs = pairs, .curvature = 1, .fault = &fault, .threads = 1};
    ok(rv_hyp_run(&a));
    a.a = plain[0];
    a.b = plain[1];
    a.out = plain[2];
    ok(rv_hyp_run(&a));
    same(p[2], plain[2], bytes[2]);
    for (int i = 0; i < 3; i++)
        free(plain[i]);
}

static void hyperbolic_attention(const char *isa, rv_dtype dtype, const char *type, int64_t d, int64_t dv, int64_t q_len,
                                 int64_t kv_len, int weights, int at_end)
{
    size_t item = rv_dtype_size(dtype);
    size_t n[4] = {(size_t)(q_len * d), (size_t)(kv_len * d), (size_t)(kv_len * dv), (size_t)(q_len * (weights ? kv_len : dv))};
    double params[2] = {1, 1};
    void *p[4], *plain[4], *mask = guarded(4, (size_t)(q_len * kv_len), at_end);
    rv_fault fault;
    rv_attn_args a;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < 4; i++) {
        p[i] = guarded(i, n[i] * item, at_end);
        plain[i] = malloc(n[i] * item + 1);
        fill_points(dtype, p[i], n[i], i == 2 ? dv : d);
        memcpy(plain[i], p[i], n[i] * item);
    }
    for (size_t i = 0; i < (size_t)(q_len * kv_len); i++)
        ((unsigned char *)mask)[i] = draw() > -0.5f;
    snprintf(where, sizeof where, "%s dtype %d %s d %d dv %d L %d S %d weights %d at_end %d", isa, dtype, type, (int)d, (int)dv,
             (int)q_len, (int)kv_len, weights, at_end);
    a.dtype = dtype;
    a.heads = a.key_heads = a.value_heads = 1;
    a.q_len = q_len;
    a.kv_len = kv_len;
    a.dim = d;
    a.v_dim = dv;
    a.query.row_stride = a.key.row_stride = d * (int64_t)item;
    a.value.row_stride = dv * (int64_t)item;
    a.out.row_stride = (weights ? kv_len : dv) * (int64_t)item;
    a.left = a.right = RV_UNBOUNDED;
    a.weights = weights;
    a.mask_kind = RV_MASK_BOOL;
    a.mask.data = mask;
    a.mask.row_stride = kv_len;
    a.mask_col_stride = 1;
    a.fault = &fault;
    a.threads = 1;
    ok(rv_type_lower(rv_type_find(type), params, NULL, &a));
    a.query.data = p[0]; a.key.data = p[1]; a.value.data = p[2]; a.out.data = p[3];
    ok(rv_type_run(rv_type_find(type), &a));
    a.query.data = plain[0]; a.key.data = plain[1]; a.value.data = plain[2]; a.out.data = plain[3];
    ok(rv_type_run(rv_type_find(type), &a));
    same(p[3], plain[3], n[3] * item);
    for (int i = 0; i < 4; i++)
        free(plain[i]);
}

/* Widths at the edges of lanes and blocks. */
static int at_edge(int64_t d) { return d < 20 || (d & 15) <= 1 || (d & 15) == 15; }

static void hyperbolic(const char *isa, rv_dtype dtype, int64_t d)
{
    static const int64_t counts[][2] = {{1, 3}, {1, 65}, {2, 70}, {3, 1}, {4, 4}, {5, 17}, {9, 66}, {66, 5}};
    int edge = at_edge(d);
    for (int at_end = 0; at_end < 2; at_end++)
        for (int g = RV_POINCARE; g <= RV_LORENTZ; g++) {
            for (int i = 0; i < 8; i++)
                if (edge || i == d % 8)
                    distances(isa, dtype, (rv_geometry)g, d, counts[i][0], counts[i][1], 0, at_end);
            distances(isa, dtype, (rv_geometry)g, d, 5 + d % 70, 5 + d % 70, 1, at_end);
            if (edge || d % 5 == 0) {
                const char *type = g == RV_POINCARE ? "poincare" : "lorentz";
                hyperbolic_attention(isa, dtype, type, d, d % 3 ? d : 258 - d, 1 + d % 3, 66, 0, at_end);
                hyperbolic_attention(isa, dtype, type, d, d, 26, 9 + d % 60, 0, at_end);
                hyperbolic_attention(isa, dtype, type, d, 1, 9, 65, 1, at_end);
            }
        }
}

static void linear(const char *isa, rv_dtype dtype, const char *type, int64_t d, int64_t dv, int64_t features, int64_t q_len,
                   int64_t kv_len, int causal, int at_end)
{
    size_t item = rv_dtype_size(dtype), n[4] = {(size_t)(q_len * d), (size_t)(kv_len * d), (size_t)(kv_len * dv), (size_t)(q_len * dv)};
    int index = rv_type_find(type), random = strcmp(type, "linear") != 0;
    double params[3] = {random ? (double)features : causal, 1, 0};
    size_t state_bytes = (size_t)rv_linear_state(index, params, random ? features : 0, d, dv, dtype) * sizeof(double);
    void *p[6], *plain[6];
    unsigned char *mask = guarded(6, (size_t)kv_len, at_end);
    size_t bytes[6];
    rv_attn_args a;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < 6; i++) {
        bytes[i] = i < 4 ? n[i] * item : i == 4 ? (size_t)(features * d) * sizeof(double) : state_bytes;
        p[i] = guarded(i, bytes[i], at_end);
        plain[i] = malloc(bytes[i] + 1);
        if (i < 5)
            fill(i < 4 ? dtype : RV_F64, p[i], i < 4 ? n[i] : (size_t)(features * d));
        else
            ok(rv_linear_begin(index, params, random ? features : 0, d, dv, dtype, 1, p[i]));
        memcpy(plain[i], p[i], bytes[i]);
    }
    for (int64_t j = 0; j < kv_len; j++)
        mask[j] = draw() > -0.5f;
    snprintf(where, sizeof where, "%s dtype %d %s d %d dv %d features %d L %d S %d causal %d at_end %d", isa, dtype, type, (int)d,
             (int)dv, (int)features, (int)q_len, (int)kv_len, causal, at_end);
    a.dtype = dtype;
    a.heads = a.key_heads = a.value_heads = 1;
    a.q_len = q_len;
    a.kv_len = kv_len;
    a.dim = d;
    a.v_dim = dv;
    a.query.row_stride = a.key.row_stride = d * (int64_t)item;
    a.value.row_stride = a.out.row_stride = dv * (int64_t)item;
    a.left = RV_UNBOUNDED;
    a.right = causal ? 0 : RV_UNBOUNDED;
    a.offset = kv_len - q_len;
    a.mask_kind = kv_len % 3 ? RV_MASK_BOOL : RV_MASK_NONE;
    a.mask.data = mask;
    a.mask_col_stride = 1;
    a.threads = 1;
    ok(rv_type_lower(index, params, NULL, &a));
    a.scale = 0.5;
    a.projection_rows = features;
    for (int way = 0; way < 2; way++) {
        void **x = way ? plain : p;
        a.query.data = x[0]; a.key.data = x[1]; a.value.data = x[2]; a.out.data = x[3];
        a.projection = random ? x[4] : NULL;
        a.state = d % 2 ? x[5] : NULL;
        ok(rv_type_run(index, &a));
    }
    same(p[3], plain[3], bytes[3]);
    same(p[5], plain[5], bytes[5]);
    for (int i = 0; i < 6; i++)
        free(plain[i]);
}

static void linears(const char *isa, rv_dtype dtype, int64_t d)
{
    static const char *const types[] = {"linear", "performer", "random_feature"};
    static const int64_t lengths[][2] = {{1, 1}, {1, 67}, {66, 66}, {7, 130}, {70, 9}};
    int edge = at_edge(d);
    for (int at_end = 0; at_end < 2; at_end++)
        for (int t = 0; t < 3; t++)
            for (int i = 0; i < 5; i++)
                if (i == d % 5 || (edge && i == (d + t) % 5))
                    linear(isa, dtype, types[t], d, d % 3 ? d : 258 - d, 1 + (7 * d) % 90, lengths[i][0], lengths[i][1],
                           (int)(d + i) & 1, at_end);
}

static int64_t d_after(int64_t d, int brief)
{
    for (d++; brief && d <= 257 && !at_edge(d); d++)
        ;
    return d;
}

int main(void)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    region_bytes = (4u << 20) / page * page;
    for (int i = 0; i < ARRAYS; i++) {
        char *p = mmap(NULL, region_bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p + page, region_bytes, PROT_READ | PROT_WRITE))
            return 2;
        region[i] = p + page;
    }
    signal(SIGSEGV, fault);
    signal(SIGBUS, fault);

    static const shape shapes[] = {
        {1, 1, 1, 1, RV_MASK_NONE, 0}, {1, 67, 1, 3, RV_MASK_BOOL, 0}, {3, 9, 2, 1, RV_MASK_FLOAT, 1},
        {5, 3, 1, 1, RV_MASK_NONE, 1}, {13, 66, 1, 1, RV_MASK_BOOL, 0}, {49, 65, 1, 1, RV_MASK_FLOAT, 1},
    };
    /* under an emulator: widths at edges alone, and without the portable kernels, which have their turn elsewhere */
    int brief = getenv("RV_TEST_BRIEF") != NULL;
    for (int64_t edges = 0; edges < 70; edges++)
        for (int way = 0; way < 8; way++)
            sorting(way & 1, edges, way >> 1 & 1, way >> 2);
    static const rv_dtype stored[] = {RV_F32, RV_F16, RV_BF16};
    for (int i = 0; rv_isa_at(i); i++) {
        const char *isa = rv_isa_at(i);
        long before = checks;
        if (brief && i > 0 && !rv_isa_at(i + 1))
            continue;
        if (rv_isa_use(isa) != RV_OK || strcmp(rv_isa_active(), isa)) {
            printf("cannot use %s\n", isa);
            failures++;
            continue;
        }
        for (int64_t d = 1; d <= 257; d = d_after(d, brief))
            for (int at_end = 0; at_end < 2; at_end++)
                cache_rows(isa, d, at_end);
        for (int dtype = RV_F32; dtype <= RV_BF16; dtype++)
            for (int64_t d = 1; d <= 257; d = d_after(d, brief)) {
                primitives(isa, (rv_dtype)dtype, d, 1);
                primitives(isa, (rv_dtype)dtype, d, 0);
                int64_t most[] = {1, 2, 3, 8, 16, 17, d};
                for (int m = 0; m < 7; m++)
                    for (int at_end = 0; at_end < 2 && most[m] <= d; at_end++) {
                        topk(isa, (rv_dtype)dtype, d, 1, most[m], at_end);
                        topk(isa, (rv_dtype)dtype, d, d % 40 + 3, most[m], at_end);
                    }
                hyperbolic(isa, (rv_dtype)dtype, d);
                linears(isa, (rv_dtype)dtype, d);
                for (int way = 0; way < 4; way++)
                    if (d < 20 || way == d % 4)
                        for (int at_end = 0; at_end < 2; at_end++)
                            sparse(isa, (rv_dtype)dtype, d, d % 5 == 0 ? 258 - d : d, way, at_end);
                /* one shape a width, all of them at the edges of lanes and blocks */
                int edge = at_edge(d);
                for (int s = 0; s < (int)(sizeof shapes / sizeof *shapes); s++)
                    if (edge || s == d % 6)
                        for (int at_end = 0; at_end < 2; at_end++) {
                            attention(isa, (rv_dtype)dtype, (rv_dtype)dtype, d, d % 5 == 0 ? 258 - d : d, shapes + s, at_end);
                            /* another storage for each shape, and int8, which has tails of its own, for every one */
                            if (dtype == RV_F64)
                                continue;
                            attention(isa, (rv_dtype)dtype, RV_I8, d, d % 5 == 0 ? 258 - d : d, shapes + s, at_end);
                            if ((int)stored[s % 3] != dtype)
                                attention(isa, (rv_dtype)dtype, stored[s % 3], d, d, shapes + s, at_end);
                        }
            }
        peaks(isa);
        static const int64_t heads[] = {1, 2, 3, 4, 8, 16, 17};
        for (int dtype = RV_F32; dtype <= RV_F64; dtype++)
            for (int64_t d = 1; d <= 67; d = d_after(d, brief))
                for (int h = 0; h < (int)(sizeof heads / sizeof *heads); h++)
                    for (int way = 0; way < 4; way++)
                        if (d < 20 || h == d % 7)
                            graph(isa, (rv_dtype)dtype, 1 + (way & 1), heads[h], d, d % 5 == 0 ? 68 - d : d, h == d % 3, way >> 1);
        printf("%-8s %ld comparisons\n", isa, checks - before);
    }
    bad_lists();
    for (int i = 0; i < 60; i++)
        experts(i % 23, i % 3 + 1, i % 7 + 3, i % 5 ? i % 5 : INT64_MAX, i & 1);
    printf("%ld passed, %ld failed\n", checks - failures, failures);
    return failures != 0;
}
