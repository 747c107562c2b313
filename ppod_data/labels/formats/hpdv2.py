"""HPDv2: images of a prompt, one of them preferred (training), or ranked by several people (test).

Training: `prompt`, `file_path`, `human_preference` (1 for the preferred image). Test: `prompt`, `image_path`,
`rank` (lower is better) and `raw_annotations`, each with `rank` and `user_hash`. If present, `raw_annotations`
replace `rank`.
"""

from collections.abc import Iterator

from ppod_data.labels.answers import (
    Answer,
    Bad,
    BadRowError,
    Comparison,
    Record,
    annotator,
    each,
    fields,
    image,
    items,
    need,
    number,
    ranking,
    text,
    whole,
)


def parse(record: Record) -> Iterator[Answer]:
    """Yield the comparisons of a record."""
    row = fields(record)
    prompt = text(need(row, "prompt"), "prompt")
    if "human_preference" in row:
        images = [image("file_path", one) for one in items(need(row, "file_path"), "file_path")]
        liked = items(need(row, "human_preference"), "human_preference", len(images))
        flags = [whole(one, "human_preference", 0, 1) for one in liked]
        if sum(flags) != 1 or len(flags) < 2:
            raise BadRowError(
                f"human_preference prefers {sum(flags)} of {len(flags)} images, not exactly one of several"
            )
        best = flags.index(1)
        for other, one in enumerate(images):
            if other != best:
                a, b, label = (images[best], one, 1.0) if best < other else (one, images[best], 0.0)
                yield Comparison(prompt=prompt, a=a, b=b, label=label)
        return
    images = [image("image_path", one) for one in items(need(row, "image_path"), "image_path")]
    if len(images) < 2:
        raise BadRowError(f"image_path has {len(images)} entries: nothing to compare")
    if not row.get("raw_annotations"):
        yield from ranking(images, _ranks(row, len(images)), prompt=prompt)
        return
    for one in items(row["raw_annotations"], "raw_annotations"):

        def of_one_person(inner: Record) -> Iterator[Answer]:
            person = fields(inner)
            who = annotator(person.get("user_hash"))
            yield from ranking(images, _ranks(person, len(images)), prompt=prompt, annotator=who)

        for answer in each(Record(one, record.file, record.number), of_one_person):
            yield Bad(f"raw_annotations: {answer.reason}") if isinstance(answer, Bad) else answer


def _ranks(row: object, length: int) -> list[float]:
    mapping = fields(Record(row, "", 0))
    return [number(one, "rank") for one in items(need(mapping, "rank"), "rank", length)]
