"""Run one peer on one input: `python peers.py rlms|dspy SPEC`, in the peers' environment; nothing of ours is imported.

SPEC is JSON: url, root, sub, context (a file), turns, depth. Prints JSON: the answer, and what the peer says it called.
"""

from __future__ import annotations

import json
import sys
from typing import Any

QUESTION = "How many?"


def rlms(spec: dict[str, Any], context: str) -> dict[str, Any]:
    from rlm import RLM  # type: ignore[import-not-found]  # lives in the other environment

    service = {"base_url": spec["url"], "api_key": "sk-loopback"}
    asker = RLM(
        backend="openai",
        backend_kwargs={"model_name": spec["root"], **service},
        other_backends=["openai"],
        other_backend_kwargs=[{"model_name": spec["sub"], **service}],
        environment="local",
        max_depth=spec["depth"],
        max_iterations=spec["turns"],
    )
    done = asker.completion(context, root_prompt=QUESTION)
    usage = done.usage_summary.model_usage_summaries
    return {"answer": done.response, "reported": {name: used.total_calls for name, used in usage.items()}}


def dspy(spec: dict[str, Any], context: str) -> dict[str, Any]:
    import dspy  # type: ignore[import-not-found]  # lives in the other environment
    from dspy.primitives.local_interpreter import LocalInterpreter  # type: ignore[import-not-found]

    def model(name: str) -> Any:
        return dspy.LM(f"openai/{name}", api_base=spec["url"], api_key="sk-loopback", cache=False, num_retries=0)

    root, sub = model(spec["root"]), model(spec["sub"])
    with dspy.context(lm=root):
        asker = dspy.RLM(
            "context, query -> answer: str",
            max_iters=spec["turns"],
            sub_lm=sub,
            interpreter_factory=LocalInterpreter,
        )
        done = asker(context=context, query=QUESTION)
    return {"answer": done.answer, "reported": {spec["root"]: len(root.history), spec["sub"]: len(sub.history)}}


if __name__ == "__main__":
    spec = json.loads(sys.argv[2])
    with open(spec["context"], encoding="utf-8") as file:  # noqa: PTH123 - as the peers' users do
        text = file.read()
    print(json.dumps({"rlms": rlms, "dspy": dspy}[sys.argv[1]](spec, text)))
