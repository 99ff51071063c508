/* Arguments as rows of floats, results as arrays, errors. */
#include "pg.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include <math.h>

rv_site *rv_site_of(FunctionCallInfo fcinfo)
{
    rv_site *site = fcinfo->flinfo->fn_extra;
    if (site)
        return site;
    Oid *types;
    int count;
    get_func_signature(fcinfo->flinfo->fn_oid, &types, &count);
    site = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof *site);
    site->type = -1;
    site->name_len = -1;
    for (int i = 0; i < count && i < RV_PG_MAX_ARGS; i++) {
        site->arg_type[i] = types[i];
        site->array[i] = OidIsValid(get_element_type(types[i]));
    }
    fcinfo->flinfo->fn_extra = site;
    return site;
}

void rv_pg_check_finite(const float *x, int64 n, const char *name)
{
    uint32 bad = 0;
    for (int64 i = 0; i < n; i++) {
        uint32 bits;
        memcpy(&bits, x + i, 4);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    if (!bad)
        return;
    for (int64 i = 0; i < n; i++)
        if (!isfinite(x[i]))
            ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                            errmsg("%s not allowed in %s", isnan(x[i]) ? "NaN" : "infinite value", name)));
}

static void check_array(ArrayType *a, const char *name)
{
    if (ARR_HASNULL(a) && array_contains_nulls(a))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not contain nulls", name)));
    for (int i = 0; i < ARR_NDIM(a); i++)
        if (ARR_LBOUND(a)[i] != 1)
            ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("%s must have lower bounds of 1", name)));
}

static void check_dim(int64 dim, const char *name)
{
    if (dim < 1)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("%s must have at least 1 dimension", name)));
    if (dim > RV_PG_MAX_DIM)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("%s cannot have more than %d dimensions", name, RV_PG_MAX_DIM)));
}

rv_rows rv_pg_vector_of(Datum value, bool array, const char *name)
{
    rv_rows r = {.rows = 1, .flat = true};
    if (!array) {
        const rv_vector *v = (const rv_vector *)PG_DETOAST_DATUM(value);
        r.data = v->x;
        r.dim = v->dim;
        return r;
    }
    ArrayType *a = DatumGetArrayTypeP(value);
    check_array(a, name);
    if (ARR_NDIM(a) > 1)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("%s must be a one-dimensional array", name)));
    r.data = (const float *)ARR_DATA_PTR(a);
    r.dim = ARR_NDIM(a) ? ARR_DIMS(a)[0] : 0;
    check_dim(r.dim, name);
    rv_pg_check_finite(r.data, r.dim, name);
    return r;
}

/* The vectors of a vector[], side by side. */
static rv_rows gather(ArrayType *a, const char *name)
{
    rv_rows r = {0};
    Datum *elements;
    bool *nulls;
    int count;
    float *to = NULL;
    if (ARR_NDIM(a) > 1)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("%s must be a one-dimensional array of vectors", name)));
    deconstruct_array(a, ARR_ELEMTYPE(a), -1, false, TYPALIGN_INT, &elements, &nulls, &count);
    for (int i = 0; i < count; i++) {
        const rv_vector *v = (const rv_vector *)PG_DETOAST_DATUM(elements[i]);
        if (i == 0) {
            r.dim = v->dim;
            to = palloc_extended((Size)count * (Size)r.dim * sizeof *to, MCXT_ALLOC_HUGE);
        } else if (v->dim != r.dim) {
            ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                            errmsg("%s must have the same dimensions: " INT64_FORMAT " vs %d", name, r.dim, v->dim)));
        }
        memcpy(to + i * r.dim, v->x, (Size)r.dim * sizeof *to);
    }
    r.data = to;
    r.rows = count;
    return r;
}

static rv_rows matrix_of(Datum value, const char *name, bool vector_too)
{
    rv_rows r = {0};
    ArrayType *a = DatumGetArrayTypeP(value);
    check_array(a, name);
    if (ARR_ELEMTYPE(a) != FLOAT4OID)
        return gather(a, name);
    int ndim = ARR_NDIM(a);
    if (ndim == 0 && !vector_too)
        return r;
    if (ndim != 2 && !(vector_too && ndim < 2))
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
                        errmsg(vector_too ? "%s must be a one- or two-dimensional array" : "%s must be a two-dimensional array", name),
                        ndim == 1 ? errhint("ARRAY[x] makes a matrix of one row from x.") : 0));
    r.flat = ndim < 2;
    r.rows = ndim == 2 ? ARR_DIMS(a)[0] : 1;
    r.dim = ndim ? ARR_DIMS(a)[ndim - 1] : 0;
    r.data = (const float *)ARR_DATA_PTR(a);
    check_dim(r.dim, name);
    rv_pg_check_finite(r.data, r.rows * r.dim, name);
    return r;
}

rv_rows rv_pg_vector(FunctionCallInfo fcinfo, rv_site *site, int i, const char *name)
{
    return rv_pg_vector_of(PG_GETARG_DATUM(i), site->array[i], name);
}

rv_rows rv_pg_matrix(FunctionCallInfo fcinfo, rv_site *site, int i, const char *name)
{
    return matrix_of(PG_GETARG_DATUM(i), name, false);
}

rv_rows rv_pg_either(FunctionCallInfo fcinfo, rv_site *site, int i, const char *name)
{
    return site->array[i] ? matrix_of(PG_GETARG_DATUM(i), name, true) : rv_pg_vector_of(PG_GETARG_DATUM(i), false, name);
}

const double *rv_pg_doubles(Datum value, const char *name, int *ndim, int64 *rows, int64 *dim)
{
    ArrayType *a = DatumGetArrayTypeP(value);
    check_array(a, name);
    *ndim = ARR_NDIM(a);
    if (*ndim != 1 && *ndim != 2)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("%s must be a one- or two-dimensional array", name)));
    *rows = *ndim == 2 ? ARR_DIMS(a)[0] : 1;
    *dim = ARR_DIMS(a)[*ndim - 1];
    const double *x = (const double *)ARR_DATA_PTR(a);
    for (int64 i = 0; i < *rows * *dim; i++)
        if (!isfinite(x[i]))
            ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("%s must be finite", name)));
    return x;
}

ArrayType *rv_pg_array(int64 rows, int64 dim, bool flat, float **data)
{
    int ndim = rows * dim == 0 ? 0 : flat ? 1 : 2;
    Size elements, bytes;
    if ((double)rows * (double)dim > (double)MaxArraySize)    /* no function of PostgreSQL takes a larger one */
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("a result of " INT64_FORMAT " x " INT64_FORMAT " numbers exceeds the largest array, of %d", rows, dim,
                               (int)MaxArraySize)));
    elements = (Size)rows * (Size)dim;
    bytes = ARR_OVERHEAD_NONULLS(ndim) + elements * sizeof(float);
    ArrayType *a = palloc(bytes);   /* not cleared: the caller writes every element */
    SET_VARSIZE(a, bytes);
    a->ndim = ndim;
    a->dataoffset = 0;
    a->elemtype = FLOAT4OID;
    for (int i = 0; i < ndim; i++) {
        ARR_DIMS(a)[i] = (int)(ndim == 2 && i == 0 ? rows : dim);
        ARR_LBOUND(a)[i] = 1;
    }
    *data = (float *)ARR_DATA_PTR(a);
    return a;
}

int rv_pg_type(const char *name, int len)
{
    char word[NAMEDATALEN];
    int index = -1;
    if (len < (int)sizeof word) {
        memcpy(word, name, len);
        word[len] = 0;
        index = strchr(word, ' ') ? -1 : rv_type_find(word);
    }
    if (index < 0) {
        StringInfoData known;
        initStringInfo(&known);
        for (int i = 0; rv_type_at(i); i++)
            appendStringInfo(&known, "%s%s", i ? ", " : "", rv_type_at(i)->name);
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("Unknown attention type: \"%.*s\"", pg_mbcliplen(name, len, NAMEDATALEN), name),
                        errhint("Available: %s.", known.data)));
    }
    return index;
}

int rv_pg_type_arg(FunctionCallInfo fcinfo, rv_site *site, int i)
{
    text *t = PG_GETARG_TEXT_PP(i);
    int len = VARSIZE_ANY_EXHDR(t);
    if (len == site->name_len && !memcmp(VARDATA_ANY(t), site->name, len))
        return site->type;
    site->type = rv_pg_type(VARDATA_ANY(t), len);
    memcpy(site->name, VARDATA_ANY(t), len);
    site->name_len = len;
    return site->type;
}

void rv_pg_defaults(int type, double *params)
{
    const rv_type *t = rv_type_at(type);
    for (int i = 0; i < t->param_count; i++)
        params[i] = t->params[i].value;
}

void rv_pg_check_param(const rv_param *p, double value)
{
    if (p->type[0] == 'n' ? value != 0 && isfinite(value) : value >= p->low && value <= p->high && isfinite(value))
        return;
    if (p->type[0] == 'n')
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must be finite and not 0, got %g", p->name, value)));
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    isfinite(p->high)
                        ? errmsg("%s must be between %g and %g, got %g", p->name, p->low, p->high, value)
                        : errmsg("%s must be at least %g and finite, got %g", p->name, p->low, value)));
}

void rv_pg_check_dims(int64 query, int64 key)
{
    if (query != key)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                        errmsg("Query and key dimensions must match: " INT64_FORMAT " vs " INT64_FORMAT, query, key)));
}

static int64 param_named(const rv_type *t, const double *params, const char *name, int64 otherwise)
{
    for (int i = 0; i < t->param_count; i++)
        if (!strcmp(t->params[i].name, name))
            return (int64)params[i];
    return otherwise;
}

void rv_pg_check_heads(int type, const double *params, int64 query, int64 key, int64 value)
{
    const rv_type *t = rv_type_at(type);
    int64 heads = param_named(t, params, "num_heads", 1);
    int64 own = t->shared ? 1 : param_named(t, params, "num_kv_heads", heads);
    if (heads == own)
        rv_pg_check_dims(query, key);
    if (heads % own)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("num_heads " INT64_FORMAT " must be divisible by num_kv_heads " INT64_FORMAT, heads, own)));
    if (query % heads)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("Query dimension " INT64_FORMAT " must be divisible by num_heads " INT64_FORMAT, query, heads)));
    rv_pg_check_dims(query / heads * own, key);
    if (value % own)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("Value dimension " INT64_FORMAT " must be divisible by %s " INT64_FORMAT, value,
                               heads == own ? "num_heads" : "num_kv_heads", own)));
}

/* Most interrupts want no error: a look whether the client is there, memory contexts to log, a database dropped elsewhere. One that
 * does ends the call: its error waits until csrc has cleaned up, and rv_pg_check then raises it. */
int rv_pg_interrupted(void *context)
{
    MemoryContext home = CurrentMemoryContext;
    volatile int stop = 0;
    if (!InterruptPending)
        return 0;
    PG_TRY();
    {
        CHECK_FOR_INTERRUPTS();
    }
    PG_CATCH();
    {
        MemoryContextSwitchTo(home);
        stop = 1;
    }
    PG_END_TRY();
    return stop;
}

void rv_pg_check(rv_status status)
{
    switch (status) {
    case RV_OK:
        return;
    case RV_ERR_INTERRUPTED:
        PG_RE_THROW();  /* what rv_pg_interrupted caught is still on the stack of errors */
        break;
    case RV_ERR_NOMEM:
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
                        errdetail("Not enough memory for the working space of this call.")));
        break;
    case RV_ERR_SHAPE:
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("the dimensions of the arguments do not fit each other")));
        break;
    case RV_ERR_UNKNOWN:
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("no such attention type")));
        break;
    case RV_ERR_INDEX:
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR), errmsg("an index is out of its range")));
        break;
    case RV_ERR_POINT:
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION), errmsg("a vector is no point of the hyperbolic space")));
        break;
    default:
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("a parameter is out of its range")));
    }
}

void rv_pg_check_point(rv_status status, const rv_fault *fault, const char *const *names, double curvature)
{
    if (status != RV_ERR_POINT)
        rv_pg_check(status);
    else if (fault->expected != 0)
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                        errmsg("%s is not on the hyperboloid of curvature %g: its time component is %.9g, expected %.9g",
                               names[fault->array], -fabs(curvature), fault->time, fault->expected)));
    else
        ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
                        errmsg("%s has norm %.9g, which is not less than the radius %.9g of the ball", names[fault->array],
                               fault->norm, 1 / sqrt(fabs(curvature))),
                        errdetail("Row " INT64_FORMAT ".", fault->row)));
}
