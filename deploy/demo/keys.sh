#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the demo's key pairs in a folder, where there are none: keys.sh FOLDER [AUTHORIZE]
#
# server.crt is for localhost, client.crt is registered in authorized.crt under the name "demo".
# AUTHORIZE is the script that registers clients, where it is not in its place beside this one.
# Keys are on P-256: every client takes them, and they are made in no time, unlike RSA ones.
set -eu

# A link to nothing is something as well: nothing is made through it.
exists() {
    [ -e "$1" ] || [ -L "$1" ]
}

# make_pair NAME SUBJECT EXTENSION...
make_pair() {
    pair=$folder/$1
    subject=$2
    shift 2
    if exists "$pair.crt" && exists "$pair.key"; then
        return
    fi
    if exists "$pair.crt" || exists "$pair.key"; then
        echo "keys.sh: of $pair.crt and $pair.key only one exists; remove it" >&2
        exit 1
    fi
    # Independent of what the machine's openssl.cnf adds, which makes every certificate a CA.
    {
        printf '[req]\ndistinguished_name = dn\nx509_extensions = extensions\n[dn]\n'
        printf '[extensions]\nbasicConstraints = critical, CA:FALSE\n'
        printf 'keyUsage = critical, digitalSignature\n'
        printf '%s\n' "$@"
    } | openssl req -config /dev/stdin -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
        -nodes -days 3650 -subj "$subject" -keyout "$pair.key" -out "$pair.crt" 2>/dev/null || {
        echo "keys.sh: openssl could not make $pair.crt and $pair.key" >&2
        exit 1
    }
    echo "made the key pair $pair.crt, $pair.key"
}

folder=$1
authorize=${2:-$(dirname "$0")/../nginx/authorize}
umask 077
mkdir -p "$folder"
make_pair server /CN=localhost 'subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1' \
    'extendedKeyUsage = serverAuth'
make_pair client /CN=demo 'extendedKeyUsage = clientAuth'
if exists "$folder/authorized.crt"; then
    sh "$authorize" "$folder/authorized.crt" >/dev/null
else
    sh "$authorize" "$folder/authorized.crt" demo "$folder/client.crt" >/dev/null
fi
