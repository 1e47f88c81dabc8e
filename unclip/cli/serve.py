"""`unclip serve`."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from unclip.errors import RequestError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.option("--model", default="mini", show_default=True, help="The bundled mini, a folder, or a Hub id owner/name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--api-key", multiple=True, envvar="UNCLIP_API_KEY", help="A key that clients must name; may be repeated."
)
@click.option("--api-key-file", type=click.Path(path_type=Path), help="Keys, one per line.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without any key.")
@click.option("--strict", is_flag=True, help="Refuse whatever dall-e-2 would have refused.")
@click.option("--public-url", help="Under which clients reach the server, as in https://pictures.example.org.")
@click.option(
    "--image-dir", type=click.Path(path_type=Path), help="Where pictures wait to be fetched. [default: temporary]"
)
@click.option("--max-queue", default=64, show_default=True, type=click.IntRange(1), help="Pictures that may wait.")
@click.option("--max-batch", default=8, show_default=True, type=click.IntRange(1), help="Pictures drawn together.")
@click.option(
    "--drain-timeout", default=60, show_default=True, type=click.IntRange(1), help="Seconds to finish at the end."
)
@click.option("--page", is_flag=True, help="Also serve a page for people, at /ui.")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, file_okay=False),
    help="Sign pictures with what is in this folder, as made by unclip provenance init.",
)
@click.option("--no-watermark", is_flag=True, help="Leave out the invisible mark that says a model made the pictures.")
@click.option("--no-metadata", is_flag=True, help="Leave out the settings, and what says so in the files.")
@click.option("--keep-prompts", is_flag=True, help="Write prompts into the files as well, with the other settings.")
@click.option("--log-prompts", is_flag=True, help="Write prompts into the log.")
@click.option("--device", help="cpu, cuda, cuda:1, mps. [default: the best one there is]")
@click.option("--devices", help="Several, each with a worker of its own, as in cuda:0,cuda:1.")
def serve(
    model: str, host: str, port: int, api_key: tuple[str, ...], api_key_file: Path | None, insecure: bool, strict: bool,
    public_url: str | None, image_dir: Path | None, max_queue: int, max_batch: int, drain_timeout: int,
    page: bool, credentials: Path | None, no_watermark: bool, no_metadata: bool, keep_prompts: bool, log_prompts: bool,
    device: str | None, devices: str | None,
) -> None:  # fmt: skip
    """Serve OpenAI's Images API as dall-e-2 did: change the base URL, keep the code.

    \b
    unclip serve --port 8000
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 python your_program.py
    """
    keys = (*api_key, *_keys(api_key_file))
    if host not in LOOPBACK and not keys and not insecure:
        raise RequestError(f"--host {host}: is open to others; give an --api-key, or --insecure if that is meant")
    places = [device] if devices is None else [place.strip() for place in devices.split(",")]
    if (device is not None and devices is not None) or not all(place != "" for place in places):
        raise RequestError(f"--devices {devices}: name them like cuda:0,cuda:1, and leave --device out")
    try:
        import python_multipart  # noqa: F401  which reads the pictures that clients send
        import uvicorn

        from unclip.serve.answers import Artist
        from unclip.serve.app import Policy, create_app

        if page:
            from unclip.serve.page import mount_page
    except ModuleNotFoundError as error:
        extra = "page" if error.name == "gradio" else "serve"
        raise RequestError(f"serving needs {error.name}: pip install 'unclip[{extra}]'") from None
    import tempfile

    from unclip.pipeline import Pipeline
    from unclip.pipeline.call import WITHOUT
    from unclip.provenance.credentials import Signer
    from unclip.serve.pictures import Marks
    from unclip.serve.store import Store
    from unclip.serve.worker import PROMPTS, Worker

    if credentials and (no_watermark or no_metadata):
        other = "--no-watermark" if no_watermark else "--no-metadata"
        raise RequestError(f"--credentials and {other}: one says that a model made the pictures, the other not")
    if keep_prompts and no_metadata:
        raise RequestError("--keep-prompts and --no-metadata: prompts are kept in the metadata")
    signer = Signer.load(credentials) if credentials else None
    if log_prompts:
        PROMPTS.addHandler(logging.StreamHandler())
        PROMPTS.setLevel(logging.INFO)
    pipes = [Pipeline.from_pretrained(model, device=place) for place in places]
    if "decoder" not in pipes[0].stages:
        raise RequestError(f"--model {model}: has no decoder, {WITHOUT['decoder']}")
    policy = Policy(
        keys=keys,
        strict=strict,
        public_url=public_url,
        models=("dall-e-2", pipes[0].name),
        marks=Marks(not no_watermark, not no_metadata, keep_prompts, signer),
    )
    with tempfile.TemporaryDirectory(prefix="unclip-") as temporary:
        worker = Worker(*pipes, capacity=max_queue, batch=max_batch)
        store = Store(image_dir or Path(temporary))
        app = create_app(worker, store, policy)
        if page:
            mount_page(app, Artist(worker, store, policy.marks), Path(temporary), keys)
        # Access logs would name every picture's signed URL.
        uvicorn.run(
            app, host=host, port=port, log_level="info", access_log=False, timeout_graceful_shutdown=drain_timeout
        )


def _keys(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from None
