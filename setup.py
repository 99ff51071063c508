"""The compiled part of the build; pyproject.toml holds everything else.

``RUVECTOR_RELEASE=1`` builds what release wheels hold: the stable ABI of CPython 3.11
(about 60 ns more a call than a build for one version) and no debug information.
"""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import numpy
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

RELEASE = os.environ.get("RUVECTOR_RELEASE") == "1"
# Free-threaded interpreters have no stable ABI before 3.15, and Cython none at all yet.
ABI3 = RELEASE and not sysconfig.get_config_var("Py_GIL_DISABLED")

# The value of every float is part of the interface: no contraction, no fast-math. Nothing
# reads errno, and without it sqrt is one instruction and needs no libm.
UNIX_FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno"]
UNIX_FLAGS += ["-fvisibility=hidden", "-pthread", *(["-g0"] if RELEASE else [])]
UNIX_LINK = ["-pthread", *(["-Wl,-s"] if RELEASE and sys.platform == "linux" else [])]
MSVC_FLAGS = ["/std:c11", "/experimental:c11atomics", "/O2", "/fp:precise"]
MSVC_X64 = {"avx512": "/arch:AVX512", "avx2": "/arch:AVX2"}  # others read target pragmas

MACROS = [
    ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
    *([("Py_LIMITED_API", "0x030B0000"), ("CYTHON_LIMITED_API", "1")] if ABI3 else []),
]
CORE = "ruvector/_ruvector_core.pyx"  # the one module that links csrc: its state exists once
HEADERS = sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/*.def"))


class build_c11(build_ext):
    """C11 by either compiler; sources in parallel, an /arch for each ISA under MSVC."""

    def build_extensions(self):
        compile_one, msvc = self.compiler.compile, self.compiler.compiler_type == "msvc"
        x64 = msvc and self.plat_name == "win-amd64"

        def compile_all(sources, **options):
            def job(source):
                name = os.path.basename(source)
                arch = [MSVC_X64[isa] for isa in MSVC_X64 if x64 and name.startswith(isa)]
                flags = (MSVC_FLAGS if msvc else UNIX_FLAGS) + arch[:1]
                return compile_one([source], **{**options, "extra_postargs": flags})

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [obj for objects in pool.map(job, sources) for obj in objects]

        self.compiler.compile = compile_all
        for extension in self.extensions:
            extension.extra_link_args = [] if msvc else UNIX_LINK
        super().build_extensions()


setup(
    packages=[*find_packages(include=["ruvector", "ruvector.*"]), "ruvector._csrc"],
    package_dir={"ruvector._csrc": "csrc"},
    ext_modules=[
        Extension(
            path.removesuffix(".pyx").replace("/", "."),
            sources=[path, *sorted(glob("csrc/*.c") + glob("csrc/isa/*.c")) * (path == CORE)],
            depends=[*HEADERS, *sorted(glob("ruvector/*.pxd"))],
            include_dirs=["csrc", numpy.get_include()],
            define_macros=MACROS,
            py_limited_api=ABI3,
        )
        for path in sorted(p.replace(os.sep, "/") for p in glob("ruvector/_*.pyx"))
    ],
    cmdclass={"build_ext": build_c11},
    options={
        "build_ext": {"cython_c_in_temp": True},
        "bdist_wheel": {"py_limited_api": "cp311"} if ABI3 else {},
    },
)
