"""Every attack that the sandbox must withstand, as data, and what runs it against each back-end.

`cases.py` is the registry: a row for each case A01-H10, with its probes or the tests elsewhere that prove it. A probe
is one cell; `bare.py` runs the same code where nothing is in its way and it must succeed, so that a probe which fails
for the wrong reason is noticed. `canaries.py` are things on the host that no probe may reach. `backends.py` says how a
session is opened. `table.py` writes the outcome into docs/SECURITY.md.
"""
