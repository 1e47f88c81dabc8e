"""Content credentials (C2PA): a signed statement in an image file that a model made it.

Needs unclip[c2pa]. The signature proves who made the statement and that the file is unchanged since. It does
not prove that the signer can be trusted: a certificate made here is on no trust list.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unclip.errors import RequestError
from unclip.provenance.metadata import SOURCE_TYPES, Source
from unclip.version import __version__

CHAIN, KEY = "certificates.pem", "key.pem"  # files of a signer; its own certificate comes first
YEARS = 5  # validity of a certificate
MIME = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp"}
# No thumbnail, which could be larger than the image. No network access to check a manifest.
SETTINGS: Mapping[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


@dataclass(frozen=True)
class Manifest:
    """The active manifest of a file.

    Attributes:
        state: "Trusted", "Valid" (correct signature of an unknown signer) or "Invalid".
        issuer: organisation in the signer's certificate; empty if unknown.
    """

    state: str
    issuer: str


@dataclass(frozen=True)
class Signer:
    """A certificate chain and its private key, as PEM."""

    chain: bytes
    key: bytes

    @classmethod
    def load(cls, folder: Path) -> Signer:
        """Load a signer from a folder: the operator's own, or one that `create` made.

        Raises:
            RequestError: a file is missing, or the certificate and key cannot sign.
        """
        try:
            signer = cls((folder / CHAIN).read_bytes(), (folder / KEY).read_bytes())
        except OSError as error:
            raise RequestError(
                f"{error.filename}: cannot be read ({error.strerror}); make one with unclip provenance init "
                f"{folder}"
            ) from None
        signer.sign(_blank(), "trainedAlgorithmicMedia")  # fails now instead of after the first image
        return signer

    def sign(self, data: bytes, source: Source) -> bytes:
        """Return an image file with a signed manifest in it.

        Args:
            data: PNG, JPEG or WebP file.
            source: IPTC digital source type of the pixels.

        Raises:
            RequestError: the file has another format, or C2PA does not allow the certificate.
        """
        c2pa = _library()
        # Edits are "created" too: "edited" must follow "opened", which names the original image.
        action = {
            "action": "c2pa.created",
            "digitalSourceType": SOURCE_TYPES + source,
            "softwareAgent": {"name": "unclip", "version": __version__},
        }
        manifest = {
            "claim_generator_info": [{"name": "unclip", "version": __version__}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        made = io.BytesIO()
        try:
            info = c2pa.C2paSignerInfo(_algorithm(self.key), self.chain, self.key, None)
            context = c2pa.Context(c2pa.Settings.from_dict(dict(SETTINGS)))
            with c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest, context) as builder:
                builder.sign(signer, _mime(data), io.BytesIO(data), made)
        except (c2pa.C2paError, ValueError) as error:
            raise RequestError(f"the picture cannot be signed ({' '.join(str(error).split())})") from None
        return made.getvalue()


def create(folder: Path, name: str) -> Signer:
    """Create a certificate signed by a new root, valid for five years.

    Args:
        folder: folder for both certificates and the key (mode 0600). The root's key is discarded.
        name: organisation that signs.

    Raises:
        RequestError: the folder holds a certificate or key already.
    """
    _library()
    if (folder / CHAIN).exists() or (folder / KEY).exists():
        raise RequestError(f"{folder}: there is a certificate already; name another folder, or move it away")

    chain, key = _certificates(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY).touch(mode=0o600)
    (folder / KEY).write_bytes(key)
    (folder / CHAIN).write_bytes(chain)
    return Signer.load(folder)


def _certificates(organisation: str) -> tuple[bytes, bytes]:
    """Make a signing certificate and its root. Returns the chain and the signing key as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    unused = ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    unused += ["encipher_only", "decipher_only"]
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)  # clocks differ
    chain = b""
    for key, subject, is_root in ((own, named("unclip"), False), (root, named("unclip root"), True)):
        usage = x509.KeyUsage(
            digital_signature=not is_root,
            key_cert_sign=is_root,
            crl_sign=is_root,
            **dict.fromkeys(unused, False),
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(named("unclip root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=365 * YEARS))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(root_id, critical=False)
        )
        if not is_root:
            email = x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.EMAIL_PROTECTION]
            )  # C2PA requires a usage of its list
            builder = builder.add_extension(email, critical=False)
        chain += builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return chain, own.private_bytes(serialization.Encoding.PEM, pkcs8, plain)


def read(data: bytes) -> Manifest | None:
    """Read the manifest of an image file; None if there is none or it is damaged.

    Raises:
        RequestError: unclip[c2pa] is not installed.
    """
    c2pa = _library()
    try:
        context = c2pa.Context(c2pa.Settings.from_dict(dict(SETTINGS)))
        with c2pa.Reader(_mime(data), io.BytesIO(data), context=context) as reader:
            tree = json.loads(reader.json())
    except (c2pa.C2paError, ValueError):
        return None
    active = tree.get("manifests", {}).get(tree.get("active_manifest"), {})
    return Manifest(
        str(tree.get("validation_state")), str(active.get("signature_info", {}).get("issuer", ""))
    )


def _library() -> ModuleType:
    try:
        import c2pa
    except ImportError:
        raise RequestError("content credentials need c2pa-python: pip install 'unclip[c2pa]'") from None
    library: ModuleType = c2pa
    return library


def _algorithm(key: bytes) -> bytes:
    """Return C2PA's name of a private key's signature algorithm."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(key, None)
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.key_size in (256, 384, 521):
        return {256: b"es256", 384: b"es384", 521: b"es512"}[private.key_size]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return b"ps256"
    raise ValueError("C2PA does not support this kind of key")


def _mime(data: bytes) -> str:
    for magic, name in MIME.items():
        if data.startswith(magic):
            return name
    raise ValueError("it is not a PNG, JPEG or WebP file")


def _blank() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()
