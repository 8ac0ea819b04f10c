"""The home's certificate authority, and each pod's certificate: with them the proxies' links know and hide each other.

    <home>/ca/ca.pem, key.pem                 the authority; root's alone; made with the first pod, gone with the last
    <pod>/proxy/tls/ca.pem, pod.pem, key.pem  what one proxy has; its user's alone, mode 0600

ECDSA on P-256. A pod's certificate has its name and its addresses (subjectAltName). It does not expire: it is worth
nothing without its key, which goes with the pod, nor without the authority, which goes with the home; and a flow that
is relayed has to have its link made again after a break however old it is. RFC 5280, 4.1.2.5, says how to write that.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.lab.pod import PROXY_UID, Pod

NEVER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
SKEW = datetime.timedelta(days=1)
"""Clocks differ: what was made just now is good at once."""
CA, POD, KEY = "ca.pem", "pod.pem", "key.pem"


class Authority:
    """The one in a home's folder, made when it is first asked for. The home must be locked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def equip(self, pod: Pod) -> None:
        """Give the pod's proxy its key and certificate, and the authority's certificate, if it wants them."""
        folder = pod.tls_folder
        if folder is None:
            return
        key, certificate = self._load() or self._make()
        folder.mkdir(mode=0o700)
        own = ec.generate_private_key(ec.SECP256R1())
        _write(folder / KEY, _pem_key(own))
        _write(folder / POD, _pem(_sign(pod, own.public_key(), certificate, key)))
        _write(folder / CA, _pem(certificate))
        for path in (folder, *folder.iterdir()):
            os.chown(path, PROXY_UID, PROXY_UID)

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
        try:
            key = serialization.load_pem_private_key((self._folder / KEY).read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((self._folder / CA).read_bytes())
        except (FileNotFoundError, ValueError):
            return None  # its maker may have died half-way: then no pod has a certificate of it
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key, certificate

    def _make(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Midstream")
        certificate = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(self._folder / KEY, _pem_key(key))
        _write(self._folder / CA, _pem(certificate))
        return key, certificate


def _sign(
    pod: Pod, public: ec.EllipticCurvePublicKey, ca: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    names: list[x509.GeneralName] = [x509.DNSName(pod.name)]
    names += [x509.IPAddress(ipaddress.ip_address(host)) for host in (pod.address, pod.address6) if host]
    return (
        _builder(_name(pod.name), ca.subject, public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(name: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.now(datetime.UTC) - SKEW)
        .not_valid_after(NEVER)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    """Never readable for others, not even for a moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
