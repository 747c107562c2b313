"""Pack the packages that a bare GPU machine with torch and transformers lacks into one archive, build/gpu-site.tar.xz.

`make gpu-check` unpacks the archive where diffusers cannot be imported. pyarrow is packed without the parts that ppod
does not import (Flight, S3, headers, tests), which are half of its size.
"""

import argparse
import fnmatch
import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGES = ("pyarrow", "diffusers", "webdataset", "braceexpand", "ijson", "rich", "importlib_metadata")
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_LEFT_OUT = (
    "pyarrow/include/*",
    "pyarrow/tests/*",
    "pyarrow/src/*",
    "pyarrow/*flight*",
    "pyarrow/*_s3*",
    "pyarrow/*gandiva*",
    "pyarrow/*.pxi",
    "pyarrow/*.pyx",
    "pyarrow/*.pxd",
    "pyarrow/libarrow_python.so",
    "pyarrow/libarrow_python.so.*.*.*",
)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python-version", default="3.12", help="of the GPU machine")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-site.tar.xz"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _download(Path(folder), options.python_version)
        with tarfile.open(options.out, "w:xz") as archive:
            for wheel in sorted(Path(folder).glob("*.whl")):
                _add(archive, wheel)
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.0f} MiB")


def _download(folder: Path, python_version: str) -> None:
    """Download the wheels of the versions that are installed here."""
    names = [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        *platforms,
    ]
    command += ["--python-version", python_version, "--implementation", "cp", "--dest", str(folder), *names]
    subprocess.run(command, check=True)


def _add(archive: tarfile.TarFile, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        for member in files.infolist():
            if member.is_dir() or any(fnmatch.fnmatch(member.filename, pattern) for pattern in _LEFT_OUT):
                continue
            entry = tarfile.TarInfo(member.filename)
            entry.size = member.file_size
            with files.open(member) as content:
                archive.addfile(entry, content)


if __name__ == "__main__":
    main()
