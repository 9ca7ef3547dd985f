"""Only what setup.cfg cannot say: the C twins of the hot functions, which a machine without a compiler does without."""

from glob import glob

from setuptools import Extension, setup

MODULES = ("websocketserver/protocol/_speedups", "websocketserver/_express")

setup(
    ext_modules=[
        Extension(
            module.replace("/", "."),
            [f"{module}.c"],
            depends=glob(f"{module}_*.h"),
            extra_compile_args=["-O3"],
            optional=True,
        )
        for module in MODULES
    ]
)
