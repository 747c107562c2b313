"""Prompts are compared in one form, and a bad prompt file is refused with its file and line."""

import hashlib
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppod_data.errors import ConfigError
from ppod_data.format.prompts import normalise, prompt_id, read_prompts, unprintable

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)


def prompt_file(folder: Path, data: bytes) -> Path:
    path = folder / "prompts.txt"
    path.write_bytes(data)
    return path


def test_one_prompt_a_line_blank_lines_and_line_ends_ignored(tmp_path: Path) -> None:
    file = prompt_file(tmp_path, b"  a cat \r\n\r\n\na dog\n   \na red fox")
    assert read_prompts([], file) == ("a cat", "a dog", "a red fox")


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert read_prompts([], prompt_file(tmp_path, b"\xef\xbb\xbfa cat\n")) == ("a cat",)


def test_texts_come_before_the_file(tmp_path: Path) -> None:
    assert read_prompts(["b", "a"], prompt_file(tmp_path, b"c\n")) == ("b", "a", "c")


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    """A prompt with another of Unicode's line ends is refused, not split in two."""
    for end in ("\u2028", "\x0b", "\x85"):
        with pytest.raises(ConfigError, match=r"prompts\.txt:2: .*control character U\+"):
            read_prompts([], prompt_file(tmp_path, f"a cat\na{end}dog".encode()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a cat\nein K\xe4fer\n", r"prompts\.txt:2: not UTF-8"),
        ("a cat\na dog\n".encode("utf-16"), r"prompts\.txt:1: not UTF-8"),
        ("a cat\na dog\n".encode("utf-16-le"), r"prompts\.txt:1: .*control character U\+0000"),
        (b"", r"prompts\.txt: no prompts in this file"),
        (b"\n  \n\t\n", r"prompts\.txt: no prompts in this file"),
        (b"a cat\n\na dog\n a cat\n", r"prompts\.txt:4: the same prompt as .*prompts\.txt:1: 'a cat'"),
        ("caf\u00e9\ncafe\u0301\n".encode(), r"prompts\.txt:2: the same prompt as .*prompts\.txt:1"),
        (b"a cat\na\tdog\n", r"prompts\.txt:2: .*control character U\+0009"),
        (b"a\x1b[31m cat\n", r"prompts\.txt:1: .*control character U\+001B"),
    ],
)
def test_bad_files_name_file_and_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read_prompts([], prompt_file(tmp_path, data))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_unreadable_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the prompts"):
        read_prompts([], tmp_path / name)


def test_bad_texts_are_counted() -> None:
    with pytest.raises(ConfigError, match="prompt 2: the prompt is empty"):
        read_prompts(["a cat", "  "], None)
    with pytest.raises(ConfigError, match="prompt 3: the same prompt as prompt 1"):
        read_prompts(["a cat", "a dog", "a cat "], None)
    with pytest.raises(ConfigError, match=r"prompt 1: .*U\+DCE4"):
        read_prompts(["K\udce4fer"], None)  # a byte of another encoding on the command line


def test_the_same_prompt_as_text_and_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.txt:1: the same prompt as prompt 1"):
        read_prompts(["a cat"], prompt_file(tmp_path, b"a cat\n"))


def test_nothing_given_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="give --prompt TEXT or --prompts FILE"):
        read_prompts([], None)


def test_prompt_id_is_the_hash_that_the_format_says() -> None:
    assert prompt_id(" cafe\u0301 ") == hashlib.sha256("caf\u00e9".encode()).hexdigest()[:32]


def test_joined_emoji_are_printable() -> None:
    assert unprintable("a 👩‍🚀 on the moon") is None


@given(TEXTS)
def test_normalise_is_idempotent_and_the_id_follows_it(text: str) -> None:
    if not text.strip():
        with pytest.raises(ConfigError):
            normalise(text)
        return
    prompt = normalise(text)
    assert normalise(prompt) == prompt
    assert unicodedata.is_normalized("NFC", prompt)
    assert prompt_id(text) == prompt_id(prompt) == prompt_id(unicodedata.normalize("NFD", text))


@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_reading_gives_distinct_valid_prompts_or_one_line_of_error(texts: list[str]) -> None:
    try:
        prompts = read_prompts(texts, None)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert prompts == tuple(normalise(text) for text in texts)
    assert len(set(prompts)) == len(texts)
