#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the Debian package of assetd from a copy of the sources: what `make deb` calls.
#
#   deb.sh FOLDER      the copy, the package and what dpkg says of it are made there
#
# Environment: VERSION, which the package's changelog must have as well.
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(realpath -m "$1")
copy=$folder/assetd-${VERSION:?}

fail() {
    printf 'make deb: %s\n' "$*" >&2
    exit 1
}

# Files of the repository, also those that are new; without git, all that is not made here.
sources() {
    if [ -e .git ]; then
        git ls-files -z --cached --others --exclude-standard
    else
        find . \( -path ./build -o -path ./run -o -name __pycache__ \) -prune -o -type f -print0
    fi
}

copy_sources() {
    local name
    rm -rf "$copy"
    mkdir -p "$copy"
    sources | while IFS= read -r -d '' name; do
        [ ! -e "$name" ] || printf '%s\0' "$name"
    done | xargs -0 cp --parents --preserve=mode,timestamps -t "$copy"
    mv "$copy/deploy/debian" "$copy/debian"
}

version=$(dpkg-parsechangelog -l deploy/debian/changelog -S Version)
[ "$version" = "$VERSION" ] ||
    fail "VERSION in the Makefile is $VERSION, but deploy/debian/changelog has $version"
rm -f "$folder/assetd_"* "$folder/assetd-dbgsym_"*
copy_sources
cd "$copy"
# The package is built as by hand: nothing of the make that called this is handed on.
env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u MAKEOVERRIDES -u O -u VARIANT -u DESTDIR \
    -u CC -u CPPFLAGS -u CFLAGS -u LDFLAGS \
    DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS:-parallel=$(nproc)}" \
    dpkg-buildpackage -b -us -uc >"$folder/log" 2>&1 || {
    tail -n 40 "$folder/log" >&2
    fail "dpkg-buildpackage failed; all that it said is in $folder/log"
}
cd "$folder"
rm -rf "$copy"
printf "%s\n" "$folder/assetd_${VERSION}_"*.deb
