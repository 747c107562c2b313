"""A run without a clip records infinity, and compares it when it is run again."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ppod_data.errors import ConfigError
from ppod_train.report import write_report
from tests.ppod_train.online.test_online import SETTINGS, TRAIN, run
from tests.support.training import SETTINGS as OFFLINE
from tests.support.training import run as run_offline


def test_an_online_run_without_a_clip_is_resumed_and_extended(
    tiny_pipeline: Path, redness: Any, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, num_stages=1, train=replace(TRAIN, log_ratio_clip=math.inf))
    summary = run(tmp_path, tiny_pipeline, redness, settings)
    assert run(tmp_path, tiny_pipeline, redness, settings) == summary
    assert run(tmp_path, tiny_pipeline, redness, replace(settings, num_stages=2)).stages == 2
    record = json.loads((tmp_path / "online.json").read_text())
    assert record["settings"]["train"]["log_ratio_clip"] == math.inf
    clipped = replace(settings, train=replace(TRAIN, log_ratio_clip=0.01))
    with pytest.raises(ConfigError, match=r"train\.log_ratio_clip inf, not 0\.01: give the same options"):
        run(tmp_path, tiny_pipeline, redness, clipped)


def test_an_offline_run_without_a_clip_is_extended_and_reported_beside_another(
    recorded: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    settings = replace(OFFLINE, eval_every=0, num_train_steps=1, log_ratio_clip=math.inf)
    run_offline(recorded, tmp_path / "run", tiny_pipeline, None, settings)
    longer = replace(settings, num_train_steps=2)
    assert run_offline(recorded, tmp_path / "run", tiny_pipeline, None, longer)[0].steps == 2
    clipped = replace(longer, log_ratio_clip=0.01)
    with pytest.raises(ConfigError, match=r"log_ratio_clip inf, not 0\.01"):
        run_offline(recorded, tmp_path / "run", tiny_pipeline, None, clipped)
    run_offline(recorded, tmp_path / "other", tiny_pipeline, None, clipped)
    write_report([tmp_path / "run", tmp_path / "other"], tmp_path / "report.html")
    page = re.sub(r"<[^>]*>", " ", (tmp_path / "report.html").read_text())
    assert "log_ratio_clip inf 0.01" in " ".join(page.split())
    assert "- log_ratio_clip: `inf`" in (tmp_path / "run" / "policy" / "README.md").read_text()
