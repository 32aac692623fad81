#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs assetd, or removes it again: what `make install` and `make uninstall` call.
#
# Environment: BUILD, the folder that holds assetd and assetctl; DESTDIR; and the folders that
# deploy/install.mk names, unitdir empty if there is no systemd.
set -eu
umask 022
cd "$(dirname "$0")/.."
: "${BUILD:?}" "${DESTDIR?}" "${bindir:?}" "${sbindir:?}" "${datadir:?}" "${mandir:?}"
: "${docdir:?}" "${sysconfdir:?}" "${localstatedir:?}" "${runstatedir:?}"
: "${nginxconfdir:?}" "${unitdir?}" "${sysusersdir?}" "${tmpfilesdir?}"

text=$(mktemp)
trap 'rm -f "$text"' EXIT
trap 'exit 1' HUP INT TERM

say() {
    printf '%s\n' "$*"
}

fail() {
    printf 'make install: %s\n' "$*" >&2
    exit 1
}

check_folder() {
    case $2 in
    *[!A-Za-z0-9._/+~-]*) fail "$1=$2: only letters, digits and ._/+~- can be in a path here" ;;
    /*) ;;
    *) fail "$1=$2 is not an absolute path" ;;
    esac
}

# --- what is shipped -----------------------------------------------------------------------------

# The files of a folder, with the names that they have below it.
below() {
    find "$1" -type f -name "$2" | LC_ALL=C sort | sed "s|^$1/||"
}

# A line for each: kind, target, source. A configuration file is also installed as it is shipped,
# which is the fourth word: who changed nothing has what that was the last time.
shipped() {
    site=$datadir/assetd/nginx/sites/two-ports.conf
    say "config $sysconfdir/assetd/assetd.yaml config/minimal.yaml $docdir/config/minimal.yaml"
    say "config $nginxconfdir/sites-available/assetd deploy/nginx/sites/two-ports.conf $site"
    say "folder $sysconfdir/assetd/tls"
    for name in assetd assetctl; do
        say "program $sbindir/$name $BUILD/$name"
        say "file $mandir/man8/$name.8 config/$name.8"
    done
    say "link $bindir/bst-artifact-server $sbindir/assetd"
    say "file $mandir/man8/bst-artifact-server.8 config/bst-artifact-server.8"
    say "file $mandir/man5/assetd.yaml.5 config/assetd.yaml.5"
    for name in README.md deploy/README.md deploy/bst-artifact-server.md \
        config/minimal.yaml config/full.yaml \
        deploy/buildbarn/bb_storage.service deploy/buildbarn/storage.jsonnet; do
        say "file $docdir/$name $name"
    done
    for name in $(below deploy/nginx '*.conf'); do
        say "file $datadir/assetd/nginx/$name deploy/nginx/$name"
    done
    say "link $nginxconfdir/assetd $datadir/assetd/nginx"
    [ -z "$unitdir" ] || shipped_for_systemd
}

# sysusers.d/ and tmpfiles.d/ have folders of their own. The units of bst-artifact-server are
# examples, to be copied: their user and folders are the site's, which may have its own of the same
# names. All else are units and what adds to them.
shipped_for_systemd() {
    for name in $(below deploy/systemd '*'); do
        case $name in
        bst-artifact-*) target=$docdir/deploy/systemd/$name ;;
        sysusers.d/*) target=$sysusersdir/${name#*/} ;;
        tmpfiles.d/*) target=$tmpfilesdir/${name#*/} ;;
        *) target=$unitdir/$name ;;
        esac
        say "file $target deploy/systemd/$name"
    done
}

# A file as it is installed: with the folders of this installation, into $text.
adapt() {
    before='\(^\|[^A-Za-z0-9_./]\)'
    sed -e "s,$before/usr/sbin/asset,\\1$sbindir/asset,g" \
        -e "s,$before/usr/bin/bst-artifact-server,\\1$bindir/bst-artifact-server,g" \
        -e "s,$before/usr/share/assetd,\\1$datadir/assetd,g" \
        -e "s,$before/usr/share/doc/assetd,\\1$docdir,g" \
        -e "s,$before/etc/assetd,\\1$sysconfdir/assetd,g" \
        -e "s,$before/etc/nginx,\\1$nginxconfdir,g" \
        -e "s,$before/var/lib/assetd,\\1$localstatedir/lib/assetd,g" \
        -e "s,$before/run/assetd,\\1$runstatedir/assetd,g" "$1" >"$text"
    # systemd's own folder for what is stored is below /var.
    [ "$localstatedir" = /var ] ||
        sed -i -e "s|^StateDirectory=assetd\$|ReadWritePaths=$localstatedir/lib/assetd|" \
            -e '/^StateDirectoryMode=/d' "$text"
}

# --- install -------------------------------------------------------------------------------------

there() {
    [ -e "$1" ] || [ -L "$1" ]
}

# put MODE SOURCE TARGET
put() {
    install -D -m "$1" "$2" "$DESTDIR$3"
}

# What somebody changed stays as it is. The new default is put beside it only if there is one.
put_config() {
    target=$DESTDIR$1 last=$DESTDIR$3
    adapt "$2"
    if ! there "$target" || { [ ! -L "$target" ] && cmp -s "$last" "$target"; }; then
        put 644 "$text" "$1"
    elif ! cmp -s "$text" "$target" && ! cmp -s "$text" "$last"; then
        put 644 "$text" "$1.new"
        say "$1 is kept, as it is not what was installed; the new default is $1.new"
    fi
}

put_link() {
    if ! there "$DESTDIR$1"; then
        mkdir -p "$DESTDIR${1%/*}"
        ln -s "$2" "$DESTDIR$1"
    elif [ "$(readlink "$DESTDIR$1")" != "$2" ]; then
        say "$1 is kept, though it is not a link to $2: move it away, and install again"
    fi
}

install_all() {
    for program in assetd assetctl; do
        [ -x "$BUILD/$program" ] || fail "there is no $BUILD/$program: run make"
    done
    shipped | while read -r kind target source last; do
        case $kind in
        program) put 755 "$source" "$target" ;;
        file)
            adapt "$source"
            put 644 "$text" "$target"
            ;;
        config) put_config "$target" "$source" "$last" ;;
        folder) mkdir -p "$DESTDIR$target" ;;
        link) put_link "$target" "$source" ;;
        esac
    done
    [ -n "$DESTDIR" ] || [ -z "$unitdir" ] || next_steps
}

next_steps() {
    cat <<END
Installed. To start assetd, now and with the machine:
  systemd-sysusers $sysusersdir/assetd.conf && systemd-tmpfiles --create $tmpfilesdir/assetd.conf
  systemctl daemon-reload && systemctl enable --now assetd
Certificates, and nginx: $docdir/deploy/README.md
END
}

# --- uninstall -----------------------------------------------------------------------------------

remove_config() {
    target=$DESTDIR$1
    rm -f "$target.new"
    there "$target" || return 0
    adapt "$2"
    if cmp -s "$target" "$text" || cmp -s "$target" "$DESTDIR$3"; then
        rm "$target"
    else
        say "$1 is kept, as it is not what was installed"
    fi
}

# nginx would not start with a site whose includes are gone.
disable_site() {
    for enabled in "$DESTDIR$nginxconfdir"/sites-enabled/*; do
        case $(readlink "$enabled") in
        "$nginxconfdir/sites-available/assetd" | ../sites-available/assetd)
            rm "$enabled"
            say "${enabled#"$DESTDIR"} is removed: nginx would not start with it"
            ;;
        *)
            ! grep -qs '^[^#]*include assetd/' "$enabled" ||
                say "${enabled#"$DESTDIR"} includes what is removed: nginx will not start with it"
            ;;
        esac
    done
}

remove_all() {
    disable_site
    shipped | while read -r kind target source last; do
        case $kind in
        program | file) rm -f "$DESTDIR$target" ;;
        config) remove_config "$target" "$source" "$last" ;;
        link) [ "$(readlink "$DESTDIR$target")" != "$source" ] || rm "$DESTDIR$target" ;;
        esac
    done
    # Folders of ours that are empty now; the last is that of what is added to nginx's unit.
    for folder in "$datadir/assetd" "$docdir" "$sysconfdir/assetd" \
        ${unitdir:+"$unitdir/nginx.service.d"}; do
        [ ! -d "$DESTDIR$folder" ] ||
            find "$DESTDIR$folder" -depth -type d -exec rmdir --ignore-fail-on-non-empty {} +
    done
}

for folder in bindir sbindir datadir mandir docdir sysconfdir localstatedir runstatedir \
    nginxconfdir; do
    eval "check_folder $folder \"\$$folder\""
done
if [ -n "$unitdir" ]; then
    check_folder unitdir "$unitdir"
    check_folder sysusersdir "$sysusersdir"
    check_folder tmpfilesdir "$tmpfilesdir"
fi
case $DESTDIR in '' | /*) ;; *) DESTDIR=$PWD/$DESTDIR ;; esac
case ${1-} in
install) install_all ;;
uninstall) remove_all ;;
*)
    echo 'usage: install.sh install | uninstall' >&2
    exit 2
    ;;
esac
