"""Choices of training options, as their types list them."""

from typing import get_args, get_type_hints

from ppod_train.settings import TrainSettings

CLIP_ANCHORS: tuple[str, ...] = get_args(get_type_hints(TrainSettings)["clip_anchor"])
CLIP_MODES: tuple[str, ...] = get_args(get_type_hints(TrainSettings)["clip_mode"])
