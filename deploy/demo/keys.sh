#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the demo's key pairs in a folder, where there are none: keys.sh FOLDER
#
# server.crt is for localhost, client.crt is registered in authorized.crt under the name "demo".
# Keys are on P-256: every client takes them, and they are made in no time, unlike RSA ones.
set -eu

# make_pair NAME SUBJECT EXTENSION...
make_pair() {
    name=$1
    subject=$2
    shift 2
    if [ -e "$name.crt" ] && [ -e "$name.key" ]; then
        return
    fi
    if [ -e "$name.crt" ] || [ -e "$name.key" ]; then
        echo "keys.sh: of $folder/$name.crt and $name.key only one exists; remove it" >&2
        exit 1
    fi
    # Independent of what the machine's openssl.cnf adds, which makes every certificate a CA.
    {
        printf '[req]\ndistinguished_name = dn\nx509_extensions = extensions\n[dn]\n'
        printf '[extensions]\nbasicConstraints = critical, CA:FALSE\n'
        printf 'keyUsage = critical, digitalSignature\n'
        printf '%s\n' "$@"
    } | openssl req -config /dev/stdin -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
        -nodes -days 3650 -subj "$subject" -keyout "$name.key" -out "$name.crt" 2>/dev/null || {
        echo "keys.sh: openssl could not make $folder/$name.crt and $name.key" >&2
        exit 1
    }
    echo "made the key pair $folder/$name.crt, $name.key"
}

folder=$1
authorize=$(cd "$(dirname "$0")/../nginx" && pwd)/authorize
umask 077
mkdir -p "$folder"
cd "$folder"
make_pair server /CN=localhost 'subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1' \
    'extendedKeyUsage = serverAuth'
make_pair client /CN=demo 'extendedKeyUsage = clientAuth'
if [ -e authorized.crt ]; then
    "$authorize" authorized.crt >/dev/null
else
    "$authorize" authorized.crt demo client.crt >/dev/null
fi
