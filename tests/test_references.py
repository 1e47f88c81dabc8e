"""References of models in every option and key. One identity is one set of weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from unclip import files
from unclip.cli import cli
from unclip.clip import Clip, read_clip
from unclip.clip.openclip import OpenClip
from unclip.errors import CheckpointError, ConfigError, RequestError
from unclip.files import read_json, write_json
from unclip.models.assemble import assemble
from unclip.models.index import ModelIndex
from unclip.models.resolve import load_clip, resolve
from unclip.pipeline import Pipeline
from unclip.stages import load_stage, stage_class
from unclip.stages.base import Stage
from unclip.stages.clip import ClipConfig, ClipStage
from unclip.train.config import read_run
from unclip.train.loop import train
from unclip.train.start import start_from

ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; `mini` is the tiny model."""
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled/mini").symlink_to(tiny_model)
    monkeypatch.setattr(files, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path


def run_folder(here: Path, part: str, clip: str | None) -> str:
    """A training run as its checkpoint and run.yaml make it."""
    step = here / "run" / "step-00000007"
    shutil.copytree(here / "model" / part, step)
    (step / "progress.json").write_text("{}")
    (here / "run/run.yaml").write_text(yaml.safe_dump({"clip": clip}))
    return "run"


def fresh(folder: Path, **changes: Any) -> Stage:
    """An untrained stage of the config saved there."""
    tree = {**read_json(folder / "config.json"), "clip": None, **changes}
    tree.pop("identity", None)
    kind = stage_class(tree["kind"])
    return kind(kind.Config.model_validate(tree))


# --- references ---


@pytest.mark.parametrize(
    "ref", ["mini", "mini/clip", "mini/prior", "model", "./model", "model/clip", "model/decoder", "run"]
)
def test_every_reference_of_a_model_or_stage_names_its_clip(here: Path, tiny_model: Path, ref: str) -> None:
    run_folder(here, "prior", "mini")
    assert load_clip(ref).identity == read_json(tiny_model / "clip/config.json")["identity"]


@pytest.mark.parametrize("part", ["clip", "prior", "decoder", "upsampler-256", "upsampler-1024"])
@pytest.mark.parametrize("ref", ["mini", "mini/{}", "model", "model/{}", "run", "run/step-00000007"])
def test_every_reference_initialises_a_stage_of_its_role(here: Path, ref: str, part: str) -> None:
    run_folder(here, part, None)
    stage = fresh(here / "model" / part)
    start_from(stage, ref.format(part))
    saved = load_stage(here / "model" / part).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in stage.state_dict().items())


def test_a_run_begins_with_references(here: Path, run_of: Any) -> None:
    config = run_of("prior")
    tree = {
        **config.model_dump(mode="json"),
        "clip": "mini",
        "init": "mini",
        "stage": read_json(here / "model/prior/config.json"),
    }
    tree["stage"]["clip"] = None
    tree["train"]["steps"], tree["optim"]["lr"] = 1, 1e-30
    (here / "prior.yaml").write_text(yaml.safe_dump(tree))
    made = load_stage(train(read_run(here / "prior.yaml"), here / "made", progress=False))
    saved = load_stage(here / "model/prior")
    assert made.config.clip == saved.config.clip
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in made.state_dict().items())
    assert list(Pipeline.from_pretrained("made", device="cpu").stages) == [
        "prior"
    ]  # its CLIP is mini's, by run.yaml


def test_commands_take_references_for_clip(here: Path, train_shards: str) -> None:
    identity = read_json(here / "model/clip/config.json")["identity"]
    for i, ref in enumerate(("mini", "model", "model/decoder")):
        for command in (
            ["data", "embed", train_shards, f"out-{i}", "--clip", ref],
            [
                "evaluate",
                "clip",
                train_shards,
                "--clip",
                ref,
                "--resamples",
                "0",
                "--no-cache",
                "--device",
                "cpu",
            ],
            ["calibrate", "mini/prior" if i else "model", f"out-{i}/*.tar", "--clip", ref, "--count", "64"][
                : 0 if i else None
            ],
            ["assemble", "mini/prior", "model/decoder", "-o", f"made-{i}", "--clip", ref],
        ):
            if command:
                done = CliRunner().invoke(cli, command)
                assert done.exit_code == 0, (command, done.output, done.exception)
        assert read_json(here / f"out-{i}/shards.json")["clip"] == identity
        assert ModelIndex.read(here / f"made-{i}").clip == "clip"
        assert Pipeline.from_pretrained(f"made-{i}", device="cpu").clip.identity == identity


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        (
            "mini/poem",
            "mini: has no poem; its stages are clip, decoder, prior, upsampler-1024, upsampler-256",
        ),
        ("mimi/decoder", "no unclip model|cannot be reached"),
        ("model/poem/x", "model/poem/x: no such model"),
        ("", "an empty reference names no model"),
    ],
)
def test_a_reference_to_nothing_is_named(
    here: Path, ref: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for use in (Pipeline.from_pretrained, load_clip, lambda r: start_from(fresh(here / "model/prior"), r)):
        with pytest.raises(CheckpointError, match=says) as caught:
            use(ref)
        assert "\n" not in str(caught.value)


def test_what_has_no_such_part_says_what_it_has(here: Path) -> None:
    with pytest.raises(
        CheckpointError, match="mini/upsampler-256: comes without a CLIP; name the folder of one"
    ):
        load_clip("mini/upsampler-256")
    with pytest.raises(
        CheckpointError,
        match="mini: has no upsampler-512; its stages are clip, prior, decoder, upsampler-256, up",
    ):
        start_from(fresh(here / "model/upsampler-256", size=512), "mini")
    with pytest.raises(ConfigError, match="prior: is a prior, not a decoder"):
        start_from(fresh(here / "model/decoder"), "mini/prior")
    with pytest.raises(
        CheckpointError, match="mini: is a whole model; name one of its stages, as mini/decoder"
    ):
        assemble(["mini"], here / "out")
    with pytest.raises(CheckpointError, match="a clip is among the runs already"):
        assemble(["mini/clip", "mini/prior", "mini/decoder"], here / "out", clip="mini")
    assert not (here / "out").exists()


def test_the_bundled_decoder_initialises_its_plain_config() -> None:
    """As docs/how-to/train.md says; mini's decoder inpaints, and configs/mini/decoder.yaml does not."""
    config = read_run(ROOT / "configs/mini/decoder.yaml", ["init=mini/decoder", "clip=mini"])
    stage: Any = stage_class("decoder")(config.stage)
    start_from(stage, "mini/decoder")
    enter = load_stage(files.BUNDLED / "mini/decoder").state_dict()["network.unet.conv_in.weight"]
    assert torch.equal(
        stage.network.unet.conv_in.weight, enter[:, : stage.network.unet.conv_in.weight.shape[1]]
    )


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("prior", {"width": 64}, "stage.width is 32 there, 64 here"),
        ("prior", {"depth": 2, "text_drop": 0.5}, "stage.depth is 1 there, 2 here"),
        ("decoder", {"context_width": 64, "inpaint": True}, "stage.context_width is 32 there, 64 here"),
        (
            "decoder",
            {
                "unet": {
                    "channels": 64,
                    "multipliers": [1, 1, 1],
                    "depth": 1,
                    "attention": [2],
                    "middle_attention": True,
                    "head_channels": 32,
                }
            },
            "stage.unet.channels is 32 there, 64 here",
        ),
        (
            "upsampler-256",
            {"unet": {"channels": 32, "multipliers": [1], "depth": 1, "patch": 2}},
            "stage.unet.patch is 4 there, 2 here",
        ),
    ],
)
def test_a_stage_of_another_shape_names_the_keys_that_differ(
    here: Path, part: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        start_from(fresh(here / "model" / part, **changes), f"mini/{part}")
    assert str(caught.value).endswith(f"has another shape than this run's stage: {says}")


# --- identities ---


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32/nonsense", "ViT-L-14/"])
def test_an_open_clip_model_without_its_weights_is_refused_with_the_tags(name: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"openclip:{name}: .*give one of its tags, as openclip:.*openai.*, laion"
    ) as caught:
        load_clip(f"openclip:{name}")
    assert "\n" not in str(caught.value)


def hf_folder(folder: Path, seed: int) -> Path:
    """A random CLIPModel and its tokenizer, as transformers saves them."""
    from unclip.clip import hf
    from unclip.clip.openclip import tokenizer_with

    folder.mkdir()
    source = tokenizer_with(10, 20)
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({marks.get(t, t): i for t, i in source.encoder.items()}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in source.bpe_ranks))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 20})
    )
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.transformers.CLIPConfig(
        text_config={
            **shared,
            "vocab_size": source.vocab_size,
            "max_position_embeddings": 48,
            "eos_token_id": source.eot_token_id,
        },
        vision_config={**shared, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    torch.manual_seed(seed)
    hf.transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def openclip_folder(folder: Path, seed: int) -> Path:
    """A random open_clip model, saved as open_clip saves for the Hub."""
    import open_clip
    from safetensors.torch import save_file

    cfg = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(seed)
    folder.mkdir()
    save_file(open_clip.CLIP(**cfg).state_dict(), folder / "open_clip_model.safetensors")
    write_json(folder / "open_clip_config.json", {"model_cfg": cfg, "preprocess_cfg": {}})
    return folder


MAKERS = {"hf": hf_folder, "openclip": openclip_folder}


@pytest.mark.parametrize("backend", MAKERS)
def test_a_local_folder_is_named_by_its_weights(
    here: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = MAKERS[backend](here / "one", 1)
    same, other = Path(shutil.copytree(one, here / "same")), MAKERS[backend](here / "other", 2)
    first = load_clip(f"{backend}:{one}")
    names = [
        first.identity,
        *(load_clip(ref).identity for ref in (f"{backend}:{same}", str(one), f"{backend}:{other}")),
    ]
    assert names[0] == names[1] == names[2] != names[3] and names[0].startswith(f"{backend}@")
    embeds = [load_clip(f"{backend}:{one}").encode_text(["a cat"]).embed for _ in range(2)]
    assert torch.equal(*embeds)
    # Known by the files' sizes and times from now on, until they change.
    with monkeypatch.context() as patch:
        patch.setattr("unclip.clip.identity.weights_identity", lambda *_: pytest.fail("hashed again"))
        assert load_clip(f"{backend}:{one}").identity == names[0]
    weights = next(one.glob("*.safetensors"))
    shutil.copyfile(next(other.glob("*.safetensors")), weights)
    assert load_clip(f"{backend}:{one}").identity == names[3]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "cache").write_text("a file where the folder should be")
    folder = hf_folder(here / "one", 1)
    assert load_clip(f"hf:{folder}").identity == load_clip(f"hf:{folder}").identity


def with_clip(model: Path, reference: str, recorded: str) -> Path:
    """The model as one that was trained with this CLIP, its stages recording it as `recorded`."""
    write_json(model / "model_index.json", {**read_json(model / "model_index.json"), "clip": reference})
    for part in ("prior", "decoder"):
        write_json(
            model / part / "config.json", {**read_json(model / part / "config.json"), "clip": recorded}
        )
    return model


def test_stages_that_recorded_the_path_of_their_clip_still_load(here: Path) -> None:
    old = f"hf:{hf_folder(here / 'theirs', 1)}"
    model = with_clip(here / "model", old, old)
    pipe = Pipeline.from_pretrained("model", device="cpu")
    assert pipe.clip.identity.startswith("hf@") and pipe.generate("a cat", seed=1, size=64).images
    pipe.save_pretrained("saved")
    shutil.rmtree(here / "theirs")  # the saved model holds it
    again = Pipeline.from_pretrained("saved", device="cpu")
    assert again.stages["prior"].config.clip == again.clip.identity == pipe.clip.identity
    with pytest.raises(CheckpointError):
        Pipeline.from_pretrained("model", device="cpu")
    with_clip(model, f"hf:{hf_folder(here / 'elsewhere', 1)}", old)  # the same weights, but nothing says so
    with pytest.raises(CheckpointError, match=rf"prior: was trained for CLIP {old}, this model has hf@"):
        Pipeline.from_pretrained("model", device="cpu")


def test_a_run_that_recorded_the_path_of_its_clip_goes_on(here: Path, run_of: Any) -> None:
    old = f"hf:{hf_folder(here / 'theirs', 1)}"
    given = (f"clip={old}", "stage.token_width=32", "train.save_every=1")
    last = train(run_of("prior", *given, "train.steps=1"), here / "made", progress=False)
    write_json(last / "config.json", {**read_json(last / "config.json"), "clip": old})
    done = train(run_of("prior", *given, "train.steps=2"), here / "made", progress=False)
    assert load_stage(done).config.clip == load_clip(old).identity != old
    with pytest.raises(ConfigError, match="clip was hf:"):
        write_json(done / "config.json", {**read_json(done / "config.json"), "clip": "hf:somewhere/else"})
        train(run_of("prior", *given, "train.steps=3"), here / "made", progress=False)


# --- saving what is there ---


@pytest.fixture
def own_clip(here: Path) -> Clip:
    """Another CLIP of the tiny one's widths, as a run of the CLIP stage leaves it."""
    config = load_stage(here / "model/clip").config.model_copy(update={"clip": None})
    assert isinstance(config, ClipConfig)
    step = here / "clip-run/step-00000001"
    (step / "state").mkdir(parents=True)
    (step / "state/optimizer.safetensors").touch()
    (step / "progress.json").write_text("{}")
    torch.manual_seed(5)
    ClipStage(config).save(step)
    return load_clip("clip-run")


def same_pictures(a: Pipeline, b: Pipeline) -> bool:
    one, two = (pipe.generate("a cat", seed=1, size=64).images[0].tobytes() for pipe in (a, b))
    return one == two


def test_an_exchanged_clip_is_saved(here: Path, own_clip: Clip, caplog: pytest.LogCaptureFixture) -> None:
    pipe = Pipeline.from_pretrained("model", device="cpu")
    before = {role: stage.config.clip for role, stage in pipe.stages.items()}
    pipe.clip = own_clip
    pipe.save_pretrained("saved")
    assert "was trained with CLIP" in caplog.text
    assert {role: stage.config.clip for role, stage in pipe.stages.items()} == before
    again = Pipeline.from_pretrained("saved", device="cpu")
    assert again.clip.identity == own_clip.identity != before["prior"] and same_pictures(pipe, again)
    assert sorted(path.name for path in (here / "saved/clip").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    again.save_pretrained("saved")  # in its own place
    assert same_pictures(pipe, Pipeline.from_pretrained("saved", device="cpu"))


@pytest.mark.parametrize("backend", MAKERS)
def test_an_exchanged_clip_of_another_library_is_saved(here: Path, backend: str) -> None:
    folder = MAKERS[backend](here / "theirs", 1)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    pipe = Pipeline.from_pretrained("model", device="cpu")
    pipe.clip = load_clip(f"{backend}:{folder}")
    pipe.save_pretrained("saved")
    shutil.rmtree(folder)
    again = Pipeline.from_pretrained("saved", device="cpu")
    assert again.clip.identity == pipe.clip.identity and same_pictures(pipe, again)
    assert not list((here / "saved").rglob("*.bin"))


def test_a_public_clip_is_saved_as_its_reference(here: Path) -> None:
    pipe = Pipeline.from_pretrained("model", device="cpu")
    public: Any = read_clip(str(here / "model/clip"))
    public.identity = public.reference = "openclip:ViT-B-32/openai"  # as one that was downloaded
    pipe.clip = public
    pipe.save_pretrained("saved")
    assert (
        ModelIndex.read(here / "saved").clip == "openclip:ViT-B-32/openai"
        and not (here / "saved/clip").exists()
    )
    assert read_json(here / "saved/prior/config.json")["clip"] == "openclip:ViT-B-32/openai"
    assemble(
        ["saved/prior", "saved/decoder"], here / "joined", clip="openclip:ViT-B-32/openai"
    )  # without its weights
    assert ModelIndex.read(here / "joined").clip == "openclip:ViT-B-32/openai"


def test_a_clip_that_cannot_be_saved_is_named_before_anything_is_written(here: Path, own_clip: Any) -> None:
    pipe = Pipeline.from_pretrained("model", device="cpu")
    pipe.clip = OpenClip(own_clip.model, own_clip.tokenizer, "mine@1", own_clip.preprocess, unit=True)
    with pytest.raises(
        CheckpointError, match="saved: cannot be saved with CLIP mine@1, which was made in Python"
    ):
        pipe.save_pretrained("saved")
    own_clip.width = 48
    pipe.clip = own_clip
    with pytest.raises(
        CheckpointError, match=r"prior: cannot be saved with this CLIP \(stage.embed is 32, but .* has 48"
    ):
        pipe.save_pretrained("saved")
    own_clip.width, own_clip.reference = 32, f"openclip:ViT-B-32/{here / 'run.pt'}"
    (here / "run.pt").touch()
    with pytest.raises(CheckpointError, match="run.pt: its weights are no safetensors in a folder"):
        pipe.save_pretrained("saved")
    assert not (here / "saved").exists() and not (here / ".saved.tmp").exists()


def test_a_lonely_stage_is_saved_with_the_clip_that_it_was_given(here: Path, own_clip: Clip) -> None:
    shutil.copytree(here / "model/decoder", here / "lonely")
    pipe = Pipeline.from_pretrained("lonely", device="cpu")
    with pytest.raises(RequestError, match="comes without the CLIP"):
        pipe.vary(pipe.decode(torch.zeros(1, 32), seed=1).images[0])
    pipe.clip = load_clip("model")
    pipe.save_pretrained("saved")
    assert Pipeline.from_pretrained("saved", device="cpu").clip.identity == load_clip("model").identity


# --- the index ---


def test_an_index_of_an_earlier_version_loads(here: Path) -> None:
    tree = read_json(here / "model/model_index.json")
    write_json(
        here / "model/model_index.json",
        {**tree, "precision": "quick", "license": "apache-2.0", "unclip": "0.0.1"},
    )
    pipe = Pipeline.from_pretrained("model", device="cpu")
    assert pipe.quick and pipe.index.precision == "bfloat16" and pipe.unknown_words("a dragon") == ["dragon"]
    pipe.save_pretrained("saved")
    saved = read_json(here / "saved/model_index.json")
    assert saved == {**tree, "precision": "bfloat16", "license": "apache-2.0"}
    index = ModelIndex.read(here / "saved")
    index.write(here)
    assert read_json(here / "model_index.json") == saved
    assert Pipeline.from_pretrained("saved", device="cpu", dtype=torch.float32).quick is False


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"prior": ...}, "prior: Field required"),
        ({"upsamplers": "upsampler-256"}, "upsamplers: Input should be a valid tuple, not 'upsampler-256'"),
        ({"precision": "int8"}, "precision: Input should be 'bfloat16', not 'int8'"),
        (
            {"clip": "nonsense"},
            "clip is 'nonsense': no CLIP there, and not one of another library, as openclip:NAME/TAG",
        ),
        ({"decoder": "../x"}, "'../x' points outside the folder"),
    ],
)
def test_a_wrong_index_is_one_line_that_names_the_file_and_the_key(
    here: Path, changes: dict[str, Any], says: str
) -> None:
    tree = {**read_json(here / "model/model_index.json"), **changes}
    write_json(
        here / "model/model_index.json", {key: value for key, value in tree.items() if value is not ...}
    )
    with pytest.raises(CheckpointError) as caught:
        resolve("model")
    assert str(caught.value) == f"model/model_index.json: {says}"
