"""Draw what happened: live on a terminal, plain lines in a pipe, tables, errors and the answer.

The only importer of rich. Everything dynamic passes `sanitize` first and is printed as `Text`, never as markup.
"""
