"""One run of the `rlms` package, as its README shows it. A program for rlms' own environment: nothing of ours in it.

    python rlms_run.py '{"environment": "docker", "image": "...", "context": "path", ...}'

Prints the answer. This is to rlms what the `rlm ask` command is to us.
"""

from __future__ import annotations

import json
import resource
import sys


def main() -> None:
    spec = json.loads(sys.argv[1])
    # Linux takes the limit, macOS does not; one that does not fit is a MemoryError and not the end of the machine.
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (spec["most_memory"], spec["most_memory"]))
    from rlm import RLM  # type: ignore[import-not-found]  # lives in the other environment

    with open(spec["context"], encoding="utf-8") as file:  # noqa: PTH123 - pathlib would be one more import to pay
        context = file.read()
    service = {"base_url": spec["url"], "api_key": "bench"}
    asker = RLM(
        backend="openai",
        backend_kwargs={"model_name": spec["model"], **service},
        other_backends=["openai"],
        other_backend_kwargs=[{"model_name": spec["sub_model"], **service}],
        environment=spec["environment"],
        environment_kwargs={"image": spec["image"]} if spec["environment"] == "docker" else {},
        max_iterations=spec["turns"] + 1,
    )
    print(asker.completion(context, root_prompt=spec["question"]).response)


if __name__ == "__main__":
    main()
