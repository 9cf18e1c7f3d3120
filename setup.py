"""CMake builds the extension (scikit-build-core's setuptools plugin drives it); this names the package."""

import pathlib

from setuptools import find_packages, setup

root = pathlib.Path(__file__).parent

setup(
    version=(root / "VERSION").read_text().strip(),
    packages=["profilomatic"] + ["profilomatic." + p for p in find_packages("bindings/profilomatic")],
    package_dir={"profilomatic": "bindings/profilomatic"},
    package_data={"": ["py.typed", "*.pyi", "*.html", "*.css", "*.js"]},
    include_package_data=False,
    cmake_source_dir=".",
)
