#!/bin/bash
# install.sh [--check | --able] build|run|test|bench|lint
#
# Installs, by apt, what of the set is missing; a set holds the one before it. It lists first and asks nothing: root
# calls apt, anybody else sudo -n; where neither can be, the exact command is printed and it ends with 1. With
# everything there it costs some hundredths of a second and touches no network. --check only tells, and ends with
# 1 if something is missing; --able tells, and ends with 1, only if something is missing that can't be installed.
#
# No service is started or enabled: a package that would start one meets a policy-rc.d of ours, which is gone again
# (and the system's own back in place) however this ends; a unit that a package enabled is disabled again.
set -euo pipefail
export LC_ALL=C

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) = installed ]]; }
# Not by the exit status, which is 0 for a name that other packages only mention.
offered() { [ -n "$(apt-cache show --no-all-versions "$1" 2>/dev/null)" ]; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
lua_module() { luajit -e "require '$1'" >/dev/null 2>&1; }

# --- what each set needs: `need TEST... -- PACKAGE` puts PACKAGE on the list unless TEST holds ------------------
missing=()
need() {
    local test=()
    while [ "$1" != -- ]; do test+=("$1"); shift; done
    "${test[@]}" || missing+=("$2")
}

# OpenResty's LuaJIT: a package of its own on Debian 12, the only one since. What is here already stays: the two
# can't be installed together.
luajit_package() { # 5.1-dev, 5.1-2 or empty (the interpreter) -> package
    local branch=libluajit2-5.1 plain=libluajit-5.1
    if installed libluajit-5.1-2; then echo "${plain}-dev luajit"
    elif installed libluajit2-5.1-2 || offered libluajit2-5.1-dev || { ! offered libluajit-5.1-dev && on_debian_12; }; then
        echo "${branch}-dev luajit2"
    else echo "${plain}-dev luajit"; fi
}
on_debian_12() { grep -q '^VERSION_ID="12"' /etc/os-release 2>/dev/null; }

redis_server() { have redis-server || have redis-check-rdb; }
redis_tools() { have redis-cli && have redis-benchmark && redis_server; }
c_compiler() { have "${CC:-cc}" || have gcc; }
c_header() { [ -e "/usr/include/$1" ] || [ -e "/usr/local/include/$1" ]; }
library() { pkg-config --exists "$1" 2>/dev/null; }
nginx_module() { compgen -G "/usr/lib/nginx/modules/$1.so" >/dev/null; }
libraries() { library "luajit hiredis libcares libmicrohttpd jansson openssl libsystemd"; }

need_build() {
    need c_compiler -- gcc
    need c_header stdlib.h -- libc6-dev
    need have pkg-config -- pkgconf
    need c_header ev.h -- libev-dev
    libraries && return
    need library luajit -- "$(luajit_package | cut -d' ' -f1)"
    need library hiredis -- libhiredis-dev
    need library libcares -- libc-ares-dev
    need library libmicrohttpd -- libmicrohttpd-dev
    need library jansson -- libjansson-dev
    need library openssl -- libssl-dev
    need library libsystemd -- libsystemd-dev
}
need_run() {
    need_build
    need redis_tools -- redis-tools
}
need_test() {
    need_run
    need c_header cmocka.h -- libcmocka-dev
    # The gateway and the C examples; the Lua module brings ndk and lua-resty-core. All names are both Debians'.
    need have nginx -- nginx-light
    need nginx_module ngx_http_lua_module -- libnginx-mod-http-lua
    need library libuv -- libuv1-dev
    need have openssl -- openssl # makes the certificates
    need have ip -- iproute2
    local lua=1
    have luajit && lua_module busted.core && lua_module posix && lua_module socket && have busted && lua=
    [ -n "$lua" ] || return 0
    have luajit || missing+=("$(luajit_package | cut -d' ' -f2)")
    need installed lua-busted -- lua-busted
    need installed lua-posix -- lua-posix
    need installed lua-socket -- lua-socket
}
need_bench() {
    need_test
    need have nutcracker -- nutcracker
}
clang_runtime() { compgen -G '/usr/lib/*/clang/*/lib/linux/libclang_rt.fuzzer-*' >/dev/null || compgen -G '/usr/lib/clang/*/lib/linux/libclang_rt.fuzzer-*' >/dev/null; }
need_lint() {
    need_test
    need have clang -- clang
    need have clang-format -- clang-format
    need have clang-tidy -- clang-tidy
    need clang_runtime -- libclang-rt-dev
    need have cppcheck -- cppcheck
    need have luacheck -- lua-check
}

# --- installing, as root -----------------------------------------------------------------------------------------
policy=/usr/sbin/policy-rc.d
saved=$policy.before-wayside
mark='# put here while packages are installed'
log=

hold_services() {
    # A run that was killed outright may have left its own file, and the system's beside it.
    if grep -qsF "$mark" "$policy"; then release_services; fi
    if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$saved"; fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
}
release_services() {
    grep -qsF "$mark" "$policy" && rm -f "$policy"
    if [ -e "$saved" ] || [ -L "$saved" ]; then mv "$saved" "$policy"; fi
}
enabled_services() {
    { find /etc/systemd/system -type l -path '*.wants/*' -printf '%f\n'
      find /etc/rc2.d -name 'S*' -printf '%f\n'; } 2>/dev/null | sort
}
disable_new_services() { # $1: what was enabled before
    local each left
    # The boot scripts first: that takes away the unit of the same name with it.
    for each in $(comm -13 <(printf '%s\n' "$1") <(enabled_services)); do
        case $each in
            S[0-9][0-9]*) update-rc.d "${each#S??}" disable || true ;;
            *) DPKG_MAINTSCRIPT_PACKAGE=${each%.*} deb-systemd-helper disable "$each" || true ;;
        esac
    done >>"$log" 2>&1
    left=$(comm -13 <(printf '%s\n' "$1") <(enabled_services))
    [ -z "$left" ] || { echo "enabled by a package, and can't be disabled:" $left >&2; exit 1; }
}

leave() { # whatever ends this
    local status=$?
    trap - EXIT
    release_services
    if [ -n "$log" ]; then
        [ $status = 0 ] || { echo "The end of what apt said:" >&2; tail -n 25 "$log" >&2; }
        rm -f "$log"
    fi
    exit $status
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" >>"$log" 2>&1 </dev/null
}

# Never removes a package to make room for another: that would be the machine owner's decision.
install_packages() { # TEST-SET: the packages are found again after an update, since names depend on what apt offers
    exec 9<"${policy%/*}" # one at a time, since the policy file is one
    flock 9
    log=$(mktemp)
    trap leave EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    local before updated=
    find_missing "$1"
    if ! apt-get install -s -q --no-remove --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
        echo "updating apt's lists"
        apt_get update
        updated=1
        find_missing "$1"
    fi
    before=$(enabled_services)
    hold_services
    echo "installing: ${missing[*]}"
    if ! apt_get install -y --no-remove --no-install-recommends "${missing[@]}"; then
        [ -z "$updated" ] || exit 1
        echo "updating apt's lists, then once more"
        apt_get update
        apt_get install -y --no-remove --no-install-recommends "${missing[@]}"
    fi
    disable_new_services "$before"
}

find_missing() {
    missing=()
    "need_$1"
}

usage() { sed -n '2,11p' "$0" >&2; exit 2; }

check=
able=
apply=
case ${1-} in
    --check) check=1; shift ;;
    --able) able=1; shift ;;
    --apply) apply=1; shift ;; # by ourselves, once we are root
esac
case ${1-} in build | run | test | bench | lint) set=$1 ;; *) usage ;; esac

PATH=$PATH:/usr/sbin:/sbin
if [ -n "$apply" ]; then
    install_packages "$set"
    exit 0
fi
find_missing "$set"
[ ${#missing[@]} -gt 0 ] || exit 0

command="apt-get install -y --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "These Debian packages, or what they hold, are missing: ${missing[*]}" >&2
    exit 1
elif [ -n "$check" ]; then
    printf 'Not installed yet: %s\nInstall them, as root:  %s\n' "${missing[*]}" "$command" >&2
    exit 1
fi
as=
if [ "$(id -u)" = 0 ]; then as=root
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as=sudo; fi
[ -z "$able" ] || [ -z "$as" ] || exit 0
echo "Not installed yet: ${missing[*]}"
if [ "$as" = root ]; then
    bash "$0" --apply "$set"
elif [ "$as" = sudo ]; then
    sudo -n env CC="${CC-}" bash "$0" --apply "$set"
else
    printf 'They need root, and neither are you root nor does `sudo -n` work. As root, run:\n\n    %s\n\n' \
        "apt-get update && $command" >&2
    exit 1
fi
find_missing "$set"
[ ${#missing[@]} = 0 ] || { echo "Still missing after installing: ${missing[*]}" >&2; exit 1; }
