"""Spreadsheets by calamine: Excel of all ages, and OpenDocument."""

from __future__ import annotations

import csv
import datetime
import io
import os
from collections.abc import Callable

import python_calamine

from .output import Output, RefusedError


def sheets(source: int, ready: Callable[[], None], output: Output) -> None:
    """Its sheets in their order, each below a mark, as CSV: what the cells show was stored by the last that saved."""
    ready()
    with os.fdopen(source, "rb", closefd=False) as file:
        try:
            book = python_calamine.CalamineWorkbook.from_filelike(file)
        except python_calamine.PasswordError:
            raise RefusedError("it is encrypted: save it without a password first") from None
        for number, sheet in enumerate(book.sheets_metadata, 1):
            hidden = "" if sheet.visible == python_calamine.SheetVisibleEnum.Visible else " (hidden)"
            output.mark(f"sheet {number}: {sheet.name}{hidden}")
            if sheet.typ == python_calamine.SheetTypeEnum.WorkSheet:
                rows(book.get_sheet_by_index(number - 1), output)


def rows(sheet: python_calamine.CalamineSheet, output: Output) -> None:
    """From the first row to the last that holds something, so that the rows have their numbers."""
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for cells in sheet.iter_rows():
        writer.writerow([shown(cell) for cell in cells])
        text = line.getvalue()
        output.line(text if text.strip(",\n") else "\n")
        line.seek(0)
        line.truncate()


def shown(cell: object) -> str:
    """A cell in words: whole numbers without a fraction, dates as ISO 8601."""
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell)
