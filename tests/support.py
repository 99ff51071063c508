"""What several test modules share: dtypes, sizes, random data, subprocesses."""

import functools
import os
import subprocess
import sys
import tempfile
import tracemalloc

import numpy as np
import reference

DTYPES = {"float32": reference.F32, "float64": reference.F64, "float16": reference.F16}
if reference.HAVE_BFLOAT16:
    DTYPES["bfloat16"] = reference.BFLOAT16

# Around every lane and block edge that an ISA or a tile may have.
EDGES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513)
LONG_EDGES = (2047, 2048, 2049)

# Set above 1 where the machine is emulated: every limit on time is multiplied by it.
TIME_FACTOR = float(os.environ.get("RUVECTOR_TEST_TIME_FACTOR", "1"))


def generator(*seed):
    """A Generator of its own for every tuple of words and numbers."""
    return np.random.default_rng([int.from_bytes(str(s).encode(), "little") % 2**63 for s in ("ruvector", *seed)])


def normal(shape, dtype, *seed, scale=1.0):
    """Independent normal numbers: no two rows parallel."""
    return (generator(*seed, *np.atleast_1d(shape)).standard_normal(shape) * scale).astype(dtype)


@functools.cache
def cached_qkv(q_shape, k_shape, v_shape, dtype_name, *seed):
    """query, key and value from separate streams, so that value is never key; read-only, shared by the ISAs."""
    dtype = DTYPES[dtype_name]
    arrays = tuple(
        normal(shape, dtype, role, *seed) for role, shape in (("q", q_shape), ("k", k_shape), ("v", v_shape))
    )
    for a in arrays:
        a.setflags(write=False)
    return arrays


def qkv(batch, q_len, kv_len, dim, v_dim, dtype_name, *seed):
    batch = tuple(np.atleast_1d(batch)) if batch != () else ()
    return cached_qkv((*batch, q_len, dim), (*batch, kv_len, dim), (*batch, kv_len, v_dim), dtype_name, *seed)


# What the types need whose rows are not any vectors: parameters that tests of all types give them.
TYPE_PARAMETERS = {"lorentz": {"space_only": True}}


def points(name, x, radius=1.0):
    """The rows of x as points of the space of a type: inside the ball, or at a moderate distance on the hyperboloid."""
    if name in ("poincare", "mixed_curvature"):
        wide = x.astype(np.float64)
        return (wide * radius * 0.9 / (1 + np.linalg.norm(wide, axis=-1, keepdims=True))).astype(x.dtype)
    return (x.astype(np.float64) * radius * 0.4).astype(x.dtype) if name == "lorentz" else x


def bits(x):
    """The bytes of an array, so that equality is bitwise: NaN equals itself, -0 differs from 0."""
    return np.ascontiguousarray(x).view(np.uint8)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(bits(a), bits(b))


def python_command(code):
    """A child that sees the installed package, whatever the current folder of the suite is."""
    return [sys.executable, "-P", "-c", code]


def run_python(code, env=None, timeout=60):
    """Runs `code` in a new interpreter outside the checkout; a variable set to None is removed."""
    environment = dict(os.environ)
    for name, value in (env or {}).items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            python_command(code),
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout * TIME_FACTOR,
            check=False,
        )


def check_python(code, env=None, timeout=60):
    """Like `run_python`, but the child must exit with 0; returns what it printed."""
    result = run_python(code, env, timeout)
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


class DLPackOnly:
    """An array that speaks DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def peak_allocation(call):
    """Bytes that NumPy allocates at the most during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
