"""`unclip serve`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from unclip.errors import RequestError
from unclip.text import lines, read_text

if TYPE_CHECKING:
    from unclip.pipeline import Pipeline
    from unclip.serve.pictures import Marks

LOOPBACK = ("127.0.0.1", "::1", "localhost")
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class ByteCount(click.ParamType[int]):
    """A number of bytes, as in 500M or 20G."""

    name = "bytes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+)([kmgt]?)(i?b)?", str(value).strip().lower())
        if found is None:
            self.fail(f"{value} is not a size like 500M or 20G", param, ctx)
        return int(found[1]) * UNITS[found[2]]


@click.command()
@click.option(
    "--model", default="mini", show_default=True, help="The bundled mini, a folder, or a Hub id owner/name."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for any free one."
)
@click.option(
    "--api-key",
    multiple=True,
    help="Key that clients must send; may be repeated. [env var: UNCLIP_API_KEY, one key]",
)
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File of keys, one per line.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without any key.")
@click.option(
    "--cors-origin", multiple=True, help="Site whose pages may use the server, as in https://app.example.org."
)
@click.option("--strict", is_flag=True, help="Refuse whatever dall-e-2 refused.")
@click.option(
    "--public-url", help="URL under which clients reach the server, as in https://pictures.example.org."
)
@click.option(
    "--image-dir", type=click.Path(path_type=Path), help="Folder of images behind URLs. [default: temporary]"
)
@click.option(
    "--image-quota",
    type=ByteCount(),
    help="Bytes that these images may take, as in 20G. [default: free disk space]",
)
@click.option(
    "--max-queue", default=64, show_default=True, type=click.IntRange(1), help="Images that may wait."
)
@click.option(
    "--max-batch", default=8, show_default=True, type=click.IntRange(1), help="Images drawn together."
)
@click.option(
    "--max-cost",
    default=5000.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Largest cost of a request: n × size / 256 × steps of the prior and the decoder.",
)
@click.option(
    "--drain-timeout",
    default=60,
    show_default=True,
    type=click.IntRange(1),
    help="Seconds to finish running requests after SIGTERM or Ctrl-C.",
)
@click.option("--page", is_flag=True, help="Also serve a page for people, at /ui.")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder made by `unclip provenance init`, with which images are signed.",
)
@click.option("--no-watermark", is_flag=True, help="Leave out the invisible watermark.")
@click.option(
    "--no-metadata", is_flag=True, help="Leave out the metadata: type of source, sampling settings."
)
@click.option("--keep-prompts", is_flag=True, help="Write prompts into the files' metadata.")
@click.option("--log-prompts", is_flag=True, help="Write prompts into the log.")
@click.option("--device", help="cpu, cuda, cuda:1, mps. [default: the best one there is]")
@click.option("--devices", help="Several devices, each with a worker of its own, as in cuda:0,cuda:1.")
def serve(
    model: str,
    host: str,
    port: int,
    api_key: tuple[str, ...],
    api_key_file: Path | None,
    insecure: bool,
    cors_origin: tuple[str, ...],
    strict: bool,
    public_url: str | None,
    image_dir: Path | None,
    image_quota: int | None,
    max_queue: int,
    max_batch: int,
    max_cost: float,
    drain_timeout: int,
    page: bool,
    credentials: Path | None,
    no_watermark: bool,
    no_metadata: bool,
    keep_prompts: bool,
    log_prompts: bool,
    device: str | None,
    devices: str | None,
) -> None:
    """Serve OpenAI's Images API as dall-e-2 did: change the base URL, keep the code.

    \b
    unclip serve --port 8000
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 python your_program.py
    """
    keys = _keys(api_key, api_key_file)
    _check_host(host, keys, insecure)
    _check_urls(public_url, cors_origin)
    places = _places(device, devices)
    _check_dependencies(page)
    from unclip.serve import run
    from unclip.serve.app import Policy, create_app
    from unclip.serve.store import Store
    from unclip.serve.worker import Worker

    marks = _marks(credentials, no_watermark, no_metadata, keep_prompts)
    hosts = _hosts(host, public_url)
    run.exit_on_sigterm()
    with run.bind(host, port) as bound, run.temporary_folder() as temporary:
        run.log_to_stderr()
        store = Store(image_dir or temporary / "images", image_quota)
        pipelines = [_load(model, place) for place in places]
        models = "dall-e-2", pipelines[0].name
        policy = Policy(keys, strict, public_url, models, marks, hosts, cors_origin, max_cost)
        on_prompt = run.log_prompt if log_prompts else None
        worker = Worker(*pipelines, capacity=max_queue, batch=max_batch, on_prompt=on_prompt)
        app = create_app(worker, store, policy)
        if page:
            from unclip.serve.page import mount_page

            mount_page(app, app.state.service, temporary, keys)
        on_start = partial(_announce, pipelines, public_url or run.url(bound), len(keys), page)
        on_drain = None if image_dir else app.state.service.drain  # a temporary folder's URLs end with it
        run.run(app, bound, temporary, drain_timeout=drain_timeout, on_start=on_start, on_drain=on_drain)


def _announce(pipelines: Sequence[Pipeline], url: str, keys: int, page: bool) -> None:
    access = f"{keys} API key{'s' * (keys > 1)}" if keys else "no key needed"
    devices = ", ".join(str(pipeline.device) for pipeline in pipelines)
    click.echo(f"unclip serves {pipelines[0].name} on {devices}", err=True)
    click.echo(f"  API   {url}/v1   ({access})", err=True)
    if page:
        click.echo(f"  page  {url}/ui", err=True)
    click.echo("Ctrl-C ends it.", err=True)


def _keys(given: tuple[str, ...], file: Path | None) -> tuple[str, ...]:
    """All API keys.

    Raises:
        RequestError: an empty key, or a file without any; both would leave the server open.
    """
    import os

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


def _places(device: str | None, devices: str | None) -> list[str | None]:
    places = [device] if devices is None else [place.strip() for place in devices.split(",")]
    if (device is not None and devices is not None) or not all(place != "" for place in places):
        raise RequestError(f"--devices {devices}: name them like cuda:0,cuda:1, and leave --device out")
    return list(places)


def _check_host(host: str, keys: tuple[str, ...], insecure: bool) -> None:
    if host not in LOOPBACK and not keys and not insecure:
        raise RequestError(
            f"--host {host}: is open to others; give an --api-key, or --insecure if that is meant"
        )


def _check_urls(public_url: str | None, origins: tuple[str, ...]) -> None:
    given = [("--public-url", public_url)] if public_url is not None else []
    given += [("--cors-origin", origin) for origin in origins if origin != "*"]
    for option, url in given:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise RequestError(f"{option} {url}: give a URL like https://pictures.example.org")


def _hosts(host: str, public_url: str | None) -> tuple[str, ...] | None:
    """Names that `Host` may have on a server without keys, see `Policy.hosts`."""
    if host not in LOOPBACK:
        return None
    known = urlsplit(public_url).hostname if public_url else None
    return (known,) if known else ()


def _check_dependencies(page: bool) -> None:
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


def _marks(credentials: Path | None, no_watermark: bool, no_metadata: bool, keep_prompts: bool) -> Marks:
    from unclip.provenance.credentials import Signer
    from unclip.serve.pictures import Marks

    if credentials and (no_watermark or no_metadata):
        other = "--no-watermark" if no_watermark else "--no-metadata"
        raise RequestError(
            f"--credentials and {other}: one says that a model made the pictures, the other not"
        )
    if keep_prompts and no_metadata:
        raise RequestError("--keep-prompts and --no-metadata: prompts are kept in the metadata")
    signer = Signer.load(credentials) if credentials else None
    return Marks(not no_watermark, not no_metadata, keep_prompts, signer)


def _load(model: str, device: str | None) -> Pipeline:
    from unclip.pipeline import Pipeline
    from unclip.pipeline.call import WITHOUT

    pipeline = Pipeline.from_pretrained(model, device=device)
    if "decoder" not in pipeline.stages:
        raise RequestError(f"--model {model}: has no decoder, {WITHOUT['decoder']}")
    return pipeline
