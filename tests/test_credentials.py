"""Content credentials: created, signed, read, and invalid after a change of the file."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from unclip.cli import cli
from unclip.errors import RequestError
from unclip.provenance.credentials import CHAIN, KEY, Manifest, Signer, create, read
from unclip.provenance.metadata import encode
from unclip.provenance.verify import verify
from unclip.serve import pictures

STUDIO = "Example Studio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("c2pa", reason="needs unclip[c2pa]")
    pytest.importorskip("cryptography", reason="needs unclip[c2pa]")
    made = tmp_path_factory.mktemp("credentials") / "mine"
    create(made, STUDIO)
    return made


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_signed_picture_names_its_signer_until_it_is_changed(
    folder: Path, picture: Image.Image, format: str
) -> None:
    plain = encode(picture, format)
    signed = Signer.load(folder).sign(plain, "trainedAlgorithmicMedia")
    assert read(plain) is None and read(signed) == Manifest("Valid", STUDIO)
    assert len(signed) < len(plain) + 5000  # no thumbnail
    before, after = (np.asarray(Image.open(io.BytesIO(data))) for data in (plain, signed))
    assert (before == after).all()
    changed = bytearray(signed)
    middle = len(plain) // 2
    changed[signed.index(plain[middle : middle + 16])] ^= 1  # a bit of the pixels
    assert read(bytes(changed)) == Manifest("Invalid", STUDIO)


def test_the_key_is_its_owners_alone_and_is_not_made_twice(folder: Path) -> None:
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600
    with pytest.raises(RequestError, match="there is a certificate already"):
        create(folder, "another")


def test_what_cannot_sign_says_so_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"certificates.pem: cannot be read .*unclip provenance init"):
        Signer.load(tmp_path)
    create(tmp_path / "other", "Other")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / CHAIN).write_bytes((folder / CHAIN).read_bytes())
    (tmp_path / "mixed" / KEY).write_bytes((tmp_path / "other" / KEY).read_bytes())
    with pytest.raises(RequestError, match="cannot be signed"):
        Signer.load(tmp_path / "mixed")
    with pytest.raises(RequestError, match="not a PNG, JPEG or WebP file"):
        Signer.load(folder).sign(b"GIF89a", "trainedAlgorithmicMedia")


def test_the_server_signs_what_it_marks(folder: Path, picture: Image.Image, tmp_path: Path) -> None:
    signer = Signer.load(folder)
    path = tmp_path / "served.png"
    path.write_bytes(pictures.encode(picture.resize((256, 256)), pictures.Marks(signer=signer), part=True))
    found = verify(path)
    assert found.watermark.found and found.manifest == Manifest("Valid", STUDIO)
    assert "c2pa: compositeWithTrainedAlgorithmicMedia" in found.header.generated


def test_the_command_line_makes_signs_and_verifies(
    folder: Path, picture: Image.Image, tmp_path: Path
) -> None:
    path, mine = tmp_path / "cat.png", tmp_path / "mine"
    picture.save(path)
    run = CliRunner()
    assert run.invoke(cli, ["provenance", "init", str(mine), "--name", STUDIO]).exit_code == 0
    sign = ["provenance", "sign", str(path), "--credentials", str(mine)]
    before = path.read_bytes()
    refused = run.invoke(
        cli, sign
    )  # nothing says that a model made it, so nothing may be signed that says so
    assert "--assert-generated" in str(refused.exception) and path.read_bytes() == before
    signed = run.invoke(cli, [*sign, "--assert-generated"], catch_exceptions=False)
    assert signed.exit_code == 0 and signed.output == f"{path}\n"
    tree = json.loads(run.invoke(cli, ["verify", "--json", str(path)]).output)
    assert tree["generated"] and tree["manifest"] == {"state": "Valid", "issuer": STUDIO}
    assert f"signed by {STUDIO}, unchanged since" in run.invoke(cli, ["verify", str(path)]).output
    path.write_bytes(path.read_bytes().replace(b"IEND", b"IENX"))
    assert read(path.read_bytes()) != Manifest("Valid", STUDIO)


def test_without_the_library_a_manifest_is_still_seen(
    folder: Path, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "signed.png"
    path.write_bytes(Signer.load(folder).sign(encode(picture), "trainedAlgorithmicMedia"))
    monkeypatch.setitem(sys.modules, "c2pa", None)
    found = verify(path)
    assert found.header.credentials and found.manifest is None and found.generated
    with pytest.raises(RequestError, match=r"unclip\[c2pa\]"):
        Signer.load(folder)
