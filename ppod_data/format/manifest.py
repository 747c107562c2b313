"""The manifest ppod.json, which marks a folder as a data set: a pure function of the generation spec and licence."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ppod_data.errors import ConfigError, DamagedError, SpecMismatchError
from ppod_data.format.spec import VERSIONS, GenerationSpec, from_json, to_json
from ppod_data.format.spec_difference import check_same_spec
from ppod_data.storage.files import DataPath, atomic_create, in_folder, read_small
from ppod_data.storage.json_reader import parse_json
from ppod_data.storage.real_folders import refuse_linked_folders
from ppod_data.storage.unreadable import raise_if_unreadable
from ppod_data.support.canonical_json import canonical_json

MANIFEST = "ppod.json"
UNKNOWN_LICENSE = "unknown"
_FORMAT = "ppod-dataset"
_KEYS = {"format", "version", "fingerprint", "license", "log_probs", "spec", "sha256"}
_MAX_BYTES = 1 << 30
_LOG_PROBS = {
    "of": "the Gaussian density of the rounded x_{t-1}, given the rounded x_t and the prompt, under guidance",
    "reduction": "mean over the latent's dimensions (C, H, W)",
    "unit": "nats",
}


def create_manifest(root: DataPath, spec: GenerationSpec, license: str) -> None:
    """Write the manifest of a new data set, or check that an existing one has the same spec and licence.

    Raises:
        SpecMismatchError: the folder was made with another spec or licence.
        ConfigError: the folder holds other files, which the card could overwrite.
    """
    spec.validate()
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: a file of this name exists: give the path of a new folder")
    refuse_linked_folders(root)
    if root.exists() and not (root / MANIFEST).exists():
        others = [path.name for path in in_folder(root) if not path.name.startswith(".")]
        if others and not (root / MANIFEST).exists():  # a concurrent worker may have created it
            raise ConfigError(
                f"{root}: the folder holds other files ({others[0]}): give a new or an empty folder"
            )
    manifest = {
        "format": _FORMAT,
        "version": spec.version,
        "fingerprint": spec.fingerprint,
        "license": license,
        "log_probs": _LOG_PROBS,
        "spec": to_json(spec),
    }
    manifest["sha256"] = _checksum(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if (root / MANIFEST).exists() or not atomic_create(root / MANIFEST, text.encode()):
        _check_same(root, spec, license)


def read_manifest(root: DataPath) -> tuple[GenerationSpec, dict[str, Any]]:
    """Return the spec and the whole manifest of the data set in `root`.

    Raises:
        ConfigError: `root` holds no data set, or one of a newer format.
        DamagedError: the manifest was edited or truncated.
        OSError: the system does not let this process read the manifest.
    """
    file = root / MANIFEST
    if not file.exists():
        reason = "not a ppod data set (no ppod.json)" if root.is_dir() else "no such folder"
        raise ConfigError(f"{root}: {reason}: make one with ppod-gen, or check the path")
    try:
        manifest = parse_json(read_manifest_bytes(file))
    except (ValueError, OSError) as error:
        raise_if_unreadable(error, file)
        raise DamagedError(f"{file}: not readable as JSON ({error}): get this file again") from error
    edited = f"{file}: edited or damaged: its sha256 does not match; get this file again"
    ours = (
        isinstance(manifest, dict)
        and manifest.get("format") == _FORMAT
        and manifest.get("version") in VERSIONS
    )
    if (
        not ours
        and isinstance(manifest, dict)
        and {"spec", "sha256"} <= manifest.keys()
        and not _agrees(manifest)
    ):
        raise DamagedError(edited)  # a flipped bit rather than another format or version
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ConfigError(f"{file}: not the manifest of a ppod data set: check the path")
    version = manifest.get("version")
    if version not in VERSIONS:
        raise ConfigError(
            f"{file}: format version {version!r}; this ppod reads versions up to {VERSIONS[-1]}: update ppod"
        )
    try:
        spec = from_json(manifest["spec"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{file}: {error}: the manifest was edited or truncated; get it again") from error
    if version != spec.version:
        raise DamagedError(f"{file}: edited: its version does not match its spec; get this file again")
    if manifest.get("fingerprint") != spec.fingerprint or not isinstance(manifest.get("license"), str):
        raise DamagedError(f"{file}: edited: its fingerprint does not match its spec; get this file again")
    if set(manifest) - _KEYS or ("sha256" in manifest and not _agrees(manifest)):
        raise DamagedError(edited)
    return spec, manifest


def read_manifest_bytes(file: DataPath) -> bytes:
    """Return the bytes of a manifest file. Raises `DamagedError` if it is too large or not a regular file."""
    return read_small(file, _MAX_BYTES)


def _checksum(manifest: Mapping[str, Any]) -> str:
    """Return the checksum of a manifest without its own key. The fingerprint does not cover licence and model."""
    values = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def _agrees(manifest: Mapping[str, Any]) -> bool:
    """Return true if a manifest matches its checksum."""
    try:
        return bool(manifest["sha256"] == _checksum(manifest))
    except (ValueError, RecursionError):  # NaN, or deeper nesting than ppod writes
        return False


def _check_same(root: DataPath, spec: GenerationSpec, license: str) -> None:
    existing, manifest = read_manifest(root)
    try:
        check_same_spec(existing, spec)
    except SpecMismatchError as error:
        raise SpecMismatchError(f"{root}: {error}") from error
    if license not in (UNKNOWN_LICENSE, manifest["license"]):
        raise SpecMismatchError(
            f"{root}: license differs: {manifest['license']!r} in the data set, {license!r} in the options: "
            "give the old value again, or generate into another folder"
        )
