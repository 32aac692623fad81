#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing from Debian's packages: deps.sh [test] [check] [bench] [deb]
#
# Without arguments what `make` and `make up` need; says nothing and is quick if nothing is missing.
set -eu

build='gcc make libc6-dev libgrpc-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler
       libprotobuf-dev liblmdb-dev libyaml-dev libjansson-dev libssl-dev libsystemd-dev
       openssl'
test='lintian python3 python3-venv bubblewrap fuse3 busybox-static libcmocka-dev systemd strace'
check='clang-14 clang-format-14 shellcheck libcmocka-dev libnghttp2-dev python3'
bench='libnghttp2-dev python3'
deb='dpkg-dev debhelper'
policy=/usr/sbin/policy-rc.d

# Those of the packages named that are not installed.
missing_of() {
    # Unknown packages are an error to dpkg-query, and missing all the same.
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p') || true
    for package in "$@"; do
        echo "$installed" | grep -qxF "$package" || echo "$package"
    done
}

# Any nginx that speaks HTTP/2 and TLS will do, whichever package it came in.
has_nginx() {
    built=$(PATH=$PATH:/usr/sbin nginx -V 2>&1) || return 1
    case $built in *--with-http_v2_module*) ;; *) return 1 ;; esac
    case $built in *--with-http_ssl_module*) ;; *) return 1 ;; esac
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

may_be_root() {
    [ "$(id -u)" -ne 0 ] || return 0
    command -v sudo >/dev/null || return 1
    # Without a terminal sudo cannot ask for a password.
    [ -t 0 ] || sudo -n true 2>/dev/null
}

apt_install() {
    # shellcheck disable=SC2086 # a list of packages
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends $missing
}

# Debian's nginx package starts a server on port 80, and again with the machine. The demo needs the
# program alone: while the package is installed the start is refused, by the file that Debian has
# for that, and the new service is disabled. A service that was there before is not touched.
hold_service() {
    [ ! -e "$policy" ] || return 0
    # shellcheck disable=SC2016 # the file's own $1
    printf '%s\n' '#!/bin/sh' 'case $1 in nginx|nginx.service) exit 101 ;; esac' |
        as_root install -m 755 /dev/stdin "$policy"
    trap 'as_root rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
}

disable_service() {
    [ -d /run/systemd/system ] || return 0
    as_root systemctl disable --quiet nginx.service || true
}

packages=$build
for purpose in "$@"; do
    case $purpose in
    test) packages="$packages $test" ;;
    check) packages="$packages $check" ;;
    bench) packages="$packages $bench" ;;
    deb) packages="$packages $deb" ;;
    *)
        echo "usage: deps.sh [test] [check] [bench] [deb]" >&2
        exit 2
        ;;
    esac
done

# shellcheck disable=SC2086 # a list of packages
missing=$(missing_of $packages | tr '\n' ' ')
new_nginx=
has_nginx || new_nginx=nginx-light
missing=${missing% }${new_nginx:+ $new_nginx}
missing=${missing# }
[ -n "$missing" ] || exit 0

echo "Missing from this machine, to build and run assetd${1:+ ($*)}: $missing"
if ! may_be_root; then
    echo "Installing them takes root, or sudo. Run this as root, then start again:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends $missing" >&2
    exit 1
fi

echo "Installing them by apt-get."
if [ -n "$new_nginx" ]; then
    if [ -e /lib/systemd/system/nginx.service ]; then
        new_nginx=
    else
        echo "Debian's nginx service stays stopped and disabled; it is not needed here."
        echo "(\`systemctl enable --now nginx\` starts it.)"
        hold_service
    fi
fi
# Lists that were never fetched, or are out of date, show as an install that fails.
if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1; then
    as_root apt-get update -q
    apt_install
elif ! apt_install; then
    echo "Trying again with new package lists."
    as_root apt-get update -q
    apt_install
fi
[ -z "$new_nginx" ] || disable_service
