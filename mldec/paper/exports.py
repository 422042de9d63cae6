"""Tables for other programs: CSV in long form, and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from mldec.labels import to_cell
from mldec.paper.layout import READING, cell_text, lay_out
from mldec.paper.markup import fill_template, latex_text
from mldec.paper.tables import PaperTable
from mldec.paper.values import RowResult, result_values

FIELDS = ("published", "source", "mean", "std", "seeds", "difference", "within", "status")


def csv_text(table: PaperTable, results: Sequence[RowResult]) -> str:
    """One line per row and figure, with unrounded numbers.

    Columns: table, row, the table's cells, figure, then `FIELDS`; `within` is yes or no. Missing values are empty.
    Text that a spreadsheet would take for a formula is prefixed with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", *table.cells, "figure", *FIELDS])
    for result in results:
        leading = [table.id, result.row.key, *(cell_text(result, name) for name in table.cells)]
        for figure, value in result_values(table, result).items():
            within = None if value.within is None else "yes" if value.within else "no"
            numbers = (value.published, value.source, value.mean, value.std, value.seeds or None, value.difference)
            row = (*leading, figure, *numbers, within, value.status)
            writer.writerow([to_cell(" ".join(cell.split())) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()


def latex(table: PaperTable, results: Sequence[RowResult]) -> str:
    r"""A table environment for the package booktabs, with caption and `\label{tab:table5}`, `…-desk}` at desk scale."""
    layout = lay_out(table, results)
    figures, titles, rules = [""] * len(layout.cells), [*layout.cells], []
    for figure, parts in layout.figures.items():
        figures.append(rf"\multicolumn{{{len(parts)}}}{{c}}{{{latex_text(figure)}}}")
        rules.append(rf"\cmidrule(lr){{{len(titles) + 1}-{len(titles) + len(parts)}}}")
        titles += parts
    notes = [rf"\textsuperscript{{{mark}}} {latex_text(note)}" for mark, note in enumerate(layout.notes, 1)]
    below = [*notes, " ".join(map(latex_text, (*layout.legend, *READING[table.scale])))]
    rows = layout.marked_rows(latex_text, r"\textsuperscript{{{}}}")
    return fill_template(
        "table.tex",
        caption=latex_text(table.caption),
        label=table.id if table.scale == "paper" else f"{table.id}-{table.scale}",
        columns="l" * len(layout.cells) + "r" * (len(titles) - len(layout.cells)),
        figures=" & ".join(figures),
        rules="".join(rules),
        titles=" & ".join(map(latex_text, titles)),
        rows="\n".join(" & ".join(row) + r" \\" for row in rows),
        below="\n".join(rf"{sentence}\par" for sentence in below),
    )
