"""Prompt lists of other forms are read by their prompt column, or refused with the way out."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppod_data.errors import ConfigError, DamagedError
from ppod_data.format.prompts import read_prompt_list, read_prompts
from tests.support.command import REPOSITORY

BOTH = ("a red cat", "two dogs, in a park")
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def written(folder: Path, name: str, data: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", '{"tag": "x", "prompt": "a red cat"}\n\n{"prompt": "two dogs, in a park", "n": 2}\n'),
        ("p.ndjson", '"a red cat"\n"two dogs, in a park"\n'),
        ("P.JSON", '["a red cat", "two dogs, in a park"]'),
        ("p.json", '[\n {"prompt": "a red cat"},\n {"prompt": "two dogs, in a park"}\n]\n'),
        ("p.json", '{"Prompt": ["a red cat", "two dogs, in a park"], "id": [1, 2]}'),
        ("p.json", '{"prompt": {"0": "a red cat", "1": "two dogs, in a park"}, "id": {"0": 1, "1": 2}}'),
        ("p.json", '{"prompts": ["a red cat", "two dogs, in a park"]}'),
        ("p.json", '{"prompt": "a red cat"}\n{"prompt": "two dogs, in a park"}\n'),
        ("p.json", '\ufeff["a red cat", "two dogs, in a park"]'),
        ("p.csv", 'id,prompt\r\n1,a red cat\r\n2,"two dogs, in a park"\r\n'),
        ("p.csv", "\ufeffPROMPT;tag\na red cat;x\ntwo dogs, in a park;y\n"),
        ("p.csv", '"text"\n"a red cat"\n\n"two dogs, in a park"\n'),
        ("p.csv", 'caption,prompt\nno,a red cat\nno,"two dogs, in a park"\n'),
        ("p.tsv", "Prompt\tCategory\na red cat\tx\ntwo dogs, in a park\ty\n"),
    ],
)
def test_a_table_is_read_by_its_prompt_column(tmp_path: Path, name: str, text: str) -> None:
    assert read_prompts([], written(tmp_path, name, text)) == BOTH


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_is_read_by_its_prompt_column(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"id": [1, 2], "Prompt": pa.array(BOTH).cast(kind)})
    pq.write_table(table, tmp_path / "p.parquet")
    assert read_prompts([], tmp_path / "p.parquet") == BOTH
    (tmp_path / "p.parquet").rename(tmp_path / "p")
    assert read_prompts([], tmp_path / "p") == BOTH


def test_a_column_can_be_named(tmp_path: Path) -> None:
    file = written(tmp_path, "p.csv", "prompt,long\nx,a red cat\ny,a dog\n")
    assert read_prompt_list([], file, column="long").prompts == ("a red cat", "a dog")
    file = written(tmp_path, "p.json", '{"long": ["a red cat"]}')
    assert read_prompt_list([], file, column="long").prompts == ("a red cat",)
    file = written(tmp_path, "p.jsonl", '{"prompt": "x", "long": "a red cat"}')
    assert read_prompt_list([], file, column="long").prompts == ("a red cat",)
    with pytest.raises(ConfigError, match="no column is named 'short': its columns are 'prompt', 'long'"):
        read_prompt_list([], written(tmp_path, "q.csv", "prompt,long\nx,y\n"), column="short")
    with pytest.raises(ConfigError, match="has no columns"):
        read_prompt_list([], written(tmp_path, "p.txt", "a cat\n"), column="prompt")
    with pytest.raises(ConfigError, match="without --prompts FILE"):
        read_prompt_list(["a cat"], None, column="prompt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", '{"prompt": "a cat"}\n', r"p\.txt:1: JSON, .*name the file \.json"),
        ("p", '[\n"a cat"\n]\n', r"p:1: JSON"),
        ("p.txt", 'a dog\n["a cat"]\n', r"p\.txt:2: JSON"),
        ("p.txt", "Prompt\tCategory\nbond\tAbstract\n", r"p\.txt:1: .*table.*name the file \.tsv"),
        ("p.list", "id,prompt\n1,a cat\n", r"p\.list:1: .*table.*name the file \.csv"),
        ("p.txt", "prompt\na cat\n", r"p\.txt:1: .*table"),
        ("p.csv", "a cat\na dog\n", r"no column is named prompt.*its columns are 'a cat'"),
        ("p.csv", "text,caption\na,b\n", r"several columns may hold.*--prompt-column.*'text', 'caption'"),
        ("p.csv", "prompt,n\na cat,1\na dog, big,2\n", r"p\.csv:3: 3 cells, but the header has 2"),
        ("p.csv", 'prompt,n\na,"1\nb,2\nc,3"\nd,4\n', r"p\.csv:2: a quoted cell continues on line 4"),
        ("p.csv", 'prompt,n\na,"1\nb,2\n', r"p\.csv:3: not a table"),
        ("p.csv", "prompt\n,\n", r"p\.csv:2: 2 cells"),
        ("p.csv", "", "no prompts in this file"),
        ("p.csv", "prompt\n", "no prompts in this file"),
        ("p.tsv", 'prompt\n"a" cat\n', r"p\.tsv:2: not a table"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n', r"p\.jsonl:2: the prompt is not text \(int\)"),
        ("p.jsonl", '{"prompt": "a"}\n{"Prompt": "b"}\n', r"p\.jsonl:2: no key 'prompt'"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}\n', r"p\.jsonl:1: not JSON \(a key is repeated"),
        ("p.jsonl", '["a", "b"]\n', r"p\.jsonl:1: a JSON list.*name the file \.json"),
        ("p.jsonl", "a cat\n", r"p\.jsonl:1: not JSON"),
        ("p.json", '[{"prompt": null}]', r"entry 1: the prompt is empty"),
        ("p.json", '{"tag": "x"}', "no column is named prompt"),
        ("p.json", '{"prompt": [1, 2]}', "'prompt' is not a list of texts"),
        ("p.json", '["a", ', r"p\.json: not JSON"),
        ("p.json", "[" * 100_000, r"p\.json: not JSON \(nested too deeply"),
        ("p.json", "3", "not a list of prompts"),
        ("p.json", "", "no prompts in this file"),
        ("p.json", "[]", "no prompts in this file"),
        ("p.json", '["a\\nb"]', r"entry 1: .*control character U\+000A"),
        ("p.yaml", "- a cat\n", r"\.yaml is not a format of a prompt list.*\.csv"),
        ("p.parquet", "a cat\n", "not readable as Parquet"),
        ("p", b"PK\x03\x04junk", "a spreadsheet or zip archive"),
        ("p.csv", "prompt\ncaf\u00e9\n".encode("latin-1"), r"p\.csv:2: not UTF-8"),
        ("p.json", '["caf\u00e9"]'.encode("utf-16"), r"p\.json:1: not UTF-8"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(
    tmp_path: Path, name: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read_prompts([], written(tmp_path, name, text))
    assert "\n" not in str(error.value)


def test_a_parquet_column_of_numbers_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": [1, 2]}), tmp_path / "p.parquet")
    with pytest.raises(ConfigError, match="holds int64, not texts"):
        read_prompts([], tmp_path / "p.parquet")
    pq.write_table(pa.table({"prompt": ["a cat", None]}), tmp_path / "p.parquet")
    with pytest.raises(ConfigError, match="row 2: the prompt is empty"):
        read_prompts([], tmp_path / "p.parquet")


def test_prompts_in_brackets_are_prompts(tmp_path: Path) -> None:
    lines = (
        '[photo] of a cat\n{red|blue} cat\n[[faint]] cat\n{{bright}} dog\na sign that says "prompt, text"\n'
    )
    assert len(read_prompts([], written(tmp_path, "p.txt", lines))) == 5


@pytest.mark.parametrize("name", ["p.txt", "p.json", "p.csv", "p.parquet"])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedError, match=r"Git LFS pointer.*git lfs pull"):
        read_prompts([], written(tmp_path, name, POINTER))


def test_all_repeats_are_counted_and_can_be_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, "p.txt", "a\nb\na\nc\nb\n a\n")
    with pytest.raises(
        ConfigError,
        match=r"p\.txt:3: the same prompt as .*p\.txt:1: 'a'; 2 more repeats \(.*:5, .*:6\).*--drop-duplicates",
    ):
        read_prompts([], file)
    found = read_prompt_list(["c"], file, drop_duplicates=True)
    assert found.prompts == ("c", "a", "b")
    assert found.num_repeats == 4
    with pytest.raises(ConfigError, match=r"9,999 more repeats \(.*…\)") as error:
        read_prompts(["x" * 500] * 10_001, None)
    assert len(str(error.value)) < 400


def test_a_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("a cat\na dog\n"))
    writer.start()
    assert read_prompts([], tmp_path / "pipe") == ("a cat", "a dog")
    writer.join()


def test_a_large_list_is_read_line_by_line(tmp_path: Path) -> None:
    """128 MiB of JSON lines, whose prompts are few: not held in memory."""
    script = (
        "import resource, sys; from pathlib import Path; from ppod_data.format.prompts import read_prompts\n"
        "read_prompts([], Path('small.jsonl')); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(read_prompts([], Path('p.jsonl'))) == 128\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    written(tmp_path, "small.jsonl", '{"prompt": "a"}\n')
    with (tmp_path / "p.jsonl").open("w") as file:
        for i in range(128):
            file.write(json.dumps({"prompt": f"cat {i}", "image": "x" * 2**20}) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 32 << 10  # KiB


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"p\.txt:1: a line of more than 16 MiB"):
        read_prompts([], written(tmp_path, "p.txt", b"a" * (17 << 20)))
