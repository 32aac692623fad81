#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs assetd behind nginx in the foreground, all below one folder: what `make up` calls.
#
# Environment: RUN (the folder), PULL_PORT, PUSH_PORT, ASSETD (the program; assetctl is beside it).
# Called as root, both servers run as the user who called sudo, else as www-data or nobody.
#
# Both servers run inside RUN: its path may be long (a unix socket's name has 108 bytes at most),
# hold any character, and lead through folders that the servers' user may not enter, as below /root.
#
# RUN and all in it belong to the servers' user, who may put a link to anything there. So root only
# makes RUN itself: what is in it is made, written and read by that user ("${as_user[@]}").
set -euo pipefail

deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUN=${RUN:-run}
PULL_PORT=${PULL_PORT:-11001}
PUSH_PORT=${PUSH_PORT:-11002}
ASSETD=$(realpath -m "${ASSETD:-build/assetd}")
ASSETCTL=$(dirname "$ASSETD")/assetctl
assetctl=$ASSETCTL # as the servers' user may run it
PATH=$PATH:/usr/sbin:/sbin

ours='tls storage sock logs nginx bin assetd.yaml' # what there is in RUN
as_user=(setpriv --pdeathsig TERM --no-new-privs)
user=$(id -u)
nginx=(env -C nginx nginx -p . -e ../logs/error.log -c nginx.conf)
assetd_pid=
nginx_pid=

say() {
    printf '%s\n' "$*"
}

fail() {
    printf 'make up: %s\n' "$*" >&2
    exit 1
}

# --- before anything is made ---------------------------------------------------------------------

# Who listens at a port, as far as that can be told.
port_owner() {
    if command -v ss >/dev/null; then
        ss -Hltnp "sport = :$1" |
            sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/ by process \2 (\1)/p' | head -n 1
    fi
}

check_port() {
    local name=$1 port=$2 first address
    case $port in
    '' | *[!0-9]* | ??????*) fail "$name=$port is not a port" ;;
    esac
    if [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
        fail "$name=$port is not a port"
    fi
    first=$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start 2>/dev/null || echo 1024)
    [ "$port" -ge "$first" ] ||
        fail "$name=$port: ports below $first are for root, and nginx does not run as root here"
    for address in 127.0.0.1 ::1; do
        if (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null; then
            fail "port $port is in use$(port_owner "$port"); choose another: make up $name=..."
        fi
    done
}

choose_user() {
    local name group
    [ "$(id -u)" -eq 0 ] || return 0
    for name in "${SUDO_USER:-root}" www-data nobody; do
        if [ "$name" != root ] && id "$name" >/dev/null 2>&1; then
            user=$(id -u "$name")
            group=$(id -g "$name")
            as_user+=(--reuid "$user" --regid "$group" --init-groups)
            say "Called as root: assetd and nginx run as $name."
            return
        fi
    done
    fail "called as root, and there is no user www-data or nobody to run the servers as"
}

enter_run() {
    mkdir -p "$RUN" || fail "cannot make the folder $RUN"
    cd "$RUN" || fail "cannot enter $RUN"
    RUN=$PWD
    exec 9<.
    flock -n 9 || fail "assetd runs on $RUN already: stop it, or choose another folder by RUN=..."
    check_entries
}

# The folder must not hold what is not ours, which would be in the servers' reach.
check_entries() {
    local entry
    for entry in * .[!.]* ..?*; do
        case " $ours " in
        *" $entry "*) ;;
        *)
            if [ -e "$entry" ] || [ -L "$entry" ]; then
                entry=$(printf %q "$entry")
                fail "$RUN holds $entry, which is not ours: choose an empty folder by RUN=..."
            fi
            ;;
        esac
    done
}

# Nothing but an empty folder is handed to the servers' user: what is in another one, somebody may
# have prepared for root to hand over.
hand_over_run() {
    if [ "$(id -u)" -ne 0 ] || [ "$(stat -c %u .)" -eq "$user" ]; then
        return
    fi
    [ -z "$(ls -A)" ] ||
        fail "$RUN belongs to $(stat -c %U .), but the servers run as $(id -un "$user"):" \
            "choose another folder by RUN=..."
    chown "$user:$(id -g "$user")" .
}

# --- what is made in RUN -------------------------------------------------------------------------

# write FILE: from stdin.
write() {
    # shellcheck disable=SC2016 # the inner shell's argument
    "${as_user[@]}" sh -c 'cat >"$0"' "$1"
}

# As an operator copies them.
copy_shipped() {
    (cd "$deploy/nginx" && tar -c -- *.conf) | "${as_user[@]}" tar -x -C nginx/assetd
}

# Where the servers' user may not run the programs in their place. They are read here: that user may
# not be let into the repository's folder.
copy_programs() {
    if "${as_user[@]}" test -x "$ASSETD" && "${as_user[@]}" test -x "$ASSETCTL"; then
        return
    fi
    "${as_user[@]}" mkdir bin
    write bin/assetd <"$ASSETD"
    write bin/assetctl <"$ASSETCTL"
    "${as_user[@]}" chmod 755 bin/assetd bin/assetctl
    ASSETD=bin/assetd
    assetctl=bin/assetctl
}

# cert COMMAND ...: what it says is shown if it fails.
cert() {
    local output
    output=$("${as_user[@]}" "$assetctl" cert "$@" --dir tls 2>&1) ||
        fail "cannot make the key pairs in $RUN/tls:"$'\n'"$output"
}

# has_pair NAME: both files, or none. A link to nothing is something as well: nothing is made
# through it.
has_pair() {
    local name found=()
    for name in "tls/$1.crt" "tls/$1.key"; do
        if [ -e "$name" ] || [ -L "$name" ]; then
            found+=("$name")
        fi
    done
    [ "${#found[@]}" -ne 1 ] ||
        fail "of $RUN/tls/$1.crt and $1.key there is only $RUN/${found[0]}: remove it"
    [ "${#found[@]}" -eq 2 ]
}

# The pairs are kept from start to start. `cert update` writes the map of an earlier version anew.
make_pairs() {
    has_pair server || cert server localhost 127.0.0.1 ::1
    if ! has_pair client; then
        "${as_user[@]}" mkdir -p tls/new
        "${as_user[@]}" rm -f tls/new/demo.key tls/new/demo.crt
        cert client demo --out tls/new
        "${as_user[@]}" mv -T tls/new/demo.key tls/client.key
        "${as_user[@]}" mv -T tls/new/demo.crt tls/client.crt
        "${as_user[@]}" rmdir tls/new
    elif [ ! -e tls/authorized.crt ] && [ ! -L tls/authorized.crt ]; then
        cert add demo tls/client.crt
    fi
    cert update
}

# RUN's name for assetd, which takes absolute ones: the real one if that will do, else its working
# directory.
absolute_run() {
    case $RUN in
    *[!A-Za-z0-9/._@+-]*) ;;
    *)
        if [ "${#RUN}" -le 80 ] && "${as_user[@]}" test -x "$RUN"; then
            echo "$RUN"
            return
        fi
        ;;
    esac
    echo /proc/self/cwd
}

write_assetd_yaml() {
    local here
    here=$(absolute_run)
    write assetd.yaml <<END
# Written by \`make up\` at each start.
listeners:
  - address: unix:$here/sock/pull.sock
    access: read
    socket-mode: "0600"
    identity: x-client-identity
  - address: unix:$here/sock/push.sock
    access: write
    socket-mode: "0600"
    identity: x-client-identity
instances:
  - name: ""
    storage: $here/storage
    quota: 10GB
END
}

write_nginx_conf() {
    write nginx/nginx.conf <<'END'
# Written by `make up` at each start: the main file of nginx. Paths are relative to its folder.
daemon off;
worker_processes 2;
pid nginx.pid;
error_log ../logs/error.log notice;
events {
    worker_connections 2048;
}
http {
    client_body_temp_path tmp/body;
    proxy_temp_path tmp/proxy;
    fastcgi_temp_path tmp/fastcgi;
    uwsgi_temp_path tmp/uwsgi;
    scgi_temp_path tmp/scgi;
    include site.conf;
}
END
}

# The shipped one, with other values.
write_site_conf() {
    local site no_ipv6=()
    grep -q '^0\{31\}1 ' /proc/net/if_inet6 2>/dev/null || no_ipv6=(-e '/listen \[::1\]/d')
    site=$(sed -e '1,/^$/d' \
        -e "s|listen 11001 |listen 127.0.0.1:$PULL_PORT |; s|listen \[::\]:11001 |listen [::1]:$PULL_PORT |" \
        -e "s|listen 11002 |listen 127.0.0.1:$PUSH_PORT |; s|listen \[::\]:11002 |listen [::1]:$PUSH_PORT |" \
        -e 's|cache\.example\.com|localhost|; s|/run/assetd/|../sock/|; s|/etc/assetd/tls/|../tls/|' \
        -e 's|/var/log/nginx/assetd.log|../logs/access.json|' "${no_ipv6[@]}" \
        "$deploy/nginx/sites/two-ports.conf")
    case $site in
    *[:' ']/* | *example.com*) fail "deploy/nginx/sites/two-ports.conf has values that are not replaced here" ;;
    esac
    printf '# Written by \140make up\140 at each start: the settings of this site.\n%s\n' "$site" |
        write nginx/site.conf
}

fill_run() {
    "${as_user[@]}" rm -rf assetd.yaml nginx bin
    "${as_user[@]}" mkdir -p storage sock logs nginx/assetd nginx/tmp
    copy_shipped
    copy_programs
    make_pairs
    write_assetd_yaml
    write_nginx_conf
    write_site_conf
}

# --- the servers ---------------------------------------------------------------------------------

validate() {
    local output
    output=$("${as_user[@]}" "$ASSETD" --config assetd.yaml --check 2>&1) ||
        fail "assetd does not take $RUN/assetd.yaml:"$'\n'"$output"
    output=$("${as_user[@]}" "${nginx[@]}" -t -q 2>&1) ||
        fail "nginx does not take $RUN/nginx/site.conf:"$'\n'"$output"
}

# Both in process groups of their own: Ctrl-C is for this script, which stops them in order. The
# log is opened by the user who writes to it.
start() {
    local log=$1
    shift
    # shellcheck disable=SC2016 # the inner shell's arguments
    exec "${as_user[@]}" sh -c 'log=$0; exec "$@" </dev/null >>"$log" 2>&1 9<&-' "$log" "$@"
}

start_both() {
    ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -H -n)" 2>/dev/null || true
    set -m
    start logs/assetd.log "$ASSETD" --config assetd.yaml &
    assetd_pid=$!
    start logs/error.log "${nginx[@]}" &
    nginx_pid=$!
    set +m
}

# The health check of gRPC, through TLS and nginx to assetd, which must say SERVING.
serves() {
    local port=$1 answer
    shift
    answer=$(
        {
            printf 'POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: localhost\r\n'
            printf 'Content-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 5\r\n'
            printf 'Connection: close\r\n\r\n\0\0\0\0\0'
        } | timeout 5 "${as_user[@]}" openssl s_client -quiet \
            -connect "127.0.0.1:$port" -servername localhost -CAfile tls/server.crt \
            -verify_return_error -verify_hostname localhost "$@" 2>/dev/null |
            od -A n -v -t x1 | tr -d ' \n'
    ) || true
    case $answer in *00000000020801*) return 0 ;; esac
    return 1
}

wait_until_ready() {
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        check_alive
        if serves "$PULL_PORT" &&
            serves "$PUSH_PORT" -cert tls/client.crt -key tls/client.key; then
            return
        fi
        sleep 0.1
    done
    show_log assetd logs/assetd.log
    show_log nginx logs/error.log
    fail "assetd does not answer through nginx"
}

show_log() {
    say "The last lines of $1's log, $RUN/$2:" >&2
    { "${as_user[@]}" tail -n 20 "$2" 2>/dev/null || true; } | sed 's/^/    /' >&2
}

check_alive() {
    if ! kill -0 "$assetd_pid" 2>/dev/null; then
        show_log assetd logs/assetd.log
        fail "assetd ended by itself"
    fi
    if ! kill -0 "$nginx_pid" 2>/dev/null; then
        show_log nginx logs/error.log
        fail "nginx ended by itself"
    fi
}

print_usage() {
    cat <<END

assetd serves, behind nginx:
  https://localhost:$PULL_PORT   pull: anyone
  https://localhost:$PUSH_PORT   push and pull: clients whose certificate is in authorized.crt

BuildStream's user configuration (~/.config/buildstream.conf) for who pushes:

artifacts:
  servers:
  - url: https://localhost:$PUSH_PORT
    push: true
    auth:
      server-cert: $RUN/tls/server.crt
      client-cert: $RUN/tls/client.crt
      client-key: $RUN/tls/client.key
source-caches:
  servers:
  - url: https://localhost:$PUSH_PORT
    push: true
    auth:
      server-cert: $RUN/tls/server.crt
      client-cert: $RUN/tls/client.crt
      client-key: $RUN/tls/client.key

and for who only pulls:

artifacts:
  servers:
  - url: https://localhost:$PULL_PORT
    auth:
      server-cert: $RUN/tls/server.crt
source-caches:
  servers:
  - url: https://localhost:$PULL_PORT
    auth:
      server-cert: $RUN/tls/server.crt

Another client that may push:
  $(printf '%q ' "$ASSETCTL" cert add --dir "$RUN/tls")NAME CERTIFICATE
  kill -HUP $nginx_pid
Logs: $RUN/logs/assetd.log, access.json (nginx, a line for each call), error.log (nginx)
Ctrl-C stops both.
END
}

# stop_one NAME PID SIGNAL SECONDS: asks, and ends it where it does not listen.
stop_one() {
    local name=$1 pid=$2 signal=$3 tenths=$(($4 * 10)) status=0
    kill -s "$signal" "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        if [ $((tenths--)) -eq 0 ]; then
            say "$name does not stop: ending it" >&2
            kill -s KILL -- "-$pid" 2>/dev/null || true
            failed=1
        fi
        sleep 0.1
    done
    wait "$pid" || status=$?
    if [ "$status" -ne 0 ]; then
        say "$name ended with status $status" >&2
        failed=1
    fi
}

# nginx first, which takes no new calls and lets the others end, but not for long.
stop_both() {
    local status=$? failed=0
    trap '' INT TERM HUP
    trap - EXIT
    if [ -n "$nginx_pid" ]; then
        say "Stopping nginx and assetd."
        stop_nginx
    fi
    [ -z "$assetd_pid" ] || stop_one assetd "$assetd_pid" TERM 15
    # The workers of a master that was killed.
    [ -z "$nginx_pid" ] || kill -s KILL -- "-$nginx_pid" 2>/dev/null || true
    [ "$status" -ne 0 ] || status=$failed
    exit "$status"
}

stop_nginx() {
    local tenths=50
    kill -s QUIT "$nginx_pid" 2>/dev/null || return 0
    while kill -0 "$nginx_pid" 2>/dev/null && [ $((tenths--)) -gt 0 ]; do
        sleep 0.1
    done
    stop_one nginx "$nginx_pid" TERM 5
}

[ -x "$ASSETD" ] || fail "there is no $ASSETD: run make"
[ -x "$ASSETCTL" ] || fail "there is no $ASSETCTL: run make"
[ "$PULL_PORT" != "$PUSH_PORT" ] || fail "PULL_PORT and PUSH_PORT are the same"
trap stop_both EXIT
trap 'exit 0' INT TERM HUP
choose_user
enter_run
check_port PULL_PORT "$PULL_PORT"
check_port PUSH_PORT "$PUSH_PORT"
hand_over_run
fill_run
validate
start_both
wait_until_ready
print_usage
wait -n "$assetd_pid" "$nginx_pid" || true
check_alive
