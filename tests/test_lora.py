"""LoRA adapters at inference: read, added to the weights of every kind of stage, and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_lora import as_peft, load, make, picture
from torch import Tensor, nn

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.errors import CheckpointError
from unclip.files import read_weights, write_weights
from unclip.models.assemble import assemble
from unclip.models.lora import LowRank, changed, read_adapter
from unclip.nn.lora import add_lora, lora_tensors, projections
from unclip.stages.lora import base_identity


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for each of three stages, in folders named like the stages. Never write into it."""
    folder = tmp_path_factory.mktemp("adapters")
    for role in ("prior", "decoder", "upsampler-256"):
        make(folder / role, tiny_model / role)
    return folder


# --- layers ---


class Layers(nn.Module):
    """One layer of each kind that can be adapted, and two that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 6, 1, stride=2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.point(self.conv(x)).flatten(2).mT
        return self.linear(self.attention(h, h, h)[0])  # type: ignore[no-any-return]


def diffusers_unet() -> tuple[nn.Module, tuple[Any, ...]]:
    declare_missing_schemas()
    import diffusers

    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return cast(nn.Module, unet), (torch.randn(2, 4, 8, 8).double(), 10, torch.randn(2, 3, 16).double())


@pytest.mark.parametrize("kind", ["ours", "diffusers"])
def test_the_trained_layer_is_the_merged_layer(kind: str) -> None:
    torch.manual_seed(0)
    module, inputs = (Layers(), (torch.randn(2, 3, 8, 8).double(),)) if kind == "ours" else diffusers_unet()

    def output() -> Tensor:
        out = module(*inputs)
        return getattr(out, "sample", out)  # type: ignore[no-any-return]

    module.double().eval()
    plain = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = output()
    names = [name for name, _ in projections(module)]
    assert names == ["point", "linear"] if kind == "ours" else any(name.endswith("to_q") for name in names)
    add_lora(module, rank=3, scaling=0.5)
    assert torch.allclose(output(), before, atol=1e-12)  # B is 0
    new = lora_tensors(module.state_dict())
    assert plain.keys() == module.state_dict().keys() - new.keys() and len(new) == 2 * len(names)
    assert {name for name, p in module.named_parameters() if p.requires_grad} == new.keys()
    for tensor in new.values():
        tensor.normal_(std=0.3)
    adapted = output()
    factors = {key: tensor.flatten(1).clone() for key, tensor in new.items()}
    layers = {
        name: LowRank(factors[f"{name}.lora_A.weight"], factors[f"{name}.lora_B.weight"], 0.5)
        for name in names
    }
    for tensor in new.values():
        tensor.zero_()
    module.load_state_dict(
        {name: changed(name, tensor, [(layers, 1.0)]) for name, tensor in plain.items()}, strict=False
    )
    assert (adapted - before).abs().max() > 0.01
    assert torch.allclose(output(), adapted, atol=1e-10)


# --- pipelines ---


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_offloaded_and_kept_weights_make_the_same_picture(
    dtype: torch.dtype | None, tiny_model: Path, adapters: Path
) -> None:
    loras = [adapters / "decoder", f"{adapters}/prior:0.5", adapters / "upsampler-256"]
    kept = load(tiny_model, *loras, dtype=dtype)
    offloaded = load(tiny_model, *loras, dtype=dtype, offload=True)
    first = picture(offloaded)
    assert first == picture(offloaded) == picture(kept) != picture(load(tiny_model, dtype=dtype))


@pytest.mark.parametrize("role", ["prior", "decoder", "upsampler-256"])
def test_every_stage_is_changed_by_its_own_adapter(role: str, tiny_model: Path, adapters: Path) -> None:
    plain, adapted = load(tiny_model), load(tiny_model, adapters / role)
    assert picture(adapted) != picture(plain)
    for other, stage in adapted.stages.items():
        same = base_identity(stage) == base_identity(plain.stages[other])
        assert same == (other != role)


def test_adapters_add_up(tiny_model: Path, tmp_path: Path) -> None:
    a, b = (make(tmp_path / name, tiny_model / "decoder", rank=2 + i, seed=i) for i, name in enumerate("ab"))
    both, minus = load(tiny_model, f"{a}:0.5", b), load(tiny_model, a, f"{a}:-1", f"{b}:0")
    later = load(tiny_model)
    later.load_lora(a, 0.5)
    later.load_lora(str(b))
    assert picture(both) == picture(later) != picture(load(tiny_model, a))
    plain = load(tiny_model).decoder.state_dict()
    for name, tensor in minus.decoder.state_dict().items():
        assert torch.allclose(tensor, plain[name], atol=1e-6)
    names = [
        (one["name"].partition("@")[0], one["scale"]) for one in both.generate("a cat").settings[0]["lora"]
    ]
    assert names == [("a", 0.5), ("b", 1.0)]
    assert "lora" not in load(tiny_model).generate("a cat").settings[0]


def test_the_file_of_a_float32_model_is_not_written_to(tiny_model: Path, adapters: Path) -> None:
    file = tiny_model / "decoder/model.safetensors"
    before = file.read_bytes()
    load(tiny_model, adapters / "decoder")
    assert file.read_bytes() == before


@pytest.mark.parametrize("offload", [False, True])
def test_a_saved_pipeline_has_its_adapters_in_its_weights(
    offload: bool, tiny_model: Path, adapters: Path, tmp_path: Path
) -> None:
    pipe = load(tiny_model, adapters / "decoder", adapters / "prior", offload=offload)
    pipe.save_pretrained(tmp_path / "saved")
    assert picture(load(tmp_path / "saved")) == picture(pipe)


def test_assemble_merges(tiny_model: Path, adapters: Path, tmp_path: Path) -> None:
    parts = [str(tiny_model / part) for part in ("clip", "prior", "decoder", "upsampler-256")]
    assemble([*parts, f"{adapters}/decoder:0.5", adapters / "prior"], tmp_path / "merged")
    expected = load(tiny_model, f"{adapters}/decoder:0.5", adapters / "prior")
    assert picture(load(tmp_path / "merged")) == picture(expected)
    with pytest.raises(
        CheckpointError, match=r"is an adapter of a upsampler-256; merged has clip, prior, decoder"
    ):
        assemble([*parts[:3], adapters / "upsampler-256"], tmp_path / "merged")


# --- files of other programs ---


def as_diffusers(source: Path, file: Path) -> Path:
    """A single file of a U-Net's adapter, with an alpha for each layer."""
    tensors = read_weights(source / "model.safetensors")
    inside = {name.replace("network.unet.", "unet."): t for name, t in tensors.items() if ".unet." in name}
    alphas = {
        f"{name.rpartition('.lora_A')[0]}.alpha": torch.tensor(8.0) for name in inside if "lora_A" in name
    }
    write_weights({**inside, **alphas}, file)
    return file


def as_down_up(source: Path, file: Path) -> Path:
    """diffusers' older names, without alpha: its scale is 1."""
    tensors = read_weights(source / "model.safetensors")
    write_weights(
        {n.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): t for n, t in tensors.items()}, file
    )
    return file


def test_layouts_of_other_programs(tiny_model: Path, adapters: Path, tmp_path: Path) -> None:
    own = picture(load(tiny_model, adapters / "decoder"))
    peft = as_peft(adapters / "decoder", tmp_path / "peft")
    assert picture(load(tiny_model, peft)) == own
    assert picture(load(tiny_model, peft / "adapter_model.safetensors")) == own
    assert (
        picture(load(tiny_model, f"{as_down_up(adapters / 'decoder', tmp_path / 'old.safetensors')}:2"))
        == own
    )
    unet = read_adapter(str(as_diffusers(adapters / "decoder", tmp_path / "unet.safetensors")))
    assert {one.scaling for one in unet.layers.values()} == {2.0}
    assert picture(load(tiny_model, tmp_path / "unet.safetensors")) not in (own, picture(load(tiny_model)))
