# SPDX-License-Identifier: Apache-2.0
"""Certificates of clients and servers, good and bad."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_pair(folder, name, subject, issuer=None, is_ca=False, days=10, hosts=()):
    """
    NAME.key and NAME.crt in FOLDER, self-signed or signed with the pair ISSUER, which then follows
    in NAME.crt. DAYS below 0: expired that long ago. HOSTS: names and addresses that it is for. Key
    identifiers are as openssl adds them.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    signer_key, signer, chain = key, own, b""
    if issuer is not None:
        chain = (folder / f"{issuer}.crt").read_bytes()
        signer = x509.load_pem_x509_certificate(chain).subject
        signer_key = serialization.load_pem_private_key(
            (folder / f"{issuer}.key").read_bytes(), None
        )
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=100))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()),
            critical=False,
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([*map(_host, hosts)])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(signer_key, hashes.SHA256())
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / f"{name}.crt").write_bytes(pem + chain)
    return folder / f"{name}.crt"


def _host(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def fingerprint(path, algorithm=hashes.SHA1):
    """Of its first certificate; by default as nginx and clients.map have it."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.fingerprint(algorithm()).hex()
