/* Scores of pairs: what each type of the catalogue ranks keys by. */
#include "catalog.h"
#include "kernels.h"
#include "scalar_math.h"
#include "sizes.h"
#include "thread.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Products between two looks at the clock. */
#define RV_SCORE_POLL ((int64_t)1 << 18)

typedef struct scoring {
    const rv_score_args *a;
    const rv_kernels *own, *wide;       /* of the element type, and of double */
    int64_t heads, key_heads, dim;      /* dim: of a head */
    double scale, softcap;
    int64_t features;                   /* rows of the projection */
    const double *projection;
    double *room;                       /* 2 dim, then `features` */
} scoring;

static double element(rv_dtype dtype, const char *row, int64_t i)
{
    return dtype == RV_F64 ? ((const double *)row)[i] : (double)((const float *)row)[i];
}

/* One head's logit, every operation in the element type. */
static double logit(const scoring *s, const char *query, const char *key)
{
    if (s->a->dtype == RV_F64) {
        double x;
        s->own->dots(query, key, 0, 1, s->dim, RV_NEAR, &x);
        x *= s->scale;
        if (s->softcap != 0) {
            x /= s->softcap;
            s->own->map(RV_MAP_TANH, &x, &x, 1);
            x *= s->softcap;
        }
        return x;
    }
    float x;
    s->own->dots(query, key, 0, 1, s->dim, RV_NEAR, &x);
    x *= (float)s->scale;
    if (s->softcap != 0) {
        x /= (float)s->softcap;
        s->own->map(RV_MAP_TANH, &x, &x, 1);
        x *= (float)s->softcap;
    }
    return (double)x;
}

static double heads_score(const scoring *s, const char *query, const char *key)
{
    int64_t row = s->dim * (int64_t)rv_dtype_size(s->a->dtype), group = s->heads / s->key_heads;
    double sum = 0;
    if (s->heads == 1)
        return logit(s, query, key);
    for (int64_t h = 0; h < s->heads; h++)
        sum += logit(s, query + h * row, key + h / group * row);
    return sum / (double)s->heads;
}

/* phi of linear attention: x + 1 or exp(x), or max(x, 0). */
static void feature_rows(const scoring *s, int relu, const char *row, double *to)
{
    for (int64_t i = 0; i < s->dim; i++) {
        double x = element(s->a->dtype, row, i);
        to[i] = relu ? (x > 0 || x != x ? x : 0) : x > 0 ? 0 : x;
    }
    if (relu)
        return;
    s->wide->map(RV_MAP_EXP, to, to, s->dim);
    for (int64_t i = 0; i < s->dim; i++) {
        double x = element(s->a->dtype, row, i);
        if (x > 0)
            to[i] = x + 1;
    }
}

/* log of the mean of exp((q + k) . f - (|q|^2 + |k|^2) / 2) over the features f. */
static double performer_score(const scoring *s, const char *query, const char *key)
{
    double *sum = s->room, *x = sum + 2 * s->dim, squares = 0, most = -INFINITY, total = 0;
    for (int64_t i = 0; i < s->dim; i++) {
        double q = element(s->a->dtype, query, i) * s->scale, k = element(s->a->dtype, key, i) * s->scale;
        sum[i] = q + k;
        squares += q * q + k * k;
    }
    s->wide->dots(sum, s->projection, s->dim * 8, s->features, s->dim, RV_NEAR, x);
    for (int64_t j = 0; j < s->features; j++)
        most = x[j] > most || x[j] != x[j] ? x[j] : most;
    for (int64_t j = 0; j < s->features; j++)
        x[j] -= most;
    s->wide->map(RV_MAP_EXP, x, x, s->features);
    for (int64_t j = 0; j < s->features; j++)
        total += x[j];
    return most - squares / 2 + rv_log(total / (double)s->features);
}

static double length_of(const scoring *s, const char *row)
{
    double sum = 0;
    for (int64_t i = 0; i < s->dim; i++)
        sum += element(s->a->dtype, row, i) * element(s->a->dtype, row, i);
    return sum == 0 ? 1 : rv_sqrt(sum);
}

/* The mean of cos((q / |q| - k / |k|) . f) over the features f. */
static double cosine_score(const scoring *s, const char *query, const char *key)
{
    double *difference = s->room, *x = difference + 2 * s->dim, total = 0;
    double q = length_of(s, query), k = length_of(s, key);
    for (int64_t i = 0; i < s->dim; i++)
        difference[i] = (element(s->a->dtype, query, i) / q - element(s->a->dtype, key, i) / k) * s->scale;
    s->wide->dots(difference, s->projection, s->dim * 8, s->features, s->dim, RV_NEAR, x);
    for (int64_t j = 0; j < s->features; j++)
        x[j] *= 1 / 3.14159265358979323846;
    s->wide->map(RV_MAP_COSPI, x, x, s->features);
    for (int64_t j = 0; j < s->features; j++)
        total += x[j];
    return total / (double)s->features;
}

static rv_status distances(const rv_type *type, const double *params, const rv_score_args *a)
{
    rv_hyp_args h = {.geometry = strcmp(type->name, "lorentz") ? RV_POINCARE : RV_LORENTZ, .dtype = a->dtype, .a = a->query,
                     .b = a->key, .out = a->scores, .a_count = a->count, .b_count = a->count, .dim = a->query_dim,
                     .a_stride = a->query_stride, .b_stride = a->key_stride, .out_stride = (int64_t)rv_dtype_size(a->dtype),
                     .pairs = 1, .curvature = params[0], .fault = a->fault, .threads = 1, .interrupted = a->interrupted,
                     .context = a->context};
    h.time = h.geometry == RV_LORENTZ && params[1] == 0;
    rv_status status = rv_hyp_run(&h);
    double factor = a->scale == a->scale ? -a->scale : -1;
    for (int64_t i = 0; status == RV_OK && i < a->count; i++)
        if (a->dtype == RV_F64)
            ((double *)a->scores)[i] *= factor;
        else
            ((float *)a->scores)[i] *= (float)factor;
    return status;
}

/* The features of a type that has them, given or drawn into room. */
static rv_status place_features(scoring *s, const double *params, int cosine)
{
    double root = s->a->scale == s->a->scale ? s->a->scale : cosine ? 1 : 1 / rv_sqrt((double)s->dim);
    s->features = s->a->projection ? s->a->projection_rows : (int64_t)params[0];
    s->projection = s->a->projection;
    s->scale = rv_sqrt(root);
    if (s->features < 1)
        return RV_ERR_SHAPE;
    size_t drawn = 0, bytes;
    if ((!s->projection && rv_mul_size((size_t)s->features, (size_t)s->dim, &drawn))
        || rv_add_size(drawn, 2 * (size_t)s->dim + (size_t)s->features, &bytes) || rv_mul_size(bytes, sizeof(double), &bytes)
        || !(s->room = malloc(bytes)))
        return RV_ERR_NOMEM;
    if (s->projection)
        return RV_OK;
    double *to = s->room + 2 * s->dim + s->features;
    s->projection = to;
    return rv_projection_draw(RV_PROJECTION_SEED, params[1] != 0, s->features, s->dim, to);
}

/* One query and one head: products of the query with rows, which have the bits of pairs and are read by all threads as memory
 * gives them. */
static rv_status products(const scoring *s)
{
    const rv_score_args *a = s->a;
    rv_dots_args d = {.dtype = a->dtype, .query = a->query, .keys = a->key, .scores = a->scores, .count = a->count, .dim = s->dim,
                      .key_stride = a->key_stride, .interrupted = a->interrupted, .context = a->context};
    rv_status status = rv_dots_run(&d);
    for (int64_t i = 0; status == RV_OK && i < a->count; i++)
        if (a->dtype == RV_F64)
            ((double *)a->scores)[i] *= s->scale;
        else
            ((float *)a->scores)[i] *= (float)s->scale;
    return status;
}

rv_status rv_score_run(int index, const double *params, const rv_score_args *a)
{
    const rv_type *type = rv_type_at(index);
    double slopes[RV_MAX_HEADS];
    if (!type)
        return RV_ERR_UNKNOWN;
    if ((a->dtype != RV_F32 && a->dtype != RV_F64))
        return RV_ERR_PARAM;
    if (a->count < 0 || a->query_dim < 1 || a->key_dim < 1)
        return RV_ERR_SHAPE;
    rv_attn_args lowered = {.dtype = a->dtype, .heads = 1, .key_heads = 1, .value_heads = 1, .dim = a->query_dim,
                            .v_dim = a->key_dim};
    rv_status status = rv_type_lower(index, params, slopes, &lowered);
    if (status != RV_OK)
        return status;
    if (a->key_dim != lowered.dim * lowered.key_heads)
        return RV_ERR_SHAPE;
    rv_logits logits = rv_type_logits(index);
    if (logits == DISTANCE)
        return distances(type, params, a);
    scoring s = {.a = a, .own = rv_kernels_get(a->dtype), .wide = rv_kernels_get(RV_F64), .heads = lowered.heads,
                 .key_heads = lowered.key_heads, .dim = lowered.dim, .softcap = lowered.softcap};
    int features = !strcmp(type->family, "linear");
    s.scale = a->scale == a->scale ? a->scale : 1 / sqrt((double)s.dim);
    if (!features && s.heads == 1 && s.softcap == 0 && a->query_stride == 0 && a->count > 1)
        return products(&s);
    if (features && logits != FEATURES)
        status = place_features(&s, params, logits == COSINE);
    else if (features && !(s.room = malloc(2 * (size_t)s.dim * sizeof(double))))
        status = RV_ERR_NOMEM;
    /* a look at the clock takes 45 ns, a fifth of the time of one pair in PostgreSQL: only where somebody may interrupt */
    int64_t work = s.heads * s.dim * (s.features ? s.features : 1), done = 0, last = a->interrupted ? rv_now_ms() : 0;
    for (int64_t i = 0; status == RV_OK && i < a->count; i++) {
        const char *query = (const char *)a->query + i * a->query_stride, *key = (const char *)a->key + i * a->key_stride;
        double x;
        if (!features) {
            x = heads_score(&s, query, key);
        } else if (logits == FEATURES) {
            feature_rows(&s, params[0] == 1, query, s.room);
            feature_rows(&s, params[0] == 1, key, s.room + s.dim);
            x = s.wide->dot(s.room, s.room + s.dim, s.dim);
        } else {
            x = logits == COSINE ? cosine_score(&s, query, key) : performer_score(&s, query, key);
        }
        if (a->dtype == RV_F64)
            ((double *)a->scores)[i] = x;
        else
            ((float *)a->scores)[i] = (float)x;
        if (a->interrupted && (done += work) > RV_SCORE_POLL) {
            done = 0;
            if (rv_now_ms() - last >= RV_POLL_MS) {
                last = rv_now_ms();
                if (a->interrupted(a->context))
                    status = RV_ERR_INTERRUPTED;
            }
        }
    }
    free(s.room);
    return status;
}

rv_status rv_heads_mean(rv_dtype dtype, const void *weights, int64_t heads, int64_t stride, int64_t count, void *out)
{
    if (dtype != RV_F32 && dtype != RV_F64)
        return RV_ERR_PARAM;
    if (heads < 1 || count < 0 || stride < count)
        return RV_ERR_SHAPE;
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int64_t h = 0; h < heads; h++)
            sum += element(dtype, weights, h * stride + i);
        if (dtype == RV_F64)
            ((double *)out)[i] = sum / (double)heads;
        else
            ((float *)out)[i] = (float)(sum / (double)heads);
    }
    return RV_OK;
}
