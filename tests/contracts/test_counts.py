"""Counts in summaries, pages and cards agree with their nouns: `1 shard`, `2 shards`."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SHOWN = (
    *("cli", "ppod_data/html", "ppod_data/inspect", "ppod_data/library", "ppod_data/inspect/card.py"),
    *("ppod_data/rewards/usage.py", "ppod_train/evaluation/grids.py", "ppod_train/evaluation/table.py"),
    *("ppod_train/library", "ppod_train/report", "ppod_train/run/model_card.py", "ppod_train/run/words.py"),
)
PLURAL = re.compile(
    r" (answers|data sets|files|images|labels|pairs|people|prompts|questions|records|requests|rows|runs|samples|scores"
    r"|shards|stages|steps|tables|timesteps|tokens|trajectories)\b"
)


def without_counted(path: Path) -> Iterator[str]:
    """Yield the values that stand before a plural in an f-string, without constants and amounts of bytes."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for value, text in itertools.pairwise(parts):
            if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
                continue
            source = ast.unparse(value.value)
            if PLURAL.match(str(text.value)) and not source.isupper() and not source.startswith("_bytes("):
                yield f"{path.relative_to(REPOSITORY)}:{value.lineno}: {source}{text.value}"


def test_a_count_is_written_with_its_noun_by_counted() -> None:
    files = {path for name in SHOWN for path in [REPOSITORY / name, *(REPOSITORY / name).rglob("*.py")]}
    files = {path for path in files if path.suffix == ".py"}
    assert len(files) > 50
    assert [line for path in sorted(files) for line in without_counted(path)] == []
