"""Content credentials (C2PA): a signed statement in a picture's file that a model made it; needs
unclip[c2pa].

The signature says who states it and that the file has not been changed since. Whether to believe that signer
is another question: a certificate made here is on nobody's list of those to trust.
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

CHAIN, KEY = "certificates.pem", "key.pem"  # in a folder; the signer's own certificate comes first
YEARS = 5
MIME = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp"}
# No thumbnail: it would be larger than the picture. Nothing is ever fetched to check a manifest.
SETTINGS: Mapping[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


@dataclass(frozen=True)
class Manifest:
    """What a file's active manifest says.

    Attributes:
        state: "Trusted", "Valid" (the signature fits, whoever made it) or "Invalid".
        issuer: the organisation that signed, as its certificate says; empty if nothing does.
    """

    state: str
    issuer: str


@dataclass(frozen=True)
class Signer:
    """A certificate, with the chain that vouches for it, and its key, as PEM."""

    chain: bytes
    key: bytes

    @classmethod
    def load(cls, folder: Path) -> Signer:
        """The signer of a folder: the operator's own, or one that `create` made.

        Raises:
            RequestError: files that are missing, do not belong together or cannot sign.
        """
        try:
            signer = cls((folder / CHAIN).read_bytes(), (folder / KEY).read_bytes())
        except OSError as error:
            raise RequestError(
                f"{error.filename}: cannot be read ({error.strerror}); make one with unclip provenance init "
                f"{folder}"
            ) from None
        signer.sign(_blank(), "trainedAlgorithmicMedia")  # now, and not when the first picture is done
        return signer

    def sign(self, data: bytes, source: Source) -> bytes:
        """The picture's file with a signed manifest in it.

        Args:
            data: PNG, JPEG or WebP.

        Raises:
            RequestError: another file, or a certificate that C2PA does not allow.
        """
        c2pa = _library()
        # Of an edit, too: "edited" would have to follow "opened", which names the picture it began with.
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
    """Makes a certificate of one's own, and a root that vouches for it, valid for five years.

    Args:
        folder: gets both certificates, and the key, which only its owner can read. The root's key is thrown
            away.
        name: the organisation that signs.

    Raises:
        RequestError: there is one already.
    """
    _library()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    if (folder / CHAIN).exists() or (folder / KEY).exists():
        raise RequestError(f"{folder}: there is a certificate already; name another folder, or move it away")

    def named(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, name),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    def usage(*, signs: bool, vouches: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=signs,
            key_cert_sign=vouches,
            crl_sign=vouches,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)  # clocks differ
    chain = []
    for key, subject, vouches in ((own, named("unclip"), False), (root, named("unclip root"), True)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(named("unclip root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=365 * YEARS))
            .add_extension(x509.BasicConstraints(ca=vouches, path_length=None), critical=True)
            .add_extension(usage(signs=not vouches, vouches=vouches), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False
            )
        )
        if not vouches:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False
            )
        chain.append(builder.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY).touch(mode=0o600)
    (folder / KEY).write_bytes(
        own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / CHAIN).write_bytes(b"".join(chain))
    return Signer.load(folder)


def read(data: bytes) -> Manifest | None:
    """What the manifest in a picture's file says; None if there is none, or it is too damaged to read.

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
    """C2PA's name of the signatures that a private key makes."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(key, None)
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.key_size in (256, 384, 521):
        return {256: b"es256", 384: b"es384", 521: b"es512"}[private.key_size]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return b"ps256"
    raise ValueError("the key is none that C2PA knows")


def _mime(data: bytes) -> str:
    for magic, name in MIME.items():
        if data.startswith(magic):
            return name
    raise ValueError("it is no PNG, JPEG or WebP")


def _blank() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()
