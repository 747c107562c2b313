"""Secret for hashing annotators' names: half in the data set's folder, half in the user's own data.

A folder from an untrusted source may come with its `.salt`, with which the sender could test names against hashes.
Therefore the file alone is never the secret.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.storage.files import atomic_create, read_small
from ppod_data.storage.real_folders import settled
from ppod_data.storage.unreadable import raise_if_unreadable

_HEX = re.compile(rb"[0-9a-f]{64}")
_OWN = "own.key"


def salt_path(dataset: Dataset) -> Path:
    """Return the path of the salt of the data set's annotators: a hidden file that is not part of the data set.

    The salt of a data set in an object store is in the user's own data, because all readers of a bucket can read every
    object.
    """
    if isinstance(dataset.root, Path):
        return dataset.root / "labels" / ".salt"
    return _home() / f"{dataset.spec.fingerprint}.salt"


def read_salt(dataset: Dataset) -> bytes:
    """Return the salt of the data set's annotators, or a new salt.

    Raises:
        ConfigError: the file is not a salt.
    """
    path = salt_path(dataset)
    return _read(path) if os.path.lexists(path) else secrets.token_bytes(32)


def keep_salt(dataset: Dataset, salt: bytes) -> None:
    """Store the salt.

    Raises:
        PpodError: a concurrent import stored a different salt, so the annotators' hashes would not match.
    """
    path = salt_path(dataset)
    if not isinstance(dataset.root, Path):
        _make_home()
    if not atomic_create(path, salt.hex().encode()) and _read(path) != salt:
        raise PpodError(f"{path}: a concurrent import created a different salt; run the command again")


def secret_of(dataset: Dataset, salt: bytes) -> bytes:
    """Return the key of the names' hashes."""
    return hmac.digest(_own_key(), salt, "sha256") if isinstance(dataset.root, Path) else salt


def own_digest(text: str) -> str:
    """Return the HMAC of a text with the user's key: 64 hex digits, the same in every process of the user.

    Raises:
        ConfigError: the key cannot be stored, or its file holds something else.
    """
    return hmac.new(_own_key(), text.encode(), hashlib.sha256).hexdigest()


def _own_key() -> bytes:
    """Return the user's key, created once and the same for all local data sets."""
    path = _home() / _OWN
    try:
        if not path.exists():
            _make_home()
            atomic_create(path, secrets.token_bytes(32).hex().encode())
    except OSError as error:
        raise ConfigError(
            f"{path}: your key cannot be stored ({error.strerror}): set XDG_DATA_HOME to a folder that you can write"
        ) from error
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        data = read_small(path, 1024)
    except (OSError, DamagedError) as error:
        raise_if_unreadable(error, path)
        raise ConfigError(
            f"{path}: the secret cannot be read ({error}): remove the file to create a new secret"
        ) from error
    if not _HEX.fullmatch(data):
        raise ConfigError(
            f"{path}: expected a secret of 64 hex digits: remove the file to create a new secret"
        )
    return bytes.fromhex(data.decode())


def _home() -> Path:
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return settled(Path(home).expanduser()) / "ppod" / "annotators"


def _make_home() -> None:
    _home().mkdir(parents=True, exist_ok=True, mode=0o700)
