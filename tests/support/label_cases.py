"""A right record of every label format, about the images of the toy data set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppod_data.dataset.dataset import Dataset


def sample_ids(dataset: Dataset) -> list[str]:
    """The samples in order: the toy data set has three of the first prompt, then three of the second."""
    ids: list[str] = dataset.samples(["sample_id"])["sample_id"].to_pylist()
    return ids


def prompts(dataset: Dataset) -> list[str]:
    return list(dataset.spec.prompts)


def records(dataset: Dataset) -> dict[str, list[Any]]:
    """Right records of each format, with every field that its public schema has and the parser reads."""
    s, p = sample_ids(dataset), prompts(dataset)[0]
    pairwise = {"type": "pairwise", "from_name": "pw", "to_name": "pw", "value": {"selected": "left"}}
    tie = {"type": "choices", "from_name": "tie", "to_name": "a", "value": {"choices": ["tie"]}}
    ranker = {
        "type": "ranker",
        "from_name": "r",
        "to_name": "l",
        "value": {"ranker": {"rank": [s[2], s[0], s[1]]}},
    }
    task = {"prompt": p, "image_a": "x.png", "image_b": "y.png", "a_id": s[0], "b_id": s[1]}
    return {
        "pickapic": [
            {
                "caption": p,
                "image_0_uid": s[0],
                "image_1_uid": s[1],
                "label_0": 1.0,
                "label_1": 0.0,
                "has_label": True,
                "user_id": 7,
            },
            {"caption": p, "image_0_uid": s[0], "image_1_uid": s[2], "label_0": 0.5, "label_1": 0.5},
        ],
        "hpdv2": [
            {"prompt": p, "file_path": [s[0] + ".jpg", s[1] + ".jpg"], "human_preference": [0, 1]},
            {
                "prompt": p,
                "image_path": [s[0], s[1], s[2]],
                "rank": [1, 2, 3],
                "raw_annotations": [
                    {"rank": [1, 2, 3], "user_hash": "u"},
                    {"rank": [3, 1, 2], "user_hash": "v"},
                ],
            },
        ],
        "hpdv3": [
            {"prompt": p, "path1": s[0], "path2": s[1], "confidence": 0.75, "model1": "m", "model2": "n"},
            {"prompt": p, "path1": s[0], "path2": s[2], "choice_dist": [9, 3]},
        ],
        "imagerewarddb": [
            {"prompt_id": "1", "prompt": p, "image_path": f"images/{s[0]}.webp", "rank": 1},
            {"prompt_id": "1", "prompt": p, "image_path": f"images/{s[1]}.webp", "rank": 2},
            {"prompt_id": "1", "prompt": p, "image_path": f"images/{s[2]}.webp", "rank": 2},
        ],
        "open-image-preferences": [
            {
                "images": {"image_1": s[0], "image_2": s[1], "prompt": p},
                "preference.responses": ["image_2", "both_bad", "image_1"],
                "preference.responses.users": ["u", "v", "w"],
                "preference.responses.status": ["submitted", "submitted", "discarded"],
            }
        ],
        "rapidata": [
            {"prompt": p, "image1_path": s[0], "image2_path": s[1], "votes_image1": 3, "votes_image2": 1},
            {"prompt": p, "image1_path": s[0], "image2_path": s[2], "votes_image1": 0, "votes_image2": 0},
        ],
        "richhf": [
            {"filename": f"train/{s[0]}.png", "overall_score": 0.9, "aesthetics_score": 0.1},
            {"filename": f"train/{s[1]}.png", "overall_score": 0.2, "aesthetics_score": 0.1},
        ],
        "d3po": [[1, 0, 0], [0.5, 0.25, 1]],
        "label-studio": [
            {
                "id": 1,
                "data": task,
                "annotations": [
                    {"result": [pairwise], "was_cancelled": False, "completed_by": 1},
                    {"result": [tie], "was_cancelled": False, "completed_by": {"id": 2}},
                    {"result": [pairwise], "was_cancelled": True, "completed_by": 3},
                ],
            },
            {
                "data": {"prompt": p, "items": [{"id": s[0]}, {"id": s[1]}, {"id": s[2]}]},
                "annotations": [{"result": [ranker], "completed_by": 1}],
            },
        ],
        "argilla": [
            {
                "id": "r",
                "fields": {"prompt": p, "image_1": s[0], "image_2": s[1]},
                "responses": {"better": [{"value": "image_1", "user_id": "u", "status": "submitted"}]},
            }
        ],
        "ppod-label": [
            {"shown": [s[1], s[0]], "answer": 1, "annotator": "u"},
            {"shown": [s[0], s[1], s[2]], "answer": 1, "annotator": "v"},
            {"shown": [s[0], s[2]], "answer": "tie", "annotator": "u"},
            {"shown": [s[1], s[2]], "answer": "skip", "annotator": "u"},
        ],
        "ppod-judge": [
            {"shown": [s[1], s[0]], "first_preferred": [0.75, 0.5], "judge": "m 1", "question": "?"},
            {"shown": [s[1], s[2]], "unreadable": "a banana", "judge": "m 1", "question": "?"},
            {"shown": [s[1], s[2]], "first_preferred": [0.5, 0.5], "judge": "m 1", "question": "?"},
        ],
        "table": [
            {"prompt": p, "a": s[0], "b": s[1], "label": "a", "annotator": "u"},
            {"a": s[1], "b": s[2], "label": 0.25, "votes": 8, "license": "CC0-1.0"},
            {"a": s[0], "b": s[2], "votes_a": 1, "votes_b": 1},
        ],
    }


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """A JSON-lines file; a text among the rows is a line as it is."""
    lines = [row.removeprefix("raw:") if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_bytes("\n".join(lines).encode())
    return path
