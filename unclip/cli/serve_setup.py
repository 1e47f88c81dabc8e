"""What `unclip serve` checks and builds of its options, before it serves."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from unclip.errors import RequestError
from unclip.models.scaled import ScaledReference
from unclip.text import lines, read_text

if TYPE_CHECKING:
    from fastapi import FastAPI

    from unclip.pipeline import Pipeline
    from unclip.serve.models import ServedModel
    from unclip.serve.pictures import Marks
    from unclip.serve.store import Store

LOOPBACK = ("127.0.0.1", "::1", "localhost")
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
NAME = re.compile(r"[\w.:-]{1,100}")  # of a model, in requests and metrics


@dataclass(frozen=True)
class ServeOptions:
    """The options of `unclip serve`, see its help."""

    models: tuple[str, ...]
    lora: tuple[str, ...]
    unload_after: float | None
    host: str
    port: int
    api_key: tuple[str, ...]
    api_key_file: Path | None
    insecure: bool
    cors_origin: tuple[str, ...]
    strict: bool
    public_url: str | None
    image_dir: Path | None
    image_quota: int | None
    max_queue: int
    max_batch: int
    max_cost: float
    drain_timeout: int
    page: bool
    credentials: Path | None
    no_watermark: bool
    no_metadata: bool
    keep_prompts: bool
    log_prompts: bool
    device: str | None
    devices: str | None


class ByteCount(click.ParamType[int]):
    """A number of bytes, as in 500M or 20G."""

    name = "bytes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+)([kmgt]?)(i?b)?", str(value).strip().lower())
        if found is None:
            self.fail(f"{value} is not a size like 500M or 20G", param, ctx)
        return int(found[1]) * UNITS[found[2]]


def model_names(given: Sequence[str]) -> dict[str, str]:
    """Returns the references of the models by name: NAME=REFERENCE, or the reference's last part.

    Raises:
        RequestError: no usable name, or one name for two models.
    """
    found: dict[str, str] = {}
    for one in given:
        name, sign, reference = one.partition("=")
        if not sign or "/" in name or Path(one).exists():
            reference, last = one, one if Path(one).exists() else one.partition("@")[0]
            name = Path(last).resolve().name
        if not NAME.fullmatch(name) or not reference:
            raise RequestError(
                f"--model {one}: name it by letters and digits, as in --model mine={reference}"
            )
        if name in found:
            raise RequestError(f"--model {one}: {name} is {found[name]}; name one, as in other={reference}")
        found[name] = reference
    return found


def model_loras(given: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Returns the LoRA adapters of each model by its name.

    Raises:
        RequestError: no adapter there, or a scale that is not a number.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    for one in given:
        name, sign, lora = one.partition("=")
        if not sign or name not in found:
            name, lora = names[0], one
        ScaledReference.parse(lora).check_exists()
        found[name].append(lora)
    return found


def load_models(
    references: Mapping[str, str],
    places: Sequence[str | None],
    *,
    reload: bool,
    loras: Mapping[str, Sequence[str]] | None = None,
) -> list[ServedModel]:
    """Loads each model on each device.

    Args:
        reload: whether it can be loaded again after its memory was freed.
        loras: LoRA adapters of each model by its name.

    Raises:
        RequestError: a model that makes no pictures, or has no CLIP.
    """
    from unclip.serve.models import ServedModel

    made = []
    for name, reference in references.items():

        def load(device: int, reference: str = reference, name: str = name) -> Pipeline:
            return _load(reference, places[device], (loras or {}).get(name, ()))

        made.append(ServedModel([load(i) for i in range(len(places))], name, load if reload else None))
    return made


def _load(reference: str, device: str | None, lora: Sequence[str]) -> Pipeline:
    from unclip.pipeline import Pipeline
    from unclip.pipeline.model import WITHOUT

    pipeline = Pipeline.from_pretrained(reference, device=device, lora=lora)
    if "decoder" not in pipeline.stages:
        raise RequestError(f"--model {reference}: has no decoder, {WITHOUT['decoder']}")
    return pipeline


def make_app(
    given: ServeOptions, models: Sequence[ServedModel], store: Store, keys: tuple[str, ...], marks: Marks
) -> FastAPI:
    """Returns the application that draws with the models."""
    from unclip.serve import run
    from unclip.serve.app import Policy, create_app
    from unclip.serve.worker import Worker

    listed = tuple(dict.fromkeys(("dall-e-2", *(model.name for model in models))))
    hosts = _host_names(given.host, given.public_url)
    worker = Worker(
        *models,
        capacity=given.max_queue,
        batch=given.max_batch,
        on_prompt=run.log_prompt if given.log_prompts else None,
        unload_after=60 * given.unload_after if given.unload_after else None,
    )
    site = given.public_url, listed, marks, hosts, given.cors_origin
    return create_app(worker, store, Policy(keys, given.strict, *site, given.max_cost))


def announce(models: Sequence[ServedModel], url: str, keys: int, page: bool) -> None:
    """Says on stderr what is served and where."""
    access = f"{keys} API key{'s' * (keys > 1)}" if keys else "no key needed"
    names = ", ".join(model.name for model in models)
    click.echo(f"unclip serves {names} on {', '.join(models[0].places)}", err=True)
    click.echo(f"  API   {url}/v1   ({access})", err=True)
    if page:
        click.echo(f"  page  {url}/ui", err=True)
    click.echo("Ctrl-C ends it.", err=True)


def api_keys(given: tuple[str, ...], file: Path | None) -> tuple[str, ...]:
    """Returns all API keys.

    Raises:
        RequestError: an empty key, or a file without any; both would leave the server open.
    """
    keys = list(given)
    if (environment := os.environ.get("UNCLIP_API_KEY")) is not None and not given:
        keys.append(environment.strip())
    if not all(key.strip() for key in keys):
        raise RequestError("--api-key: is empty; leave it and UNCLIP_API_KEY out to need none")
    if file is not None:
        found = [line.strip() for line in lines(read_text(file))]
        if not any(found):
            raise RequestError(f"--api-key-file {file}: holds no key")
        keys += filter(None, found)
    return tuple(keys)


def device_places(device: str | None, devices: str | None) -> list[str | None]:
    """Returns the device of each worker; None for the best one there is.

    Raises:
        RequestError: both options, or an empty name.
    """
    places = [device] if devices is None else [place.strip() for place in devices.split(",")]
    if (device is not None and devices is not None) or not all(place != "" for place in places):
        raise RequestError(f"--devices {devices}: name them like cuda:0,cuda:1, and leave --device out")
    return list(places)


def check_host(host: str, keys: tuple[str, ...], insecure: bool) -> None:
    """Refuses to listen beyond this machine without a key."""
    if host not in LOOPBACK and not keys and not insecure:
        raise RequestError(
            f"--host {host}: is open to others; give an --api-key, or --insecure if that is meant"
        )


def check_urls(public_url: str | None, origins: tuple[str, ...]) -> None:
    """Refuses URLs that are not http or https."""
    given = [("--public-url", public_url)] if public_url is not None else []
    given += [("--cors-origin", origin) for origin in origins if origin != "*"]
    for option, url in given:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RequestError(f"{option} {url}: give a URL like https://pictures.example.org")


def _host_names(host: str, public_url: str | None) -> tuple[str, ...] | None:
    """Names that `Host` may have on a server without keys, see `Policy.hosts`."""
    if host not in LOOPBACK:
        return None
    known = urlsplit(public_url).hostname if public_url else None
    return (known,) if known else ()


def check_dependencies(page: bool) -> None:
    """Says which extra of the package is missing."""
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401

        import unclip.serve.app

        if page:
            import unclip.serve.page  # noqa: F401
    except ModuleNotFoundError as error:
        extra = "page" if error.name == "gradio" else "serve"
        raise RequestError(f"serving needs {error.name}: pip install 'unclip[{extra}]'") from None


def marks_of(given: ServeOptions) -> Marks:
    """Returns the marks of the pictures.

    Raises:
        RequestError: options that contradict each other, or a signer that cannot sign.
    """
    from unclip.provenance.credentials import Signer
    from unclip.serve.pictures import Marks

    if given.credentials and (given.no_watermark or given.no_metadata):
        other = "--no-watermark" if given.no_watermark else "--no-metadata"
        raise RequestError(
            f"--credentials and {other}: one says that a model made the pictures, the other not"
        )
    if given.keep_prompts and given.no_metadata:
        raise RequestError("--keep-prompts and --no-metadata: prompts are kept in the metadata")
    signer = Signer.load(given.credentials) if given.credentials else None
    return Marks(not given.no_watermark, not given.no_metadata, given.keep_prompts, signer)
