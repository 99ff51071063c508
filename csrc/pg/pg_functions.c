/* The functions over values: scores, attention of each type, routing, distances. */
#include "pg.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include <math.h>

PG_MODULE_MAGIC;

void rv_pg_index_init(void);
PGDLLEXPORT void _PG_init(void);

void _PG_init(void)
{
    const char *bad;
    if (rv_isa_init(&bad) != RV_OK)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("RUVECTOR_ISA names the instruction set \"%s\", which this server cannot use", bad)));
    rv_pg_index_init();
}

PG_FUNCTION_INFO_V1(ruvector_version);
Datum ruvector_version(PG_FUNCTION_ARGS) { PG_RETURN_TEXT_P(cstring_to_text(RV_VERSION)); }

PG_FUNCTION_INFO_V1(ruvector_isa);
Datum ruvector_isa(PG_FUNCTION_ARGS) { PG_RETURN_TEXT_P(cstring_to_text(rv_isa_active())); }

PG_FUNCTION_INFO_V1(ruvector_attention_types);
Datum ruvector_attention_types(PG_FUNCTION_ARGS)
{
    InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
    ReturnSetInfo *set = (ReturnSetInfo *)fcinfo->resultinfo;
    for (int i = 0; rv_type_at(i); i++) {
        const rv_type *t = rv_type_at(i);
        /* the catalogue is UTF-8; other servers get their own encoding */
        char *cost = pg_any_to_server(t->complexity, (int)strlen(t->complexity), PG_UTF8);
        Datum values[] = {CStringGetTextDatum(t->name), CStringGetTextDatum(cost), CStringGetTextDatum(t->best_for)};
        bool nulls[3] = {false};
        tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
    }
    return (Datum)0;
}

PG_FUNCTION_INFO_V1(ruvector_softmax);
Datum ruvector_softmax(PG_FUNCTION_ARGS)
{
    ArrayType *a = PG_GETARG_ARRAYTYPE_P(0);
    float *out;
    if (ARR_NDIM(a) > 1)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("scores must be a one-dimensional array")));
    if (array_contains_nulls(a))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("scores must not contain nulls")));
    int64 n = ARR_NDIM(a) ? ARR_DIMS(a)[0] : 0;
    const float *x = (const float *)ARR_DATA_PTR(a);
    ArrayType *result = rv_pg_array(1, n, true, &out);
    if (n == 0)
        PG_RETURN_ARRAYTYPE_P(result);
    float most = -INFINITY;
    for (int64 i = 0; i < n; i++) {
        if (isnan(x[i]) || x[i] == INFINITY)
            ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                            errmsg("%s not allowed in scores", isnan(x[i]) ? "NaN" : "infinite value")));
        most = x[i] > most ? x[i] : most;
    }
    if (most == -INFINITY)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("scores must not all be -Infinity")));
    rv_softmax_args args = {.dtype = RV_F32, .x = x, .y = out, .rows = 1, .n = n, .threads = 1, .interrupted = rv_pg_interrupted};
    rv_pg_check(rv_softmax_run(&args));
    PG_RETURN_ARRAYTYPE_P(result);
}

static float score_of(rv_site *site, int type, rv_rows query, rv_rows key)
{
    static const char *const names[] = {"query", "key"};
    double params[RV_PG_MAX_PARAMS];
    float score;
    rv_fault fault;
    rv_pg_defaults(type, params);
    rv_pg_check_heads(type, params, query.dim, key.dim, key.dim);
    rv_score_args args = {.dtype = RV_F32, .query = query.data, .key = key.data, .scores = &score, .count = 1,
                          .query_dim = query.dim, .key_dim = key.dim, .scale = NAN, .fault = &fault};
    rv_pg_check_point(rv_score_run(type, params, &args), &fault, names, 1);
    return score;
}

PG_FUNCTION_INFO_V1(ruvector_attention_score);
Datum ruvector_attention_score(PG_FUNCTION_ARGS)
{
    rv_site *site = rv_site_of(fcinfo);
    rv_rows query = rv_pg_vector(fcinfo, site, 0, "query"), key = rv_pg_vector(fcinfo, site, 1, "key");
    PG_RETURN_FLOAT4(score_of(site, rv_pg_type_arg(fcinfo, site, 2), query, key));
}

/* <@>: ascending order is that of falling attention. */
PG_FUNCTION_INFO_V1(ruvector_attention_distance);
Datum ruvector_attention_distance(PG_FUNCTION_ARGS)
{
    rv_site *site = rv_site_of(fcinfo);
    rv_rows query = rv_pg_vector(fcinfo, site, 0, "query"), key = rv_pg_vector(fcinfo, site, 1, "key");
    PG_RETURN_FLOAT8(-(double)score_of(site, 0, query, key));
}

void rv_pg_attn_args(rv_attn_args *a, rv_rows query, rv_rows key, rv_rows value, bool causal)
{
    memset(a, 0, sizeof *a);
    a->dtype = RV_F32;
    a->heads = a->key_heads = a->value_heads = 1;
    a->q_len = query.rows;
    a->kv_len = key.rows;
    a->dim = query.dim;
    a->v_dim = value.dim;
    a->query.data = (void *)query.data;
    a->key.data = (void *)key.data;
    a->value.data = (void *)value.data;
    a->query.row_stride = query.dim * (int64)sizeof(float);
    a->key.row_stride = key.dim * (int64)sizeof(float);
    a->value.row_stride = value.dim * (int64)sizeof(float);
    a->left = RV_UNBOUNDED;
    a->right = causal ? 0 : RV_UNBOUNDED;
    a->offset = key.rows - query.rows;
    a->projection_seed = RV_PROJECTION_SEED;
    a->threads = 1;
    a->interrupted = rv_pg_interrupted;
}

void rv_pg_lower(rv_attn_args *a, int type, const double *params, double *slopes, double scale)
{
    rv_pg_check(rv_type_lower(type, params, slopes, a));
    a->scale = !isnan(scale) ? scale : a->scale != 0 ? a->scale : 1 / sqrt((double)a->dim);
}

static void run(rv_attn_args *a, int type, const double *params)
{
    static const char *const names[] = {"query", "keys", "values"};
    rv_fault fault;
    a->fault = &fault;
    rv_pg_check_point(rv_type_run(type, a), &fault, names, a->numbers ? *a->numbers : 1);
}

/* Of the identity matrix at a time: what a set of keys has of it takes no more room than a few copies of the keys. */
#define UNIT_VECTORS 512
/* Weights whose means are taken between two looks at whether the call was cancelled: milliseconds, of the most heads too. */
#define POLLED 65536

void rv_pg_weights(int type, const double *params, rv_rows query, rv_rows key, double scale, float *out)
{
    rv_attn_args a;
    double slopes[RV_MAX_HEADS];
    rv_pg_check_heads(type, params, query.dim, key.dim, key.dim);
    if (key.rows == 0)
        return;
    if (!strcmp(rv_type_at(type)->family, "linear")) {
        /* nothing holds them: they are what the values' unit vectors are weighted with, a part of these at a time */
        int64 most = Min(key.rows, UNIT_VECTORS);
        float *unit = palloc_extended((Size)key.rows * (Size)most * sizeof *unit, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
        for (int64 start = 0; start < key.rows; start += most) {
            int64 width = Min(most, key.rows - start);
            CHECK_FOR_INTERRUPTS();
            for (int64 i = 0; i < width; i++)
                unit[(start + i) * width + i] = 1;
            rv_rows values = {unit, key.rows, width, false};
            rv_pg_attn_args(&a, query, key, values, false);
            rv_pg_lower(&a, type, params, slopes, scale);
            a.out.data = out + start;
            a.out.row_stride = key.rows * (int64)sizeof *out;
            run(&a, type, params);
            for (int64 i = 0; i < width; i++)
                unit[(start + i) * width + i] = 0;
        }
        pfree(unit);
        return;
    }
    rv_pg_attn_args(&a, query, key, key, false);
    a.weights = 1;
    rv_pg_lower(&a, type, params, slopes, scale);
    int64 each = query.rows * key.rows;
    float *room = a.heads == 1 ? out : palloc_extended((Size)a.heads * (Size)each * sizeof *room, MCXT_ALLOC_HUGE);
    a.out.data = room;
    a.out.row_stride = key.rows * (int64)sizeof *out;
    a.out.head_stride = each * (int64)sizeof *out;
    run(&a, type, params);
    if (room != out) {
        for (int64 i = 0; i < each; i += POLLED) {
            CHECK_FOR_INTERRUPTS();
            rv_pg_check(rv_heads_mean(RV_F32, room + i, a.heads, each, Min(POLLED, each - i), out + i));
        }
        pfree(room);
    }
}

PG_FUNCTION_INFO_V1(ruvector_attention_scores);
Datum ruvector_attention_scores(PG_FUNCTION_ARGS)
{
    rv_site *site = rv_site_of(fcinfo);
    int type = rv_pg_type_arg(fcinfo, site, 2);
    double params[RV_PG_MAX_PARAMS];
    float *out;
    rv_rows query = rv_pg_either(fcinfo, site, 0, "query"), keys = rv_pg_matrix(fcinfo, site, 1, "keys");
    if (keys.rows == 0)
        PG_RETURN_ARRAYTYPE_P(rv_pg_array(0, 0, true, &out));
    ArrayType *result = rv_pg_array(query.rows, keys.rows, query.flat, &out);
    rv_pg_defaults(type, params);
    rv_pg_weights(type, params, query, keys, NAN, out);
    PG_RETURN_ARRAYTYPE_P(result);
}

/* A parameter's argument as its number; words become their place in the list. */
static double number_of(FunctionCallInfo fcinfo, int i, const rv_param *p)
{
    if (strchr(p->type, '|')) {
        char *word = text_to_cstring(PG_GETARG_TEXT_PP(i));
        const char *at = p->type;
        for (int place = 0; at; place++) {
            const char *end = strchr(at, '|');
            size_t len = end ? (size_t)(end - at) : strlen(at);
            if (strlen(word) == len && !memcmp(word, at, len))
                return place;
            at = end ? end + 1 : NULL;
        }
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must be one of %s, got \"%s\"", p->name, p->type, word)));
    }
    if (p->type[0] == 'i')
        return PG_GETARG_INT32(i);
    if (p->type[0] == 'b')
        return PG_GETARG_BOOL(i);
    return PG_GETARG_FLOAT8(i);
}

/* (query, keys, values, the type's parameters in the catalogue's order [, causal] [, scale]); NULL takes a default. */
static Datum attend(FunctionCallInfo fcinfo, const char *name)
{
    int type = rv_type_find(name), at = 3;
    const rv_type *t = rv_type_at(type);
    rv_site *site = rv_site_of(fcinfo);
    double params[RV_PG_MAX_PARAMS], slopes[RV_MAX_HEADS], scale = NAN;
    const double *array = NULL;
    int64 array_rows = 0, array_dim = 0;
    int array_ndim = 0;
    bool causal = false;
    rv_attn_args a;
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
        PG_RETURN_NULL();
    rv_pg_defaults(type, params);
    for (int i = 0; i < t->param_count; i++, at++) {
        const rv_param *p = t->params + i;
        if (PG_ARGISNULL(at))
            continue;
        if (p->type[0] == 'a') {
            array = rv_pg_doubles(PG_GETARG_DATUM(at), p->name, &array_ndim, &array_rows, &array_dim);
            continue;
        }
        params[i] = number_of(fcinfo, at, p);
        rv_pg_check_param(p, params[i]);
    }
    if (strcmp(name, "causal") && at < PG_NARGS()) {
        causal = !PG_ARGISNULL(at) && PG_GETARG_BOOL(at);
        at++;
    }
    if (at < PG_NARGS() && !PG_ARGISNULL(at)) {
        scale = PG_GETARG_FLOAT8(at);
        if (!isfinite(scale) || (scale <= 0 && !strcmp(t->family, "linear")))
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("scale must be finite%s, got %g", strcmp(t->family, "linear") ? "" : " and positive", scale)));
    }
    rv_rows query = rv_pg_either(fcinfo, site, 0, "query"), keys = rv_pg_matrix(fcinfo, site, 1, "keys");
    rv_rows values = rv_pg_matrix(fcinfo, site, 2, "values");
    if (keys.rows != values.rows)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                        errmsg("Keys and values must have same length: " INT64_FORMAT " vs " INT64_FORMAT, keys.rows, values.rows)));
    if (keys.rows == 0)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("keys must have at least one row")));
    rv_pg_check_heads(type, params, query.dim, keys.dim, values.dim);
    rv_pg_attn_args(&a, query, keys, values, causal);
    rv_pg_lower(&a, type, params, slopes, scale);
    if (array && !strcmp(t->family, "linear")) {
        if (array_ndim != 2 || array_dim != a.dim)
            ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                            errmsg("projection must be a two-dimensional array of rows of " INT64_FORMAT " numbers", a.dim)));
        a.projection = array;
        a.projection_rows = array_rows;
    } else if (array) {
        if (array_ndim != 1 || array_dim != a.heads)
            ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("slopes must be an array of " INT64_FORMAT " numbers", a.heads)));
        a.slopes = array;
    }
    float *out;
    int64 width = a.v_dim * a.heads;
    ArrayType *result = rv_pg_array(query.rows, width, query.flat, &out);
    a.out.data = out;
    a.out.row_stride = width * (int64)sizeof *out;
    run(&a, type, params);
    PG_RETURN_ARRAYTYPE_P(result);
}

#define RV_TYPE(name, ...) \
    PG_FUNCTION_INFO_V1(ruvector_type_##name); \
    Datum ruvector_type_##name(PG_FUNCTION_ARGS) { return attend(fcinfo, #name); }
#define RV_PARAM(...)
#define RV_END(name)
#include "attention.def"
#undef RV_TYPE
#undef RV_PARAM
#undef RV_END

PG_FUNCTION_INFO_V1(ruvector_hyperbolic_distance);
Datum ruvector_hyperbolic_distance(PG_FUNCTION_ARGS)
{
    static const char *const names[] = {"a", "b"};
    rv_site *site = rv_site_of(fcinfo);
    rv_rows a = rv_pg_vector(fcinfo, site, 0, "a"), b = rv_pg_vector(fcinfo, site, 1, "b");
    double curvature = PG_GETARG_FLOAT8(2);
    float distance;
    rv_fault fault;
    if (!isfinite(curvature) || fabs(curvature) < 0x1p-1022)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("curvature must be finite and not 0, got %g", curvature)));
    if (a.dim != b.dim)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                        errmsg("Vectors must have the same dimension: " INT64_FORMAT " vs " INT64_FORMAT, a.dim, b.dim)));
    rv_hyp_args args = {.geometry = RV_POINCARE, .dtype = RV_F32, .a = a.data, .b = b.data, .out = &distance, .a_count = 1,
                        .b_count = 1, .dim = a.dim, .pairs = 1, .curvature = curvature, .fault = &fault, .threads = 1};
    rv_pg_check_point(rv_hyp_run(&args), &fault, names, curvature);
    PG_RETURN_FLOAT4(distance);
}

/* The gate that ruvector.moe_route takes where none is given, transposed. */
static const float *gate_of(FunctionCallInfo fcinfo, rv_site *site, int64 dim, int64 experts)
{
    if (site->gate && site->gate_dim == dim && site->gate_experts == experts)
        return site->gate;
    double *drawn = palloc((Size)experts * sizeof *drawn);
    if (site->gate)
        pfree(site->gate);
    site->gate = NULL;
    site->gate = MemoryContextAllocHuge(fcinfo->flinfo->fn_mcxt, (Size)dim * (Size)experts * sizeof *site->gate);
    site->gate_dim = 0;     /* until it is whole: an interrupt may leave it */
    for (int64 i = 0; i < dim; i++) {
        CHECK_FOR_INTERRUPTS();
        /* number i * experts + 1 of the generator is the first of one that starts as far on */
        rv_pg_check(rv_draw_run(RV_GATE_SEED + RV_GOLDEN * (uint64)(i * experts), sqrt(6.0 / (double)(dim + experts)), drawn, experts));
        for (int64 e = 0; e < experts; e++)
            site->gate[e * dim + i] = (float)drawn[e];
    }
    pfree(drawn);
    site->gate_dim = dim;
    site->gate_experts = experts;
    return site->gate;
}

static void push_numbers(JsonbParseState **state, const char *name, int count, const int64 *whole, const float *real)
{
    JsonbValue v = {.type = jbvString};
    v.val.string.val = (char *)name;
    v.val.string.len = (int)strlen(name);
    pushJsonbValue(state, WJB_KEY, &v);
    pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
    for (int i = 0; i < count; i++) {
        char text[64];
        if (whole)
            snprintf(text, sizeof text, INT64_FORMAT, whole[i]);
        else
            strlcpy(text, DatumGetCString(DirectFunctionCall1(float4out, Float4GetDatum(real[i]))), sizeof text);
        v.type = jbvNumeric;
        v.val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
                                                            Int32GetDatum(-1)));
        pushJsonbValue(state, WJB_ELEM, &v);
    }
    pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

PG_FUNCTION_INFO_V1(ruvector_moe_route);
Datum ruvector_moe_route(PG_FUNCTION_ARGS)
{
    rv_site *site = rv_site_of(fcinfo);
    rv_rows x = rv_pg_vector(fcinfo, site, 0, "embedding");
    int experts = PG_GETARG_INT32(1), top_k = PG_GETARG_INT32(2);
    if (experts < 1 || experts > 65536)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("num_experts must be between 1 and 65536, got %d", experts)));
    if (top_k < 1 || top_k > experts)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("top_k must be between 1 and num_experts %d, got %d", experts, top_k)));
    const float *gate = gate_of(fcinfo, site, x.dim, experts);
    float *logits = palloc((Size)experts * sizeof *logits), *weights = palloc((Size)top_k * sizeof *weights);
    int64 *indices = palloc((Size)top_k * sizeof *indices);
    rv_dots_args dots = {.dtype = RV_F32, .query = x.data, .keys = gate, .scores = logits, .count = experts, .dim = x.dim,
                         .key_stride = x.dim * (int64)sizeof *gate, .threads = 1, .interrupted = rv_pg_interrupted};
    rv_pg_check(rv_dots_run(&dots));
    rv_topk_args top = {.dtype = RV_F32, .mode = RV_TOPK_SOFTMAX, .x = logits, .values = weights, .indices = (int64_t *)indices,
                        .rows = 1, .n = experts, .k = top_k, .threads = 1, .interrupted = rv_pg_interrupted};
    rv_pg_check(rv_topk_run(&top));
    JsonbParseState *state = NULL;
    pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
    push_numbers(&state, "expert_indices", top_k, indices, NULL);
    push_numbers(&state, "expert_weights", top_k, NULL, weights);
    PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/* Windows start at 0, stride, 2 stride ... until one reaches the end; a position's output is the mean over those that cover it. */
PG_FUNCTION_INFO_V1(ruvector_sliding_attention);
Datum ruvector_sliding_attention(PG_FUNCTION_ARGS)
{
    rv_site *site = rv_site_of(fcinfo);
    int64 size = PG_GETARG_INT32(1), stride = PG_GETARG_INT32(2);
    int self = rv_type_find("self");
    double slopes[RV_MAX_HEADS];
    if (size < 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("window_size must be at least 1, got " INT64_FORMAT, size)));
    if (stride < 1 || stride > size)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("stride must be between 1 and window_size " INT64_FORMAT ", got " INT64_FORMAT, size, stride)));
    rv_rows x = rv_pg_matrix(fcinfo, site, 0, "embeddings");
    InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
    ReturnSetInfo *set = (ReturnSetInfo *)fcinfo->resultinfo;
    if (x.rows == 0)
        return (Datum)0;
    double *total = palloc_extended((Size)x.rows * (Size)x.dim * sizeof *total, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
    int64 most = Min(size, x.rows);
    float *window = palloc_extended((Size)most * (Size)x.dim * sizeof *window, MCXT_ALLOC_HUGE);
    for (int64 start = 0;; start += stride) {
        rv_rows part = {x.data + start * x.dim, Min(size, x.rows - start), x.dim, false};
        rv_attn_args a;
        rv_pg_attn_args(&a, part, part, part, false);
        rv_pg_lower(&a, self, NULL, slopes, NAN);
        a.out.data = window;
        a.out.row_stride = x.dim * (int64)sizeof *window;
        run(&a, self, NULL);
        for (int64 i = 0; i < part.rows * x.dim; i++)
            total[start * x.dim + i] += window[i];
        CHECK_FOR_INTERRUPTS();
        if (start + size >= x.rows)
            break;
    }
    int64 last = x.rows <= size ? 0 : (x.rows - size + stride - 1) / stride;    /* the number of the last window */
    for (int64 i = 0; i < x.rows; i++) {
        int64 first = i < size ? 0 : (i - size) / stride + 1, end = Min(i / stride, last);
        double cover = (double)(end - first + 1);
        float *out;
        ArrayType *row = rv_pg_array(1, x.dim, true, &out);
        for (int64 c = 0; c < x.dim; c++)
            out[c] = (float)(total[i * x.dim + c] / cover);
        Datum values[] = {Int32GetDatum((int32)i), PointerGetDatum(row)};
        bool nulls[2] = {false};
        tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
        pfree(row);
        CHECK_FOR_INTERRUPTS();
    }
    return (Datum)0;
}
