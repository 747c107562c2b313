"""`label_page` and `judge_images`: comparisons of images by people and by a vision language model."""

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ppod_data.annotate.app import INSTRUCTIONS, QUESTION, label_app
from ppod_data.annotate.pair_judge import JudgeSummary, judge_pairs
from ppod_data.annotate.questions import read_pair_questions, read_questions
from ppod_data.annotate.session import Count, Session, open_session
from ppod_data.annotate.settings import JudgeSettings, LabelSettings
from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError
from ppod_data.format.tables import check_name
from ppod_data.labels.rows import Annotators
from ppod_data.labels.secret import own_digest
from ppod_data.library.datasets import AnyDataset, open_dataset
from ppod_data.rewards import check_reward_name
from ppod_data.rewards.vlm.pairs import connect_pairs
from ppod_data.storage.files import local_path
from ppod_data.support.http import base_url, listen, serve
from ppod_data.support.progress import SILENT, Progress

_TOKEN_DIGITS = 32
"""Hex digits, 128 bits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelPage:
    """A labelling session and its page."""

    dataset: Dataset
    session: Session
    title: str
    question: str
    instructions: str

    @property
    def num_questions(self) -> int:
        """Number of questions."""
        return len(self.session.questions)

    @property
    def folder(self) -> Path:
        """Folder of the answers."""
        return self.session.folder

    @property
    def count(self) -> Count:
        """The answers so far."""
        return self.session.count()

    def serve(self, host: str, port: int, on_ready: Callable[[str], None]) -> None:
        """Serve the page until the process is interrupted.

        Args:
            host: Address to serve on. Beyond this machine, the page's address has a token, the same at each start.
            port: Port; 0 takes a free one.
            on_ready: Called with the address of the page.
        """
        is_local, name = _address(host)
        token = None if is_local else _token(self.session.people)
        app = label_app(
            self.dataset,
            self.session,
            title=self.title,
            question=self.question,
            instructions=self.instructions,
            token=token,
        )
        query = f"?token={token}" if token else ""
        with listen(host, port) as listening:
            serve(app, listening, lambda bound: on_ready(f"{base_url(name, bound)}/{query}"))


@contextmanager
def label_page(
    dataset: AnyDataset,
    name: str,
    settings: LabelSettings,
    *,
    rewards: Sequence[str] = (),
    answers: Path | None = None,
) -> Iterator[LabelPage]:
    """Open a labelling session, and close it at the end of the block.

    Args:
        dataset: A data set, or its folder or URL.
        name: Name of the labels.
        settings: The questions.
        rewards: Score tables that `settings.choose` reads.
        answers: Local folder of the answers; None for `labels/NAME.answers` of the data set.

    Raises:
        ConfigError: The folder of the answers is not local, an option is wrong, or no question can be asked.
    """
    opened = open_dataset(dataset)
    folder = _answers_folder(opened, name, answers)
    questions = read_questions(
        opened,
        size=settings.images_per_question,
        count=settings.num_questions,
        seed=settings.seed,
        choose=settings.choose,
        rewards=rewards,
    )
    session = open_session(
        folder,
        questions,
        answers_per_question=settings.answers_per_question,
        repeat_share=settings.repeat_share,
        seed=settings.seed,
        dimension=settings.dimension.strip() or "overall",
    )
    usual = QUESTION if session.dimension == "overall" else f"{QUESTION} Judge: {session.dimension}"
    try:
        yield LabelPage(
            dataset=opened,
            session=session,
            title=opened.root.resolve().name,
            question=settings.question or usual,
            instructions=settings.instructions or INSTRUCTIONS,
        )
    finally:
        session.close()


def judge_images(
    dataset: AnyDataset,
    judge: str,
    name: str,
    *,
    settings: JudgeSettings,
    answers: Path | None = None,
    progress: Progress = SILENT,
) -> tuple[Path, JudgeSummary]:
    """Let a vision language model compare images in both orders. Return the folder of the answers, and the counts.

    Args:
        dataset: A data set, or its folder or URL.
        judge: `openai:URL#MODEL` or `openai:FILE.toml`.
        name: Name of the labels.
        settings: The questions.
        answers: Local folder of the answers; None for `labels/NAME.answers` of the data set.
        progress: Counts pairs.

    Raises:
        ConfigError: The judge cannot compare images, or no question can be asked.
    """
    if not check_reward_name(judge).startswith("openai:"):
        raise ConfigError(f"--judge {judge} cannot compare images: give openai:URL#MODEL or openai:FILE.toml")
    opened = open_dataset(dataset)
    folder = _answers_folder(opened, name, answers)
    count, seed = settings.num_questions, settings.seed
    if settings.pairs is not None:
        questions = read_pair_questions(opened, settings.pairs, count=count, seed=seed)
    else:
        questions = read_questions(opened, size=2, count=count, seed=seed)
    done = judge_pairs(
        opened,
        connect_pairs(judge),
        questions,
        folder,
        dimension=settings.dimension.strip() or "overall",
        seed=seed,
        progress=progress,
    )
    return folder, done


def _answers_folder(dataset: Dataset, name: str, answers: Path | None) -> Path:
    check_name(name, "a table of labels")
    folder = answers or dataset.root / "labels" / f"{name}.answers"
    if not isinstance(folder, Path):
        raise ConfigError(f"{dataset.root}: answers are kept in a local folder: give one with --answers DIR")
    return local_path(folder)


def _address(host: str) -> tuple[bool, str]:
    """Return whether only this machine can connect to the host, and the host of the page's address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost", host
    if address.is_loopback:
        return True, host
    return False, socket.gethostname() if address.is_unspecified else host


def _token(people: Annotators) -> str:
    """Return the token of the page's address, which is the same at each start so that sent links remain valid.

    The salt in the folder of the answers makes it differ between sessions. The user's key keeps it from readers of the
    folder, as from the sender of a data set with its salt.
    """
    return own_digest(f"address of the page\n{people.sign('address of the page')}")[:_TOKEN_DIGITS]
