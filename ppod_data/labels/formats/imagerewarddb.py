"""ImageRewardDB: images of a prompt ranked by a person; the lower rank is better, equal ranks are ties.

Four shapes: one row per image (`prompt_id`, `prompt`, `rank`, `image_path` or `image`), one row per group (the same,
each a list), one row per pair (`img_better`, `img_worse`), and the groups of ImageReward's `test.json` (`generations`,
and in `ranking` the rank of each).
"""

from collections.abc import Iterator

from ppod_data.labels.answers import (
    Answer,
    BadRowError,
    Comparison,
    Rating,
    Record,
    fields,
    image,
    items,
    need,
    number,
    ranking,
    text,
)


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparisons or the rating of a record."""
    row = fields(record)
    prompt = text(need(row, "prompt"), "prompt")
    if "img_better" in row or "img_worse" in row:
        better, worse = (image(name, row.get(name)) for name in ("img_better", "img_worse"))
        yield Comparison(prompt=prompt, a=better, b=worse, label=1.0)
        return
    names = ("image_path", "image", "generations")
    name = next((name for name in names if row.get(name) is not None), "image")
    ranked = "ranking" if name == "generations" else "rank"
    if isinstance(row.get(ranked), list | tuple):
        ranks = [number(one, ranked) for one in row[ranked]]
        images = [image(name, one) for one in items(row.get(name), name, len(ranks))]
        if len(images) < 2:
            raise BadRowError(f"a group of {len(images)} images: nothing to compare")
        yield from ranking(images, ranks, prompt=prompt)
        return
    yield Rating(
        prompt=prompt,
        group=text(str(need(row, "prompt_id")), "prompt_id"),
        image=image(name, row.get(name)),
        value=-number(need(row, "rank"), "rank"),
    )
