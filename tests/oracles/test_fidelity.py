"""Metrics against torch-fidelity's on the same features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unclip.clip.torchvision_schemas import declare_missing_schemas
from unclip.evaluate import metrics

declare_missing_schemas()
pytest.importorskip("torch_fidelity")

from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kid_features_to_metric  # noqa: E402
from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402

N, M, D = 400, 300, 24


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    """Two clouds that overlap in part, of features that are correlated as real ones are."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=generator, dtype=torch.float64) / D**0.5
    x = torch.randn(N, D, generator=generator, dtype=torch.float64) @ mixing
    y = torch.randn(M, D, generator=generator, dtype=torch.float64) @ mixing * 1.3 + 0.2
    return x, y


def test_fid(sets: tuple[Tensor, Tensor]) -> None:
    theirs: Any = fid_statistics_to_metric(*map(fid_features_to_statistics, sets), False)
    assert metrics.fid(*sets).value == pytest.approx(theirs["frechet_inception_distance"], abs=1e-6)


def test_kid(sets: tuple[Tensor, Tensor]) -> None:
    x, y = sets[0][:M], sets[1]  # one subset of everything: all of theirs have one size
    theirs: Any = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=M, verbose=False)
    assert metrics.kid(x, y).value == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-9)


def test_inception_score(sets: tuple[Tensor, Tensor]) -> None:
    theirs: Any = isc_features_to_metric(sets[0], splits=7, shuffle=False)
    found = metrics.inception_score(sets[0], splits=7)
    assert found.value == pytest.approx(theirs["inception_score_mean"], abs=1e-9)


def test_precision_and_recall(sets: tuple[Tensor, Tensor]) -> None:
    theirs: Any = prc_features_to_metric(*sets, prc_neighborhood=3, prc_batch_size=100, verbose=False)
    found = metrics.precision_recall(*sets)
    assert 0.02 < found.precision.value < 0.999
    assert found.precision.value == pytest.approx(theirs["precision"], abs=1e-6)
    assert found.recall.value == pytest.approx(theirs["recall"], abs=1e-6)
