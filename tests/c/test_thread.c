/* The thread pool on its own: link with csrc/thread.c. Meant to run plainly and under the address and thread sanitizers. */
#if defined(__linux__)
#define _GNU_SOURCE
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#endif

#include "target.h"
#include "thread.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#endif

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#endif
#if defined(UNDER_TSAN)
/* Children of a threaded process that start threads are what this file is about. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "die_after_fork=0"; }
#endif

static int passed, failed;

/* Leak checks are for this process: in a child they look for threads that only the parent has. */
static int forked;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return forked; }

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (condition) {                                                                                               \
            passed++;                                                                                                  \
        } else {                                                                                                       \
            failed++;                                                                                                  \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                     \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
        }                                                                                                              \
    } while (0)

#if defined(_WIN32)
typedef HANDLE thread_handle;
typedef struct start_args { void (*fn)(void *); void *context; } start_args;
static DWORD WINAPI start_main(void *p)
{
    start_args *args = p;
    args->fn(args->context);
    return 0;
}
static void thread_start(thread_handle *thread, start_args *args, void (*fn)(void *), void *context)
{
    args->fn = fn;
    args->context = context;
    *thread = CreateThread(NULL, 0, start_main, args, 0, NULL);
}
static void thread_join(thread_handle thread)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
static void sleep_us(int64_t us) { Sleep((DWORD)((us + 999) / 1000)); }
static int64_t now_us(void) { return (int64_t)GetTickCount64() * 1000; }
static uintptr_t thread_self(void) { return GetCurrentThreadId(); }
#else
typedef pthread_t thread_handle;
typedef struct start_args { void (*fn)(void *); void *context; } start_args;
static void *start_main(void *p)
{
    start_args *args = p;
    args->fn(args->context);
    return NULL;
}
static void thread_start(thread_handle *thread, start_args *args, void (*fn)(void *), void *context)
{
    args->fn = fn;
    args->context = context;
    if (pthread_create(thread, NULL, start_main, args) != 0)
        abort();
}
static void thread_join(thread_handle thread) { pthread_join(thread, NULL); }
static void sleep_us(int64_t us)
{
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}
static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}
static uintptr_t thread_self(void) { return (uintptr_t)pthread_self(); }
#endif

/* A call that checks itself: `done` is plain memory, so that the thread sanitizer sees a missing order. */
typedef struct work {
    int64_t tasks;
    int threads;
    unsigned char *done;
    atomic_int busy[RV_MAX_THREADS];
    atomic_int faults, helped;
    int64_t task_us;
    int64_t last;           /* of worker 0 */
    uintptr_t caller;
} work;

static void count_task(void *context, int worker, int64_t task)
{
    work *w = context;
    int limit = w->threads < 1 ? 1 : w->threads;
    if (worker < 0 || worker >= limit || worker >= RV_MAX_THREADS || task < 0 || task >= w->tasks) {
        atomic_fetch_add(&w->faults, 1);
        return;
    }
    if (atomic_exchange(&w->busy[worker], 1) || (worker == 0) != (thread_self() == w->caller))
        atomic_fetch_add(&w->faults, 1);
    if (worker == 0) {
        if (task <= w->last)
            atomic_fetch_add(&w->faults, 1);
        w->last = task;
    } else {
        atomic_store(&w->helped, 1);
    }
    if (w->task_us)
        sleep_us(w->task_us);
    w->done[task]++;
    atomic_store(&w->busy[worker], 0);
}

static work *new_work(int64_t tasks, int threads)
{
    work *w = calloc(1, sizeof *w);
    w->tasks = tasks;
    w->threads = threads;
    w->done = calloc(1, (size_t)tasks + 1);
    w->last = -1;
    return w;
}

static void free_work(work *w)
{
    free(w->done);
    free(w);
}

static rv_status run_work(work *w, rv_interrupt interrupted, void *context)
{
    w->caller = thread_self();
    w->last = -1;
    return rv_parallel_for(w->tasks, w->threads, count_task, w, interrupted, context);
}

/* Faults of one whole call: tasks that did not run exactly once, and what count_task saw. */
static int64_t one_call(int64_t tasks, int threads)
{
    work *w = new_work(tasks, threads);
    int64_t wrong = run_work(w, NULL, NULL) != RV_OK;
    for (int64_t i = 0; i < tasks; i++)
        wrong += w->done[i] != 1;
    wrong += atomic_load(&w->faults);
    free_work(w);
    return wrong;
}

static void test_every_task_once(void)
{
    static const int64_t tasks[] = {-1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100, 1000, 20000};
    static const int threads[] = {-1, 0, 1, 2, 3, 4, 8, 16};
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++)
        for (size_t k = 0; k < sizeof threads / sizeof *threads; k++) {
            int64_t wrong = one_call(tasks[i], threads[k]);
            CHECK(wrong == 0, "%lld tasks, %d threads: %lld faults", (long long)tasks[i], threads[k], (long long)wrong);
        }
    CHECK(one_call(2, INT_MAX) == 0, "more threads than there can be");
}

static void test_short_calls(void)
{
    int64_t wrong = 0;
    for (int i = 0; i < 20000; i++)
        wrong += one_call(1 + i % 5, 1 + i % 4);
    CHECK(wrong == 0, "%lld faults", (long long)wrong);
}

static void test_pauses_around_the_moment_of_sleep(void)
{
    int64_t wrong = 0;
    for (int i = 0; i < 400; i++) {
        wrong += one_call(8, 2 + i % 3);
        sleep_us(i % 40 * 5);
    }
    CHECK(wrong == 0, "%lld faults", (long long)wrong);
    sleep_us(20000);
    CHECK(one_call(100, 4) == 0, "after a long sleep");
}

/* Do helpers that sleep wake up and take part? */
static int helped(int threads)
{
    work *w = new_work(50, threads);
    w->task_us = 1000;
    sleep_us(20000);
    run_work(w, NULL, NULL);
    int yes = atomic_load(&w->helped);
    free_work(w);
    return yes;
}

static void test_helpers_take_part(void)
{
    for (int threads = 2; threads <= 6; threads++)
        for (int again = 0; again < 2; again++)         /* one helper is new the first time, none the second */
            CHECK(helped(threads), "50 tasks of 1 ms ran on one of %d threads", threads);
}

static void test_oversubscription(void)
{
    int64_t wrong = 0;
    for (int i = 0; i < 50; i++)
        wrong += one_call(500, 48);
    CHECK(wrong == 0, "%lld faults", (long long)wrong);
}

static void deep_task(void *context, int worker, int64_t task)
{
    volatile unsigned char frame[256 << 10];
    (void)worker;
    for (size_t i = 0; i < sizeof frame; i += 512)
        frame[i] = (unsigned char)task;
    sleep_us(500);
    atomic_fetch_add((atomic_int *)context, frame[512] == (unsigned char)task);
}

static void test_stack(void)
{
    atomic_int sum = 0;
    rv_parallel_for(40, 4, deep_task, &sum, NULL, NULL);
    CHECK(atomic_load(&sum) == 40, "%d of 40", atomic_load(&sum));
}

static void nested_task(void *context, int worker, int64_t task)
{
    (void)worker;
    (void)task;
    if (one_call(37, 3) != 0)
        atomic_fetch_add((atomic_int *)context, 1);
}

static void test_nested(void)
{
    atomic_int faults = 0;
    CHECK(rv_parallel_for(200, 4, nested_task, &faults, NULL, NULL) == RV_OK, "status");
    CHECK(atomic_load(&faults) == 0, "%d inner calls went wrong", atomic_load(&faults));
}

typedef struct asked {
    int calls, answer_from;
    int64_t first_us, start_us;
    uintptr_t caller;
    int wrong_thread;
} asked;

static int ask(void *context)
{
    asked *a = context;
    if (a->calls++ == 0)
        a->first_us = now_us() - a->start_us;
    a->wrong_thread |= thread_self() != a->caller;
    return a->calls >= a->answer_from;
}

static void test_interrupt(void)
{
    for (int threads = 1; threads <= 4; threads++) {
        asked a = {.answer_from = 3, .start_us = now_us(), .caller = thread_self()};
        work *w = new_work(4000, threads);
        w->task_us = 1000;
        rv_status status = run_work(w, ask, &a);
        int64_t took = now_us() - a.start_us, ran = 0, twice = 0;
        for (int64_t i = 0; i < w->tasks; i++) {
            ran += w->done[i];
            twice += w->done[i] > 1;
        }
        CHECK(status == RV_ERR_INTERRUPTED, "%d threads: status %d", threads, (int)status);
        CHECK(a.calls == 3 && !a.wrong_thread, "%d threads: %d calls, other thread %d", threads, a.calls, a.wrong_thread);
        CHECK(a.first_us >= RV_POLL_MS * 1000 / 4, "%d threads: first asked after %lld us", threads, (long long)a.first_us);
        CHECK(ran < w->tasks && !twice && !atomic_load(&w->faults), "%d threads: %lld tasks ran", threads, (long long)ran);
        CHECK(took < 2000000, "%d threads: %lld us", threads, (long long)took);
        free_work(w);
        CHECK(one_call(100, threads) == 0, "the call after an interrupt, %d threads", threads);
    }
    asked never = {.answer_from = 1, .caller = thread_self()};
    work *w = new_work(100, 2);
    CHECK(run_work(w, ask, &never) == RV_OK && never.calls == 0, "a short call asked %d times", never.calls);
    free_work(w);
}

static atomic_int callers_wrong;

static void call_repeatedly(void *context)
{
    int seed = *(int *)context;
    for (int i = 0; i < 300; i++)
        if (one_call(1 + (seed * 31 + i * 7) % 60, 1 + (seed + i) % 5) != 0)
            atomic_fetch_add(&callers_wrong, 1);
}

static void test_concurrent_callers(void)
{
    thread_handle threads[8];
    start_args args[8];
    int seeds[8];
    for (int i = 0; i < 8; i++) {
        seeds[i] = i;
        thread_start(&threads[i], &args[i], call_repeatedly, &seeds[i]);
    }
    for (int i = 0; i < 8; i++)
        thread_join(threads[i]);
    CHECK(atomic_load(&callers_wrong) == 0, "%d calls went wrong", atomic_load(&callers_wrong));
}

static void long_call(void *context)
{
    work *w = context;
    run_work(w, NULL, NULL);
}

/* The second call finds the pool taken, and gets helpers when the first has ended. */
static void test_pool_is_taken_when_it_comes_free(void)
{
    work *first = new_work(40, 2), *second = new_work(400, 2);
    first->task_us = second->task_us = 1000;
    thread_handle thread;
    start_args args;
    thread_start(&thread, &args, long_call, first);
    sleep_us(5000);
    run_work(second, NULL, NULL);
    thread_join(thread);
    CHECK(atomic_load(&second->helped), "the second call never got a helper");
    CHECK(!atomic_load(&first->faults) && !atomic_load(&second->faults), "faults");
    free_work(first);
    free_work(second);
}

static void test_thread_count(void)
{
    int before = rv_threads_get();
    CHECK(before >= 1 && before <= RV_MAX_THREADS, "%d", before);
    CHECK(rv_cpus_affinity() >= 1 && rv_cpus_affinity() <= rv_cpus_online(), "%d of %d", rv_cpus_affinity(), rv_cpus_online());
    CHECK(rv_threads_set(3) == RV_OK && rv_threads_get() == 3, "%d", rv_threads_get());
    CHECK(rv_threads_set(0) == RV_ERR_PARAM && rv_threads_set(-1) == RV_ERR_PARAM && rv_threads_get() == 3, "refused values");
    CHECK(rv_threads_set(INT_MAX) == RV_OK && rv_threads_get() == RV_MAX_THREADS, "%d", rv_threads_get());
    rv_threads_set(before);
}

#if !defined(_WIN32)

/* Runs body in a child that is killed when it hangs; 0 when the child left with status 0. */
static int in_child(int (*body)(void *), void *context)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        forked = 1;
        alarm(60);
        _exit(body(context));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return status;
}

static void do_nothing(void *context) { (void)context; }

static int child_starts_a_thread(void *context)
{
    thread_handle thread;
    start_args args;
    (void)context;
    thread_start(&thread, &args, do_nothing, NULL);
    return 0;
}

static int child_calls(void *context)
{
    (void)context;
    for (int i = 0; i < 20; i++)
        if (one_call(100, 2 + i % 3) != 0)
            return 1;
    return helped(2) ? 0 : 4;
}

static int child_forks(void *context)
{
    return child_calls(context) || in_child(child_calls, context) || child_calls(context);
}

static void test_fork_after_use(void)
{
    one_call(100, 4);
    CHECK(in_child(child_calls, NULL) == 0, "child");
    CHECK(in_child(child_forks, NULL) == 0, "child of a child");
    CHECK(one_call(100, 4) == 0, "the parent's next call");
}

static atomic_int stop_calls;

/* Allocates nothing on the way: a child of the address sanitizer hangs when it inherits its allocator's lock. */
static void call_until_told(void *context)
{
    work *w = context;
    for (int i = 0; !atomic_load(&stop_calls); i++) {
        w->task_us = i % 2 * 20;
        run_work(w, NULL, NULL);
    }
}

/* One thread forks while others are starting, running and ending parallel calls. */
static void test_fork_during_use(void)
{
    thread_handle threads[2];
    start_args args[2];
    work *works[2];
    int bad = 0;
    for (int i = 0; i < 2; i++) {
        works[i] = new_work(20 + i * 15, 3);
        thread_start(&threads[i], &args[i], call_until_told, works[i]);
    }
    for (int i = 0; i < 40; i++) {
        bad += in_child(child_calls, NULL) != 0;
        sleep_us(i * 13 % 200);
    }
    atomic_store(&stop_calls, 1);
    for (int i = 0; i < 2; i++) {
        thread_join(threads[i]);
        CHECK(atomic_load(&works[i]->faults) == 0, "%d faults in the parent", atomic_load(&works[i]->faults));
        free_work(works[i]);
    }
    CHECK(bad == 0, "%d of 40 children failed or hung", bad);
}

typedef struct fork_inside {
    pid_t child;
    int is_child;
} fork_inside;

static int fork_when_asked(void *context)
{
    fork_inside *f = context;
    if (f->child == 0 && !f->is_child) {
        fflush(stdout);
        f->child = fork();
        f->is_child = f->child == 0;
        if (f->is_child) {
            forked = 1;
            alarm(60);
            if (one_call(50, 3) != 0)
                _exit(2);
        }
    }
    return 0;
}

/* The callback may run user code: a signal handler that forks. Alone, the child finishes the call; when helpers were at work
 * it learns that the call is lost; either way its next call is right. */
static void test_fork_inside_a_call(void)
{
    for (int threads = 1; threads <= 3; threads += 2) {
        fork_inside f = {0, 0};
        work *w = new_work(200, threads);
        w->task_us = 500;
        rv_status status = run_work(w, fork_when_asked, &f);
        int whole = 1;
        for (int64_t i = 0; i < w->tasks; i++)
            whole &= w->done[i] == 1;
        if (f.is_child) {
            int right = status == RV_OK ? whole : status == RV_ERR_INTERRUPTED && threads > 1;
            _exit(right && one_call(100, 3) == 0 ? 0 : 3);
        }
        int left = -1;
        waitpid(f.child, &left, 0);
        CHECK(f.child > 0 && left == 0, "%d threads: child %d ended with %d", threads, (int)f.child, left);
        CHECK(status == RV_OK && whole, "%d threads: the parent's call", threads);
        free_work(w);
    }
}

RV_UNUSED static int child_exits(void *context)
{
    (void)context;
    if (one_call(100, 4) != 0)
        return 1;
    exit(0);
}

static int child_exits_during_a_call(void *context)
{
    (void)context;
    static work *w;
    thread_handle thread;
    start_args args;
    w = new_work(1000000, 3);
    w->task_us = 1000;
    thread_start(&thread, &args, long_call, w);
    sleep_us(5000);
    exit(0);
}

static void test_exit(void)
{
    int64_t start = now_us();
#if defined(__SANITIZE_THREAD__)
    printf("skipped: exit of a child, as gcc's thread sanitizer cannot join there\n");
#else
    CHECK(in_child(child_exits, NULL) == 0, "with sleeping helpers");
#endif
    CHECK(in_child(child_exits_during_a_call, NULL) == 0, "with working helpers");
    CHECK(now_us() - start < 20000000, "exit took %lld us", (long long)(now_us() - start));
}

static void signals_task(void *context, int worker, int64_t task)
{
    sigset_t set;
    (void)task;
    sleep_us(500);
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    int blocks = sigismember(&set, SIGINT) && sigismember(&set, SIGTERM) && sigismember(&set, SIGUSR1);
    if (worker > 0 && (!blocks || sigismember(&set, SIGSEGV)))
        atomic_fetch_add((atomic_int *)context, 1);
    if (worker == 0 && sigismember(&set, SIGINT))
        atomic_fetch_add((atomic_int *)context, 1);
}

static void test_signals_go_to_the_program(void)
{
    atomic_int faults = 0;
    rv_parallel_for(40, 3, signals_task, &faults, NULL, NULL);
    CHECK(atomic_load(&faults) == 0, "%d", atomic_load(&faults));
}

typedef struct env_case {
    const char *value;
    int threads;        /* 0: refused; -1: the default */
} env_case;

static int child_reads_env(void *context)
{
    const env_case *c = context;
    if (c->value)
        setenv("RUVECTOR_NUM_THREADS", c->value, 1);
    else
        unsetenv("RUVECTOR_NUM_THREADS");
    const char *bad = NULL;
    rv_status status = rv_threads_init(&bad);
    if (c->threads == 0)
        return !(status == RV_ERR_PARAM && bad && strcmp(bad, c->value) == 0 && rv_threads_get() >= 1);
    return !(status == RV_OK && !bad && rv_threads_get() >= 1 && (c->threads < 0 || rv_threads_get() == c->threads));
}

static void test_environment(void)
{
    static env_case cases[] = {{NULL, -1}, {"", -1}, {"1", 1}, {"7", 7}, {"100000", RV_MAX_THREADS},
                               {"99999999999999999999", RV_MAX_THREADS}, {"0", 0}, {"-2", 0}, {"two", 0}, {"2x", 0}, {"2.5", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(in_child(child_reads_env, &cases[i]) == 0, "RUVECTOR_NUM_THREADS=%s", cases[i].value ? cases[i].value : "(unset)");
}

#endif

#if defined(__linux__)

/* Writes root/path, making the folders on the way. */
static void write_file(const char *root, const char *path, const char *text)
{
    char name[512];
    snprintf(name, sizeof name, "%s/%s", root, path);
    for (char *slash = name + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(name, 0700);
        *slash = '/';
    }
    FILE *file = fopen(name, "w");
    if (!file)
        abort();
    fputs(text, file);
    fclose(file);
}

typedef struct cgroup_case {
    const char *what;
    int cpus;
    const char *files[8];       /* path, text, path, text ... */
} cgroup_case;

static void test_cgroup(void)
{
    static const cgroup_case cases[] = {
        {"no cgroups", 0, {0}},
        {"v2 without a limit", 0, {"proc/self/cgroup", "0::/\n", "sys/fs/cgroup/cpu.max", "max 100000\n"}},
        {"v2 at the root of a container", 2, {"proc/self/cgroup", "0::/\n", "sys/fs/cgroup/cpu.max", "200000 100000\n"}},
        {"v2 rounds up", 2, {"proc/self/cgroup", "0::/\n", "sys/fs/cgroup/cpu.max", "150000 100000\n"}},
        {"v2 less than one", 1, {"proc/self/cgroup", "0::/\n", "sys/fs/cgroup/cpu.max", "5000 100000\n"}},
        {"v2 limit of a group above", 3,
         {"proc/self/cgroup", "0::/a/b/c\n", "sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n", "sys/fs/cgroup/a/cpu.max",
          "300000 100000\n", "sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"}},
        {"v1", 4,
         {"proc/self/cgroup", "5:memory:/x\n4:cpuacct,cpu:/x\n0::/\n", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "400000\n",
          "sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n"}},
        {"v1 without a limit", 0,
         {"proc/self/cgroup", "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}},
        {"v1 in a container that sees the host's path", 2,
         {"proc/self/cgroup", "4:cpu,cpuacct:/docker/0123\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "110000\n",
          "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}},
        {"other controllers do not count", 0,
         {"proc/self/cgroup", "4:cpuset:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}},
        {"nonsense", 0, {"proc/self/cgroup", "\n:\n0:\n0::\nx::/\n", "sys/fs/cgroup/cpu.max", "-5 0\n"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const cgroup_case *c = &cases[i];
        char root[] = "/tmp/rv_cgroup_XXXXXX", command[64];
        if (!mkdtemp(root))
            abort();
        for (int k = 0; k < 8 && c->files[k]; k += 2)
            write_file(root, c->files[k], c->files[k + 1]);
        int cpus = rv_cpus_cgroup(root);
        CHECK(cpus == c->cpus, "%s: %d instead of %d", c->what, cpus, c->cpus);
        snprintf(command, sizeof command, "rm -r %s", root);
        if (system(command) != 0)
            abort();
    }
    CHECK(rv_cpus_cgroup("") >= 0, "this machine");
}

#endif

int main(void)
{
#if !defined(_WIN32)
    test_environment();
#endif
#if defined(__linux__)
    test_cgroup();
#endif
    test_thread_count();
    test_helpers_take_part();
    test_every_task_once();
    test_short_calls();
    test_pauses_around_the_moment_of_sleep();
    test_stack();
    test_nested();
    test_interrupt();
    test_concurrent_callers();
    test_pool_is_taken_when_it_comes_free();
#if !defined(_WIN32)
    test_signals_go_to_the_program();
    if (in_child(child_starts_a_thread, NULL) == 0) {
        test_fork_after_use();
        test_fork_during_use();
        test_fork_inside_a_call();
        test_exit();
    } else {
        printf("skipped: fork, as children of a threaded process cannot start threads here (qemu-user)\n");
    }
#endif
    test_oversubscription();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
