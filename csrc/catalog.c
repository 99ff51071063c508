/* The attention types of attention.def: their records, and how each lowers to the arguments of rv_attn_run. */
#include "catalog.h"
#include "ruvector.h"
#include "scalar_math.h"

#include <math.h>
#include <string.h>

typedef enum { DENSE, CAUSAL, BEFORE, AROUND } pattern;
typedef enum { ONE, SPLIT, GROUPED, SHARED } heads;

/* What parameters do to a call; a name means the same in every type. */
typedef enum {
    ROLE_softcap, ROLE_num_heads, ROLE_num_kv_heads, ROLE_window_size, ROLE_block_size, ROLE_block_size_q, ROLE_block_size_kv,
    ROLE_slopes, ROLE_curvature, ROLE_space_only, ROLE_feature_map, ROLE_num_features, ROLE_orthogonal, ROLE_projection, ROLES
} role;

/* An array needs an element, so each type's lists end with an empty one. */
#define RV_TYPE(name, ...) static const rv_param name##_params[] = {
#define RV_PARAM(name, type, value, low, high, text) {#name, type, value, low, high, text},
#define RV_END(name) {NULL, NULL, 0, 0, 0, NULL}};
#include "attention.def"
#undef RV_TYPE
#undef RV_PARAM
#undef RV_END

#define RV_TYPE(name, ...) static const role name##_roles[] = {
#define RV_PARAM(name, type, value, low, high, text) ROLE_##name,
#define RV_END(name) ROLES};
#include "attention.def"
#undef RV_TYPE
#undef RV_PARAM
#undef RV_END

typedef rv_status engine(const rv_attn_args *args);

#define RV_TYPE(name, aliases, complexity, best_for, family, reference, run, ...) engine run;
#define RV_PARAM(name, type, value, low, high, text)
#define RV_END(name)
#include "attention.def"
#undef RV_TYPE
#undef RV_PARAM
#undef RV_END

typedef struct row {
    rv_type type;
    const role *roles;
    engine *run;
    pattern pattern;
    heads heads;
    rv_logits logits;
} row;

static const row rows[] = {
#define RV_TYPE(name, aliases, complexity, best_for, family, reference, run, pattern, heads, logits) \
    {{#name, aliases, complexity, best_for, family, reference, \
      (int)(sizeof name##_params / sizeof *name##_params) - 1, name##_params, heads == SHARED}, name##_roles, \
     run, pattern, heads, logits},
#define RV_PARAM(name, type, value, low, high, text)
#define RV_END(name)
#include "attention.def"
#undef RV_TYPE
#undef RV_PARAM
#undef RV_END
};

enum { ROWS = (int)(sizeof rows / sizeof *rows) };

const rv_type *rv_type_at(int i) { return i >= 0 && i < ROWS ? &rows[i].type : NULL; }

rv_logits rv_type_logits(int index) { return rows[index].logits; }

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

/* The word at p, up to a space or the end, equals name but for case. */
static int same_word(const char *p, const char *name)
{
    while (*name && *p && *p != ' ' && lower(*p) == lower(*name)) {
        p++;
        name++;
    }
    return !*name && (!*p || *p == ' ');
}

int rv_type_find(const char *name)
{
    if (!*name)
        return -1;
    for (int i = 0; i < ROWS; i++) {
        if (same_word(rows[i].type.name, name))
            return i;
        for (const char *p = rows[i].type.aliases; *p;) {
            if (same_word(p, name))
                return i;
            while (*p && *p != ' ')
                p++;
            while (*p == ' ')
                p++;
        }
    }
    return -1;
}

/* 2^x for x in (-8, 0]: the ALiBi slopes. Powers of two by repeated square roots of 1/2 would round; the series does not
 * need more than 20 terms on |x ln 2| <= 0.35 after taking out the integer. */
static double power_of_two(double x)
{
    int whole = (int)x;
    double y = (x - whole) * 0.69314718055994530942, term = 1, sum = 1, scale = 1;
    for (int i = 1; i < 24; i++) {
        term *= y / i;
        sum += term;
    }
    for (; whole < 0; whole++)
        scale *= 0.5;
    return sum * scale;
}

static int in_range(const rv_param *p, double x)
{
    if (p->type[0] == 'a')
        return 1;
    if (p->type[0] == 'n' && (x == 0 || !isfinite(x)))
        return 0;
    return x >= p->low && x <= p->high && ((p->type[0] != 'i' && !strchr(p->type, '|')) || (x < 9e15 && x == (double)(int64_t)x));
}

/* Splits the columns of x into heads. */
static void split(rv_array *x, int64_t width, size_t item) { x->head_stride = width * (int64_t)item; }

rv_status rv_type_lower(int index, const double *params, double *slopes, rv_attn_args *a)
{
    if (index < 0 || index >= ROWS)
        return RV_ERR_UNKNOWN;
    const row *r = rows + index;
    const rv_type *type = &r->type;
    size_t item = rv_dtype_size(a->dtype);
    double value[ROLES] = {0};
    for (int i = 0; i < type->param_count; i++) {
        if (!in_range(type->params + i, params[i]))
            return RV_ERR_PARAM;
        value[r->roles[i]] = params[i];
        if (type->params[i].type[0] == 'n') {
            a->numbers = params + i;
            memset(a->numbers_batch_stride, 0, sizeof a->numbers_batch_stride);
            a->numbers_head_stride = 0;
        }
    }
    a->params = params;

    int64_t window = (int64_t)value[ROLE_window_size];
    if (r->pattern == CAUSAL || r->pattern == BEFORE)
        a->right = 0;
    if (r->pattern == BEFORE)
        a->left = window - 1;
    if (r->pattern == AROUND) {
        a->left = window / 2;
        a->right = a->right < window / 2 ? a->right : window / 2;
    }

    if (r->heads != ONE) {
        int64_t count = (int64_t)value[ROLE_num_heads];
        int64_t kv = r->heads == GROUPED ? (int64_t)value[ROLE_num_kv_heads] : r->heads == SHARED ? 1 : count;
        if (a->heads != 1 || a->key_heads != 1 || a->value_heads != 1 || a->dim % count || a->v_dim % kv || count % kv)
            return RV_ERR_SHAPE;
        /* dim is the query's width; keys are kv slices of the same head width */
        a->heads = count;
        a->key_heads = a->value_heads = kv;
        a->dim /= count;
        a->v_dim /= kv;
        split(&a->query, a->dim, item);
        split(&a->key, a->dim, item);
        split(&a->value, a->v_dim, item);
        split(&a->out, a->v_dim, item);
    }

    if (r->logits == ALIBI) {
        for (int64_t h = 0; h < a->heads; h++)
            slopes[h] = power_of_two(-8.0 * (double)(h + 1) / (double)a->heads);
        a->slopes = slopes;
        memset(a->slopes_batch_stride, 0, sizeof a->slopes_batch_stride);
        a->slopes_head_stride = 1;
    }

    if (r->logits == DISTANCE || r->logits == COSINE)
        a->scale = 1;
    double softcap = value[ROLE_softcap];
    if (softcap != 0)
        a->softcap = softcap;
    int64_t block = (int64_t)value[ROLE_block_size];
    if (block) {
        int64_t q = (int64_t)value[ROLE_block_size_q], kv = (int64_t)value[ROLE_block_size_kv];
        a->block_q = q ? q : block;
        a->block_kv = kv ? kv : block;
    }
    return RV_OK;
}

rv_status rv_type_run(int index, const rv_attn_args *args)
{
    return index < 0 || index >= ROWS ? RV_ERR_UNKNOWN : rows[index].run(args);
}
