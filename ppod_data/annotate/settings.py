"""Settings of the labelling page, declared once for Python, the command line and configuration files."""

from dataclasses import dataclass
from typing import Literal

from ppod_data.support.options import option, same_option

_PAGE = "What is asked"


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Which questions people are asked, and how the page words them.

    >>> LabelSettings(images_per_question=4).num_questions
    500
    """

    choose: Literal["random", "small-margin", "disagreement"] = option(
        "random",
        "Which images are compared. small-margin: those that one reward hardly tells apart. disagreement: those that "
        "two rewards put in opposite order.",
    )
    num_questions: int = option(500, "Questions, of all prompts together.", metavar="N", min=1)
    images_per_question: int = option(2, "Images of which the best is chosen.", metavar="K", min=2, max=9)
    answers_per_question: int = option(1, "Different people who are asked each question.", metavar="N", min=1)
    repeat_share: float = option(
        0.05,
        "This share of the questions are asked a person again, to see how consistent answers are.",
        metavar="X",
        min=0.0,
        max=0.5,
    )
    seed: int = option(0, "Seed of questions and order.", metavar="SEED", min=0)
    question: str | None = option(
        None,
        "What the page asks about the images.",
        panel=_PAGE,
        metavar="TEXT",
        shown_default="Which image is better?",
    )
    instructions: str | None = option(
        None,
        "How to answer, shown before the first question and on demand.",
        panel=_PAGE,
        metavar="TEXT",
        shown_default="choose what shows the text and looks good",
    )
    dimension: str = option(
        "overall",
        "What the answers are on, such as aesthetics: the dimension of the labels.",
        panel=_PAGE,
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which pairs of images a vision language model compares.

    >>> JudgeSettings(pairs="people").num_questions
    500
    """

    pairs: str | None = option(
        None,
        "Table whose pairs are judged, such as people's: a name under pairs/.",
        metavar="NAME",
        shown_default="pairs of a prompt at random",
    )
    num_questions: int = option(500, "Pairs, of all prompts together.", metavar="N", min=1)
    dimension: str = same_option(
        LabelSettings,
        "dimension",
        help="What the question is about, such as hands: the dimension of the labels.",
        panel=None,
    )
    seed: int = same_option(LabelSettings, "seed")
