"""Cases D02, D09, D10: keys of the host are not in the container, nor in what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from .test_container import Doc, doc, opened, printed, run, write

__all__ = ["doc"]

pytestmark = pytest.mark.docker

HALVES = ("private-key", "-of-the-host-0123456789")

SEARCH = f"""
import os
WANTED = [half.encode() for half in {HALVES}]
WANTED = WANTED[0] + WANTED[1]
def found():
    hits = []
    for root in ("/proc", "/etc", "/tmp", "/run", "/var", "/dev/shm", "/home", "/root", "/in", "/opt", "/srv", "/mnt"):
        for folder, _, names in os.walk(root):
            if folder.startswith(f"/proc/{{os.getpid()}}/task"):
                continue
            for name in names:
                path = os.path.join(folder, name)
                if root == "/proc" and name not in ("environ", "cmdline", "mountinfo", "mounts"):
                    continue
                try:
                    with open(path, "rb") as file:
                        if WANTED in file.read(1 << 20):
                            hits.append(path)
                except OSError:
                    pass
    return hits
"""


def test_d02_d09_d10_keys_stay_outside(doc: Doc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments, command lines, mounts and files inside; the engine's own description, and every command line of
    this machine, outside; no core file of a process that died. Positive control: the search finds a planted key."""
    key = "".join(HALVES)
    for name in ("OPENAI_API_KEY", "RLM_API_KEY", "AWS_SECRET_ACCESS_KEY", "HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://user:{key}@proxy.example:3128" if "roxy" in name.lower() else key)
    config = tmp_path / "docker"
    config.mkdir()
    proxies = {"default": {"httpProxy": f"http://user:{key}@proxy.example:3128"}}
    write(config, "config.json", json.dumps({"proxies": proxies}).encode())
    monkeypatch.setenv("DOCKER_CONFIG", str(config))

    async def test() -> None:
        async with opened([doc]) as sandbox:
            assert await printed(sandbox, f"{SEARCH}\nprint(found())") == "[]"
            planted = "open('/tmp/planted', 'wb').write(WANTED)\nprint(found())"
            assert await printed(sandbox, planted) == "['/tmp/planted']"
            seen = subprocess.run(
                ["docker", "inspect", sandbox.name], capture_output=True, text=True, check=True
            ).stdout
            described = json.loads(seen)[0]
            assert described["Config"]["Labels"]["rlm.run"] is not None  # positive control: it is the whole description
            assert key not in seen
            inside = Path(f"/proc/{described['State']['Pid']}")
            if os.geteuid() == 0:
                assert key.encode() not in (inside / "environ").read_bytes()
            lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
            assert [line for line in lines if key.encode() in line] == []
            assert any(b"-I" in line.split(b"\0") for line in lines)  # positive control: the kernel's own is there
            died = await sandbox.execute("import os; os.chdir('/tmp'); os.abort()", timeout=30)
            assert died.status == "died"
            limits = "import os, resource\nprint(resource.getrlimit(resource.RLIMIT_CORE), sorted(os.listdir('/tmp')))"
            assert await printed(sandbox, limits) == "(0, 0) ['planted']"

    run(test())


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
