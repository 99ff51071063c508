/* Distances in the Poincare ball and on the hyperboloid, and attention by them. The kernels work on blocks of RV_HYP_BLOCK
 * points and name what they cannot settle: points next to the sphere, pairs whose differences cancel. Those few are computed
 * again here, in pairs of doubles. */
#include "batch.h"
#include "double_pair.h"
#include "kernels.h"
#include "scalar_math.h"
#include "sizes.h"
#include "target.h"
#include "thread.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = RV_HYP_BLOCK,
    ROWS = RV_HYP_ROWS,
    FEW = 4,            /* from this many points on either side on, the other side is transposed */
    PANELS = 4          /* transposed blocks of one task, which share the rows as doubles */
};

/* A thread should have this much work by the models below; waking one costs about 5 us. */
#define THREAD_NS 40000.0

/* ---- spaces and points -------------------------------------------------------------------------------------- */

typedef struct space {
    rv_hyp hyp;
    const rv_kernels *k;
    rv_dtype dtype, compute;    /* storage; what the kernels read */
    int64_t item, real;         /* bytes of an element of each */
    int64_t dim, pad;           /* of the space-like part; doubles of a padded row */
    int64_t skip;               /* bytes from the start of a row to its space-like part */
    rv_pair top;                /* sqrt(c) */
    double tolerance;           /* of a time component, relative */
} space;

static int is_half(rv_dtype dtype) { return dtype == RV_F16 || dtype == RV_BF16; }

static void space_of(space *sp, rv_geometry geometry, rv_dtype dtype, int64_t dim, int time, double curvature)
{
    rv_pair c = {fabs(curvature), 0};
    sp->dtype = dtype;
    sp->compute = dtype == RV_F64 ? RV_F64 : RV_F32;
    sp->item = (int64_t)rv_dtype_size(dtype);
    sp->real = (int64_t)rv_dtype_size(sp->compute);
    sp->k = rv_kernels_get(sp->compute);
    sp->dim = dim - time;
    sp->pad = (sp->dim + RV_HYP_PAD - 1) / RV_HYP_PAD * RV_HYP_PAD;
    sp->skip = time ? sp->item : 0;
    /* rounding of any way to compute it is far below; a wrong curvature or a missing component is far above */
    sp->tolerance = dtype == RV_BF16 ? 0x1p-6 : dtype == RV_F16 ? 0x1p-8 : 0x1p-10;
    sp->hyp.geometry = geometry;
    sp->hyp.dim = sp->dim;
    sp->hyp.curvature = c;
    sp->top = root(c);
    sp->hyp.radius = quotient(ONE, sp->top);
}

/* Room of one thread. */
typedef struct room {
    char *a, *b;            /* rows of 16-bit storage widened: a block, and one for each panel */
    double *x;              /* a block of padded rows */
    double *panel;
    char *norms, *weights;  /* wide, for each panel */
    char *sums;             /* wide, for each row of hyp_sums */
    char *out;              /* distances of such rows to a block */
    size_t bytes;
} room;

static size_t place(char *base, char **to, size_t at, size_t bytes)
{
    *to = base ? base + at : NULL;
    return at + (bytes + 63) / 64 * 64;
}

/* dim is at most INT32_MAX / 64, so that these sums fit. */
static room room_of(const space *sp, int64_t dim, int panels, char *base)
{
    room r;
    size_t n = (size_t)dim, real = (size_t)sp->real, half = is_half(sp->dtype) ? 1 : 0, at = 0, many = (size_t)panels;
    char *x, *panel;
    at = place(base, &r.a, at, half * BLOCK * n * real);
    at = place(base, &r.b, at, many * half * BLOCK * n * real);
    at = place(base, &x, at, BLOCK * (n + RV_HYP_PAD) * sizeof(double));
    at = place(base, &panel, at, many * BLOCK * n * sizeof(double));
    at = place(base, &r.norms, at, many * RV_HYP_WIDE * real);
    at = place(base, &r.weights, at, many * RV_HYP_WIDE * real);
    at = place(base, &r.sums, at, ROWS * RV_HYP_WIDE * real);
    at = place(base, &r.out, at, ROWS * BLOCK * real);
    r.x = (double *)x;
    r.panel = (double *)panel;
    r.bytes = at;
    return r;
}

/* Up to a block of points, given by the start of their rows, as contiguous rows of reals: where they lie, or in `to`. */
static const char *reals(const space *sp, const char *rows, int64_t *stride, int count, char *to)
{
    rows += sp->skip;
    if (!is_half(sp->dtype))
        return rows;
    for (int i = 0; i < count; i++)
        sp->k->widen(sp->dtype, rows + i * *stride, to + i * sp->dim * sp->real, sp->dim);
    *stride = sp->dim * sp->real;
    return to;
}

static double element(const space *sp, const char *row, int64_t i)
{
    return sp->compute == RV_F64 ? ((const double *)row)[i] : (double)((const float *)row)[i];
}

/* |p|^2; infinite where it, or a step, overflows. */
static rv_pair norm_of(const space *sp, const char *row)
{
    rv_pair n = {0, 0};
    int large = 0;
    for (int64_t d = 0; d < sp->dim; d++) {
        double x = element(sp, row, d);
        if (x != x)
            return pair(NAN, 0);
        large |= !(fabs(x) < 0x1p500);
        n = add(n, product(x, x));
    }
    return large ? pair(INFINITY, 0) : n;
}

/* 1 - c|p|^2 */
static rv_pair gap_of(const space *sp, rv_pair norm) { return add(ONE, minus(mul(sp->hyp.curvature, norm))); }

static double time_of(const space *sp, const char *row)
{
    float x;
    if (sp->dtype == RV_F64)
        return *(const double *)row;
    if (sp->dtype == RV_F32)
        return (double)*(const float *)row;
    sp->k->widen(sp->dtype, row, &x, 1);
    return (double)x;
}

/* Weights from norms, for points as given (`rows`) and as reals (`points`). The first that is no point goes to *fault,
 * with row its number here; returns nonzero then. Weights of such are NaN. */
static int weigh(const space *sp, const char *rows, int64_t rows_stride, const char *points, int64_t stride, int count,
                 const char *norms, char *weights, rv_fault *fault)
{
    uint64_t care = sp->k->hyp_weights(&sp->hyp, norms, count, weights);
    int first = -1;
    for (int i = 0; i < count && (care || sp->skip); i++) {
        rv_pair w, norm = {0, 0};
        double given = 0, expected = 0;
        int bad = 0;
        if (care >> i & 1) {
            norm = norm_of(sp, points + i * stride);
            if (sp->hyp.geometry == RV_POINCARE) {
                rv_pair gap = gap_of(sp, norm);
                bad = gap.head <= 0 || norm.head == INFINITY;
                w = bad ? pair(NAN, 0) : quotient(sp->top, gap);
            } else {
                rv_pair square = add(quotient(ONE, sp->hyp.curvature), norm);
                bad = norm.head == INFINITY;
                w = bad ? pair(NAN, 0) : root(square);
            }
            if (norm.head != norm.head)
                w = pair(NAN, 0);
            sp->k->hyp_set(weights, i, &w);
        }
        if (sp->skip && !bad) {
            sp->k->hyp_get(weights, i, &w);
            given = time_of(sp, rows + i * rows_stride);
            expected = w.head;
            if (given != given || fabs(given - expected) > sp->tolerance * expected) {
                bad = given == given;
                w = pair(NAN, 0);
                sp->k->hyp_set(weights, i, &w);
            }
        }
        if (bad && first < 0) {
            first = i;
            if (fault) {
                if (norm.head == 0)
                    norm = norm_of(sp, points + i * stride);
                fault->row = i;
                fault->norm = rv_sqrt(norm.head);
                fault->time = given;
                fault->expected = expected;
            }
        }
    }
    return first >= 0;
}

/* Panel, norms and weights of up to a block of points; returns as weigh does. */
static int weigh_panel(const space *sp, const char *rows, int64_t rows_stride, const char *points, int64_t stride, int count,
                       double *panel, char *norms, char *weights, rv_fault *fault)
{
    sp->k->hyp_panel(points, stride, count, sp->dim, panel);
    sp->k->hyp_norms(panel, count, sp->dim, norms);
    return weigh(sp, rows, rows_stride, points, stride, count, norms, weights, fault);
}

/* ---- pairs that need care ----------------------------------------------------------------------------------- */

/* The distance from t in the range of the kernel. */
static double settle(const space *sp, rv_pair t)
{
    RV_ALIGN(64) double sums[RV_HYP_WIDE], weights[RV_HYP_WIDE], out[BLOCK];
    rv_hyp flat = sp->hyp;
    uint64_t care;
    flat.geometry = RV_POINCARE;
    flat.curvature = ONE;
    memset(sums, 0, sizeof sums);
    memset(weights, 0, sizeof weights);
    sp->k->hyp_set(sums, 0, &t);
    sp->k->hyp_set(weights, 0, &ONE);
    sp->k->hyp_finish(&flat, 1, &ONE, NULL, sums, weights, 1, out, 0, &care);
    return element(sp, (const char *)out, 0);
}

/* |x - y|_L^2 scale^2 on the hyperboloid, x0 and y0 given: |s|^2 - (s.p)^2 / (x0 + y0)^2 with s = x - y, p = x + y, which loses
 * what is not along p where the points are far out. There s is split, s = a p + r, and |r|^2 + a^2 |p|^2 (1 - |p|^2 / (x0 + y0)^2)
 * is solved for itself, since (x0 + y0)^2 - |p|^2 = 4/c + |x - y|_L^2: no term is negative. */
static rv_pair lorentz_square(const space *sp, const char *x, const char *y, rv_pair x0, rv_pair y0, double scale)
{
    rv_pair ss = {0, 0}, ps = {0, 0}, pp = {0, 0};
    for (int64_t d = 0; d < sp->dim; d++) {
        double a = element(sp, x, d), b = element(sp, y, d);
        rv_pair s = scaled(sum(a, -b), scale), p = sum(a, b);
        ss = add(ss, mul(s, s));
        ps = add(ps, mul(s, p));
        pp = add(pp, mul(p, p));
    }
    rv_pair step = quotient(ps, add(x0, y0)), square = mul(step, step), direct = add(ss, minus(square));
    if (direct.head >= ss.head * 0x1p-20)
        return direct;
    rv_pair along = quotient(ps, pp), across = {0, 0};
    for (int64_t d = 0; d < sp->dim; d++) {
        double a = element(sp, x, d), b = element(sp, y, d);
        rv_pair r = add(scaled(sum(a, -b), scale), minus(mul(along, sum(a, b))));
        across = add(across, mul(r, r));
    }
    rv_pair share = quotient(square, pp);
    return quotient(add(across, scaled(quotient(share, sp->hyp.curvature), 4)),
                    add(ONE, minus(scaled(scaled(share, 1 / scale), 1 / scale))));
}

/* The distance of two points whose weights are known, where the kernel's is not good enough. */
static double careful(const space *sp, const char *x, const char *y, rv_pair wx, rv_pair wy)
{
    double most = 0, scale = 1;
    for (int64_t d = 0; d < sp->dim; d++) {
        double s = fabs(element(sp, x, d) - element(sp, y, d));
        most = s > most ? s : most;
    }
    if (most == 0)
        return 0;
    if (!(most < INFINITY) || wx.head != wx.head || wy.head != wy.head)
        return NAN;
    while (most * scale < 0x1p-200)
        scale *= 0x1p200;
    rv_pair t = {0, 0};         /* times scale^2 */
    if (sp->hyp.geometry == RV_POINCARE) {
        for (int64_t d = 0; d < sp->dim; d++) {
            rv_pair s = scaled(sum(element(sp, x, d), -element(sp, y, d)), scale);
            t = add(t, mul(s, s));
        }
        t = mul(t, mul(wx, wy));
    } else {
        t = mul(scaled(lorentz_square(sp, x, y, wx, wy, scale), 0.25), sp->hyp.curvature);
    }
    if (!(t.head > 0))
        return 0;
    if (t.head / scale / scale < 0x1p-90)
        return 2 * mul(root(t), sp->hyp.radius).head / scale;
    if (t.head > 0x1p59)
        return (rv_log(t.head) + 2 * RV_LN2_HI + 2 * RV_LN2_LO) * sp->hyp.radius.head;
    return settle(sp, scaled(scaled(t, 1 / scale), 1 / scale));
}

/* ---- distances ---------------------------------------------------------------------------------------------- */

typedef struct side {
    const char *rows;
    int64_t stride, count;
} side;

typedef struct run {
    const rv_hyp_args *args;
    space sp;
    side a, b;
    int64_t row_step, col_step;     /* bytes between results of neighbouring rows of a, of b */
    rv_pair *weights, *norms;       /* of the rows of a, but for pairs */
    int64_t piece, chunk;           /* blocks of a task of rows; rows of one of panels */
    int panels;
    char *scratch;
    size_t scratch_bytes;
    atomic_int fault;
} run;

static int64_t blocks(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

static room room_at(const run *r, int worker)
{
    return room_of(&r->sp, r->sp.dim, r->panels, r->scratch + (size_t)worker * r->scratch_bytes);
}

/* Distances of `rows` points x to a block, once sums and weights are there, to rows of reals; with `own`, of x_i to the i-th point
 * of the block, weights of x being there. */
static void finish(const space *sp, const char *x, int64_t x_stride, int rows, const rv_pair *wx, const char *own,
                   const char *points, int64_t stride, int count, const char *sums, const char *weights, char *out,
                   int64_t out_stride)
{
    uint64_t care[ROWS];
    sp->k->hyp_finish(&sp->hyp, rows, wx, own, sums, weights, count, out, out_stride, care);
    for (int r = 0; r < rows; r++)
        for (int i = 0; care[r]; i++, care[r] >>= 1)
            if (care[r] & 1) {
                rv_pair w, y;
                sp->k->hyp_get(weights, i, &y);
                if (own)
                    sp->k->hyp_get(own, i, &w);
                else
                    w = wx[r];
                double d = careful(sp, x + (own ? i : r) * x_stride, points + i * stride, w, y);
                char *to = out + r * out_stride;
                if (sp->compute == RV_F64)
                    ((double *)to)[i] = d;
                else
                    ((float *)to)[i] = (float)d;
            }
}

/* The same for results as the call stores them, `step` bytes apart in a row: where they belong, or by way of `room`. */
static void results(const space *sp, const char *x, int64_t x_stride, int rows, const rv_pair *wx, const char *own,
                    const char *points, int64_t stride, int count, const char *sums, const char *weights, char *to,
                    int64_t row_step, int64_t step, char *room)
{
    int half = is_half(sp->dtype), direct = step == sp->item && !half;
    finish(sp, x, x_stride, rows, wx, own, points, stride, count, sums, weights, direct ? to : room,
           direct ? row_step : BLOCK * sp->real);
    for (int r = 0; r < rows && !direct; r++) {
        const char *from = room + r * BLOCK * sp->real;
        char *row = to + r * row_step;
        if (half && step == sp->item)
            sp->k->narrow(sp->dtype, from, row, count);
        else
            for (int i = 0; i < count; i++)
                if (half)
                    sp->k->narrow(sp->dtype, from + i * sp->real, row + i * step, 1);
                else
                    memcpy(row + i * step, from + i * sp->real, (size_t)sp->item);
    }
}

/* Weights of a block of rows of a. */
static void weigh_task(void *context, int worker, int64_t task)
{
    run *r = context;
    room m = room_at(r, worker);
    int64_t first = task * BLOCK, stride = r->a.stride;
    int count = (int)min64(BLOCK, r->a.count - first);
    const char *rows = r->a.rows + first * stride, *points = reals(&r->sp, rows, &stride, count, m.a);
    if (weigh_panel(&r->sp, rows, r->a.stride, points, stride, count, m.panel, m.norms, m.weights, NULL))
        atomic_store(&r->fault, 1);
    for (int i = 0; i < count; i++) {
        r->sp.k->hyp_get(m.weights, i, r->weights + first + i);
        r->sp.k->hyp_get(m.norms, i, r->norms + first + i);
    }
}

/* A few rows of a against blocks of b where they lie. */
static void rows_task(void *context, int worker, int64_t task)
{
    run *r = context;
    const space *sp = &r->sp;
    room m = room_at(r, worker);
    int64_t last = min64((task + 1) * r->piece, blocks(r->b.count)), x_stride = r->a.stride;
    int few = (int)r->a.count;
    const char *x = reals(sp, r->a.rows, &x_stride, few, m.a);
    sp->k->hyp_pad(x, x_stride, few, sp->dim, sp->pad, m.x);
    for (int64_t block = task * r->piece; block < last; block++) {
        int64_t first = block * BLOCK, stride = r->b.stride;
        int count = (int)min64(BLOCK, r->b.count - first);
        const char *rows = r->b.rows + first * stride, *points = reals(sp, rows, &stride, count, m.b);
        for (int i = 0; i < few; i++) {
            sp->k->hyp_rows(m.x + i * sp->pad, 0, points, stride, count, sp->dim, m.sums, m.norms);
            if (i == 0 && weigh(sp, rows, r->b.stride, points, stride, count, m.norms, m.weights, NULL))
                atomic_store(&r->fault, 1);
            results(sp, x + i * x_stride, 0, 1, r->weights + i, NULL, points, stride, count, m.sums, m.weights,
                    (char *)r->args->out + i * r->row_step + first * r->col_step, 0, r->col_step, m.out);
        }
    }
}

/* Blocks of rows of a against the same rows of b. */
static void pairs_task(void *context, int worker, int64_t task)
{
    run *r = context;
    const space *sp = &r->sp;
    room m = room_at(r, worker);
    char *own = m.sums + RV_HYP_WIDE * sp->real;
    int64_t last = min64((task + 1) * r->piece, blocks(r->b.count));
    for (int64_t block = task * r->piece; block < last; block++) {
        int64_t first = block * BLOCK, x_stride = r->a.stride, stride = r->b.stride;
        int count = (int)min64(BLOCK, r->b.count - first);
        const char *x_rows = r->a.rows + first * x_stride, *rows = r->b.rows + first * stride;
        const char *x = reals(sp, x_rows, &x_stride, count, m.a), *points = reals(sp, rows, &stride, count, m.b);
        sp->k->hyp_pad(x, x_stride, count, sp->dim, sp->pad, m.x);
        sp->k->hyp_rows(m.x, sp->pad, points, stride, count, sp->dim, m.sums, m.norms);
        /* weights of both sides in the same way, so that either order gives the same bits */
        if (weigh_panel(sp, rows, r->b.stride, points, stride, count, m.panel, m.norms, m.weights, NULL)
            | weigh_panel(sp, x_rows, r->a.stride, x, x_stride, count, m.panel, m.norms, own, NULL))
            atomic_store(&r->fault, 1);
        results(sp, x, x_stride, 1, NULL, own, points, stride, count, m.sums, m.weights,
                (char *)r->args->out + first * r->col_step, 0, r->col_step, m.out);
    }
}

/* A chunk of rows of a against up to PANELS blocks of b, transposed. */
static void panel_task(void *context, int worker, int64_t task)
{
    run *r = context;
    const space *sp = &r->sp;
    room m = room_at(r, worker);
    const int64_t wide = RV_HYP_WIDE * sp->real, chunks = (r->a.count + r->chunk - 1) / r->chunk;
    const int64_t begin = task / chunks * PANELS * BLOCK, end = min64(begin + PANELS * BLOCK, r->b.count);
    const char *points[PANELS];
    int64_t stride[PANELS];
    int panels = (int)blocks(end - begin);
    for (int p = 0; p < panels; p++) {
        const char *rows = r->b.rows + (begin + p * BLOCK) * r->b.stride;
        int count = (int)min64(BLOCK, end - begin - p * BLOCK);
        stride[p] = r->b.stride;
        points[p] = reals(sp, rows, stride + p, count, m.b + p * BLOCK * sp->dim * sp->real);
        if (weigh_panel(sp, rows, r->b.stride, points[p], stride[p], count, m.panel + p * BLOCK * sp->dim, m.norms + p * wide,
                        m.weights + p * wide, NULL))
            atomic_store(&r->fault, 1);
    }
    int64_t row = task % chunks * r->chunk, last = min64(row + r->chunk, r->a.count);
    for (; row < last; row += ROWS) {
        int64_t x_stride = r->a.stride;
        int n = (int)min64(ROWS, last - row);
        const char *x = reals(sp, r->a.rows + row * x_stride, &x_stride, n, m.a);
        const rv_pair *norms = sp->hyp.geometry == RV_POINCARE ? r->norms + row : NULL;
        sp->k->hyp_pad(x, x_stride, n, sp->dim, sp->pad, m.x);
        for (int p = 0; p < panels; p++) {
            int count = (int)min64(BLOCK, end - begin - p * BLOCK);
            sp->k->hyp_sums(m.x, sp->pad, n, norms, m.panel + p * BLOCK * sp->dim, m.norms + p * wide, count, sp->dim, m.sums);
            results(sp, x, x_stride, n, r->weights + row, NULL, points[p], stride[p], count, m.sums, m.weights + p * wide,
                    (char *)r->args->out + row * r->row_step + (begin + p * BLOCK) * r->col_step, r->row_step, r->col_step,
                    m.out);
        }
    }
}

/* The first row that is no point, in the order of the arguments. */
static void find_fault(const run *r, rv_fault *fault)
{
    const rv_hyp_args *args = r->args;
    room m = room_at(r, 0);
    for (int array = 0; array < 2; array++) {
        const char *rows = array ? args->b : args->a;
        int64_t rows_stride = array ? args->b_stride : args->a_stride, total = array ? args->b_count : args->a_count;
        for (int64_t first = 0; first < total; first += BLOCK) {
            int64_t stride = rows_stride;
            int count = (int)min64(BLOCK, total - first);
            const char *at = rows + first * rows_stride, *points = reals(&r->sp, at, &stride, count, m.a);
            if (weigh_panel(&r->sp, at, rows_stride, points, stride, count, m.panel, m.norms, m.weights, fault)) {
                fault->array = array;
                fault->row += first;
                return;
            }
        }
    }
}

static rv_status check(const rv_hyp_args *a)
{
    int64_t product;
    if (a->dtype < RV_F32 || a->dtype > RV_BF16 || (a->geometry != RV_POINCARE && a->geometry != RV_LORENTZ) || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->curvature == 0 || !isfinite(a->curvature) || !a->fault || (a->time && a->geometry != RV_LORENTZ))
        return RV_ERR_PARAM;
    int64_t item = (int64_t)rv_dtype_size(a->dtype);
    if (!multiple(a->a_stride | a->b_stride | a->out_stride, item))
        return RV_ERR_PARAM;
    if (a->a_count < 0 || a->b_count < 0 || a->dim < 1 + (a->time != 0) || a->dim > INT32_MAX / 64
        || (a->pairs && a->a_count != a->b_count))
        return RV_ERR_SHAPE;
    if (rv_mul(a->a_count, a->pairs ? 1 : a->b_count, &product) || rv_mul(product, a->dim, &product))
        return RV_ERR_SHAPE;
    return RV_OK;
}

rv_status rv_hyp_run(const rv_hyp_args *args)
{
    run r;
    rv_status status = check(args);
    if (status != RV_OK || args->a_count == 0 || args->b_count == 0)
        return status;
    r.args = args;
    space_of(&r.sp, args->geometry, args->dtype, args->dim, args->time != 0, args->curvature);
    side a = {args->a, args->a_stride, args->a_count}, b = {args->b, args->b_stride, args->b_count};
    /* distances are symmetric: the side of few points comes first */
    int swap = !args->pairs && b.count < FEW && b.count < a.count;
    r.a = swap ? b : a;
    r.b = swap ? a : b;
    r.row_step = swap ? r.sp.item : args->out_stride;
    r.col_step = swap ? args->out_stride : r.sp.item;
    atomic_init(&r.fault, 0);
    int few = args->pairs || r.a.count < FEW;
    void (*task)(void *, int, int64_t) = args->pairs ? pairs_task : few ? rows_task : panel_task;
    double ns = (double)r.b.count * (args->pairs ? 1 : (double)r.a.count) * (double)(args->dim + 8) * (args->dtype == RV_F64 ? 0.1 : 0.02);
    int threads = args->threads ? args->threads : rv_threads_get();
    if (threads > 1)
        threads = (int)min64(threads, ns < 1e12 ? 1 + (int64_t)(ns / THREAD_NS) : threads);
    /* tasks of a few milliseconds at the most, so that a long call hears an interruption */
    r.piece = min64(blocks(r.b.count) / (8 * (int64_t)threads), ((int64_t)1 << 24) / (BLOCK * r.sp.dim * r.sp.item)) + 1;
    r.chunk = ROWS * (1 + min64(15, ((int64_t)1 << 10) / r.sp.dim));
    r.panels = few ? 1 : PANELS;
    int64_t tasks = few ? (blocks(r.b.count) + r.piece - 1) / r.piece
                        : (blocks(r.b.count) + PANELS - 1) / PANELS * ((r.a.count + r.chunk - 1) / r.chunk);
    threads = (int)min64(threads, tasks);

    r.scratch_bytes = room_of(&r.sp, r.sp.dim, r.panels, NULL).bytes;
    size_t bytes, weights;
    char *memory;
    if (rv_mul_size((size_t)threads, r.scratch_bytes, &bytes) || rv_mul_size((size_t)r.a.count, 2 * sizeof(rv_pair), &weights)
        || rv_add_size(bytes, weights, &bytes) || rv_add_size(bytes, 64, &bytes) || !(memory = malloc(bytes)))
        return RV_ERR_NOMEM;
    r.scratch = memory + (64 - (uintptr_t)memory % 64) % 64;
    r.weights = (rv_pair *)(r.scratch + (size_t)threads * r.scratch_bytes);
    r.norms = r.weights + r.a.count;
    if (!args->pairs)
        status = rv_parallel_for(blocks(r.a.count), r.a.count * r.sp.dim > 1 << 18 ? threads : 1, weigh_task, &r,
                                 args->interrupted, args->context);
    if (status == RV_OK)
        status = rv_parallel_for(tasks, threads, task, &r, args->interrupted, args->context);
    if (status == RV_OK && atomic_load(&r.fault)) {
        find_fault(&r, args->fault);
        status = RV_ERR_POINT;
    }
    free(memory);
    return status;
}

rv_status rv_hyp_gaps(const double *rows, int64_t stride, int64_t count, int64_t dim, double curvature, double *gaps)
{
    space sp;
    if (curvature == 0 || !isfinite(curvature) || !multiple(stride, 8))
        return RV_ERR_PARAM;
    if (count < 0 || dim < 0 || dim > INT32_MAX / 64)
        return RV_ERR_SHAPE;
    space_of(&sp, RV_POINCARE, RV_F64, dim, 0, curvature);
    char *memory = malloc(room_of(&sp, dim, 1, NULL).bytes + 64);
    if (!memory)
        return RV_ERR_NOMEM;
    room m = room_of(&sp, dim, 1, memory + (64 - (uintptr_t)memory % 64) % 64);
    for (int64_t first = 0; first < count; first += BLOCK) {
        int n = (int)min64(BLOCK, count - first);
        const char *points = (const char *)rows + first * stride;
        sp.k->hyp_panel(points, stride, n, dim, m.panel);
        sp.k->hyp_norms(m.panel, n, dim, m.norms);
        uint64_t care = sp.k->hyp_weights(&sp.hyp, m.norms, n, m.weights);
        for (int i = 0; i < n; i++) {
            rv_pair w;
            sp.k->hyp_get(m.weights, i, &w);
            rv_pair norm = care >> i & 1 ? norm_of(&sp, points + i * stride) : ONE;
            gaps[first + i] = !(care >> i & 1)        ? quotient(sp.top, w).head
                              : norm.head == INFINITY ? -INFINITY
                                                      : gap_of(&sp, norm).head;
        }
    }
    free(memory);
    return RV_OK;
}

/* ---- attention ---------------------------------------------------------------------------------------------- */

/* Weights are the softmax of -scale * distance + bias. Values are averaged where the average is linear, on the hyperboloid: a point
 * of the ball has the coordinates (l v, l - 1) there, l = 2 / (1 - c|v|^2), up to a factor, and the normed average is the
 * Moebius gyromidpoint, on the hyperboloid itself the Lorentz centroid. So the double table's tile kernel does the softmax and the
 * sums, its logits coming as a mask, with one column more than the points have. */
typedef struct attn {
    const rv_attn_args *a;
    rv_geometry geometry;
    int time;
    const rv_kernels *wide;         /* of doubles */
    rv_attn_options options;        /* of the wide tiles, to which every window is open */
    int64_t left, right;
    int64_t batch, task_rows, tiles;
    int tile_q, sub_tiles;
    size_t tile_bytes, room_bytes, scratch_bytes;
    char *scratch;
    int64_t last_poll;
    atomic_int stop, fault;
} attn;

/* Room of one thread beside that of distances. */
typedef struct attn_room {
    room m;
    rv_pair *weights, *norms;       /* of the queries */
    double *logits;                 /* [task_rows][BLOCK], or [task_rows][kv_len] */
    double *values;                 /* [BLOCK][columns] */
    double *out;                    /* [task_rows][columns] */
    char *tiles;
    size_t bytes;
} attn_room;

static int64_t columns(const attn *r) { return r->a->v_dim - r->time + 1; }

static attn_room attn_room_of(const attn *r, const space *sp, char *base)
{
    attn_room x;
    char *p[5];
    const rv_attn_args *a = r->a;
    int64_t dim = (a->v_dim > a->dim && !a->weights ? a->v_dim : a->dim), rows = r->task_rows;
    size_t n = a->weights ? 0 : (size_t)columns(r) * sizeof(double), at;
    x.m = room_of(sp, dim, 1, base);
    at = x.m.bytes;
    at = place(base, p, at, (size_t)rows * sizeof(rv_pair));
    at = place(base, p + 1, at, (size_t)rows * sizeof(rv_pair));
    at = place(base, p + 2, at, (size_t)rows * (size_t)(a->weights ? a->kv_len : BLOCK) * sizeof(double));
    at = place(base, p + 3, at, BLOCK * n);
    at = place(base, p + 4, at, (size_t)rows * n);
    at = place(base, &x.tiles, at, (size_t)r->sub_tiles * r->tile_bytes);
    x.weights = (rv_pair *)p[0];
    x.norms = (rv_pair *)p[1];
    x.logits = (double *)p[2];
    x.values = (double *)p[3];
    x.out = (double *)p[4];
    x.bytes = at;
    return x;
}

static double curvature_of(const rv_attn_args *a, int64_t batch, int64_t head)
{
    return a->numbers[rv_batch_offset(a, a->numbers_batch_stride, batch) + head * a->numbers_head_stride];
}

/* The space of queries and keys, or of values. */
static void head_space(const attn *r, space *sp, int64_t dim, int64_t batch, int64_t head)
{
    space_of(sp, r->geometry, r->a->dtype, dim, r->time, curvature_of(r->a, batch, head));
}

static const char *mask_row(const rv_attn_args *a, int64_t batch, int64_t head, int64_t row)
{
    return a->mask_kind ? rv_batch_row(a, &a->mask, a->heads, batch, head, row) : NULL;
}

/* What the mask adds to the logit of one key: 0 or -infinity for a boolean one. */
static double mask_bias(const rv_attn_args *a, const char *mask, int64_t key)
{
    const char *p = mask + key * a->mask_col_stride;
    if (a->mask_kind == RV_MASK_BOOL)
        return *p ? 0 : -INFINITY;
    return a->dtype == RV_F64 ? *(const double *)p : (double)*(const float *)p;
}

/* Whether some query sees key j. */
static int seen(const attn *r, int64_t batch, int64_t head, int64_t j)
{
    const rv_attn_args *a = r->a;
    for (int64_t i = 0; i < a->q_len; i++) {
        int64_t position = i + a->offset;
        if (j >= position - r->left && j <= position + r->right
            && (!a->mask_kind || mask_bias(a, mask_row(a, batch, head, i), j) != -INFINITY))
            return 1;
    }
    return 0;
}

/* The first row of an input of one head that is no point and that matters; returns nonzero when there is one. */
static int check_rows(const attn *r, const attn_room *x, int array, int64_t batch, int64_t head, rv_fault *fault)
{
    const rv_attn_args *a = r->a;
    const rv_array *arrays[] = {&a->query, &a->key, &a->value};
    const int64_t own[] = {a->heads, a->key_heads, a->value_heads};
    int64_t total = array ? a->kv_len : a->q_len, rows_stride = arrays[array]->row_stride;
    space sp;
    head_space(r, &sp, array == 2 ? a->v_dim : a->dim, batch, head);
    for (int64_t first = 0; first < total; first += BLOCK) {
        int count = (int)min64(BLOCK, total - first);
        int64_t stride = rows_stride;
        const char *rows = rv_batch_row(a, arrays[array], own[array], batch, head, first);
        const char *points = reals(&sp, rows, &stride, count, x->m.b);
        if (!weigh_panel(&sp, rows, rows_stride, points, stride, count, x->m.panel, x->m.norms, x->m.weights, NULL))
            continue;
        for (int i = 0; i < count; i++)
            if (weigh_panel(&sp, rows + i * rows_stride, rows_stride, points + i * stride, stride, 1, x->m.panel, x->m.norms,
                            x->m.weights, fault)
                && (array == 0 || seen(r, batch, head, first + i))) {
                fault->array = array;
                fault->row = (batch * a->heads + head) * total + first + i;
                return 1;
            }
    }
    return 0;
}

static int check_head(const attn *r, int worker, int64_t unit, rv_fault *fault)
{
    const rv_attn_args *a = r->a;
    space sp;
    head_space(r, &sp, a->dim, unit / a->heads, unit % a->heads);
    attn_room x = attn_room_of(r, &sp, r->scratch + (size_t)worker * r->scratch_bytes);
    for (int array = 0; array < (a->weights ? 2 : 3); array++)
        if (check_rows(r, &x, array, unit / a->heads, unit % a->heads, fault))
            return 1;
    return 0;
}

static void check_task(void *context, int worker, int64_t task)
{
    attn *r = context;
    rv_fault fault;
    if (!atomic_load(&r->fault) && check_head(r, worker, task, &fault))
        atomic_store(&r->fault, 1);
}

/* As in attention.c: another thread's interrupt or, now and then, the caller's. */
static int stopping(attn *r, int worker)
{
    if (atomic_load_explicit(&r->stop, memory_order_relaxed))
        return 1;
    if (worker == 0 && r->a->interrupted && rv_now_ms() - r->last_poll >= RV_POLL_MS) {
        r->last_poll = rv_now_ms();
        if (r->a->interrupted(r->a->context))
            atomic_store(&r->stop, 1);
    }
    return atomic_load(&r->stop);
}

/* Distances of one row to keys [j0, j0 + n) as logits, -infinity where they are hidden. */
static void logits_of(const attn *r, int64_t batch, int64_t head, int64_t row, int64_t j0, int n, const char *distances,
                      double *to)
{
    const rv_attn_args *a = r->a;
    const double scale = -a->scale;
    int64_t position = row + a->offset, from = position - r->left - j0, end = position + r->right + 1 - j0;
    if (a->dtype == RV_F64)
        for (int j = 0; j < n; j++)
            to[j] = scale * ((const double *)distances)[j];
    else
        for (int j = 0; j < n; j++)
            to[j] = scale * (double)((const float *)distances)[j];
    if (a->mask_kind) {
        const char *mask = mask_row(a, batch, head, row);
        for (int j = 0; j < n; j++) {
            double bias = mask_bias(a, mask, j0 + j);
            /* not a sum: a hidden distance may be NaN */
            to[j] = bias == -INFINITY ? bias : to[j] + bias;
        }
    }
    for (int j = 0; j < n && j < from; j++)
        to[j] = -INFINITY;
    for (int j = end < 0 ? 0 : (int)min64(end, n); j < n; j++)
        to[j] = -INFINITY;
    if (r->options.dropout_below) {
        /* the average is a ratio, in which the factor of the kept weights cancels: a dropped key is a hidden one */
        uint64_t key = rv_draw_row(r->options.dropout_seed, (batch * a->heads + head) * a->q_len + row);
        for (int j = 0; j < n; j++)
            if (rv_draw(key, j0 + j) < r->options.dropout_below)
                to[j] = -INFINITY;
    }
}

/* Logits of `rows` queries against keys [j0, j0 + n), rows `step` doubles apart. */
static void block_logits(const attn *r, const space *sp, const attn_room *x, int64_t batch, int64_t head, int64_t row, int rows,
                         const char *queries, int64_t q_stride, int64_t j0, int n, double *logits, int64_t step)
{
    const rv_attn_args *a = r->a;
    int64_t stride = a->key.row_stride, line = BLOCK * sp->real;
    const char *keys = rv_batch_row(a, &a->key, a->key_heads, batch, head, j0), *points = reals(sp, keys, &stride, n, x->m.b);
    const rv_pair *norms = r->geometry == RV_POINCARE ? x->norms : NULL;
    weigh_panel(sp, keys, a->key.row_stride, points, stride, n, x->m.panel, x->m.norms, x->m.weights, NULL);
    for (int i = 0; i < rows; i += ROWS) {
        int count = (int)min64(ROWS, rows - i);
        if (rows < FEW)
            for (int q = 0; q < rows; q++)
                sp->k->hyp_rows(x->m.x + q * sp->pad, 0, points, stride, n, sp->dim, x->m.sums + q * RV_HYP_WIDE * sp->real,
                                x->m.norms);
        else
            sp->k->hyp_sums(x->m.x + i * sp->pad, sp->pad, count, norms ? norms + i : NULL, x->m.panel, x->m.norms, n, sp->dim,
                            x->m.sums);
        finish(sp, queries + i * q_stride, q_stride, count, x->weights + i, NULL, points, stride, n, x->m.sums, x->m.weights,
               x->m.out, line);
        for (int q = 0; q < count; q++)
            logits_of(r, batch, head, row + i + q, j0, n, x->m.out + q * line, logits + (i + q) * step);
    }
}

/* Values of keys [j0, j0 + n) on the hyperboloid, the time last, up to a factor. */
static void block_values(const attn *r, const space *sp, const attn_room *x, int64_t batch, int64_t head, int64_t j0, int n)
{
    const rv_attn_args *a = r->a;
    int64_t stride = a->value.row_stride;
    const char *rows = rv_batch_row(a, &a->value, a->value_heads, batch, head, j0), *points = reals(sp, rows, &stride, n, x->m.b);
    double *to = x->values;
    weigh_panel(sp, rows, a->value.row_stride, points, stride, n, x->m.panel, x->m.norms, x->m.weights, NULL);
    for (int j = 0; j < n; j++, to += sp->dim + 1) {
        rv_pair w;
        sp->k->hyp_get(x->m.weights, j, &w);
        double factor = r->geometry == RV_POINCARE ? 2 * w.head * sp->hyp.radius.head : 1;
        for (int64_t d = 0; d < sp->dim; d++)
            to[d] = factor * element(sp, points + j * stride, d);
        to[sp->dim] = r->geometry == RV_POINCARE ? factor - 1 : w.head;
    }
}

/* The point whose coordinates on the hyperboloid are these up to a factor, stored. Rounding may put a point on the sphere: it is
 * moved back by as little. */
static void store_point(const attn *r, const space *sp, double *x, char *to, char *room)
{
    const double c = sp->hyp.curvature.head, top = sp->top.head, p = x[sp->dim];
    const double unit = sp->dtype == RV_F64 ? 0x1p-53 : sp->dtype == RV_F32 ? 0x1p-24 : sp->dtype == RV_F16 ? 0x1p-11 : 0x1p-8;
    double norm = 0;
    for (int64_t d = 0; d < sp->dim; d++)
        norm += x[d] * x[d];
    norm = rv_sqrt(norm);
    if (r->geometry == RV_POINCARE) {
        /* of an average with positive weights this is at least 1 */
        double square = (p - top * norm) * (p + top * norm), factor = 1 / (p + rv_sqrt(square < 1 ? 1 : square));
        for (int64_t d = 0; d < sp->dim; d++)
            x[d] *= factor;
    } else {
        double square = c * (p - norm) * (p + norm), factor = 1 / rv_sqrt(square < 1 ? 1 : square);
        norm = 0;
        for (int64_t d = 0; d < sp->dim; d++) {
            x[d] *= factor;
            norm += x[d] * x[d];
        }
        x[sp->dim] = rv_sqrt(1 / c + norm);
    }
    for (double shrink = 1;; shrink -= 2 * unit) {
        char *row = is_half(sp->dtype) ? room : to + sp->skip;
        double inside = 0;
        for (int64_t d = 0; d < sp->dim; d++) {
            double y = x[d] * shrink;
            if (sp->compute == RV_F64)
                ((double *)row)[d] = y;
            else
                ((float *)row)[d] = (float)y;
        }
        if (is_half(sp->dtype)) {
            sp->k->narrow(sp->dtype, room, to + sp->skip, sp->dim);
            sp->k->widen(sp->dtype, to + sp->skip, room, sp->dim);
        }
        for (int64_t d = 0; d < sp->dim; d++)
            inside += element(sp, row, d) * element(sp, row, d);
        if (r->geometry == RV_LORENTZ || !(c * inside >= 1 - 0x1p-50))
            break;
    }
    if (sp->skip) {
        if (sp->dtype == RV_F64) {
            *(double *)to = x[sp->dim];
        } else {
            float time = (float)x[sp->dim];
            if (sp->dtype == RV_F32)
                *(float *)to = time;
            else
                sp->k->narrow(sp->dtype, &time, to, 1);
        }
    }
}

static void attn_task(void *context, int worker, int64_t task)
{
    attn *r = context;
    const rv_attn_args *a = r->a;
    if (stopping(r, worker))
        return;
    /* late tiles first: under a causal mask they are the heaviest */
    int64_t tile = r->tiles - 1 - task % r->tiles, head = task / r->tiles % a->heads, batch = task / r->tiles / a->heads;
    int64_t row = tile * r->task_rows, q_stride = a->query.row_stride;
    int rows = (int)min64(r->task_rows, a->q_len - row);
    space sp, value_space;
    head_space(r, &sp, a->dim, batch, head);
    attn_room x = attn_room_of(r, &sp, r->scratch + (size_t)worker * r->scratch_bytes);
    const char *given = rv_batch_row(a, &a->query, a->heads, batch, head, row);
    const char *queries = reals(&sp, given, &q_stride, rows, x.m.a);
    weigh_panel(&sp, given, a->query.row_stride, queries, q_stride, rows, x.m.panel, x.m.norms, x.m.weights, NULL);
    for (int i = 0; i < rows; i++) {
        sp.k->hyp_get(x.m.weights, i, x.weights + i);
        sp.k->hyp_get(x.m.norms, i, x.norms + i);
    }
    sp.k->hyp_pad(queries, q_stride, rows, sp.dim, sp.pad, x.m.x);

    if (a->weights) {
        for (int64_t j0 = 0; j0 < a->kv_len; j0 += BLOCK) {
            if (stopping(r, worker))
                return;
            block_logits(r, &sp, &x, batch, head, row, rows, queries, q_stride, j0, (int)min64(BLOCK, a->kv_len - j0),
                         x.logits + j0, a->kv_len);
        }
        for (int i = 0; i < rows; i++) {
            double *p = x.logits + i * a->kv_len;
            char *to = rv_batch_row(a, &a->out, a->heads, batch, head, row + i);
            int64_t j = 0;
            while (j < a->kv_len && p[j] == -INFINITY)
                j++;
            if (j < a->kv_len)
                r->wide->softmax_rows(p, 0, p, 0, 1, a->kv_len, 0);
            else
                memset(p, 0, (size_t)a->kv_len * sizeof(double));
            if (a->dtype == RV_F64) {
                memcpy(to, p, (size_t)a->kv_len * sizeof(double));
                continue;
            }
            for (j = 0; j < a->kv_len; j += BLOCK) {
                float some[BLOCK];
                int n = (int)min64(BLOCK, a->kv_len - j);
                for (int k = 0; k < n; k++)
                    some[k] = (float)p[j + k];
                if (a->dtype == RV_F32)
                    memcpy(to + 4 * j, some, (size_t)n * 4);
                else
                    sp.k->narrow(a->dtype, some, to + 2 * j, n);
            }
        }
        return;
    }

    static const double zero = 0;
    int64_t width = columns(r);
    rv_tile tiles[BLOCK];
    int count = (rows + r->tile_q - 1) / r->tile_q;
    head_space(r, &value_space, a->v_dim, batch, head);
    for (int i = 0; i < count; i++) {
        rv_tile *t = tiles + i;
        memset(t, 0, sizeof *t);
        t->options = &r->options;
        t->query = t->key = (const char *)&zero;
        t->value = (const char *)x.values;
        t->value_stride = width;
        t->mask = (const char *)(x.logits + i * r->tile_q * BLOCK);
        t->rows = (int)min64(r->tile_q, rows - i * r->tile_q);
        t->out = (char *)(x.out + i * r->tile_q * width);
        t->out_stride = width;
        t->draw_step = 1;
        t->scratch = x.tiles + (size_t)i * r->tile_bytes;
        r->wide->tile_begin(t);
    }
    int64_t position = row + a->offset, first = position - r->left, last = position + rows + r->right;
    first = first < 0 ? 0 : min64(first, a->kv_len);
    last = last < first ? first : min64(last, a->kv_len);
    for (int64_t j0 = first; j0 < last; j0 += BLOCK) {
        int n = (int)min64(BLOCK, last - j0);
        if (stopping(r, worker))
            return;
        block_logits(r, &sp, &x, batch, head, row, rows, queries, q_stride, j0, n, x.logits, BLOCK);
        block_values(r, &value_space, &x, batch, head, j0, n);
        for (int i = 0; i < count; i++)
            r->wide->tile_keys(tiles + i, 0, n);
    }
    for (int i = 0; i < count; i++)
        r->wide->tile_finish(tiles + i);
    for (int i = 0; i < rows; i++)
        store_point(r, &value_space, x.out + i * width, rv_batch_row(a, &a->out, a->heads, batch, head, row + i), x.m.b);
}

static rv_status check_attn(const rv_attn_args *a, int time, int64_t *batch)
{
    int64_t item = (int64_t)rv_dtype_size(a->dtype), size;
    if (a->dtype < RV_F32 || a->dtype > RV_BF16 || a->batch_axes < 0 || a->batch_axes > RV_MAX_BATCH_AXES || !a->numbers || !a->fault)
        return RV_ERR_PARAM;
    /* what other engines do with these has no meaning here */
    if (a->softcap != 0 || a->slopes || a->sequences || a->lse || a->storage)
        return RV_ERR_PARAM;
    if (!isfinite(a->scale) || !(a->dropout >= 0 && a->dropout < 1) || a->left < 0 || a->right < 0 || a->threads < 0)
        return RV_ERR_PARAM;
    if (a->offset > RV_FAR / 4 || a->offset < -RV_FAR / 4 || a->mask_kind < RV_MASK_NONE || a->mask_kind > RV_MASK_FLOAT)
        return RV_ERR_PARAM;
    if (a->q_len < 0 || a->kv_len < 0 || a->heads < 0 || a->key_heads < 1 || a->value_heads < 1 || a->heads % a->key_heads
        || a->heads % a->value_heads || a->dim < 1 + time || a->q_len > RV_FAR / 4 || a->kv_len > RV_FAR / 4)
        return RV_ERR_SHAPE;
    if (a->dim > INT32_MAX / 64 || a->v_dim > INT32_MAX / 64 || (!a->weights && a->v_dim < 1 + time))
        return RV_ERR_SHAPE;
    int64_t low = a->query.head_stride | a->query.row_stride | a->key.head_stride | a->key.row_stride | a->out.head_stride
                  | a->out.row_stride | (a->weights ? 0 : a->value.head_stride | a->value.row_stride);
    *batch = 1;
    for (int i = 0; i < a->batch_axes; i++) {
        low |= a->query.batch_stride[i] | a->key.batch_stride[i] | a->out.batch_stride[i];
        low |= a->weights ? 0 : a->value.batch_stride[i];
        if (a->batch_shape[i] < 0 || rv_mul(*batch, a->batch_shape[i], batch))
            return RV_ERR_SHAPE;
    }
    if (!multiple(low, item))
        return RV_ERR_PARAM;
    if (rv_mul(*batch, a->heads, &size) || rv_mul(size, a->q_len > a->kv_len ? a->q_len : a->kv_len, &size))
        return RV_ERR_SHAPE;
    for (int64_t b = 0; b < *batch; b++)
        for (int64_t h = 0; h < a->heads; h++)
            if (curvature_of(a, b, h) == 0 || !isfinite(curvature_of(a, b, h)))
                return RV_ERR_PARAM;
    return RV_OK;
}

static rv_status run_attn(rv_geometry geometry, int time, const rv_attn_args *a)
{
    attn r;
    space sp;
    rv_status status = check_attn(a, time, &r.batch);
    if (status != RV_OK || r.batch == 0 || a->heads == 0 || a->q_len == 0 || (a->weights && a->kv_len == 0))
        return status;
    r.a = a;
    r.geometry = geometry;
    r.time = time;
    r.wide = rv_kernels_get(RV_F64);
    r.left = min64(a->left, RV_FAR);
    r.right = min64(a->right, RV_FAR);
    rv_attn_options *o = &r.options;
    memset(o, 0, sizeof *o);
    o->storage = RV_F64;
    o->dim = 1;
    o->v_dim = a->weights ? 1 : columns(&r);
    o->block_keys = BLOCK;
    o->left = o->right = RV_FAR;
    o->mask_kind = RV_MASK_FLOAT;
    o->mask_row_bytes = BLOCK * sizeof(double);
    o->mask_col_bytes = sizeof(double);
    o->dropout_seed = a->dropout_seed;
    o->dropout_below = a->weights ? 0 : (uint64_t)(a->dropout * 4294967296.0);
    r.tile_q = (int)min64(r.wide->tile_rows(), BLOCK);
    /* tiles of a task share its blocks of keys and values */
    r.sub_tiles = a->weights ? 0 : r.tile_q < 48 ? 48 / r.tile_q : 1;
    r.task_rows = a->weights ? ROWS : r.sub_tiles * r.tile_q;
    r.tiles = (a->q_len + r.task_rows - 1) / r.task_rows;
    r.tile_bytes = a->weights ? 0 : r.wide->tile_scratch(o);
    int64_t units = r.batch * a->heads, tasks = units * r.tiles;
    double ns = (double)units * (double)a->q_len * (double)a->kv_len * (double)(a->dim + a->v_dim + 20) * 0.05;
    int threads = a->threads ? a->threads : rv_threads_get();
    if (threads > 1)
        threads = (int)min64(threads, ns < 1e12 ? 1 + (int64_t)(ns / THREAD_NS) : threads);
    threads = (int)min64(threads, tasks);
    head_space(&r, &sp, a->dim, 0, 0);
    r.scratch_bytes = attn_room_of(&r, &sp, NULL).bytes;
    size_t bytes;
    char *memory;
    if (rv_mul_size((size_t)threads, r.scratch_bytes, &bytes) || rv_add_size(bytes, 64, &bytes) || !(memory = malloc(bytes)))
        return RV_ERR_NOMEM;
    r.scratch = memory + (64 - (uintptr_t)memory % 64) % 64;
    r.last_poll = rv_now_ms();
    atomic_init(&r.stop, 0);
    atomic_init(&r.fault, 0);
    status = rv_parallel_for(units, threads, check_task, &r, a->interrupted, a->context);
    if (status == RV_OK && atomic_load(&r.fault)) {
        int64_t unit = 0;
        while (!check_head(&r, 0, unit, a->fault))
            unit++;
        status = RV_ERR_POINT;
    }
    if (status == RV_OK) {
        status = rv_parallel_for(tasks, threads, attn_task, &r, a->interrupted, a->context);
        if (atomic_load(&r.stop))
            status = RV_ERR_INTERRUPTED;
    }
    free(memory);
    return status;
}

/* The engines of the catalogue. */
rv_status rv_poincare_run(const rv_attn_args *args) { return run_attn(RV_POINCARE, 0, args); }

/* The second parameter of the type: points have no time component. */
rv_status rv_lorentz_run(const rv_attn_args *args)
{
    return args->params ? run_attn(RV_LORENTZ, args->params[1] == 0, args) : RV_ERR_PARAM;
}
