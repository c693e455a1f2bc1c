# shellcheck shell=sh
# What every script here needs: the host's packages, a range of subordinate ids, and a Python environment.
#
# Sourced, not run. After `prepare run` (or `prepare dev`, with the tools for tests and checks):
#   $top      the checkout
#   $src      what to run from: the checkout itself or, for root, a copy that the service user can read
#   $python   the interpreter of a virtual environment in which nsbox and its dependencies can be imported
#   $environment   the virtual environment with the dependencies (and, after `prepare dev`, the tools)
# and `launch ARGS…` replaces the shell by `$python ARGS…`. With `-m nsbox` always give `-P`: without it Python
# takes the nsbox of the current folder, which may be the checkout that the service user cannot read.
#
# An ordinary user gets `.venv` in the checkout. Root gets everything below /var/lib/nsbox-dev instead: the
# daemon never runs as root, and the account it runs as can read neither /root nor, perhaps, the checkout.

set -eu
umask 022
# usermod and friends live in sbin, which an ordinary user's PATH lacks on Debian.
PATH="${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin"
export PATH
# With a closed standard input the next file opened would become descriptor 0.
(true <&0) 2>/dev/null || exec </dev/null

top=$(cd "$(dirname "$0")/.." && pwd -P)
uid=$(id -u)
# Never the first python3 of PATH: that may be a shim in a home that the service user cannot read.
system_python=/usr/bin/python3
service_user=nsbox
root_base=/var/lib/nsbox-dev
service_state=/var/lib/nsbox

say() { printf 'nsbox: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Ends the script unless as_root can work; the arguments are what an administrator would have to run instead.
need_root() {
    [ "$uid" -eq 0 ] && return
    if command -v sudo >/dev/null 2>&1; then
        # Without a terminal nobody can type a password.
        sudo -n true 2>/dev/null && return
        [ -t 0 ] && return
    fi
    fail "this needs root, and sudo is not possible here. Let an administrator run:
  $*"
}

as_root() {
    if [ "$uid" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Runs a command with its output in a log, which is shown only when the command fails.
quietly() {
    quiet_log=$(mktemp)
    if "$@" >"$quiet_log" 2>&1; then
        rm -f "$quiet_log"
    else
        quiet_status=$?
        tail -n 60 "$quiet_log" >&2
        rm -f "$quiet_log"
        return "$quiet_status"
    fi
}

# --- packages -------------------------------------------------------------------------------------

apt_install() {
    [ -x /usr/bin/apt-get ] || fail "missing, and there is no apt-get to install it with: $*"
    need_root apt-get install "$@"
    say "installing with apt: $*"
    # The package lists are fetched only when the first try fails: none on a fresh machine, stale on an old one.
    apt_get install "$@" >/dev/null 2>&1 && return
    quietly apt_get update || say "going on with the package lists there are"
    quietly apt_get install "$@" || fail "apt-get could not install: $*"
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o DPkg::Lock::Timeout=300 \
        --no-install-recommends "$@" </dev/null
}

# What a running nsbox needs from the host.
need_host_tools() {
    missing=
    command -v newuidmap >/dev/null 2>&1 || missing="$missing uidmap"
    # Without it sandboxes run, and reach nothing.
    command -v pasta >/dev/null 2>&1 || missing="$missing passt"
    [ -x "$system_python" ] || missing="$missing python3"
    # shellcheck disable=SC2086  # a list of package names
    [ -z "$missing" ] || apt_install $missing
    "$system_python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$system_python is $("$system_python" -V 2>&1); nsbox needs Python 3.11 or newer (Debian 12, Ubuntu 24.04)"
}

# What building the environment needs besides: python-prctl is compiled against libcap.
need_build_tools() {
    missing=
    "$system_python" -I -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
    command -v gcc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
    [ -e /usr/include/sys/capability.h ] || missing="$missing libcap-dev"
    "$system_python" -I -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || missing="$missing python3-dev"
    # shellcheck disable=SC2086  # a list of package names
    [ -z "$missing" ] || apt_install $missing
}

# --- the Python environment -----------------------------------------------------------------------

# A folder of the calling user's own, for an ordinary user whose checkout is not writable. /var/tmp belongs to
# everybody, so a folder found there counts only when it is ours and nobody else can write to it.
own_cache() {
    if [ -n "${XDG_CACHE_HOME:-}" ] && mkdir -p "$XDG_CACHE_HOME/nsbox-dev" 2>/dev/null; then
        printf '%s\n' "$XDG_CACHE_HOME/nsbox-dev"
        return
    fi
    cache="/var/tmp/nsbox-dev-$uid"
    mkdir -m 0700 "$cache" 2>/dev/null || true
    [ "$(stat -c '%u %a %F' "$cache")" = "$uid 700 directory" ] ||
        fail "$cache is not a folder of yours with mode 0700; set XDG_CACHE_HOME to a folder you can write to"
    printf '%s\n' "$cache"
}

# ensure_environment FOLDER MODE: a virtual environment with the dependencies that pyproject.toml names; MODE is
# `run`, or `dev` for the tools as well. A lock lets two scripts start at once; the key file, written last, tells
# a whole environment from the remains of an interrupted script.
ensure_environment() {
    key="$(sha256sum <"$top/pyproject.toml") $("$system_python" -V 2>&1)"
    environment_is_ready "$1" "$2" && return
    mkdir -p "$(dirname "$1")"
    # The folder around it is the lock: a lock file would be one more thing to ignore and to clear away.
    exec 9<"$(dirname "$1")"
    flock -n 9 || {
        say "waiting for another script that makes $1"
        flock 9
    }
    environment_is_ready "$1" "$2" || build_environment "$1" "$2"
    exec 9<&-
}

environment_is_ready() {
    read_key=$(cat "$1/nsbox-key" 2>/dev/null) || return 1
    [ "$read_key" = "dev $key" ] || { [ "$2" = run ] && [ "$read_key" = "run $key" ]; }
}

build_environment() {
    need_build_tools
    say "making the Python environment $1 (a minute or so, once)"
    # From `run` to `dev` packages are only added: something may be running from here.
    if [ "$(cat "$1/nsbox-key" 2>/dev/null)" != "run $key" ]; then
        rm -rf "$1"
        quietly "$system_python" -I -m venv "$1" 9<&- || fail "no virtual environment could be made in $1"
    fi
    "$1/bin/python" -I -c '
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
extra = project["optional-dependencies"]["dev"] if sys.argv[2] == "dev" else []
print(*project["dependencies"], *extra, sep="\n")' "$top/pyproject.toml" "$2" >"$1/requirements.txt"
    # --use-pep517 because two dependencies are source archives with nothing but a setup.py.
    quietly "$1/bin/python" -I -m pip install --disable-pip-version-check --use-pep517 --no-input \
        -r "$1/requirements.txt" 9<&- || fail "pip could not install the dependencies of nsbox"
    printf '%s\n' "$2 $key" >"$1/nsbox-key"
}

# site_of ENVIRONMENT: its folder of packages.
site_of() {
    for site in "$1"/lib/python3*/site-packages; do
        printf '%s\n' "$site"
        return
    done
}

# Makes an environment see a folder of Python code. Renamed into place, as another Python may be starting.
add_path() {
    [ "$(cat "$1/nsbox-added.pth" 2>/dev/null)" = "$2" ] && return
    printf '%s\n' "$2" >"$1/nsbox-added.$$"
    mv "$1/nsbox-added.$$" "$1/nsbox-added.pth"
}

environment_of_user() {
    if [ -w "$top" ]; then
        environment=$top/.venv
    else
        # On a line of its own: the status of an assignment is that of its last substitution alone.
        environment=$(own_cache)
        environment=$environment/$(printf '%s' "$top" | sha256sum | cut -c1-12)
        HYPOTHESIS_STORAGE_DIRECTORY=$environment.hypothesis
        export HYPOTHESIS_STORAGE_DIRECTORY
    fi
    ensure_environment "$environment" "$1"
    add_path "$(site_of "$environment")" "$top"
    python=$environment/bin/python
    src=$top
}

# The sources as one stream without owners and times, so that equal sources give equal bytes.
packed_sources() {
    tar -C "$top" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' \
        --exclude=./.git --exclude=./.venv --exclude=./dist --exclude=./build \
        --exclude=__pycache__ --exclude='.*_cache' --exclude=.hypothesis --exclude='*.egg-info' -cf - .
}

# The copy is made aside and renamed, so it is whole or not there.
copy_sources() {
    making=$src.$$
    mkdir -p "$making"
    tar -C "$making" --no-same-owner -xf "$1"
    "$system_python" -I -m venv --without-pip "$making/.venv"
    add_path "$(site_of "$making/.venv")" "$src
$(site_of "$environment")"
    "$system_python" -I -m compileall -q "$making/nsbox" || true
    # Where another script was faster, its copy is as good, and ours is thrown away.
    mv -T "$making" "$src" 2>/dev/null || rm -rf "$making"
}

# Root runs from a copy, one for each state of the sources: a daemon started from an older one is not disturbed.
# The copy has an environment of its own, without pip and with two lines of paths: the copy and the dependencies.
environment_of_root() {
    environment=$root_base/venv
    ensure_environment "$environment" "$1"
    # Packed once, to a file: the sources may change between the sum and the copy.
    packed=$(mktemp "$root_base/packed.XXXXXX")
    packed_sources >"$packed"
    src=$root_base/src-$(sha256sum <"$packed" | cut -c1-16)
    python=$src/.venv/bin/python
    [ -x "$python" ] || copy_sources "$packed"
    rm -f "$packed"
    touch "$src"
    find "$root_base" -mindepth 1 -maxdepth 1 -name 'src-*' -mtime +7 -exec rm -rf {} +
}

# --- accounts and ids -----------------------------------------------------------------------------

# has_range FILE USER: whether a line gives the user 65536 ids or more, by name or by number.
has_range() {
    awk -F: -v name="$2" -v id="$(id -u "$2" 2>/dev/null)" \
        '($1 == name || $1 == id) && $3 >= 65536 { found = 1 } END { exit !found }' "$1" 2>/dev/null
}

# The account that nsbox runs as, and its ranges. `nsbox setup` knows how, and says what it changes.
need_account() {
    if [ "$uid" -eq 0 ]; then
        if ! id "$service_user" >/dev/null 2>&1 || ! has_range /etc/subuid "$service_user" ||
            ! has_range /etc/subgid "$service_user" || [ ! -d "$service_state" ]; then
            run_setup --user "$service_user"
        fi
    elif ! has_range /etc/subuid "$(id -un)" || ! has_range /etc/subgid "$(id -un)"; then
        set -- --user "$(id -un)" --ids-only
        # What a dry run prints last is the command, with a range that is free on this host.
        need_root "$("$python" -P -m nsbox setup "$@" --dry-run | tail -n 1 | sed 's/^ *//')"
        run_setup "$@"
    fi
}

# One at a time: setup looks again at what is already done, so the second finds nothing left to do.
run_setup() {
    as_root flock /var/lib "$python" -P -m nsbox setup "$@" >&2 || fail "nsbox setup failed (see above)"
}

# Ubuntu lets an unprivileged program use user namespaces only under an AppArmor profile that allows it.
need_profile() {
    [ "$(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2>/dev/null)" = 1 ] || return 0
    if [ ! -e /etc/apparmor.d/nsbox ]; then
        need_root "$python -P -m nsbox setup --profile-only"
        run_setup --profile-only
    fi
    confined=yes
}

# --- for the scripts ------------------------------------------------------------------------------

prepare() {
    confined=
    need_host_tools
    if [ "$uid" -eq 0 ]; then environment_of_root "$1"; else environment_of_user "$1"; fi
    need_account
    need_profile
}

launch() {
    if [ -n "$confined" ]; then
        exec aa-exec -p nsbox -- "$python" "$@"
    fi
    exec "$python" "$@"
}
