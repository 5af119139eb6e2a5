"""The networks of the example candidates: `architecture: networks:chest_cnn` in a policy beside this file.

They are small on purpose. A gate puts each image through its candidate hundreds of times, and these are here to
qualify the gate, on a laptop or a CI runner, in seconds.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Blocks of two 3×3 convolutions, of which the second halves the image, then a linear layer on the mean.

    Takes grey images that are already normalised, (N, 1, H, W), of any size, and gives a logit for each label.
    """

    def __init__(self, *, widths: Sequence[int], stem_stride: int, labels: int) -> None:
        super().__init__()
        blocks = [_block(before, after) for before, after in pairwise(widths)]
        self.features = nn.Sequential(
            *_block(1, widths[0], stride=stem_stride), *(layer for block in blocks for layer in block)
        )
        self.head = nn.Linear(widths[-1], labels)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image).mean(dim=(2, 3)))


def _block(before: int, after: int, *, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    ]


def chest_cnn(*, widths: Sequence[int] = (24, 48, 64), labels: int = 2) -> SmallCNN:
    """For chest X-rays of 28×28 pixels: every pixel of them is needed, so the first layer keeps the resolution."""
    return SmallCNN(widths=widths, stem_stride=1, labels=labels)


def phantom_cnn(*, widths: Sequence[int] = (24, 48, 64), labels: int = 2) -> SmallCNN:
    """For phantoms of 64×64 pixels: the first layer halves the resolution, which makes it four times as fast."""
    return SmallCNN(widths=widths, stem_stride=2, labels=labels)
