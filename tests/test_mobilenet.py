"""Features of MobileNetV2: only torchvision's own weights are taken."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.errors import RequestError
from unclip.evaluate import mobilenet
from unclip.evaluate.mobilenet import mobilenet_extractor


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of its shape."""
    declare_missing_schemas()
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    torch.save(mobilenet_v2().state_dict(), path := tmp_path_factory.mktemp("weights") / "mobilenet.pth")
    return path


def pictures(count: int, side: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def test_other_weights_are_refused(weights: Path) -> None:
    with pytest.raises(RequestError, match=r"is not torchvision's mobilenet_v2-b0353104\.pth"):
        mobilenet_extractor(weights)
    with pytest.raises(RequestError, match="give their file as mobilenet:PATH"):
        mobilenet_extractor(weights.with_name("missing.pth"))


def test_features_are_torchvisions_own(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import mobilenet_v2
    from torchvision.transforms.v2.functional import normalize

    monkeypatch.setattr(mobilenet, "SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())
    shown = pictures(2, 224)
    with torch.inference_mode():
        found = mobilenet_extractor(weights).encode(shown)
        network = mobilenet_v2().eval()
        network.load_state_dict(torch.load(weights, weights_only=True))
        x = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in shown])
        states: list[torch.Tensor] = []
        network.classifier.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
        network(normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert found.shape == (2, 1280)
    torch.testing.assert_close(found, states[0], rtol=1e-4, atol=1e-4)
