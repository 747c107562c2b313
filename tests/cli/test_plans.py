"""What a plan says of a data set's folders."""

import json

from ppod_cli import train

from ppod_data.library.plans import many_files_note
from tests.cli.conftest import Made
from tests.support.command import call
from tests.support.toy import make_spec


def test_more_files_than_the_hub_takes_are_told_with_a_shard_size_that_fits() -> None:
    spec = make_spec(num_images_per_prompt=10_001, images_per_shard=2, batch_size=2)
    [line] = many_files_note(spec)
    assert line.startswith("10,001 shards") and line.endswith("--images-per-shard 4 or more")
    assert make_spec(num_images_per_prompt=10_001, images_per_shard=4).num_shards <= 10_000
    assert many_files_note(make_spec(num_images_per_prompt=10_000, images_per_shard=2)) == []


def test_a_dry_run_of_training_says_a_time_that_grows_with_the_steps(made: Made) -> None:
    def seconds(steps: int) -> float:
        words = ("offline", made.data, "--out", "unused", "--num-train-steps", steps, "--dry-run")
        assert "\n  time           about " in call(train.app, *words).stdout
        return float(json.loads(call(train.app, *words, "--json").stdout)["seconds"])

    assert 0 < seconds(1) < seconds(10_000)


def test_a_dry_run_of_stages_says_the_time_of_all() -> None:
    words = ("online", "--out", "unused", "--prompt", "a cat", "--num-inference-steps", 4, "--dry-run")
    figures = json.loads(call(train.app, *words, "--stages", 2, "--json").stdout)
    assert figures["seconds"] > 0
