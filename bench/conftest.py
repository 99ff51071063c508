"""What the suites share: the rows of `ruvector.bench.rows` as parameters, and a report in rates."""

import pytest

import ruvector
from ruvector.bench import peaks, problems, rows

ISAS = peaks.columns()
THREADS = sorted({1, ruvector.get_num_threads()})


@pytest.fixture(params=ISAS)
def isa(request):
    """The best instruction set of each vector width, forced."""
    with ruvector.use_isa(request.param):
        assert ruvector.isa() == request.param
        yield request.param


@pytest.fixture(params=THREADS)
def threads(request):
    """One thread, and as many as the process may use."""
    before = ruvector.get_num_threads()
    ruvector.set_num_threads(request.param)
    yield request.param
    ruvector.set_num_threads(before)


@pytest.fixture(scope="module")
def problem(request):
    """A row's data, made once for all instruction sets and numbers of threads."""
    try:
        return problems.make(rows.by_name(request.param))
    except problems.Unsupported as reason:
        pytest.skip(str(reason))


@pytest.fixture
def timed(benchmark):
    """Checks a call's result once, then times it; rates go into the report."""

    def run(problem, call):
        if call.before:
            call.before()
        check = problem.check(call.read(call.run()), call.precision)
        assert check.right, f"off by {check.error:.3g}, {check.share:.3g} of the tolerance"
        benchmark.group = problem.row.name
        if call.limit:
            benchmark.pedantic(call.run, setup=call.before, rounds=5)
        else:
            benchmark(call.run)
        if benchmark.stats is not None:  # --benchmark-disable makes the calls alone
            seconds = benchmark.stats.stats.min
            work = problem.row.bytes if problem.row.reads else problem.row.operations
            benchmark.extra_info["GB/s" if problem.row.reads else "GFLOP/s"] = work / seconds / 1e9

    return run
