"""Two small networks that read an image: its kinds of animals, their count and colour, and the place.

Shapes: B batch, images [B, 3, 32, 32] in [-1, 1]; A = 6 kinds of animal, 6 counts (0 to 5), 6 colours (natural,
then `captions.COLOURS`), 4 places.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppod_data.scenes.captions import ANIMALS, COLOURS, PLACES

READ_COLOURS: tuple[str, ...] = ("natural", *COLOURS)
COUNTS = 6  # 0 to 5 animals


class Reading(NamedTuple):
    """Log-probabilities of an image's facts.

    present, absent: [B, A], each kind independently; total: [B, 6], the count of animals; colour: [B, 6], of
    `READ_COLOURS`; place: [B, 4], of `captions.PLACES`.
    """

    present: Tensor
    absent: Tensor
    total: Tensor
    colour: Tensor
    place: Tensor


class ConvReader(nn.Module):
    """The network of the reward: residual convolutions, mean and maximum over positions, four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.GroupNorm(4, 24),
            nn.SiLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            _Residual(48),
            nn.Conv2d(48, 96, 3, stride=2, padding=1),
            _Residual(96),
            _Residual(96),
        )
        self.hidden = nn.Linear(192, 128)
        self.present = nn.Linear(128, len(ANIMALS))
        self.count = nn.Linear(128, COUNTS)
        self.colour = nn.Linear(128, len(READ_COLOURS))
        self.place = nn.Linear(128, len(PLACES))

    def forward(self, images: Tensor) -> Reading:
        """Return the reading of images [B, 3, 32, 32]."""
        positions = self.features(images)
        pooled = torch.cat([positions.mean((2, 3)), positions.amax((2, 3))], dim=1)
        hidden = F.silu(self.hidden(pooled))
        present = self.present(hidden).float()
        return Reading(
            F.logsigmoid(present),
            F.logsigmoid(-present),
            *(head(hidden).float().log_softmax(-1) for head in (self.count, self.colour, self.place)),
        )


class PlainReader(nn.Module):
    """The network of the second scorer: plain convolutions with batch normalisation and pooling.

    A dense layer sees every position and predicts a count for each kind of animal. The total is the sum of
    these counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_plain_layer(3, 32),
            nn.MaxPool2d(2),
            *_plain_layer(32, 48),
            nn.MaxPool2d(2),
            *_plain_layer(48, 96),
            *_plain_layer(96, 96),
            nn.Conv2d(96, 24, 1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(24 * 64, 128),
            nn.ReLU(),
        )
        self.kind_counts = nn.Linear(128, len(ANIMALS) * COUNTS)
        self.colour = nn.Linear(128, len(READ_COLOURS))
        self.place = nn.Linear(128, len(PLACES))

    def kind_log_probs(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities: count of each kind [B, A, 6], colour [B, 6], place [B, 4]."""
        pooled = self.features(images)
        kinds = self.kind_counts(pooled).float().unflatten(-1, (len(ANIMALS), COUNTS))
        colour, place = self.colour(pooled).float(), self.place(pooled).float()
        return kinds.log_softmax(-1), colour.log_softmax(-1), place.log_softmax(-1)

    def forward(self, images: Tensor) -> Reading:
        """Return the reading of images [B, 3, 32, 32]."""
        kinds, colour, place = self.kind_log_probs(images)
        absent = kinds[..., 0]
        present = kinds[..., 1:].logsumexp(-1)
        return Reading(present, absent, _sum_distribution(kinds.exp()).clamp_min(1e-12).log(), colour, place)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the input and the inner layers' output."""
        out: Tensor = x + self.inner(x)
        return out


def _plain_layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def _sum_distribution(kinds: Tensor) -> Tensor:
    """Return the distribution of the total [B, 6] of independent counts [B, A, 6]. Totals above five count as five."""
    total = kinds[:, 0]
    for kind in kinds.unbind(1)[1:]:
        terms = [total[:, i : i + 1] * kind for i in range(COUNTS)]
        padded = sum(F.pad(term, (i, COUNTS - i)) for i, term in enumerate(terms))
        assert isinstance(padded, Tensor)
        total = torch.cat([padded[:, : COUNTS - 1], padded[:, COUNTS - 1 :].sum(1, keepdim=True)], dim=1)
    return total
