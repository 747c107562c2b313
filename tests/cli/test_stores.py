"""The commands on s3:// as on a folder: the same bytes, one line for what goes wrong, and other libraries read them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import webdataset
from ppod_cli import data, gen, pair, score, train
from safetensors.numpy import load

from ppod_data.dataset.dataset import Dataset
from ppod_data.storage import object_store
from ppod_data.storage.object_store import store_path
from tests.cli.conftest import GEN, Made
from tests.support.command import Result, call
from tests.support.store_server import CUT_ANSWER, CUT_UPLOAD, ERROR, SLOW_DOWN, Request, Server
from tests.support.toy import files

pytestmark = pytest.mark.long

S3 = tuple[Server, str]
WAITS = object_store._WAITS
TRAIN = ("--num-train-steps", 2, "--pairs-per-step", 4, "--eval-every", 0)


@pytest.fixture(scope="session")
def remote(made: Made, s3_server: Server) -> str:
    """The data set of `made`, by the same commands on S3, in this process."""
    url = "s3://bucket/commands/data"
    done = worked(call(gen.app, url, "--prompts", made.folder / "prompts.txt", *GEN))
    assert done.stdout.replace(url, "data").splitlines()[1:] == made.gen.stdout.splitlines()[1:]
    worked(call(score.app, url, "--json"))
    paired = worked(call(pair.app, "rank", url, "--strategy", "all"))
    assert paired.stdout.replace(url, "data") == made.pair.stdout
    return url


def worked(result: Result) -> Result:
    assert result.code == 0, result.stderr
    return result


def stored(url: str) -> dict[str, bytes]:
    place = store_path(url)
    return {name: (place / name).read_bytes() for name in place.listing()}


def copied(url: str, made: Made) -> str:
    """A data set of one's own to change."""
    worked(call(data.app, "push", made.data, url))
    return url


def test_the_objects_are_the_files(remote: str, made: Made) -> None:
    assert stored(remote) == files(made.data)
    again = call(gen.app, remote, "--prompts", made.folder / "prompts.txt", *GEN)
    assert "0 images made" in worked(again).stdout and stored(remote) == files(made.data)


def test_training_gives_the_same_policy(
    remote: str, made: Made, s3_server: Server, tmp_path: Path, cache_folder: Path
) -> None:
    """From trajectories that are read ahead and kept: none is asked for twice."""
    with s3_server.failing(lambda request, count: None) as asked:
        worked(call(train.app, "offline", remote, "--out", tmp_path / "a", *TRAIN))
    ranges = [(request.key, request.range) for request, _ in asked if request.key.endswith(".tar")]
    assert len(ranges) == len(set(ranges)) == len([*cache_folder.glob("*/??/*")])
    worked(call(train.app, "offline", made.data, "--out", tmp_path / "b", *TRAIN))
    ours, other = files(tmp_path / "a" / "policy"), files(tmp_path / "b" / "policy")
    weights = [name for name in ours if name.endswith(".safetensors")]
    assert weights and all(ours[name] == other[name] for name in weights)


def test_info_verify_card_and_exports(remote: str, made: Made, tmp_path: Path) -> None:
    said = [worked(call(data.app, "info", place, "--json")).stdout for place in (remote, made.data)]
    assert said[0].replace(remote, str(made.data)) == said[1]
    assert "all is fine" in worked(call(data.app, "verify", remote, "--read-data")).stdout
    worked(call(data.app, "verify", remote, "--model", "scenes", "--num-trajectories", 4))
    worked(call(data.app, "card", remote))
    worked(call(data.app, "info", remote, "--html", tmp_path / "page.html"))
    for place, out in ((remote, "a"), (made.data, "b")):
        worked(call(data.app, "export", place, "--out", tmp_path / out))
        words = ["--name", "scenes", "--format", "csv", "--out", tmp_path / f"{out}.csv"]
        worked(call(pair.app, "export", place, *words))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    worked(call(data.app, "merge", tmp_path / "merged.json", remote))
    assert json.loads((tmp_path / "merged.json").read_text())["parts"] == [remote]
    assert stored(remote) == files(made.data)


def test_labels_tables_seals_and_exclusions(made: Made, s3: S3, tmp_path: Path) -> None:
    """The same changes in a folder and in the store, then everything pulled back."""
    _, url = s3
    worked(call(data.app, "pull", copied(url, made), tmp_path / "folder"))
    a, b, *_ = Dataset.open(made.data).spec.shard_sample_ids(0)
    (tmp_path / "labels.csv").write_text(f"a,b,label\n{a},{b},a\n")
    for place in (tmp_path / "folder", url):
        worked(call(data.app, "log-probs", place, "--name", "again"))
        imported = call(
            pair.app, "import", place, tmp_path / "labels.csv", "--format", "table", "--name", "people"
        )
        worked(imported)
        worked(call(pair.app, "combine", place, "--pairs", "people", "--pairs", "scenes", "--name", "both"))
        worked(call(data.app, "seal", place))
        worked(call(data.app, "exclude", place, b, "--reason", "asked", "--purge"))
        assert "all is fine" in worked(call(data.app, "verify", place, "--read-data")).stdout
    there = stored(url)
    here = files(tmp_path / "folder")
    here.pop("labels/.salt")
    there.pop(".SHA256SUMS")
    assert there == here
    worked(call(data.app, "pull", url, tmp_path / "back"))
    assert files(tmp_path / "back") == here


def test_commands_through_a_failing_network(made: Made, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests fail by turns, and the library waits as long as it does for users."""
    monkeypatch.setattr(object_store, "_WAITS", WAITS)
    monkeypatch.chdir(made.folder)
    server, url = s3

    def fault(request: Request, count: int) -> str | None:
        kinds = [SLOW_DOWN, ERROR, *([CUT_UPLOAD, CUT_ANSWER] if request.method == "PUT" else [])]
        return kinds[len(request.key) % len(kinds)] if count == 0 else None

    with server.failing(fault) as asked:
        done = call(gen.app, url, "--prompts", "prompts.txt", "--shards", "0:1", *GEN)
    assert {SLOW_DOWN, ERROR} < {status for _, status in asked}
    assert done.code == 0, done.stderr
    there = stored(url)
    assert {"samples", "trajectories", "ppod.json"} <= {name.split("/")[0] for name in there}
    local = files(made.data)
    same = [name for name in there if name.split("/")[0] in ("samples", "trajectories", "ppod.json")]
    assert len(same) == 3 and all(there[name] == local[name] for name in same)


def test_a_store_that_does_not_answer_is_one_line(
    made: Made, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = s3
    monkeypatch.setenv("PPOD_STORE_PATIENCE", "0")
    copied(url, made)
    with server.failing(lambda request, count: SLOW_DOWN):
        failed = call(data.app, "info", url)
    assert failed.code == 1
    assert failed.one_error().startswith(f"{url}/ppod.json: the store did not respond")


@pytest.mark.parametrize(
    ("app", "words", "message"),
    [
        (gen.app, ["nowhere://x/y", "--prompt", "a"], "check the URL"),
        (data.app, ["info", "s3://bucket/nothing/here"], "no such folder: make one with ppod-gen"),
        (data.app, ["verify", "gs://bucket/data"], "pip install 'gcsfs'"),
        (gen.app, ["s3://no-such-bucket/data", "--prompt", "a cat"], "there is no such bucket"),
        (train.app, ["offline", "data", "--out", "s3://bucket/run"], "must be a local file or folder"),
        (data.app, ["export", "data", "--out", "s3://bucket/images"], "must be a local file or folder"),
        (data.app, ["merge", "s3://bucket/x.json", "data"], "must be a local file or folder"),
        (
            data.app,
            ["push", "s3://bucket/commands/data", "hf://datasets/a/b"],
            "only a local folder can be pushed",
        ),
        (data.app, ["pull", "hf://datasets/a/b", "s3://bucket/x"], "the Hub's files need a local folder"),
    ],
)
def test_places_that_are_none(remote: str, app: Any, words: list[str], message: str) -> None:
    failed = call(app, *words)
    assert failed.code == 2
    assert message in failed.one_error()


@pytest.fixture
def load_dataset(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Of `datasets`, which opens no URL at all, also on the loopback, while HF_HUB_OFFLINE is set."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return datasets.load_dataset


def test_datasets_reads_the_tables(
    remote: str, made: Made, tmp_path: Path, load_dataset: Callable[..., Any]
) -> None:
    for pattern in ("samples/*.parquet", "scores/scenes/*.parquet", "pairs/scenes.parquet"):
        theirs = load_dataset(
            "parquet", data_files=f"{remote}/{pattern}", split="train", cache_dir=str(tmp_path)
        )
        ours = load_dataset(
            "parquet", data_files=f"{made.data}/{pattern}", split="train", cache_dir=str(tmp_path)
        )
        assert theirs.num_rows > 0 and theirs.features == ours.features
        assert theirs.to_pandas().equals(ours.to_pandas())


def test_tars_are_read_by_datasets_and_webdataset(
    remote: str, made: Made, tmp_path: Path, load_dataset: Callable[..., Any]
) -> None:
    dataset = Dataset.open(remote)
    ids = {sample for shard in range(3) for sample in dataset.spec.shard_sample_ids(shard)}
    rows = load_dataset(
        "webdataset", data_files=f"{remote}/trajectories/*.tar", split="train", cache_dir=str(tmp_path)
    )
    assert {row["__key__"] for row in rows} == ids

    def opened(urls: Any) -> Any:
        for one in urls:
            with fsspec.open(one["url"], "rb") as file:
                yield one | {"stream": io.BytesIO(file.read())}

    tars = [str(path) for path in (store_path(remote) / "trajectories").iterdir()]
    steps = (webdataset.SimpleShardList(tars), opened, webdataset.tariterators.tar_file_expander)
    members = list(webdataset.DataPipeline(*steps, webdataset.tariterators.group_by_keys))
    assert {member["__key__"] for member in members} == ids
    chain = dataset.trajectory(members[0]["__key__"])
    assert (load(members[0]["safetensors"])["latents"] == chain.latents.numpy()).all()
