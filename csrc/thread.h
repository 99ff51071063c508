/* The thread pool. Included by csrc, its tests and the one module that links it. */
#ifndef RV_THREAD_H
#define RV_THREAD_H

#include "ruvector.h"

/* No call uses more threads than this, and rv_threads_set stores no more. */
#define RV_MAX_THREADS 1024

/* Calls fn(context, worker, task) once for every task in [0, tasks), on at most `threads` threads, the caller's among them.
 *
 * Tasks are started in increasing order, each by whichever thread is free: put the longest first, and make no result depend
 * on `worker`, which is in [0, threads), 0 for the caller, and never used by two threads at once: an index for scratch.
 * threads <= 1 or tasks <= 1: plain calls, no pool.
 *
 * There is one pool in the process. A call that finds it taken, by another thread or by the call that it is nested in, works
 * on its own thread and takes the pool at its next task once it is free. It never waits for another call.
 *
 * `interrupted` (NULL for none) is called by the calling thread only, between tasks and at most every RV_POLL_MS. When it
 * returns nonzero, no further task is started, and RV_ERR_INTERRUPTED is returned after those that run have ended.
 * Otherwise the result is RV_OK; what the tasks wrote is visible to the caller then. Threads that cannot be had are done
 * without. Nothing is allocated per call.
 *
 * fork is safe at any time. A child forked from inside `interrupted` gets RV_ERR_INTERRUPTED when tasks were running on other
 * threads, which it does not have, and finishes its call otherwise. Tasks must not fork on a thread other than the caller's. */
rv_status rv_parallel_for(int64_t tasks, int threads, void (*fn)(void *context, int worker, int64_t task), void *context,
                          rv_interrupt interrupted, void *interrupt_context);

/* The memory traffic that is worth a thread of its own. */
#define RV_THREAD_BYTES ((int64_t)1 << 20)

/* Threads for a call that asks for `threads` (0: as many as there are): one for each `share` of its `work`, at most one a
 * piece, at least one. */
static inline int rv_threads_for(int threads, int64_t work, int64_t share, int64_t pieces)
{
    int64_t most = 1 + work / share, want = threads ? threads : rv_threads_get();
    want = want < most ? want : most;
    return (int)(want < pieces ? want : pieces > 0 ? pieces : 1);
}

/* Well under the 100 ms in which a person or a database expects an answer; asking may cost a wait for the interpreter's lock
 * of up to 5 ms, so that at most a quarter of the time is lost to a busy neighbour. */
#define RV_POLL_MS 20

/* A cheap monotonic clock of some milliseconds' resolution, for polling inside long tasks. */
int64_t rv_now_ms(void);

/* Reads RUVECTOR_NUM_THREADS, at load: RV_ERR_PARAM and *bad = its value when that is not a positive integer. Without this
 * call the first rv_threads_get reads it and takes an unusable value for none. */
rv_status rv_threads_init(const char **bad);

/* CPUs that the affinity mask leaves to this process, and those that run at all on the machine; at least 1. */
int rv_cpus_affinity(void);
int rv_cpus_online(void);
/* CPUs that the cgroup's quota allows, rounded up; 0 for no limit. `root` is put before /proc and /sys: "" but in tests. */
int rv_cpus_cgroup(const char *root);

#endif
