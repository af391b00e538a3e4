"""Bugs put in on purpose: each must make a test fail. `make mutation`, or `python -m tests.mutation [NAME...]`.

mutants.py    the bugs, each with the cheapest tests that should notice it
__main__.py   puts one after the other into a copy of the package, runs those tests on it, and prints the table
"""
