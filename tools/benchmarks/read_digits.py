"""Accuracy of class-conditional samples under a classifier of real images.

    unclip sample runs/ddpm-digits --count 1000 --steps 100 -o samples
    python tools/benchmarks/read_digits.py data/digits/train data/digits/test samples

A small convolutional network is trained on the first set, in seconds for 8 × 8 digits and in minutes for
MNIST. Its accuracy on the second set, the test set, bounds what it can measure. The third argument is a
folder with a folder per class.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unclip.evaluate.metrics import mean_of
from unclip.evaluate.pictures import PictureFiles
from unclip.images import to_tensor

BATCH = 128
RATE = 3e-3


class Reader(nn.Module):
    """A classifier of grey images [B, 1, H, W] of at least 8 px; returns logits [B, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (1, 32, 32, 64, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.leave = nn.Linear(64 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        for i, (convolve, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.relu(norm(convolve(x)))
            if i == 1:
                x = F.max_pool2d(x, 2)
        return self.leave(F.dropout(F.adaptive_avg_pool2d(x, 4).flatten(1), 0.3, self.training))


def read(source: str, label: str | None) -> tuple[Tensor, Tensor]:
    """Read images [N, 1, H, W] in [−1, 1] and their classes [N]."""
    found = PictureFiles.at(source)
    images = torch.stack([to_tensor(image)[:1] for image in found.read(0, 1)])
    return images, torch.tensor([int(one) for one in found.labels(label)])


def moved(x: Tensor) -> Tensor:
    """Roll the batch by up to one pixel in each direction. Borders are dark, so wrapping does not matter."""
    return x.roll(tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))


def learn(images: Tensor, labels: Tensor, epochs: int) -> Reader:
    torch.manual_seed(0)
    reader = Reader(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            loss = F.cross_entropy(reader(moved(images[chosen])), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return reader.eval()


@torch.inference_mode()
def right(reader: Reader, images: Tensor, labels: Tensor) -> Tensor:
    """1 for each correctly classified image, [N]."""
    called = torch.cat([reader(part).argmax(1) for part in images.split(1000)])
    return (called == labels).double()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("samples", nargs="*")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--reader", type=Path, help="safetensors file of the classifier; loaded if it exists")
    given = parser.parse_args()
    if given.reader and given.reader.exists():
        weights = load_file(given.reader)
        reader = Reader(len(weights["leave.bias"])).to(memory_format=torch.channels_last).eval()
        reader.load_state_dict(weights)
    else:
        reader = learn(*read(given.train, "label"), given.epochs)
    if given.reader and not given.reader.exists():
        save_file({key: value.contiguous() for key, value in reader.state_dict().items()}, given.reader)
    for source, label in ((given.test, "label"), *((samples, None) for samples in given.samples)):
        images, labels = read(source, label)
        said = right(reader, images, labels)
        found = mean_of(100 * said, resamples=1000)
        print(f"{source}: {found} % of {len(said)}")


if __name__ == "__main__":
    main()
