"""The same trajectories through three harnesses: `rlm`, the public `rlms` package, and `dspy.RLM`.

A scripted root has no opinion of its own and the oracle's noise belongs to the item, so all three must end with the
same answer, also where the sub-model errs and the answer is wrong, and none may need more calls than the others.

trajectories.py  the policies, written once, spelled for each harness
harnesses.py     one run of each, with what the server saw and what the harness reported
peers.py         the two programs that run in the peers' environment
__main__.py      `make differential`: all of it, as the table in docs/DIFFERENTIAL.md
test_*.py        what needs no peer: part of the normal suite
"""
