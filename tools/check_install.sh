#!/usr/bin/env bash
# Install the package with pip into a scratch environment, as a user would, and run its command: without the extension
# first, then with it.
#   tools/check_install.sh PYTHON
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${1:?usage: tools/check_install.sh PYTHON}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# A copy of what git would ship: pip builds in the tree it is given.
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$scratch" --
"$python" -m venv "$scratch/.v"
install=("$scratch/.v/bin/python" -m pip install --disable-pip-version-check --no-input "$scratch")
cd /
PROFILOMATIC_PURE=1 "${install[@]}" </dev/null
"$scratch/.v/bin/python" -c 'import importlib.util as util; assert util.find_spec("profilomatic._core") is None'
"$scratch/.v/bin/profilomatic" check || [ $? -eq 1 ] # works, with a slower engine
"${install[@]}" --force-reinstall </dev/null
"$scratch/.v/bin/python" -c 'import profilomatic._core as core; print("installed:", core.__file__)'
"$scratch/.v/bin/profilomatic" check
