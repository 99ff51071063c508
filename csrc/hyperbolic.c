/* Distances in the Poincare ball and on the hyperboloid. The kernels work on blocks of RV_HYP_BLOCK
 * points and name what they cannot settle: points next to the sphere, pairs whose differences cancel. Those few are computed
 * again here, in pairs of doubles. */
#include "hyp_points.h"
#include "sizes.h"
#include "target.h"
#include "thread.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- spaces and points -------------------------------------------------------------------------------------- */

void rv_hyp_space_of(rv_hyp_space *sp, rv_geometry geometry, rv_dtype dtype, int64_t dim, int time, double curvature)
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

rv_hyp_room rv_hyp_room_of(const rv_hyp_space *sp, int64_t dim, int panels, char *base)
{
    rv_hyp_room r;
    size_t n = (size_t)dim, real = (size_t)sp->real, half = is_half(sp->dtype) ? 1 : 0, at = 0, many = (size_t)panels;
    char *x, *panel;
    at = rv_hyp_place(base, &r.a, at, half * BLOCK * n * real);
    at = rv_hyp_place(base, &r.b, at, many * half * BLOCK * n * real);
    at = rv_hyp_place(base, &x, at, BLOCK * (n + RV_HYP_PAD) * sizeof(double));
    at = rv_hyp_place(base, &panel, at, many * BLOCK * n * sizeof(double));
    at = rv_hyp_place(base, &r.norms, at, many * RV_HYP_WIDE * real);
    at = rv_hyp_place(base, &r.weights, at, many * RV_HYP_WIDE * real);
    at = rv_hyp_place(base, &r.sums, at, ROWS * RV_HYP_WIDE * real);
    at = rv_hyp_place(base, &r.out, at, ROWS * BLOCK * real);
    r.x = (double *)x;
    r.panel = (double *)panel;
    r.bytes = at;
    return r;
}

const char *rv_hyp_reals(const rv_hyp_space *sp, const char *rows, int64_t *stride, int count, char *to)
{
    rows += sp->skip;
    if (!is_half(sp->dtype))
        return rows;
    for (int i = 0; i < count; i++)
        sp->k->widen(sp->dtype, rows + i * *stride, to + i * sp->dim * sp->real, sp->dim);
    *stride = sp->dim * sp->real;
    return to;
}

/* |p|^2; infinite where it, or a step, overflows. */
static rv_pair norm_of(const rv_hyp_space *sp, const char *row)
{
    rv_pair n = {0, 0};
    int large = 0;
    for (int64_t d = 0; d < sp->dim; d++) {
        double x = rv_hyp_element(sp, row, d);
        if (x != x)
            return pair(NAN, 0);
        large |= !(fabs(x) < 0x1p500);
        n = add(n, product(x, x));
    }
    return large ? pair(INFINITY, 0) : n;
}

/* 1 - c|p|^2 */
static rv_pair gap_of(const rv_hyp_space *sp, rv_pair norm) { return add(ONE, minus(mul(sp->hyp.curvature, norm))); }

static double time_of(const rv_hyp_space *sp, const char *row)
{
    float x;
    if (sp->dtype == RV_F64)
        return *(const double *)row;
    if (sp->dtype == RV_F32)
        return (double)*(const float *)row;
    sp->k->widen(sp->dtype, row, &x, 1);
    return (double)x;
}

/* Bits of the points whose time component may not be that of their space-like part. */
static uint64_t odd_times(const rv_hyp_space *sp, const char *rows, int64_t stride, int count, const char *weights)
{
    RV_ALIGN(64) double wide[BLOCK] = {0};
    RV_ALIGN(64) float times[BLOCK] = {0};
    if (sp->compute == RV_F64) {
        for (int i = 0; i < count; i++)
            memcpy(wide + i, rows + i * stride, sizeof wide[i]);
        return sp->k->hyp_times(wide, weights, count, sp->tolerance);
    }
    for (int i = 0; i < count; i++)
        if (is_half(sp->dtype))
            sp->k->widen(sp->dtype, rows + i * stride, times + i, 1);
        else
            memcpy(times + i, rows + i * stride, sizeof times[i]);
    return sp->k->hyp_times(times, weights, count, sp->tolerance);
}

/* Weights from norms, for points as given (`rows`) and as reals (`points`). The first that is no point goes to *fault,
 * with row its number here; returns nonzero then. Weights of such are NaN. */
static int weigh(const rv_hyp_space *sp, const char *rows, int64_t rows_stride, const char *points, int64_t stride, int count,
                 const char *norms, char *weights, rv_fault *fault)
{
    uint64_t care = sp->k->hyp_weights(&sp->hyp, norms, count, weights);
    uint64_t look = sp->skip ? care | odd_times(sp, rows, rows_stride, count, weights) : care;
    int first = -1;
    for (int i = 0; i < count && look >> i; i++) {
        if (!(look >> i & 1))
            continue;
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

int rv_hyp_weigh_panel(const rv_hyp_space *sp, const char *rows, int64_t rows_stride, const char *points, int64_t stride, int count,
                       double *panel, char *norms, char *weights, rv_fault *fault)
{
    sp->k->hyp_panel(points, stride, count, sp->dim, panel);
    sp->k->hyp_norms(panel, count, sp->dim, norms);
    return weigh(sp, rows, rows_stride, points, stride, count, norms, weights, fault);
}

/* ---- pairs that need care ----------------------------------------------------------------------------------- */

/* The distance from t in the range of the kernel. */
static double settle(const rv_hyp_space *sp, rv_pair t)
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
    return rv_hyp_element(sp, (const char *)out, 0);
}

/* |x - y|_L^2 scale^2 on the hyperboloid, x0 and y0 given: |s|^2 - (s.p)^2 / (x0 + y0)^2 with s = x - y, p = x + y, which loses
 * what is not along p where the points are far out. There s is split, s = a p + r, and |r|^2 + a^2 |p|^2 (1 - |p|^2 / (x0 + y0)^2)
 * is solved for itself, since (x0 + y0)^2 - |p|^2 = 4/c + |x - y|_L^2: no term is negative. */
static rv_pair lorentz_square(const rv_hyp_space *sp, const char *x, const char *y, rv_pair x0, rv_pair y0, double scale)
{
    rv_pair ss = {0, 0}, ps = {0, 0}, pp = {0, 0};
    for (int64_t d = 0; d < sp->dim; d++) {
        double a = rv_hyp_element(sp, x, d), b = rv_hyp_element(sp, y, d);
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
        double a = rv_hyp_element(sp, x, d), b = rv_hyp_element(sp, y, d);
        rv_pair r = add(scaled(sum(a, -b), scale), minus(mul(along, sum(a, b))));
        across = add(across, mul(r, r));
    }
    rv_pair share = quotient(square, pp);
    return quotient(add(across, scaled(quotient(share, sp->hyp.curvature), 4)),
                    add(ONE, minus(scaled(scaled(share, 1 / scale), 1 / scale))));
}

/* The distance of two points whose weights are known, where the kernel's is not good enough. */
static double careful(const rv_hyp_space *sp, const char *x, const char *y, rv_pair wx, rv_pair wy)
{
    double most = 0, scale = 1;
    for (int64_t d = 0; d < sp->dim; d++) {
        double s = fabs(rv_hyp_element(sp, x, d) - rv_hyp_element(sp, y, d));
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
            rv_pair s = scaled(sum(rv_hyp_element(sp, x, d), -rv_hyp_element(sp, y, d)), scale);
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
    rv_hyp_space sp;
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

static rv_hyp_room room_at(const run *r, int worker)
{
    return rv_hyp_room_of(&r->sp, r->sp.dim, r->panels, r->scratch + (size_t)worker * r->scratch_bytes);
}

void rv_hyp_finish(const rv_hyp_space *sp, const char *x, int64_t x_stride, int rows, const rv_pair *wx, const char *own,
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
static void results(const rv_hyp_space *sp, const char *x, int64_t x_stride, int rows, const rv_pair *wx, const char *own,
                    const char *points, int64_t stride, int count, const char *sums, const char *weights, char *to,
                    int64_t row_step, int64_t step, char *room)
{
    int half = is_half(sp->dtype), direct = step == sp->item && !half;
    rv_hyp_finish(sp, x, x_stride, rows, wx, own, points, stride, count, sums, weights, direct ? to : room,
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
    rv_hyp_room m = room_at(r, worker);
    int64_t first = task * BLOCK, stride = r->a.stride;
    int count = (int)min64(BLOCK, r->a.count - first);
    const char *rows = r->a.rows + first * stride, *points = rv_hyp_reals(&r->sp, rows, &stride, count, m.a);
    if (rv_hyp_weigh_panel(&r->sp, rows, r->a.stride, points, stride, count, m.panel, m.norms, m.weights, NULL))
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
    const rv_hyp_space *sp = &r->sp;
    rv_hyp_room m = room_at(r, worker);
    int64_t last = min64((task + 1) * r->piece, blocks(r->b.count)), x_stride = r->a.stride;
    int few = (int)r->a.count;
    const char *x = rv_hyp_reals(sp, r->a.rows, &x_stride, few, m.a);
    sp->k->hyp_pad(x, x_stride, few, sp->dim, sp->pad, m.x);
    for (int64_t block = task * r->piece; block < last; block++) {
        int64_t first = block * BLOCK, stride = r->b.stride;
        int count = (int)min64(BLOCK, r->b.count - first);
        const char *rows = r->b.rows + first * stride, *points = rv_hyp_reals(sp, rows, &stride, count, m.b);
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
    const rv_hyp_space *sp = &r->sp;
    rv_hyp_room m = room_at(r, worker);
    char *own = m.sums + RV_HYP_WIDE * sp->real;
    int64_t last = min64((task + 1) * r->piece, blocks(r->b.count));
    for (int64_t block = task * r->piece; block < last; block++) {
        int64_t first = block * BLOCK, x_stride = r->a.stride, stride = r->b.stride;
        int count = (int)min64(BLOCK, r->b.count - first);
        const char *x_rows = r->a.rows + first * x_stride, *rows = r->b.rows + first * stride;
        const char *x = rv_hyp_reals(sp, x_rows, &x_stride, count, m.a), *points = rv_hyp_reals(sp, rows, &stride, count, m.b);
        sp->k->hyp_pad(x, x_stride, count, sp->dim, sp->pad, m.x);
        sp->k->hyp_rows(m.x, sp->pad, points, stride, count, sp->dim, m.sums, m.norms);
        /* weights of both sides in the same way, so that either order gives the same bits */
        if (rv_hyp_weigh_panel(sp, rows, r->b.stride, points, stride, count, m.panel, m.norms, m.weights, NULL)
            | rv_hyp_weigh_panel(sp, x_rows, r->a.stride, x, x_stride, count, m.panel, m.norms, own, NULL))
            atomic_store(&r->fault, 1);
        results(sp, x, x_stride, 1, NULL, own, points, stride, count, m.sums, m.weights,
                (char *)r->args->out + first * r->col_step, 0, r->col_step, m.out);
    }
}

/* A chunk of rows of a against up to PANELS blocks of b, transposed. */
static void panel_task(void *context, int worker, int64_t task)
{
    run *r = context;
    const rv_hyp_space *sp = &r->sp;
    rv_hyp_room m = room_at(r, worker);
    const int64_t wide = RV_HYP_WIDE * sp->real, chunks = (r->a.count + r->chunk - 1) / r->chunk;
    const int64_t begin = task / chunks * PANELS * BLOCK, end = min64(begin + PANELS * BLOCK, r->b.count);
    const char *points[PANELS];
    int64_t stride[PANELS];
    int panels = (int)blocks(end - begin);
    for (int p = 0; p < panels; p++) {
        const char *rows = r->b.rows + (begin + p * BLOCK) * r->b.stride;
        int count = (int)min64(BLOCK, end - begin - p * BLOCK);
        stride[p] = r->b.stride;
        points[p] = rv_hyp_reals(sp, rows, stride + p, count, m.b + p * BLOCK * sp->dim * sp->real);
        if (rv_hyp_weigh_panel(sp, rows, r->b.stride, points[p], stride[p], count, m.panel + p * BLOCK * sp->dim, m.norms + p * wide,
                        m.weights + p * wide, NULL))
            atomic_store(&r->fault, 1);
    }
    int64_t row = task % chunks * r->chunk, last = min64(row + r->chunk, r->a.count);
    for (; row < last; row += ROWS) {
        int64_t x_stride = r->a.stride;
        int n = (int)min64(ROWS, last - row);
        const char *x = rv_hyp_reals(sp, r->a.rows + row * x_stride, &x_stride, n, m.a);
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
    rv_hyp_room m = room_at(r, 0);
    for (int array = 0; array < 2; array++) {
        const char *rows = array ? args->b : args->a;
        int64_t rows_stride = array ? args->b_stride : args->a_stride, total = array ? args->b_count : args->a_count;
        for (int64_t first = 0; first < total; first += BLOCK) {
            int64_t stride = rows_stride;
            int count = (int)min64(BLOCK, total - first);
            const char *at = rows + first * rows_stride, *points = rv_hyp_reals(&r->sp, at, &stride, count, m.a);
            if (rv_hyp_weigh_panel(&r->sp, at, rows_stride, points, stride, count, m.panel, m.norms, m.weights, fault)) {
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
    rv_hyp_space_of(&r.sp, args->geometry, args->dtype, args->dim, args->time != 0, args->curvature);
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

    r.scratch_bytes = rv_hyp_room_of(&r.sp, r.sp.dim, r.panels, NULL).bytes;
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
    rv_hyp_space sp;
    if (curvature == 0 || !isfinite(curvature) || !multiple(stride, 8))
        return RV_ERR_PARAM;
    if (count < 0 || dim < 0 || dim > INT32_MAX / 64)
        return RV_ERR_SHAPE;
    rv_hyp_space_of(&sp, RV_POINCARE, RV_F64, dim, 0, curvature);
    char *memory = malloc(rv_hyp_room_of(&sp, dim, 1, NULL).bytes + 64);
    if (!memory)
        return RV_ERR_NOMEM;
    rv_hyp_room m = rv_hyp_room_of(&sp, dim, 1, memory + (64 - (uintptr_t)memory % 64) % 64);
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
