"""Tables for other programs: CSV in long form, and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from mldec.labels import to_cell
from mldec.paper.layout import READING, caption, cell_text, lay_out
from mldec.paper.markup import latex_text
from mldec.paper.tables import PaperTable, Scale
from mldec.paper.values import RowResult, result_values

FIELDS = ("published", "source", "mean", "std", "seeds", "difference", "within", "status")


def csv_text(table: PaperTable, results: Sequence[RowResult], scale: Scale) -> str:
    """One line per row and figure, with unrounded numbers.

    Columns: table, row, the table's cells, figure, then `FIELDS`; `within` is yes or no. Missing values are empty.
    Text that a spreadsheet would take for a formula is prefixed with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", *table.cells, "figure", *FIELDS])
    for result in results:
        leading = [table.id, result.row.key, *(cell_text(result, name) for name in table.cells)]
        for figure, value in result_values(table, result, scale).items():
            within = None if value.within is None else "yes" if value.within else "no"
            numbers = (value.published, value.source, value.mean, value.std, value.seeds or None, value.difference)
            row = (*leading, figure, *numbers, within, value.status)
            writer.writerow([to_cell(" ".join(cell.split())) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()


def latex(table: PaperTable, results: Sequence[RowResult], scale: Scale) -> str:
    r"""A table environment for the package booktabs, with caption and `\label{tab:table5}`, `…-desk}` at desk scale."""
    layout = lay_out(table, results, scale)
    over, under, rules = [""] * len(layout.cells), [*layout.cells], []
    for figure, parts in layout.figures.items():
        first = len(under) + 1
        over.append(rf"\multicolumn{{{len(parts)}}}{{c}}{{{latex_text(figure)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + len(parts) - 1}}}")
        under += parts
    body = []
    for row, marks in zip(layout.rows, layout.marks, strict=True):
        cells = [latex_text(cell) for cell in row]
        if marks:
            cells[0] += rf"\textsuperscript{{{','.join(map(str, marks))}}}"
        body.append(" & ".join(cells) + r" \\")
    notes = [rf"\textsuperscript{{{mark}}} {latex_text(note)}" for mark, note in enumerate(layout.notes, 1)]
    text = [
        r"\begin{table}",
        r"\centering",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{latex_text(caption(table, scale))}}}",
        rf"\label{{tab:{table.id}{'-desk' if scale == 'desk' else ''}}}",
        rf"\begin{{tabular}}{{{'l' * len(layout.cells)}{'r' * (len(under) - len(layout.cells))}}}",
        r"\toprule",
        " & ".join(over) + r" \\",
        "".join(rules),
        " & ".join(map(latex_text, under)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    below = [*notes, " ".join(map(latex_text, (*layout.legend, *READING[scale])))]
    text += ["", r"\medskip", r"\raggedright", *(rf"{sentence}\par" for sentence in below)]
    return "\n".join([*text, r"\end{table}", ""])
