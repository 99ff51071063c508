/* The aggregate ruvector_attention(query, key, value [, options]): an online softmax in double, whose states merge. */
#include "pg.h"

#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include <math.h>

typedef struct state {
    int64 dim, v_dim, heads;
    double scale, softcap;          /* scale NAN: 1 / sqrt(dim / heads) */
    float *query;
    double *top, *sum, *out;        /* of each head: largest logit, sum of exp(logit - top); sums of values, [v_dim] */
} state;

static double exponential(double x)
{
    rv_map_run(RV_MAP_EXP, RV_F64, &x, &x, 1);
    return x;
}

static state *new_state(MemoryContext home, int64 dim, int64 v_dim, int64 heads)
{
    MemoryContext before = MemoryContextSwitchTo(home);
    state *s = palloc0(sizeof *s);
    s->dim = dim;
    s->v_dim = v_dim;
    s->heads = heads;
    s->scale = NAN;
    s->query = palloc((Size)dim * sizeof *s->query);
    s->top = palloc((Size)heads * sizeof *s->top);
    s->sum = palloc0((Size)heads * sizeof *s->sum);
    s->out = palloc0((Size)v_dim * sizeof *s->out);
    for (int64 h = 0; h < heads; h++)
        s->top[h] = -INFINITY;
    MemoryContextSwitchTo(before);
    return s;
}

typedef struct options {
    double scale, softcap;
    int64 heads;
} options;

static options read_options(Jsonb *json)
{
    options o = {NAN, 0, 1};
    JsonbIterator *it = JsonbIteratorInit(&json->root);
    JsonbValue v;
    JsonbIteratorToken token = JsonbIteratorNext(&it, &v, false);
    if (token != WJB_BEGIN_OBJECT)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("options must be an object")));
    while ((token = JsonbIteratorNext(&it, &v, true)) == WJB_KEY) {
        char *key = pnstrdup(v.val.string.val, v.val.string.len);
        JsonbIteratorNext(&it, &v, true);
        if (strcmp(key, "scale") && strcmp(key, "softcap") && strcmp(key, "num_heads"))
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown option \"%s\"", key),
                            errhint("Options are num_heads, scale and softcap.")));
        if (v.type != jbvNumeric)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("option \"%s\" must be a number", key)));
        double x = DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(v.val.numeric)));
        if (key[1] == 'c')
            o.scale = x;
        else if (key[0] == 's')
            o.softcap = x;
        else
            o.heads = x >= 1 && x <= RV_MAX_HEADS && x == floor(x) ? (int64)x : 0;
    }
    if (o.heads < 1 || o.softcap < 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        o.heads < 1 ? errmsg("num_heads must be an integer between 1 and %d", RV_MAX_HEADS)
                                    : errmsg("softcap must be at least 0, got %g", o.softcap)));
    return o;
}

static bool same(const state *s, const options *o)
{
    return s->heads == o->heads && s->softcap == o->softcap && (s->scale == o->scale || (isnan(s->scale) && isnan(o->scale)));
}

static void check_query(const state *s, int64 dim, const float *query)
{
    rv_pg_check_dims(s->dim, dim);
    if (memcmp(s->query, query, (Size)dim * sizeof *query))
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("query must be the same in all rows of a group")));
}

/* A key with `logit` and its weight's share of `out`; sum is 1 but for merged states. */
static void take(state *s, int64 h, double logit, double sum, const float *value, const double *other)
{
    int64 width = s->v_dim / s->heads;
    double *out = s->out + h * width, old = 1, new = 1;
    if (logit > s->top[h]) {
        old = s->top[h] == -INFINITY ? 0 : exponential(s->top[h] - logit);
        s->top[h] = logit;
    } else {
        new = exponential(logit - s->top[h]);
    }
    s->sum[h] = s->sum[h] * old + sum * new;
    if (value)
        for (int64 c = 0; c < width; c++)
            out[c] = out[c] * old + new * value[h * width + c];
    else
        for (int64 c = 0; c < width; c++)
            out[c] = out[c] * old + new * other[h * width + c];
}

PG_FUNCTION_INFO_V1(ruvector_attention_step);
Datum ruvector_attention_step(PG_FUNCTION_ARGS)
{
    MemoryContext home;
    rv_site *site = rv_site_of(fcinfo);
    state *s = PG_ARGISNULL(0) ? NULL : (state *)PG_GETARG_POINTER(0);
    if (!AggCheckCallContext(fcinfo, &home))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("ruvector_attention_step belongs to an aggregate")));
    if (PG_ARGISNULL(1) || PG_ARGISNULL(2) || PG_ARGISNULL(3)) {
        if (s)
            PG_RETURN_POINTER(s);
        PG_RETURN_NULL();
    }
    options o = {NAN, 0, 1};
    if (PG_NARGS() > 4 && !PG_ARGISNULL(4))
        o = read_options(PG_GETARG_JSONB_P(4));
    rv_rows query = rv_pg_vector(fcinfo, site, 1, "query"), key = rv_pg_vector(fcinfo, site, 2, "key");
    rv_rows value = rv_pg_vector(fcinfo, site, 3, "value");
    if (!s) {
        double params[] = {(double)o.heads};
        rv_pg_check_heads(rv_type_find("multi_head"), params, query.dim, key.dim, value.dim);
        s = new_state(home, query.dim, value.dim, o.heads);
        s->scale = o.scale;
        s->softcap = o.softcap;
        memcpy(s->query, query.data, (Size)query.dim * sizeof *s->query);
    }
    if (!same(s, &o))
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("options must be the same in all rows of a group")));
    check_query(s, query.dim, query.data);
    rv_pg_check_dims(s->dim, key.dim);
    if (value.dim != s->v_dim)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                        errmsg("values must have the same dimensions: " INT64_FORMAT " vs " INT64_FORMAT, s->v_dim, value.dim)));
    int64 width = s->dim / s->heads;
    for (int64 h = 0; h < s->heads; h++) {
        float logit;
        rv_score_args args = {.dtype = RV_F32, .query = query.data + h * width, .key = key.data + h * width, .scores = &logit,
                              .count = 1, .query_dim = width, .key_dim = width, .scale = s->scale};
        rv_pg_check(rv_score_run(0, &s->softcap, &args));
        if (isnan(logit) || isinf(logit))
            ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE), errmsg("the score of a key is out of range")));
        take(s, h, logit, 1, value.data, NULL);
    }
    PG_RETURN_POINTER(s);
}

PG_FUNCTION_INFO_V1(ruvector_attention_final);
Datum ruvector_attention_final(PG_FUNCTION_ARGS)
{
    const state *s = (const state *)PG_GETARG_POINTER(0);
    float *out;
    ArrayType *result = rv_pg_array(1, s->v_dim, true, &out);
    for (int64 c = 0; c < s->v_dim; c++)
        out[c] = (float)(s->out[c] / s->sum[c / (s->v_dim / s->heads)]);
    PG_RETURN_ARRAYTYPE_P(result);
}

PG_FUNCTION_INFO_V1(ruvector_attention_combine);
Datum ruvector_attention_combine(PG_FUNCTION_ARGS)
{
    MemoryContext home;
    state *s = PG_ARGISNULL(0) ? NULL : (state *)PG_GETARG_POINTER(0);
    const state *other = PG_ARGISNULL(1) ? NULL : (const state *)PG_GETARG_POINTER(1);
    if (!AggCheckCallContext(fcinfo, &home))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("ruvector_attention_combine belongs to an aggregate")));
    if (!other) {
        if (s)
            PG_RETURN_POINTER(s);
        PG_RETURN_NULL();
    }
    options o = {other->scale, other->softcap, other->heads};
    if (!s) {
        s = new_state(home, other->dim, other->v_dim, other->heads);
        s->scale = other->scale;
        s->softcap = other->softcap;
        memcpy(s->query, other->query, (Size)other->dim * sizeof *s->query);
    }
    if (!same(s, &o) || s->v_dim != other->v_dim)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("options and dimensions must be the same in all rows of a group")));
    check_query(s, other->dim, other->query);
    for (int64 h = 0; h < s->heads; h++)
        take(s, h, other->top[h], other->sum[h], NULL, other->out);
    PG_RETURN_POINTER(s);
}

PG_FUNCTION_INFO_V1(ruvector_attention_serial);
Datum ruvector_attention_serial(PG_FUNCTION_ARGS)
{
    const state *s = (const state *)PG_GETARG_POINTER(0);
    StringInfoData b;
    if (!AggCheckCallContext(fcinfo, NULL))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("ruvector_attention_serial belongs to an aggregate")));
    pq_begintypsend(&b);
    pq_sendint64(&b, s->dim);
    pq_sendint64(&b, s->v_dim);
    pq_sendint64(&b, s->heads);
    pq_sendfloat8(&b, s->scale);
    pq_sendfloat8(&b, s->softcap);
    for (int64 i = 0; i < s->dim; i++)
        pq_sendfloat4(&b, s->query[i]);
    for (int64 h = 0; h < s->heads; h++) {
        pq_sendfloat8(&b, s->top[h]);
        pq_sendfloat8(&b, s->sum[h]);
    }
    for (int64 c = 0; c < s->v_dim; c++)
        pq_sendfloat8(&b, s->out[c]);
    PG_RETURN_BYTEA_P(pq_endtypsend(&b));
}

PG_FUNCTION_INFO_V1(ruvector_attention_deserial);
Datum ruvector_attention_deserial(PG_FUNCTION_ARGS)
{
    bytea *given = PG_GETARG_BYTEA_PP(0);
    StringInfoData b;
    if (!AggCheckCallContext(fcinfo, NULL))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("ruvector_attention_deserial belongs to an aggregate")));
    initStringInfo(&b);
    appendBinaryStringInfo(&b, VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given));
    int64 dim = pq_getmsgint64(&b), v_dim = pq_getmsgint64(&b), heads = pq_getmsgint64(&b);
    if (dim < 1 || dim > RV_PG_MAX_DIM || v_dim < 1 || v_dim > RV_PG_MAX_DIM || heads < 1 || heads > RV_MAX_HEADS)
        ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("no state of ruvector_attention")));
    state *s = new_state(CurrentMemoryContext, dim, v_dim, heads);
    s->scale = pq_getmsgfloat8(&b);
    s->softcap = pq_getmsgfloat8(&b);
    for (int64 i = 0; i < dim; i++)
        s->query[i] = pq_getmsgfloat4(&b);
    for (int64 h = 0; h < heads; h++) {
        s->top[h] = pq_getmsgfloat8(&b);
        s->sum[h] = pq_getmsgfloat8(&b);
    }
    for (int64 c = 0; c < v_dim; c++)
        s->out[c] = pq_getmsgfloat8(&b);
    pq_getmsgend(&b);
    PG_RETURN_POINTER(s);
}
