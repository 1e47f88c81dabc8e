"""`unclip serve`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from unclip.cli import serve_setup as setup


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    default=["mini"],
    metavar="[NAME=]REFERENCE",
    help="The bundled mini, a folder, or a Hub id owner/name. Repeat it to serve several; requests choose by "
    "name, which is the reference's last part unless given. The first is the default. [default: mini]",
)
@click.option(
    "--lora",
    multiple=True,
    metavar="[NAME=]PATH[:SCALE]",
    help="LoRA adapter of the model NAME (default: the first); may be repeated. [default: none; SCALE 1]",
)
@click.option(
    "--unload-after",
    type=click.FloatRange(0, min_open=True),
    metavar="MINUTES",
    help="Free a model's memory after this time without requests; the next one loads it again. "
    "[default: keep it]",
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
    type=setup.ByteCount(),
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
def serve(**options: Any) -> None:
    """Serve OpenAI's Images API as dall-e-2 did: change the base URL, keep the code.

    \b
    unclip serve --port 8000
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 python your_program.py
    """
    given = setup.ServeOptions(**options)
    names = setup.model_names(given.models)
    loras = setup.model_loras(given.lora, list(names))
    keys = setup.api_keys(given.api_key, given.api_key_file)
    setup.check_host(given.host, keys, given.insecure)
    setup.check_urls(given.public_url, given.cors_origin)
    places = setup.device_places(given.device, given.devices)
    setup.check_dependencies(given.page)
    from unclip.serve import run
    from unclip.serve.store import Store

    marks = setup.marks_of(given)
    run.exit_on_sigterm()
    with run.bind(given.host, given.port) as bound, run.temporary_folder() as temporary:
        run.log_to_stderr()
        store = Store(given.image_dir or temporary / "images", given.image_quota)
        models = setup.load_models(names, places, reload=given.unload_after is not None, loras=loras)
        app = setup.make_app(given, models, store, keys, marks)
        if given.page:
            from unclip.serve.page import mount_page

            mount_page(app, app.state.service, temporary, keys)
        url = given.public_url or run.url(bound)
        on_start = partial(setup.announce, models, url, len(keys), given.page)
        on_drain = None if given.image_dir else app.state.service.drain  # its URLs end with the folder
        drain = given.drain_timeout
        run.run(app, bound, temporary, drain_timeout=drain, on_start=on_start, on_drain=on_drain)
