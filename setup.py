"""CMake builds the extension (scikit-build-core's setuptools plugin drives it); this names the package.

Where there can be no extension, or none is wanted (PROFILOMATIC_PURE=1), the engine in pure Python is all of it.
"""

import os
import pathlib
import sys

from setuptools import find_packages, setup

root = pathlib.Path(__file__).parent
pure = os.environ.get("PROFILOMATIC_PURE", "").strip().lower() in ("1", "true", "yes", "on")
native = not pure and sys.implementation.name == "cpython" and sys.platform == "linux"

setup(
    version=(root / "VERSION").read_text().strip(),
    packages=["profilomatic"] + ["profilomatic." + p for p in find_packages("bindings/profilomatic")],
    package_dir={"profilomatic": "bindings/profilomatic"},
    package_data={"": ["py.typed", "*.pyi", "*.html", "*.css", "*.js"]},
    include_package_data=False,
    **({"cmake_source_dir": "."} if native else {}),
)
