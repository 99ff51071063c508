"""Fixtures of the whole suite. The installed package is tested, never an unbuilt source tree."""

import platform
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# The helper modules of this folder (reference, support) are imported by name.
sys.path.insert(0, str(HERE))
# `python -m pytest` puts the checkout first on the path, where the package has no compiled modules unless it was built
# in place: the installed one is meant.
COMPILED = (HERE.parent / "ruvector").glob("_ruvector_core.*")
if not any(p.suffix in (".so", ".pyd") for p in COMPILED):
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE.parent]

import hypothesis  # noqa: E402
import reference_axial  # noqa: E402, F401  its oracle adds itself to the table
import ruvector  # noqa: E402
import servers  # noqa: E402
import support  # noqa: E402

hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    max_examples=40,
    database=None,
    print_blob=False,
    # the isa fixture stays in force for every example, which is what is wanted
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")

# What a build for this architecture contains: one that cannot run here must show as skipped, not be left out.
X86 = platform.machine().lower() in ("x86_64", "amd64")
BUILT = ("avx512bf16", "avx512", "avx2", "scalar") if X86 else ("neon", "scalar")
ISAS = tuple(dict.fromkeys((*ruvector.isas(), *BUILT)))


def pytest_report_header(config):
    return [
        f"ruvector {ruvector.__version__} from {Path(ruvector.__file__).parent}",
        f"ruvector ISAs run: {', '.join(ruvector.isas())} (automatic choice: {ruvector.isa()}), "
        f"threads: {ruvector.get_num_threads()}",
    ]


@pytest.fixture(params=ISAS)
def isa(request):
    """Forces one instruction set and makes sure that it is the one that runs, before the test and after."""
    if request.param not in ruvector.isas():
        pytest.skip(f"this CPU does not run {request.param}")
    with ruvector.use_isa(request.param):
        assert ruvector.isa() == request.param
        yield request.param
        assert ruvector.isa() == request.param


@pytest.fixture(params=support.DTYPES)
def dtype_name(request):
    return request.param


@pytest.fixture
def dtype(dtype_name):
    return support.DTYPES[dtype_name]


@pytest.fixture
def threads():
    """Gives back the number of threads that a test sets."""
    before = ruvector.get_num_threads()
    yield
    ruvector.set_num_threads(before)


@pytest.fixture(scope="session", params=servers.VERSIONS, ids=lambda version: f"pg{version}")
def server(request):
    """A PostgreSQL server of each version that is installed here, with the extension."""
    pg_config, reason = servers.install(request.param)
    if pg_config is None:
        pytest.skip(reason)
    with servers.Server(request.param, pg_config) as server:
        yield server


@pytest.fixture(scope="module")
def database(server):
    """A connection to a database of its own with the schema `here`."""
    with server.database() as c:
        c.execute("CREATE SCHEMA here")
        c.server = server
        yield c
