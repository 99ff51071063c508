/* What the files of the PostgreSQL extension share: arguments and results as rows of floats, errors, interrupts.
 * Nothing here keeps memory of csrc across a call, and no csrc call is left by a jump: its interrupt callback catches the error, and
 * it is raised again after csrc has cleaned up. */
#ifndef RV_PG_H
#define RV_PG_H

#define PGDLLEXPORT __attribute__((visibility("default")))  /* PostgreSQL 15 exports by default, which -fvisibility ends */
#include "postgres.h"

#include "fmgr.h"
#include "utils/array.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 160000   /* declares functions without PGDLLEXPORT */
#undef PG_FUNCTION_INFO_V1
#define PG_FUNCTION_INFO_V1(name) \
    extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
    extern PGDLLEXPORT const Pg_finfo_record *CppConcat(pg_finfo_, name)(void); \
    const Pg_finfo_record *CppConcat(pg_finfo_, name)(void) \
    { \
        static const Pg_finfo_record info = {1}; \
        return &info; \
    } \
    extern int no_such_variable
#endif

#include "ruvector.h"

/* pgvector's limit, for arrays too: what fits a page with room for more is no embedding. */
#define RV_PG_MAX_DIM 16000
#define RV_PG_MAX_ARGS 12
#define RV_PG_MAX_PARAMS 8

/* pgvector's type, whose layout has not changed since its first release. */
typedef struct rv_vector {
    int32 vl_len_;
    int16 dim;
    int16 unused;
    float x[FLEXIBLE_ARRAY_MEMBER];
} rv_vector;

/* Contiguous rows; `flat`: one vector, not a matrix of one row. */
typedef struct rv_rows {
    const float *data;
    int64 rows, dim;
    bool flat;
} rv_rows;

/* What a call site keeps from row to row, in fn_extra. */
typedef struct rv_site {
    Oid arg_type[RV_PG_MAX_ARGS];
    bool array[RV_PG_MAX_ARGS];         /* of floats or of vectors, rather than one vector */
    int type;                           /* of `name` */
    int name_len;
    char name[NAMEDATALEN];
    float *gate;                        /* moe_route: (experts, dim) */
    int64 gate_dim, gate_experts;
} rv_site;

rv_site *rv_site_of(FunctionCallInfo fcinfo);

/* Argument i as one vector, or as a matrix; errors name it. */
rv_rows rv_pg_vector(FunctionCallInfo fcinfo, rv_site *site, int i, const char *name);
rv_rows rv_pg_matrix(FunctionCallInfo fcinfo, rv_site *site, int i, const char *name);
rv_rows rv_pg_either(FunctionCallInfo fcinfo, rv_site *site, int i, const char *name);
/* A value of type vector (array false) or real[] as one vector. */
rv_rows rv_pg_vector_of(Datum value, bool array, const char *name);
/* double precision[] without NULL, of one or two dimensions. */
const double *rv_pg_doubles(Datum value, const char *name, int *ndim, int64 *rows, int64 *dim);

/* An empty float4[] of dim, or of rows x dim, whose elements are at *data. */
ArrayType *rv_pg_array(int64 rows, int64 dim, bool flat, float **data);

/* An attention type by name; an error that lists those that exist. */
int rv_pg_type(const char *name, int len);
int rv_pg_type_arg(FunctionCallInfo fcinfo, rv_site *site, int i);
void rv_pg_defaults(int type, double *params);
/* Raises an error for a value out of the range of parameter p. */
void rv_pg_check_param(const rv_param *p, double value);

/* The usage guide's texts. key_heads: heads of the keys where they differ from the query's, else 0. */
void rv_pg_check_dims(int64 query, int64 key);
void rv_pg_check_heads(int type, const double *params, int64 query, int64 key, int64 value);
void rv_pg_check_finite(const float *x, int64 n, const char *name);

/* Raises the error of a status that is not RV_OK. */
void rv_pg_check(rv_status status);
void rv_pg_check_point(rv_status status, const rv_fault *fault, const char *const *names, double curvature);
int rv_pg_interrupted(void *context);

/* Arguments of an attention call on plain rows, before lowering. */
void rv_pg_attn_args(rv_attn_args *a, rv_rows query, rv_rows key, rv_rows value, bool causal);
/* Lowers to the type and sets what it leaves open; scale NAN: the type's own. slopes: room for RV_MAX_HEADS. */
void rv_pg_lower(rv_attn_args *a, int type, const double *params, double *slopes, double scale);
/* The weights of query over keys, (rows, keys), their mean over heads. */
void rv_pg_weights(int type, const double *params, rv_rows query, rv_rows key, double scale, float *out);

#endif
