"""Where nothing is in the way: a container of the sandbox's own image with every lock left off, on the host's network.

It shows that a probe can succeed. All of them run in one container, each in a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlm_cli.sandbox.image import Image

CAPABILITIES = ["SYS_ADMIN", "SYS_PTRACE", "SYSLOG"]
"""Beside the engine's usual ones. Not "privileged": a machine may lack one that nobody here needs."""

RUNNER = """
import ctypes, glob, json, os, shutil, signal, sys
for path in ["/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*")]:
    ctypes.CDLL(None).mount(None, path.encode(), None, 32 | 4096, None)  # read-write again
program = sys.argv[1] + "/mounted/sleep"
os.unlink(program)
shutil.copy("/bin/sleep", program)
os.chmod(program, 0o4755)
results = []
for program, nobody in json.load(open("/programs.json")):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        signal.alarm(60)
        if nobody:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            exec(compile(program, "<probe>", "exec"), {"__name__": "__main__"})
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
        sys.stdout.flush()
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
    with open(reader, errors="replace") as said:
        results.append(said.read())
print(json.dumps(results))
"""


def run_bare(
    programs: Sequence[tuple[str, bool]], image: Image, folder: Path, environment: Mapping[str, str]
) -> list[str]:
    """What each program prints; (text, whether as nobody). `folder`, with "mounted" in it as a mount
    of its own, is there under its own path and may be written."""
    import docker
    from docker.types import Mount

    todo = folder / "programs.json"
    todo.write_text(json.dumps(programs))
    client: Any = docker.from_env()
    api = client.api
    config = api.create_host_config(
        cap_add=CAPABILITIES,
        security_opt=["seccomp=unconfined", "apparmor=unconfined", "label=disable"],
        network_mode="host",
        tmpfs={"/tmp": "rw,exec,size=512m"},
        shm_size="64m",
        devices=["/dev/kmsg:/dev/kmsg:r"],
        mounts=[
            *(Mount(str(path), str(path), type="bind") for path in (folder, folder / "mounted")),
            Mount("/programs.json", str(todo), type="bind", read_only=True),
        ],
    )
    config |= {"MaskedPaths": [], "ReadonlyPaths": []}
    made = api.create_container(
        image.id,
        entrypoint=["python3"],
        command=["-c", RUNNER, str(folder)],
        user="0:0",
        environment=dict(environment),
        host_config=config,
    )
    try:
        api.start(made)
        status = api.wait(made, timeout=120)
        said = api.logs(made)
        assert status["StatusCode"] == 0, said
    finally:
        api.remove_container(made, force=True)
        client.close()
        todo.unlink()
    results: list[str] = json.loads(said.splitlines()[-1])
    return results
