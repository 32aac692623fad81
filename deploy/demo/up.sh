#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs assetd behind nginx in the foreground, all below one folder: what `make up` calls.
#
# Environment: RUN (the folder), PULL_PORT, PUSH_PORT, ASSETD (the program). Called as root, both
# servers run as the user who called sudo, else as www-data or nobody.
#
# Both servers run inside RUN: its path may be long (a unix socket's name has 108 bytes at most),
# hold any character, and lead through folders that the servers' user may not enter, as below /root.
set -euo pipefail

deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUN=${RUN:-run}
PULL_PORT=${PULL_PORT:-11001}
PUSH_PORT=${PUSH_PORT:-11002}
ASSETD=$(realpath -m "${ASSETD:-build/assetd}")
PATH=$PATH:/usr/sbin:/sbin

ours='tls storage sock logs nginx bin assetd.yaml' # what there is in RUN
as_user=(setpriv --pdeathsig TERM --no-new-privs)
nginx=(nginx -p . -e ../logs/error.log -c nginx.conf) # started in RUN/nginx
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

enter_run() {
    local entry
    mkdir -p "$RUN" || fail "cannot make the folder $RUN"
    cd "$RUN" || fail "cannot enter $RUN"
    RUN=$PWD
    # It will be handed to another user as a whole, so it must not hold what is not ours.
    for entry in * .[!.]*; do
        case " $ours " in
        *" $entry "*) ;;
        *)
            [ ! -e "$entry" ] ||
                fail "$RUN holds '$entry', which is not ours: choose an empty folder by RUN=..."
            ;;
        esac
    done
    exec 9<.
    flock -n 9 || fail "assetd runs on $RUN already: stop it, or choose another folder by RUN=..."
}

choose_user() {
    local user group
    [ "$(id -u)" -eq 0 ] || return 0
    for user in "${SUDO_USER:-root}" www-data nobody; do
        if [ "$user" != root ] && id "$user" >/dev/null 2>&1; then
            group=$(id -gn "$user")
            as_user+=(--reuid "$user" --regid "$group" --init-groups)
            say "Called as root: assetd and nginx run as $user."
            owner=$user:$group
            return
        fi
    done
    fail "called as root, and there is no user www-data or nobody to run the servers as"
}

# --- what is made in RUN -------------------------------------------------------------------------

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
    cat >assetd.yaml <<END
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
    cat >nginx/nginx.conf <<'END'
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

listen() {
    echo "    listen 127.0.0.1:$1 ssl http2;"
    if grep -q '^0\{31\}1 ' /proc/net/if_inet6 2>/dev/null; then
        echo "    listen [::1]:$1 ssl http2;"
    fi
}

# The same directives as in deploy/nginx/site.conf; all else is included as it is shipped.
write_site_conf() {
    cat >nginx/site.conf <<END
# Written by \`make up\` at each start: the settings of this site.
include assetd/http.conf;

upstream assetd_read {
    server unix:../sock/pull.sock;
    include assetd/upstream.conf;
}
upstream assetd_write {
    server unix:../sock/push.sock;
    include assetd/upstream.conf;
}

map \$ssl_client_fingerprint \$assetd_client {
    default "";
    include ../tls/clients.map;
}

server {
$(listen "$PULL_PORT")
    server_name localhost;
    ssl_certificate ../tls/server.crt;
    ssl_certificate_key ../tls/server.key;
    access_log ../logs/access.json assetd_json;
    include assetd/pull.conf;
}

server {
$(listen "$PUSH_PORT")
    server_name localhost;
    ssl_certificate ../tls/server.crt;
    ssl_certificate_key ../tls/server.key;
    ssl_client_certificate ../tls/authorized.crt;
    access_log ../logs/access.json assetd_json;
    include assetd/push.conf;
}
END
}

fill_run() {
    # Not written over: what the servers' user may have put there in the meantime is not followed.
    rm -rf assetd.yaml nginx bin
    mkdir -p storage sock logs nginx/assetd nginx/tmp
    "$deploy/demo/keys.sh" "$RUN/tls"
    # A copy, as an operator makes one: the servers' user may not be let into the folder of ours.
    cp "$deploy"/nginx/*.conf nginx/assetd/
    [ -z "$owner" ] || chown "$owner" .
    write_assetd_yaml
    write_nginx_conf
    write_site_conf
    if ! "${as_user[@]}" test -x "$ASSETD"; then
        mkdir bin
        cp "$ASSETD" bin/assetd
        ASSETD=bin/assetd
    fi
    [ -z "$owner" ] || chown -R -h "$owner" .
}

# --- the servers ---------------------------------------------------------------------------------

validate() {
    local output
    output=$("${as_user[@]}" "$ASSETD" --config assetd.yaml --check 2>&1) ||
        fail "assetd does not take $RUN/assetd.yaml:"$'\n'"$output"
    output=$(cd nginx && "${as_user[@]}" "${nginx[@]}" -t -q 2>&1) ||
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
    (cd nginx && start ../logs/error.log "${nginx[@]}") &
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
        } | timeout 5 openssl s_client -quiet -connect "127.0.0.1:$port" -servername localhost \
            -CAfile tls/server.crt -verify_return_error -verify_hostname localhost \
            "$@" 2>/dev/null | od -A n -v -t x1 | tr -d ' \n'
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
    tail -n 20 "$2" 2>/dev/null | sed 's/^/    /' >&2
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
  $deploy/nginx/authorize $RUN/tls/authorized.crt NAME CERTIFICATE
  kill -HUP \$(cat $RUN/nginx/nginx.pid)
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
[ "$PULL_PORT" != "$PUSH_PORT" ] || fail "PULL_PORT and PUSH_PORT are the same"
owner=
trap stop_both EXIT
trap 'exit 0' INT TERM HUP
enter_run
check_port PULL_PORT "$PULL_PORT"
check_port PUSH_PORT "$PUSH_PORT"
choose_user
fill_run
validate
start_both
wait_until_ready
print_usage
wait -n "$assetd_pid" "$nginx_pid" || true
check_alive
