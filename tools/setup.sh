#!/usr/bin/env bash
# Prepare this machine for the build and the tests; nothing to do is the usual case and takes a moment.
#
#   tools/setup.sh [c|first|all] [+tool ...]
#
# c      what the C part needs: compiler, CMake, Ninja, libuv, msgpack-c, OpenSSL, zlib, cmocka
# first  that, and a virtual environment for one interpreter
# all    that, a virtual environment for each interpreter of tools/interpreters.py, and what can be had of the servers
#        in requirements/servers.txt, mod_wsgi and nginx (the default). The optional interpreters are fetched first (tools/get_python.sh);
#        where they cannot be had, a line says so
# +tool  also a program such as +valgrind or +clang-format
#
# System packages come from apt, only those that are missing, as root or through sudo. Environments are
# .venv/<minor>; a stamp in each says for which interpreter and which requirements it was filled.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scope=all
tools=()
for word in "$@"; do
  case $word in
    c | first | all) scope=$word ;;
    +*) tools+=("${word#+}") ;;
    *) echo "usage: tools/setup.sh [c|first|all] [+tool ...]" >&2; exit 2 ;;
  esac
done

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

mkdir -p build/log
exec 9>build/.setup.lock
flock 9 # two makes at once would fill one environment twice

have() { command -v "$1" >/dev/null 2>&1; }
have_header() { printf '#include <%s>\n' "$1" | cc -E -x c - >/dev/null 2>&1; }

# The system's own interpreter where there is one: a version manager's shim may point nowhere.
find_python() {
  local candidate
  for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

interpreters() {
  local python
  python=$(find_python) || return 1
  "$python" tools/interpreters.py "$@"
}

missing_packages() {
  local pair
  if ! have cc || ! have gcc || ! have_header stdio.h; then
    echo gcc libc6-dev
  fi
  for pair in cmake:cmake ninja:ninja-build pkg-config:pkg-config nm:binutils openssl:openssl; do
    have "${pair%%:*}" || echo "${pair#*:}"
  done
  for pair in uv.h:libuv1-dev openssl/ssl.h:libssl-dev zlib.h:zlib1g-dev msgpack.h:msgpack-c; do
    have_header "${pair%%:*}" || echo "${pair#*:}"
  done
  # cmocka.h wants four standard headers before it, so it is looked up rather than compiled.
  if [ ! -e /usr/include/cmocka.h ] && [ ! -e /usr/local/include/cmocka.h ]; then
    echo libcmocka-dev
  fi
  if [ "$scope" != c ] && ! interpreters >/dev/null; then
    echo python3 python3-dev python3-venv
  fi
  for pair in ${tools[@]+"${tools[@]}"}; do
    have "$pair" || echo "$pair"
  done
}

install_packages() {
  local wanted=("$@") elevate=() name i
  if [ "$(id -u)" != 0 ]; then
    if have sudo && sudo -n true 2>/dev/null; then
      elevate=(sudo -n)
    elif have sudo && [ -t 0 ]; then
      elevate=(sudo)
    else
      die "missing: ${wanted[*]}. Neither root nor sudo here; ask for: apt-get install ${wanted[*]/msgpack-c/libmsgpack-dev}"
    fi
  fi
  have apt-get || die "missing: ${wanted[*]} (Debian's names), and there is no apt-get to install them"
  say "installing ${wanted[*]} (log: build/log/apt.log)"
  "${elevate[@]}" apt-get update >build/log/apt.log 2>&1 ||
    { tail -n 5 build/log/apt.log >&2; say "apt-get update failed; going on with the lists there are"; }
  for i in "${!wanted[@]}"; do
    # Debian 13 renamed the package of msgpack's C library.
    if [ "${wanted[$i]}" = msgpack-c ]; then
      name=libmsgpack-dev
      apt-cache show libmsgpack-c-dev >/dev/null 2>&1 && name=libmsgpack-c-dev
      wanted[$i]=$name
    fi
  done
  "${elevate[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${wanted[@]}" \
    >>build/log/apt.log 2>&1 </dev/null ||
    { tail -n 15 build/log/apt.log >&2; die "apt-get install failed; the whole log is build/log/apt.log"; }
}

read -r -a wanted <<<"$(missing_packages | tr '\n' ' ')"
if [ ${#wanted[@]} -gt 0 ]; then
  install_packages "${wanted[@]}"
  read -r -a wanted <<<"$(missing_packages | tr '\n' ' ')"
  [ ${#wanted[@]} -eq 0 ] || {
    [ "$scope" = c ] || interpreters --why >/dev/null || true
    die "still missing after the install: ${wanted[*]}"
  }
fi

[ "$scope" = c ] && exit 0

# Debian's interpreters look for pip's wheel where their packages would have put it; of one that was only unpacked it lies
# beside it.
make_environment() {
  local place=$1 python=$2 wheel
  rm -rf "$place"
  for wheel in "$(dirname "$python")"/../share/python-wheels/pip-*.whl; do
    if [ -e "$wheel" ]; then
      "$python" -m venv --without-pip "$place" && "$place/bin/python" "$wheel/pip" install --disable-pip-version-check "$wheel"
      return
    fi
  done
  "$python" -m venv "$place"
}

is_optional() { [[ " $optional " = *" $1 "* ]]; }

install_requirements() {
  local place=$1 minor=$2 requirement
  local pip=("$place/bin/python" -m pip install --disable-pip-version-check --no-input --prefer-binary)
  "${pip[@]}" -r requirements/test.txt && return 0
  is_optional "$minor" || return 1
  # Packages come late to the newest interpreters: what cannot be had there yet is left out, and its tests skip themselves.
  while read -r requirement; do
    [ -z "$requirement" ] || [ "${requirement:0:1}" = '#' ] || "${pip[@]}" "$requirement" ||
      say "CPython $minor goes without ${requirement%%[<>=]*}: it could not be installed there" >&3
  done <requirements/test.txt
  "$place/bin/python" -c 'import pytest'
}

fill_environment() {
  local minor=$1 python=$2 version=$3 place stamp now log
  place=.venv/$minor
  stamp=$place/.filled
  log=build/log/pip-$minor.log
  now="$python $version $(sha256sum <requirements/test.txt | cut -d' ' -f1)"
  if [ -x "$place/bin/python" ] && [ -e "$stamp" ] && [ "$(<"$stamp")" = "$now" ]; then
    return 0
  fi
  say "filling $place for CPython $version (log: $log)"
  if { make_environment "$place" "$python" && install_requirements "$place" "$minor"; } 3>&1 >"$log" 2>&1 </dev/null; then
    printf '%s' "$now" >"$stamp"
  elif is_optional "$minor"; then
    say "CPython $minor is left out: $place could not be filled (log: $log)"
  else
    tail -n 15 "$log" >&2
    die "could not fill $place; the whole log is $log"
  fi
}

# uWSGI for one interpreter, and mod_wsgi for it where Apache's apxs is. Wanted and not needed: the tests of a server that
# is not there say so and are skipped. The stamp keeps a failure, too, so that it costs one attempt and not one each time.
fill_servers() {
  local minor=$1 place=.venv/$1 stamp=.venv/.servers now requirement
  now="$(<"$place/.filled") $(sha256sum <requirements/servers.txt | cut -d' ' -f1)"
  if [ -e "$stamp" ] && [ "$(<"$stamp")" = "$now" ]; then
    return 0
  fi
  say "building servers for $place, a minute at most (log: build/log/servers.log)"
  : >build/log/servers.log
  while read -r requirement; do
    case $requirement in
      '' | '#'*) continue ;;
      mod_wsgi*) have apxs || continue ;;
    esac
    timeout 300 "$place/bin/python" -m pip install --disable-pip-version-check --no-input "$requirement" \
      >>build/log/servers.log 2>&1 </dev/null ||
      say "could not install $requirement, going on without (to try again: rm $stamp)"
  done <requirements/servers.txt
  printf '%s' "$now" >"$stamp"
}

# Debian's mod_wsgi, for the interpreter of Debian's own minor version. apache2-bin is the program without the service.
fill_apache() {
  local stamp=.venv/.apache
  if [ -e "$stamp" ] || [ -e /usr/lib/apache2/modules/mod_wsgi.so ] || ! have apt-get || ! have setpriv; then
    return 0
  fi
  (install_packages apache2-bin libapache2-mod-wsgi-py3) </dev/null ||
    say "going on without mod_wsgi (to try again: rm $stamp)"
  : >"$stamp"
}

# nginx, behind which tests of destinations put their server. Only unpacked: an install would start a service on port 80. What it
# is linked to is on the machine for the C part, or for dpkg itself. Ubuntu has the program in nginx-core.
fill_nginx() {
  local place=.venv/nginx stamp=.venv/.nginx name
  if [ -e "$stamp" ] || have nginx || [ -x /usr/sbin/nginx ] || ! have apt-get || ! have dpkg; then
    return 0
  fi
  for name in nginx nginx-core; do
    rm -rf "$place" build/nginx
    mkdir -p "$place" build/nginx
    (cd build/nginx && apt-get download "$name" && dpkg -x ./*.deb "../../$place") >build/log/nginx.log 2>&1 </dev/null || continue
    "$place/usr/sbin/nginx" -v >>build/log/nginx.log 2>&1 && break
  done
  rm -rf build/nginx
  "$place/usr/sbin/nginx" -v >/dev/null 2>&1 ||
    say "going on without nginx (log: build/log/nginx.log; to try again: rm $stamp)"
  : >"$stamp"
}

fill_environments() {
  local minor python version
  count=0
  while read -r minor python version; do
    fill_environment "$minor" "$python" "$version" 9>&-
    count=$((count + 1))
    is_optional "$minor" || newest=$minor
    [ "$scope" = first ] && break
  done < <(interpreters)
  return 0
}

optional=$(interpreters --optional)
fill_environments
[ $count -gt 0 ] || die "no CPython 3.11, 3.12 or 3.13 with Python.h and venv was found (tools/interpreters.py --why)"
if [ "$scope" = all ]; then
  read -r -a missing <<<"$(interpreters --missing)"
  if [ ${#missing[@]} -gt 0 ]; then
    tools/get_python.sh "${missing[@]}" 9>&-
    fill_environments
  fi
  fill_apache 9>&-
  fill_nginx 9>&-
  fill_servers "$newest" 9>&-
fi
exit 0
