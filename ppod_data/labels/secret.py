"""The secret that annotators' names are hashed with: half of it in the data set's folder, half with the user.

A folder may come from a stranger together with its `.salt`, with which the stranger could try names until a hash
fits. So the file alone is never the secret.
"""

import hmac
import os
import re
import secrets
from pathlib import Path

from ppod_data.dataset.dataset import Dataset
from ppod_data.errors import ConfigError, DamagedError, PpodError
from ppod_data.storage.files import atomic_create, read_small
from ppod_data.storage.real_folders import settled

_HEX = re.compile(rb"[0-9a-f]{64}")
_OWN = "own.key"


def salt_path(dataset: Dataset) -> Path:
    """Where the salt of the data set's annotators is: a hidden file, and so no part of the data set.

    Of a data set in a store it is among the user's own data, since all who read a bucket can read every object.
    """
    if isinstance(dataset.root, Path):
        return dataset.root / "labels" / ".salt"
    return _home() / f"{dataset.spec.fingerprint}.salt"


def read_salt(dataset: Dataset) -> bytes:
    """The salt of the data set's annotators, or a new one. Raises ConfigError for a file that is none."""
    path = salt_path(dataset)
    return _read(path) if os.path.lexists(path) else secrets.token_bytes(32)


def keep_salt(dataset: Dataset, salt: bytes) -> None:
    """Keep the salt, unless an import that ran at the same time was first: then ours hashed with one of its own."""
    path = salt_path(dataset)
    if not isinstance(dataset.root, Path):
        _make_home()
    if not atomic_create(path, salt.hex().encode()) and _read(path) != salt:
        raise PpodError(f"{path}: another import made the secret meanwhile: run the same command again")


def secret_of(dataset: Dataset, salt: bytes) -> bytes:
    """The key that names are hashed with."""
    return hmac.digest(_own_key(), salt, "sha256") if isinstance(dataset.root, Path) else salt


def _own_key() -> bytes:
    """The user's key, the same for all local data sets; it is made once."""
    path = _home() / _OWN
    if not path.exists():
        _make_home()
        atomic_create(path, secrets.token_bytes(32).hex().encode())
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        data = read_small(path, 1024)
    except (OSError, DamagedError) as error:
        raise ConfigError(
            f"{path}: the secret cannot be read ({error}): remove it, and a new one is made"
        ) from error
    if not _HEX.fullmatch(data):
        raise ConfigError(f"{path}: no secret of 64 hex digits: remove it, and a new one is made")
    return bytes.fromhex(data.decode())


def _home() -> Path:
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return settled(Path(home).expanduser()) / "ppod" / "annotators"


def _make_home() -> None:
    _home().mkdir(parents=True, exist_ok=True, mode=0o700)
