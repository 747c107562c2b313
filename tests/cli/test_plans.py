"""What a plan says of a data set's folders."""

from ppod_cli.plans import say_many_files

from tests.data.toy import make_spec


def test_more_files_than_the_hub_takes_are_told_with_a_shard_size_that_fits() -> None:
    spec = make_spec(num_images_per_prompt=10_001, images_per_shard=2, batch_size=2)
    [line] = say_many_files(spec)
    assert line.startswith("10,001 shards") and line.endswith("--images-per-shard 4 or more")
    assert make_spec(num_images_per_prompt=10_001, images_per_shard=4).num_shards <= 10_000
    assert say_many_files(make_spec(num_images_per_prompt=10_000, images_per_shard=2)) == []
