#!/usr/bin/env bash
# The wheel alone must work: build it, install it into a clean environment, run the commands from another folder.
# Usage: tests/wheel.sh PYTHON (one that has the package `build`)
set -euo pipefail
python=$(realpath --no-symlinks "$1")
root=$(realpath "$(dirname "$0")/..")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$python" -m build --wheel --outdir "$place/dist" "$root" >"$place/build.log" 2>&1 || { cat "$place/build.log"; exit 1; }
"$python" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check -c "$root/constraints.txt" "$place"/dist/*.whl
"$place/venv/bin/pip" check
export PATH="$place/venv/bin:$PATH" HF_HUB_OFFLINE=1

mkdir "$place/elsewhere"
cd "$place/elsewhere"
python -c 'import pathlib, ppod_data; assert pathlib.Path(ppod_data.__file__).is_relative_to(pathlib.Path("'"$place"'"))'
for command in ppod-gen ppod-score ppod-pair ppod-train ppod-data; do
  "$command" --help >/dev/null
done
ppod-gen data --prompt "A dog on the moon" --num-images-per-prompt 8 --num-inference-steps 4
ppod-score data --reward scenes
ppod-pair rank data --reward scenes --strategy best-worst --name pairs
ppod-train offline data --pairs pairs --out run --num-train-steps 1 --pairs-per-step 1 --eval-images-per-prompt 4
ppod-train eval --out eval --adapter run/policy --prompt "A dog on the moon" --num-images-per-prompt 4
ppod-train report run --out report.html
ls data eval run
echo "the wheel works"
