"""Documents of other programs -> text: PDF, office files, notebooks, HTML, SQLite and Parquet.

formats.py   which formats there are, how they are recognised, and which package each needs
convert.py   `Conversion`: many files -> their text, from the cache or by the converters, in parallel
cache.py     what was converted before, by the hash of its content
process.py   the converter: a process without rights that forks one worker for each file
confine.py   what a worker may do: memory, time, and on Linux no file, socket or process at all
output.py    what a worker writes: parts of text, and a report
pdf.py word.py slides.py sheets.py pages.py notebook.py database.py parquet.py (and package.py)
             the formats: the only places where a parser meets an untrusted file
"""
