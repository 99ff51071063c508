"""Every row of the benchmark's table, on every instruction set and number of threads, and NumPy beside it."""

import pytest

from ruvector.bench import peers, rows

ROWS = pytest.mark.parametrize("problem", [row.name for row in rows.select()], indirect=True)


@ROWS
def test_row(timed, problem, isa, threads):
    if problem.row.one_thread and threads > 1:
        pytest.skip("too little work for a second thread")
    timed(problem, problem.ours())


@ROWS
def test_row_by_numpy(timed, problem):
    """As many threads as NumPy's BLAS has taken for itself: OPENBLAS_NUM_THREADS and the like are read when it is loaded."""
    if "numpy" not in problem.row.peers:
        pytest.skip("not a row of NumPy's")
    for call in peers.load("numpy", 1).calls(problem).values():
        timed(problem, call)
