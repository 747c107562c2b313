"""Processes that train together: the gradients of one process, the same weights everywhere, no wait for ever."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppod_data.dataset import Dataset
from ppod_data.diffusion.model import load_model
from ppod_data.errors import NothingToLearnError, WorkersError
from ppod_data.files import sha256_file
from ppod_train.batches import load_batch
from ppod_train.eval_files import write_evaluation
from ppod_train.evaluate import EvalSettings, evaluate
from ppod_train.gradient import one_pass_gradient, two_pass_gradient
from ppod_train.log_probs import batch_log_probs
from ppod_train.objectives import OBJECTIVES
from ppod_train.optimize import train_step
from ppod_train.prepare import prepare
from ppod_train.settings import TrainSettings
from ppod_train.train import train_offline
from ppod_train.workers import ALONE, Workers
from tests.train.conftest import Redness, source_of
from tests.train.processes import together
from tests.train.test_gradient import VARIANTS, loss_of, make_toy, toy_network

WORLDS = (2, 3, 7)
Found = list[tuple[Any, ...]]


def toy_gradients(workers: Workers) -> Found:
    """Of every objective and clip mode, in one pass and in two: loss, log-ratios, weights, shares, gradient."""
    found: Found = []
    weight, features, reference = make_toy()
    for objective, changes in VARIANTS:
        for kl_weight in (0.0, 2.0):
            evaluate = toy_network(weight, features, with_kl=kl_weight > 0)
            for take in (one_pass_gradient, two_pass_gradient):
                for chunk_size in (4, 11, 30):  # eight chunks, three, and one: fewer than processes
                    weight.grad = None
                    loss = loss_of(objective, **changes)
                    done = take(
                        evaluate, reference, loss, chunk_size=chunk_size, kl_weight=kl_weight, workers=workers
                    )
                    workers.sum_gradients([weight])  # type: ignore[list-item]
                    assert weight.grad is not None
                    exact = (done.loss, done.log_ratios.tolist(), done.weights.tolist(), done.kl)
                    found.append((exact, done.backward_share, weight.grad.tolist()))
    return found


@pytest.mark.parametrize("world_size", WORLDS)
def test_gradients_are_those_of_one_process_in_float64(world_size: int) -> None:
    """Loss, log-ratios and their weights to the last bit; the gradient to its order of summation."""
    [alone] = together(1, toy_gradients)
    everyone = together(world_size, toy_gradients)
    assert all(one == everyone[0] for one in everyone)
    for (exact, share, gradient), (expected_exact, expected_share, expected) in zip(
        everyone[0], alone, strict=True
    ):
        assert exact == expected_exact and share == expected_share
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-14)
