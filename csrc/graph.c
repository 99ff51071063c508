/* Graphs: edge lists sorted by target, and graph attention over them: checks, tasks, scratch. What a row's result is made of
 * depends on the row alone, never on threads or on where tasks begin. */
#include "kernels.h"
#include "sizes.h"
#include "target.h"
#include "thread.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A thread must have this many edges to sort, or this much attention by the model of `edge_ns`; waking one costs about 5 us. */
#define RV_SORT_EDGES ((int64_t)1 << 17)
#define RV_THREAD_NS 40000.0

/* Tasks of about this long, so that no thread waits long for another's last one. */
#define RV_TASK_NS 100000.0

/* Edges that are sorted between two looks at the interrupt, some 10 ms. */
#define RV_POLL_EDGES ((int64_t)1 << 21)

/* Rows whose halves one task computes. */
#define RV_HALF_ROWS 512

#define RV_STACK_SCRATCH 16384


/* Asked between pieces of a task: another thread's interrupt, or, on the calling thread every RV_POLL_MS, the caller's. */
typedef struct watch {
    rv_interrupt interrupted;
    void *context;
    int64_t last_poll;
    int volatile stop;
} watch;

static int stopping(watch *w, int worker)
{
    if (!w->stop && worker == 0 && w->interrupted) {
        int64_t now = rv_now_ms();
        if (now - w->last_poll >= RV_POLL_MS) {
            w->last_poll = now;
            if (w->interrupted(w->context))
                w->stop = 1;
        }
    }
    return w->stop;
}

static rv_status ended(const watch *w, rv_status status) { return w->stop ? RV_ERR_INTERRUPTED : status; }

/* ---- edges by target ---- */

typedef struct chunk {
    int32_t *cursor;        /* [targets]: edges of each target in this chunk, then where its next one goes */
    int64_t first, last;    /* edges */
    int64_t kept;           /* of them, then of all earlier chunks */
    int64_t bad;            /* first edge out of range, or -1 */
} chunk;

typedef struct sort {
    rv_csr_args *a;
    chunk *chunks;
    watch watch;
} sort;

RV_INLINE int64_t node_at(const void *list, int64_t e, const int wide)
{
    return wide ? ((const int64_t *)list)[e] : ((const int32_t *)list)[e];
}

RV_INLINE int64_t count_edges(const rv_csr_args *a, chunk *c, int64_t first, int64_t last, const int wide)
{
    for (int64_t e = first; e < last; e++) {
        int64_t s = node_at(a->source, e, wide), t = node_at(a->target, e, wide);
        if ((uint64_t)s >= (uint64_t)a->sources || (uint64_t)t >= (uint64_t)a->targets)
            return e;
        if (a->loops && s == t)
            continue;
        c->cursor[t]++;
        c->kept++;
    }
    return -1;
}

RV_INLINE int64_t place_edges(const rv_csr_args *a, const chunk *c, int64_t first, int64_t last, int64_t number, const int wide)
{
    for (int64_t e = first; e < last; e++) {
        int64_t s = node_at(a->source, e, wide), t = node_at(a->target, e, wide);
        if (a->loops && s == t)
            continue;
        int32_t at = c->cursor[t]++;
        a->indices[at] = (int32_t)s;
        if (a->order)
            a->order[at] = (int32_t)number++;
    }
    return number;
}

static void count_task(void *context, int worker, int64_t task)
{
    sort *r = context;
    chunk *c = r->chunks + task;
    memset(c->cursor, 0, (size_t)r->a->targets * sizeof *c->cursor);
    for (int64_t e = c->first; e < c->last && c->bad < 0 && !stopping(&r->watch, worker); e += RV_POLL_EDGES) {
        int64_t last = min64(e + RV_POLL_EDGES, c->last);
        c->bad = r->a->wide ? count_edges(r->a, c, e, last, 1) : count_edges(r->a, c, e, last, 0);
    }
}

static void place_task(void *context, int worker, int64_t task)
{
    sort *r = context;
    const chunk *c = r->chunks + task;
    int64_t number = c->kept;
    for (int64_t e = c->first; e < c->last && !stopping(&r->watch, worker); e += RV_POLL_EDGES) {
        int64_t last = min64(e + RV_POLL_EDGES, c->last);
        number = r->a->wide ? place_edges(r->a, c, e, last, number, 1) : place_edges(r->a, c, e, last, number, 0);
    }
}

/* Stable: chunks keep their order in every row, whatever their number. */
static rv_status sort_chunks(sort *r, int64_t count, int threads)
{
    rv_csr_args *a = r->a;
    rv_status status = rv_parallel_for(count, threads, count_task, r, a->interrupted, a->context);
    if (ended(&r->watch, status) != RV_OK)
        return RV_ERR_INTERRUPTED;
    for (int64_t i = 0; i < count; i++)
        if (r->chunks[i].bad >= 0) {
            a->bad = r->chunks[i].bad;
            return RV_ERR_INDEX;
        }
    int64_t both = a->loops ? min64(a->sources, a->targets) : 0, kept = 0;
    int32_t sum = 0;
    for (int64_t t = 0; t < a->targets; t++) {
        a->starts[t] = sum;
        for (int64_t i = 0; i < count; i++) {
            int32_t n = r->chunks[i].cursor[t];
            r->chunks[i].cursor[t] = sum;
            sum += n;
        }
        sum += t < both;
    }
    a->starts[a->targets] = sum;
    for (int64_t i = 0; i < count; i++) {
        int64_t n = r->chunks[i].kept;
        r->chunks[i].kept = kept;
        kept += n;
    }
    status = rv_parallel_for(count, threads, place_task, r, a->interrupted, a->context);
    for (int64_t t = 0; t < both; t++) {
        a->indices[a->starts[t + 1] - 1] = (int32_t)t;
        if (a->order)
            a->order[a->starts[t + 1] - 1] = (int32_t)(kept + t);
    }
    return ended(&r->watch, status);
}

rv_status rv_csr_build(rv_csr_args *a)
{
    if (a->threads < 0)
        return RV_ERR_PARAM;
    if (a->edges < 0 || a->sources < 0 || a->targets < 0 || a->edges > INT32_MAX || a->sources > INT32_MAX || a->targets > INT32_MAX
        || a->edges + (a->loops ? min64(a->sources, a->targets) : 0) > INT32_MAX)
        return RV_ERR_SHAPE;
    int threads = a->threads ? a->threads : rv_threads_get();
    int64_t count = min64(threads, 1 + a->edges / (a->targets > RV_SORT_EDGES ? a->targets : RV_SORT_EDGES));
    size_t cursors, bytes;
    if (rv_mul_size((size_t)count, (size_t)a->targets * sizeof(int32_t), &cursors)
        || rv_add_size(cursors, (size_t)count * sizeof(chunk), &bytes))
        return RV_ERR_NOMEM;
    chunk *chunks = malloc(bytes);
    if (!chunks)
        return RV_ERR_NOMEM;
    for (int64_t i = 0; i < count; i++)
        chunks[i] = (chunk){(int32_t *)(chunks + count) + i * a->targets, a->edges / count * i,
                            i + 1 < count ? a->edges / count * (i + 1) : a->edges, 0, -1};
    sort r = {a, chunks, {a->interrupted, a->context, a->edges > RV_POLL_EDGES ? rv_now_ms() : 0, 0}};
    rv_status status = sort_chunks(&r, count, (int)count);
    free(chunks);
    return status;
}

/* ---- attention ---- */

/* Rows [row, last), or, where `state` is set, the state of one split of a row that threads share. */
typedef struct task {
    int64_t row, last, first;   /* first: of the split's edges */
    char *state;
} task;

typedef struct run {
    rv_graph graph;
    const rv_kernels *k;
    int threads;
    int64_t edges;              /* of all rows */
    int64_t long_rows, splits;  /* rows of more than RV_GRAPH_SPLIT edges, and their splits */
    int64_t task_work;          /* edges in a task, a row counting as ROW_WORK more */
    size_t half_bytes, state_bytes, scratch_bytes;
    char *scratch, *states;
    task *tasks;
    int64_t count;
    watch watch;
} run;

enum { ROW_WORK = 4 };          /* what a row costs besides its edges, in edges */

static int64_t degree(const rv_gat_args *a, int64_t row) { return (int64_t)a->ends[row] - a->starts[row]; }

/* Checks, and counts edges and long rows. */
static rv_status check(const rv_gat_args *a, run *r)
{
    int64_t size = a->dtype == RV_F64 ? 8 : 4, n;
    if ((a->dtype != RV_F32 && a->dtype != RV_F64) || (a->version != 1 && a->version != 2) || a->threads < 0)
        return RV_ERR_PARAM;
    if (!isfinite(a->slope) || !isfinite(a->scale) || !(a->dropout >= 0 && a->dropout < 1))
        return RV_ERR_PARAM;
    if (((a->query_stride | a->key_stride | a->value_stride | a->out_stride | a->edge_stride) & (size - 1)) != 0)
        return RV_ERR_PARAM;
    if (a->heads < 1 || a->heads > RV_MAX_HEADS || a->dim < 1 || a->v_dim < 0 || a->edge_dim < 0 || a->targets < 0 || a->sources < 0
        || a->edges < 0 || a->targets > INT32_MAX || a->sources > INT32_MAX || a->edges > INT32_MAX)
        return RV_ERR_SHAPE;
    if (a->dim > INT32_MAX / 64 / a->heads || a->v_dim > INT32_MAX / 64 / a->heads || a->edge_dim > INT32_MAX / 64
        || rv_mul(a->edges, a->heads * size, &n))
        return RV_ERR_SHAPE;
    for (int64_t i = 0; i < a->targets; i++) {
        if (a->starts[i] < 0 || a->ends[i] < a->starts[i] || a->ends[i] > a->edges)
            return RV_ERR_PARAM;
        n = degree(a, i);
        r->edges += n;
        if (n > RV_GRAPH_SPLIT) {
            r->long_rows++;
            r->splits += (n + RV_GRAPH_SPLIT - 1) / RV_GRAPH_SPLIT;
        }
    }
    return RV_OK;
}

/* A row so long that its splits are tasks: elsewhere threads would wait for the one that has it. The sums are the same. */
static int shared(const run *r, int64_t row)
{
    int64_t n = degree(r->graph.a, row);
    return r->threads > 1 && n > RV_GRAPH_SPLIT && n * (double)r->threads * 4 > (double)r->edges;
}

/* Fills in the tasks, of which there is room for: one for all that exceeds task_work, the last, splits, what they part. */
static int64_t most_tasks(const run *r)
{
    return (r->edges + ROW_WORK * r->graph.a->targets) / r->task_work + 2 + r->splits + r->long_rows;
}

static void plan(run *r)
{
    const rv_gat_args *a = r->graph.a;
    char *state = r->states;
    for (int64_t row = 0; row < a->targets;) {
        if (shared(r, row)) {
            for (int64_t e = a->starts[row]; e < a->ends[row]; e += RV_GRAPH_SPLIT, state += r->state_bytes)
                r->tasks[r->count++] = (task){row, row + 1, e, state};
            row++;
            continue;
        }
        int64_t first = row, work = 0;
        while (row < a->targets && work <= r->task_work && !shared(r, row))
            work += ROW_WORK + degree(a, row++);
        r->tasks[r->count++] = (task){first, row, 0, NULL};
    }
}

/* A row of several splits, merged in order as they are done. */
static void long_row(run *r, int worker, int64_t row, char *scratch)
{
    const rv_gat_args *a = r->graph.a;
    char *state = scratch + r->scratch_bytes - 2 * r->state_bytes, *later = state + r->state_bytes;
    int64_t end = a->ends[row];
    r->k->graph_part(&r->graph, row, a->starts[row], a->starts[row] + RV_GRAPH_SPLIT, state, scratch);
    for (int64_t e = a->starts[row] + RV_GRAPH_SPLIT; e < end; e += RV_GRAPH_SPLIT) {
        if (stopping(&r->watch, worker))
            return;
        r->k->graph_part(&r->graph, row, e, min64(e + RV_GRAPH_SPLIT, end), later, scratch);
        r->k->graph_merge(&r->graph, state, later);
    }
    r->k->graph_finish(&r->graph, row, state, scratch);
}

static void work(void *context, int worker, int64_t number)
{
    run *r = context;
    const task *t = r->tasks + number;
    const rv_gat_args *a = r->graph.a;
    char *scratch = r->scratch + (size_t)worker * r->scratch_bytes;
    if (r->watch.stop)
        return;
    if (t->state) {
        r->k->graph_part(&r->graph, t->row, t->first, min64(t->first + RV_GRAPH_SPLIT, a->ends[t->row]), t->state, scratch);
        return;
    }
    for (int64_t row = t->row; row < t->last;) {
        int64_t last = row;
        while (last < t->last && degree(a, last) <= RV_GRAPH_SPLIT)
            last++;
        if (last > row)
            r->k->graph_rows(&r->graph, row, last, scratch);
        row = last;
        if (row < t->last)
            long_row(r, worker, row++, scratch);
    }
}

/* The rows that threads shared. */
static void join(run *r)
{
    for (int64_t i = 0; i < r->count;) {
        const task *t = r->tasks + i++;
        if (!t->state)
            continue;
        for (; i < r->count && r->tasks[i].state && r->tasks[i].row == t->row; i++)
            r->k->graph_merge(&r->graph, t->state, r->tasks[i].state);
        r->k->graph_finish(&r->graph, t->row, t->state, r->scratch);
    }
}

static void half_task(void *context, int worker, int64_t number)
{
    run *r = context;
    const rv_gat_args *a = r->graph.a;
    int64_t first = number * RV_HALF_ROWS;
    size_t at = (size_t)first * r->half_bytes;
    (void)worker;
    if (first < a->sources)
        r->k->graph_halves(a, (const char *)a->key + first * a->key_stride, a->key_stride, min64(RV_HALF_ROWS, a->sources - first),
                           a->a_source, (char *)r->graph.source_half + at);
    if (first < a->targets)
        r->k->graph_halves(a, (const char *)a->query + first * a->query_stride, a->query_stride,
                           min64(RV_HALF_ROWS, a->targets - first), a->a_target, (char *)r->graph.target_half + at);
}

static int threads_for(int threads, double ns) { return (int)(ns / RV_THREAD_NS + 1 < threads ? ns / RV_THREAD_NS + 1 : threads); }

rv_status rv_gat_run(const rv_gat_args *a)
{
    run r;
    memset(&r, 0, sizeof r);
    rv_status status = check(a, &r);
    if (status != RV_OK)
        return status;
    if (a->targets == 0 || (a->v_dim == 0 && !a->weights))
        return RV_OK;
    r.graph.a = a;
    r.graph.dropout_below = (uint64_t)(a->dropout * 4294967296.0);
    r.graph.dropout_gain = 1 / (1 - a->dropout);
    r.k = rv_kernels_get(a->dtype);

    /* By measurement: an edge of 4 heads and 64 columns 6 ns; a column of version 2's logits costs more than one of the sum. */
    double size = a->dtype == RV_F64 ? 2 : 1, heads = (double)a->heads;
    double columns = heads * (double)(a->v_dim + (a->version == 2 ? a->dim * (2 + a->edge_dim) : 0));
    double edge_ns = size * (2 + heads * 0.2 + columns * 0.05), ns = edge_ns * ((double)r.edges + ROW_WORK * (double)a->targets);
    double half_ns = a->version == 1 ? size * 0.15 * heads * (double)a->dim * ((double)a->sources + (double)a->targets) : 0;
    int threads = a->threads ? a->threads : rv_threads_get(), half_threads = threads_for(threads, half_ns);
    r.threads = threads = threads_for(threads, ns);
    r.task_work = 1 + (int64_t)(RV_TASK_NS / edge_ns);

    r.half_bytes = a->version == 1 ? r.k->graph_half_row(a) : 0;
    r.state_bytes = r.k->graph_state(a);
    r.scratch_bytes = r.k->graph_scratch(a) + 2 * r.state_bytes;
    /* each holds the size of what lies before it, then where it begins */
    size_t targets, scratch, states, tasks, end, bytes = 64;
    if (rv_mul_size((size_t)a->sources, r.half_bytes, &targets) || rv_mul_size((size_t)a->targets, r.half_bytes, &scratch)
        || rv_mul_size((size_t)threads, r.scratch_bytes, &states) || rv_mul_size((size_t)r.splits, r.state_bytes, &tasks)
        || rv_mul_size((size_t)most_tasks(&r), sizeof(task), &end))
        return RV_ERR_NOMEM;
    size_t *const sizes[] = {&targets, &scratch, &states, &tasks, &end};
    for (int i = 0; i < 5; i++) {
        if (rv_add_size(bytes, *sizes[i], &bytes) || rv_add_size(bytes, 63, &bytes))
            return RV_ERR_NOMEM;
        bytes = bytes / 64 * 64;
        *sizes[i] = bytes - 64;
    }
    char *memory = malloc(bytes);
    if (!memory)
        return RV_ERR_NOMEM;
    char *at = memory + (64 - (uintptr_t)memory % 64) % 64;
    r.graph.source_half = at;
    r.graph.target_half = at + targets;
    r.scratch = at + scratch;
    r.states = at + states;
    r.tasks = (task *)(at + tasks);
    r.watch = (watch){a->interrupted, a->context, a->interrupted && ns > 1e7 ? rv_now_ms() : 0, 0};
    plan(&r);

    if (a->version == 1) {
        int64_t rows = a->sources > a->targets ? a->sources : a->targets;
        status = rv_parallel_for((rows + RV_HALF_ROWS - 1) / RV_HALF_ROWS, half_threads, half_task, &r, a->interrupted, a->context);
    }
    if (status == RV_OK)
        status = rv_parallel_for(r.count, threads, work, &r, a->interrupted, a->context);
    status = ended(&r.watch, status);
    if (status == RV_OK)
        join(&r);
    free(memory);
    return status;
}
