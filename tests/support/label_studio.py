"""Pairs to the real Label Studio and back, over its REST API: what `make label-studio` runs.

Usage: label_studio.py PYTHON FIXTURE, the Python of an environment with Label Studio, and where its JSON export goes,
which tests/ppod_data/labels/test_labels_label_studio.py imports.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import urllib3

from ppod_data.labels.export.export import export_pairs
from ppod_data.labels.importing import import_labels
from tests.support.tables import add_pairs
from tests.support.toy import make_dataset

PAIRS = [(0, 1), (2, 0), (3, 4)]
"""Samples of the toy data set: chosen, rejected."""
ANSWERS: list[list[dict[str, Any]]] = [
    [{"type": "pairwise", "from_name": "preferred", "to_name": "a,b", "value": {"selected": "left"}}],
    [{"type": "pairwise", "from_name": "preferred", "to_name": "a,b", "value": {"selected": "right"}}],
    [{"type": "choices", "from_name": "tie", "to_name": "a", "value": {"choices": ["tie"]}}],
]
"""What is answered to each task, in the order of the pairs."""
_PATIENCE = 400


def main(python: Path, fixture: Path) -> None:
    with tempfile.TemporaryDirectory() as text:
        place = Path(text)
        dataset = make_dataset(place / "data")
        add_pairs(dataset, "asked", PAIRS)
        out = place / "to-label"
        export_pairs(dataset, name="asked", format="label-studio", out=out)
        token = secrets.token_hex(20)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = start(python, place / "studio", out, port, token)
        try:
            exported = answer(f"http://127.0.0.1:{port}", token, out, server)
        finally:
            server.terminate()
            server.wait()
        fixture.write_text(json.dumps(exported, indent=1) + "\n", encoding="utf-8")
        done = import_labels(dataset, fixture, format="label-studio", name="studio")
        assert (done.num_preferences, done.num_ties, done.num_rejected, done.num_pairs) == (2, 1, 0, 2), done
        assert done.skipped == {"cancelled": 1}, done
        print(f"{fixture}: {done.num_preferences} labels and {done.num_ties} tie went there and came back")


def start(python: Path, folder: Path, images: Path, port: int, token: str) -> "subprocess.Popen[bytes]":
    """Label Studio on loopback, which tells nobody that it runs."""
    folder.mkdir()
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(images),
        "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    command = [str(python), "-m", "label_studio.server", "start", "--no-browser", "--port", str(port)]
    command += ["--internal-host", "127.0.0.1", "--host", f"http://127.0.0.1:{port}"]
    command += ["--username", "me@example.org", "--password", secrets.token_hex(8), "--user-token", token]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, env=environment | settings, stdout=log, stderr=subprocess.STDOUT)


def answer(url: str, token: str, out: Path, server: "subprocess.Popen[bytes]") -> Any:
    """Make a project of the exported folder, answer its tasks, and give what Label Studio exports."""

    def call(method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Token {token}"}
        response = urllib3.request(
            method, f"{url}{path}", json=body, headers=headers, retries=False, timeout=60
        )
        assert response.status < 300, (path, response.status, response.data[:2000])
        return response.json()

    for _ in range(_PATIENCE):
        assert server.poll() is None, "Label Studio ended"
        try:
            call("GET", "/api/projects")
            break
        except urllib3.exceptions.HTTPError:
            time.sleep(1)
    config = (out / "config.xml").read_text(encoding="utf-8")
    project = call("POST", "/api/projects", {"title": "ppod", "label_config": config})["id"]
    storage = {"project": project, "path": str(out / "images"), "use_blob_urls": True, "title": "images"}
    call("POST", "/api/storages/localfiles", storage)
    tasks = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    assert call("POST", f"/api/projects/{project}/import", tasks)["task_count"] == len(tasks)
    listed = call("GET", f"/api/tasks?project={project}&fields=all")["tasks"]
    ids = [task["id"] for task in sorted(listed, key=lambda task: int(task["id"]))]
    shown = urllib3.request(
        "GET",
        url + tasks[0]["data"]["image_a"],
        headers={"Authorization": f"Token {token}"},
        retries=False,
    )
    assert shown.data.startswith(b"\x89PNG"), (shown.status, shown.data[:300])
    for task, result in zip(ids, ANSWERS, strict=True):
        call("POST", f"/api/tasks/{task}/annotations", {"result": result})
    call("POST", f"/api/tasks/{ids[0]}/annotations", {"result": ANSWERS[1], "was_cancelled": True})
    return call("GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
