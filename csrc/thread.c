/* The thread pool and the number of threads. No OpenMP: its runtimes hang forked children and collide with each other. */
#if defined(__linux__)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#endif

#include "thread.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "target.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/prctl.h>
#endif
#if RV_X86
#include <immintrin.h>
#endif

static void pause_cpu(void)
{
#if RV_X86
    _mm_pause();
#elif RV_ARM64 && defined(__GNUC__)
    __asm__ volatile("isb");        /* some 10 ns; yield is a no-op on most cores */
#elif RV_ARM64
    __isb(15);
#endif
}

#if defined(_WIN32)

typedef SRWLOCK lock_t;
typedef CONDITION_VARIABLE cond_t;
#define LOCK_INIT SRWLOCK_INIT
#define COND_INIT CONDITION_VARIABLE_INIT

static void lock(lock_t *l) { AcquireSRWLockExclusive(l); }
static void unlock(lock_t *l) { ReleaseSRWLockExclusive(l); }
static void wait_on(cond_t *c, lock_t *l) { SleepConditionVariableSRW(c, l, INFINITE, 0); }
static void wake_one(cond_t *c) { WakeConditionVariable(c); }
static void wake_all(cond_t *c) { WakeAllConditionVariable(c); }

static int64_t now_ns(void)
{
    LARGE_INTEGER ticks, rate;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    return (int64_t)((double)ticks.QuadPart * 1e9 / (double)rate.QuadPart);
}

int64_t rv_now_ms(void) { return (int64_t)GetTickCount64(); }

#else

typedef pthread_mutex_t lock_t;
typedef pthread_cond_t cond_t;
#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#define COND_INIT PTHREAD_COND_INITIALIZER

static void lock(lock_t *l) { pthread_mutex_lock(l); }
static void unlock(lock_t *l) { pthread_mutex_unlock(l); }
static void wait_on(cond_t *c, lock_t *l) { pthread_cond_wait(c, l); }
static void wake_one(cond_t *c) { pthread_cond_signal(c); }
static void wake_all(cond_t *c) { pthread_cond_broadcast(c); }

static int64_t now_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t now_ns(void) { return now_of(CLOCK_MONOTONIC); }

/* For RV_POLL_MS a clock that moves every 4 ms is enough, and reads in 5 ns. */
int64_t rv_now_ms(void)
{
#if defined(CLOCK_MONOTONIC_COARSE)
    return now_of(CLOCK_MONOTONIC_COARSE) / 1000000;
#else
    return now_ns() / 1000000;
#endif
}

#endif

/* A call's tasks, on its stack. */
typedef struct rv_job {
    RV_ALIGN(64) _Atomic int64_t next;
    RV_ALIGN(64) int64_t tasks;
    void (*fn)(void *, int, int64_t);
    void *context;
    int helpers;
} rv_job;

/* The gate is one word: places left for helpers in the posted job, and helpers inside it. A helper enters by one exchange
 * that needs a place; the caller closes the gate by taking the places away, and then waits only for helpers that are inside.
 * So a helper that wakes late costs the caller nothing, and none touches the job after its call returned. */
#define PLACES 0xffffu
#define INSIDE 0x10000u
#define QUIT PLACES         /* never a number of places: RV_MAX_THREADS is less */

/* After a job a helper looks for the next one this long before it sleeps: a wake-up costs the caller 4-12 us and is done
 * after 25-40 us (2-core virtual machine, AMD EPYC), and calls that follow each other from Python are 1-50 us apart. */
#define SPIN_NS 50000

/* A caller without tasks looks this long for its helpers to leave before it sleeps; tasks are made to last about 100 us. */
#define TAIL_NS 200000

/* Kernels keep their scratch in memory given by the caller, so 256 KiB would do; but glibc takes the static thread-local
 * storage of all libraries out of it, near 1 MiB under gcc's thread sanitizer. Untouched pages cost nothing. */
#define STACK_BYTES (4 << 20)

static struct {
    RV_ALIGN(64) atomic_uint gate;
    RV_ALIGN(64) atomic_uint taken;         /* a call has the pool; guards job, started, hooked */
    atomic_uint sleepers;                   /* helpers that wait on `work` */
    atomic_uint waiting;                    /* the caller waits on `done` */
    atomic_uint spin;                       /* 0 where threads outnumber CPUs: spinning takes time from work there */
    rv_job *job;
    int started;                            /* helpers that exist */
    int hooked;                             /* fork handler is in place */
    unsigned forks;                         /* counted in children; helpers inside at the last one */
    unsigned lost;
    lock_t lock;
    cond_t work, done;
} pool = {.lock = LOCK_INIT, .work = COND_INIT, .done = COND_INIT};

static void run_tasks(rv_job *job, int worker)
{
    int64_t task;
    while ((task = atomic_fetch_add(&job->next, 1)) < job->tasks)
        job->fn(job->context, worker, task);
}

static int gate_is_shut(void) { return (atomic_load(&pool.gate) & PLACES) == 0; }

/* Returns when the gate may be open. */
static void await_job(void)
{
    if (atomic_load(&pool.spin)) {
        int64_t end = now_ns() + SPIN_NS;
        do {
            for (int i = 0; i < 16; i++) {
                if (!gate_is_shut())
                    return;
                pause_cpu();
            }
        } while (now_ns() < end);
    }
    lock(&pool.lock);
    /* Counted before the gate is looked at, while the caller opens the gate before it looks at the count: one of the two
     * sees the other. A caller that sees a sleeper passes through the lock, so its wake-up comes after the wait began. */
    atomic_fetch_add(&pool.sleepers, 1);
    while (gate_is_shut())
        wait_on(&pool.work, &pool.lock);
    atomic_fetch_sub(&pool.sleepers, 1);
    unlock(&pool.lock);
}

static void helper(void)
{
    for (;;) {
        unsigned gate = atomic_load(&pool.gate), places = gate & PLACES;
        if (places == QUIT)
            return;
        if (places == 0) {
            await_job();
            continue;
        }
        if (!atomic_compare_exchange_weak(&pool.gate, &gate, gate - 1 + INSIDE))
            continue;
        rv_job *job = pool.job;
        run_tasks(job, job->helpers - (int)places + 1);
        /* No task is left: nobody else need come in, least of all this helper again, by another place. */
        gate = atomic_load(&pool.gate);
        while (!atomic_compare_exchange_weak(&pool.gate, &gate, (gate & ~PLACES) - INSIDE))
            continue;
        if ((gate & ~PLACES) == INSIDE && atomic_load(&pool.waiting)) {
            lock(&pool.lock);
            unlock(&pool.lock);
            wake_one(&pool.done);
        }
    }
}

#if defined(_WIN32)

static DWORD WINAPI helper_main(void *unused)
{
    (void)unused;
    helper();
    return 0;
}

/* Helpers are left parked: the system ends them with the process. The library must then never be unloaded. */
static int start_helper(int i)
{
    HMODULE self;
    if (i == 0 && !GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
                                      (const char *)(uintptr_t)helper_main, &self))
        return 0;
    HANDLE thread = CreateThread(NULL, STACK_BYTES, helper_main, NULL, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (thread)
        CloseHandle(thread);
    return thread != NULL;
}

#else

static pthread_t helpers[RV_MAX_THREADS];

static void *helper_main(void *unused)
{
    (void)unused;
#if defined(__linux__)
    prctl(PR_SET_NAME, "ruvector");
#endif
    helper();
    return NULL;
}

/* A child has the forking thread alone: its pool starts afresh, whatever the others were doing. */
static void after_fork_in_child(void)
{
    pool.lost = atomic_load(&pool.gate) & ~PLACES;
    pool.forks++;
    atomic_store(&pool.gate, 0);
    atomic_store(&pool.taken, 0);
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.waiting, 0);
    pool.started = 0;
    pool.lock = (lock_t)LOCK_INIT;
    pool.work = (cond_t)COND_INIT;
    pool.done = (cond_t)COND_INIT;
}

static int start_helper(int i)
{
    if (!pool.hooked && pthread_atfork(NULL, NULL, after_fork_in_child) != 0)
        return 0;
    pool.hooked = 1;
    /* Signals are for the threads of the program; those that a fault raises stay, so that its handlers see them. */
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t k = 0; k < sizeof own / sizeof *own; k++)
        sigdelset(&blocked, own[k]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    pthread_attr_t attr;
    int failed = pthread_attr_init(&attr);
    if (!failed) {
        pthread_attr_setstacksize(&attr, STACK_BYTES);
        failed = pthread_create(&helpers[i], &attr, helper_main, NULL);
        pthread_attr_destroy(&attr);
    }
    /* Large static thread-local storage of other libraries may not fit beside that stack. */
    if (failed == EINVAL)
        failed = pthread_create(&helpers[i], NULL, helper_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !failed;
}

/* At exit, and when the library is unloaded, sleeping helpers are sent home, so that none runs code that is gone and leak
 * checkers see nothing. When a call has the pool at that moment its helpers are left to the system: waiting for user work
 * could hold up the exit. The pool stays taken: later calls, from threads that outlive this, run on their own. */
__attribute__((destructor)) static void end_pool(void)
{
    unsigned no = 0;
    if (!atomic_compare_exchange_strong(&pool.taken, &no, 1))
        return;
    atomic_store(&pool.gate, QUIT);
    lock(&pool.lock);
    unlock(&pool.lock);
    wake_all(&pool.work);
    while (pool.started > 0)
        pthread_join(helpers[--pool.started], NULL);
}

#endif

static int take_pool(void)
{
    unsigned no = 0;
    return atomic_load(&pool.taken) == 0 && atomic_compare_exchange_strong(&pool.taken, &no, 1);
}

/* Opens the gate for at most `wanted` helpers; the pool is taken. */
static void post(rv_job *job, int wanted)
{
    if (pool.started < wanted) {
        while (pool.started < wanted && start_helper(pool.started))
            pool.started++;
        atomic_store(&pool.spin, pool.started < rv_cpus_affinity());
    }
    job->helpers = wanted < pool.started ? wanted : pool.started;
    pool.job = job;
    atomic_store(&pool.gate, (unsigned)job->helpers);
    unsigned sleepers = atomic_load(&pool.sleepers);
    if (sleepers == 0)
        return;
    lock(&pool.lock);
    unlock(&pool.lock);
    if (sleepers <= (unsigned)job->helpers)
        wake_all(&pool.work);
    else
        for (int i = 0; i < job->helpers; i++)
            wake_one(&pool.work);
}

/* Shuts the gate, waits until the helpers inside have left, and gives the pool back. */
static void finish(void)
{
    if (atomic_fetch_and(&pool.gate, ~PLACES) & ~PLACES) {
        int64_t end = atomic_load(&pool.spin) ? now_ns() + TAIL_NS : 0;
        while (atomic_load(&pool.gate) && now_ns() < end)
            pause_cpu();
        if (atomic_load(&pool.gate)) {
            lock(&pool.lock);
            atomic_store(&pool.waiting, 1);
            while (atomic_load(&pool.gate))
                wait_on(&pool.done, &pool.lock);
            atomic_store(&pool.waiting, 0);
            unlock(&pool.lock);
        }
    }
    atomic_store(&pool.taken, 0);
}

rv_status rv_parallel_for(int64_t tasks, int threads, void (*fn)(void *context, int worker, int64_t task), void *context,
                          rv_interrupt interrupted, void *interrupt_context)
{
    rv_job job = {.tasks = tasks, .fn = fn, .context = context};
    if (threads > RV_MAX_THREADS)
        threads = RV_MAX_THREADS;
    rv_status status = RV_OK;
    int posted = 0;
    unsigned forks = 0;
    int64_t polled = interrupted ? rv_now_ms() : 0;
    for (;;) {
        if (posted && pool.forks != forks) {        /* this is a child now, and its pool is not taken */
            posted = 0;
            if (pool.lost) {
                status = RV_ERR_INTERRUPTED;
                break;
            }
        }
        int64_t left = tasks - atomic_load(&job.next);
        if (threads > 1 && !posted && left > 1 && take_pool()) {
            posted = 1;
            forks = pool.forks;
            post(&job, left < threads ? (int)left - 1 : threads - 1);
        }
        int64_t task = atomic_fetch_add(&job.next, 1);
        if (task >= tasks)
            break;
        fn(context, 0, task);
        if (interrupted && rv_now_ms() - polled >= RV_POLL_MS) {
            if (interrupted(interrupt_context)) {
                status = RV_ERR_INTERRUPTED;
                atomic_store(&job.next, tasks);
            }
            polled = rv_now_ms();
        }
    }
    if (posted)
        finish();
    return status;
}

#if defined(_WIN32)

int rv_cpus_online(void) { return (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS); }

int rv_cpus_affinity(void)
{
    DWORD_PTR process, machine;
    int count = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &process, &machine) || process == machine)
        return rv_cpus_online();
    for (; process; process &= process - 1)
        count++;
    return count ? count : 1;
}

#else

int rv_cpus_online(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

int rv_cpus_affinity(void)
{
#if defined(__linux__)
    cpu_set_t set[16];          /* 16384 CPUs; the call fails when the kernel has more */
    memset(set, 0, sizeof set);
    if (sched_getaffinity(0, sizeof set, set) == 0) {
        int count = CPU_COUNT_S(sizeof set, set);
        if (count > 0)
            return count;
    }
#endif
    return rv_cpus_online();
}

#endif

#if defined(__linux__)

/* Reads at most size - 1 bytes; 0 where there is no such file. */
static int read_text(const char *root, const char *folder, const char *path, const char *file, char *text, size_t size)
{
    char name[1024];
    if ((size_t)snprintf(name, sizeof name, "%s%s%s%s", root, folder, path, file) >= sizeof name)
        return 0;
    FILE *stream = fopen(name, "re");
    if (!stream)
        return 0;
    text[fread(text, 1, size - 1, stream)] = 0;
    fclose(stream);
    return 1;
}

/* Quota of one group in CPUs, rounded up; 0 for none. */
static int64_t group_quota(const char *root, int v2, const char *folder, const char *path)
{
    char text[64];
    int64_t quota = 0, period = 0;
    if (v2) {
        char *end;
        if (!read_text(root, folder, path, "/cpu.max", text, sizeof text))
            return 0;
        quota = strtoll(text, &end, 10);            /* "max 100000" has no number here */
        period = strtoll(end, NULL, 10);
    } else {
        if (!read_text(root, folder, path, "/cpu.cfs_quota_us", text, sizeof text))
            return 0;
        quota = strtoll(text, NULL, 10);            /* -1 for none */
        if (!read_text(root, folder, path, "/cpu.cfs_period_us", text, sizeof text))
            return 0;
        period = strtoll(text, NULL, 10);
    }
    return quota > 0 && period > 0 ? (quota - 1) / period + 1 : 0;
}

/* The least quota of a group and those above it. Without a namespace of its own a container sees the path that it has on
 * the host, where only the last step, the mount point itself, exists. */
static int64_t least_quota(const char *root, int v2, const char *folder, char *path)
{
    int64_t least = 0;
    for (;;) {
        int64_t quota = group_quota(root, v2, folder, path);
        if (quota && (!least || quota < least))
            least = quota;
        char *slash = strrchr(path, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

/* Is "cpu" in this comma-separated list? */
static int lists_cpu(const char *names)
{
    for (;;) {
        size_t length = strcspn(names, ",");
        if (length == 3 && memcmp(names, "cpu", 3) == 0)
            return 1;
        if (!names[length])
            return 0;
        names += length + 1;
    }
}

int rv_cpus_cgroup(const char *root)
{
    char text[4096];
    int64_t least = 0;
    if (!read_text(root, "/proc/self/cgroup", "", "", text, sizeof text))
        return 0;
    /* Lines "4:cpu,cpuacct:/path" (v1), "0::/path" (v2). */
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        char *names = strchr(line, ':');
        char *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *names++ = 0;
        *path++ = 0;
        int v2 = *names == 0;
        if (!v2 && !lists_cpu(names))
            continue;
        if (strcmp(path, "/") == 0)
            *path = 0;
        static const char *const folders[2][2] = {{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"},
                                                  {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}};
        for (int i = 0; i < 2; i++) {
            char copy[sizeof text];
            memcpy(copy, path, strlen(path) + 1);
            int64_t quota = least_quota(root, v2, folders[v2][i], copy);
            if (quota && (!least || quota < least))
                least = quota;
        }
    }
    return least < INT_MAX ? (int)least : INT_MAX;
}

#else

int rv_cpus_cgroup(const char *root)
{
    (void)root;
    return 0;
}

#endif

/* 0: not known yet. */
static atomic_int thread_limit;

static int clamp_threads(long long n) { return n < 1 ? 1 : n > RV_MAX_THREADS ? RV_MAX_THREADS : (int)n; }

/* The variable's value; 0 when it is not set, -1 when it is not a positive integer. */
static int threads_wanted(const char **value)
{
    const char *text = getenv("RUVECTOR_NUM_THREADS");
    *value = text;
    if (!text || !*text)
        return 0;
    char *end;
    long long n = strtoll(text, &end, 10);
    return end == text || *end || n < 1 ? -1 : clamp_threads(n);
}

rv_status rv_threads_init(const char **bad)
{
    const char *value;
    if (threads_wanted(&value) < 0) {
        *bad = value;
        return RV_ERR_PARAM;
    }
    rv_threads_get();
    return RV_OK;
}

int rv_threads_get(void)
{
    int n = atomic_load(&thread_limit);
    if (n)
        return n;
    const char *value;
    int wanted = threads_wanted(&value);
    if (wanted < 1) {
        int quota = rv_cpus_cgroup("");
        wanted = rv_cpus_affinity();
        if (quota && quota < wanted)
            wanted = quota;
        wanted = clamp_threads(wanted);
    }
    /* Keep what rv_threads_set stored meanwhile. */
    return atomic_compare_exchange_strong(&thread_limit, &n, wanted) ? wanted : n;
}

rv_status rv_threads_set(int n)
{
    if (n < 1)
        return RV_ERR_PARAM;
    atomic_store(&thread_limit, clamp_threads(n));
    return RV_OK;
}
