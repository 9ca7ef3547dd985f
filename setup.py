"""Only what setup.cfg cannot say: the C twin of the hot functions, which a machine without a compiler does without."""

from glob import glob

from setuptools import Extension, setup

SPEEDUPS = "websocketserver/protocol/_speedups"

setup(
    ext_modules=[
        Extension(
            SPEEDUPS.replace("/", "."),
            [f"{SPEEDUPS}.c"],
            depends=glob(f"{SPEEDUPS}_*.h"),
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
