"""Pages with numbers are generated: the committed ones are what the committed records give."""

from pathlib import Path

import pytest

from mldec.commands import compose, main
from mldec.commands.options import parse
from mldec.commands.table import TableOptions, make_planner
from mldec.paper.tables import PaperTable, TableRow, load_tables

ROOT = Path(__file__).parents[2]


def test_the_results_at_desk_scale(tmp_path, capsys, monkeypatch):
    """`mldec table all scale=desk report_only=true records=docs/records page=docs/results.md` would change nothing."""
    monkeypatch.chdir(ROOT)  # the page names its command as it is run there
    page = tmp_path / "results.md"
    options = [
        "all",
        "scale=desk",
        "report_only=true",
        f"records={ROOT / 'docs' / 'records'}",
        f"page={page}",
        f"output={tmp_path}",
    ]
    assert main.run(["table", *options]) == 0
    made = page.read_text(encoding="utf-8").replace(f"page={page}", "page=docs/results.md")
    assert made == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("table", "row"),
    [pytest.param(t, r, id=f"{t.id}-{r.key}") for t in load_tables("desk") for r in t.reproduced if r.choose],
)
def test_the_experiment_of_a_row_has_what_was_chosen_for_it(table: PaperTable, row: TableRow):
    """`python train.py experiment=desk/…`, the command in the file, is then the run whose figure stands beside it."""
    compose.load_components(())
    records = f"records={ROOT / 'docs' / 'records'}"
    planner = make_planner(table.id, *parse(["scale=desk", records], TableOptions, "table"))
    chosen = planner.chosen(table, row)
    assert chosen is not None
    assert planner.job(table, row, 0, chosen).key == planner.job(table, row, 0).key, chosen
