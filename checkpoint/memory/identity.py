"""The one TLS identity of a migration: giver and taker prove to each other that they have its key.

Both agents make the same Ed25519 key and the same certificate of it from the migration's image key (HKDF, RFC 5869), so
nothing has to be exchanged and no authority kept: who can show this certificate has the image key, which the
controller gave to the two agents alone. TLS 1.3 does the rest: what was recorded cannot be read later, even with it.
"""

from __future__ import annotations

import datetime

_INFO = b"midstream %s identity 1"
_BEGINS = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_ENDS = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
"""It lives as long as the migration does, whatever a clock says: the key is made for one migration."""


def make(image_key: bytes, purpose: str = "memory") -> bytes:
    """The private key and the certificate, as PEM; the same for the same key and purpose.

    Another purpose, another identity: what is meant for one program of a migration's is refused by another.
    """
    # Here, not above: X.509 costs every agent's start 20 ms, and most migrations need none. Both sides of those that do
    # make their identities before the freeze.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "midstream migration")])
    seed = HKDF(hashes.SHA256(), 32, salt=None, info=_INFO % purpose.encode()).derive(image_key)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_BEGINS)
        .not_valid_after(_ENDS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)  # RFC 8032: the same signature each time
    )
    no_password = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, no_password) + certificate.public_bytes(
        serialization.Encoding.PEM
    )
