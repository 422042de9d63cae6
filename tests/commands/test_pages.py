"""Pages with numbers are generated: the committed ones are what the committed records give."""

from pathlib import Path

import pytest

from mldec.commands import compose, main
from mldec.commands import table as door
from mldec.commands.table_plan import chosen_words, job_of
from mldec.paper.tables import Row, Table, load_tables

ROOT = Path(__file__).parents[2]


def test_the_results_at_desk_scale(tmp_path, capsys, monkeypatch):
    """`mldec table all scale=desk run=false records=docs/records page=docs/results.md` would change nothing."""
    monkeypatch.chdir(ROOT)  # the page names its command as it is typed there
    page = tmp_path / "results.md"
    words = [
        "all",
        "scale=desk",
        "run=false",
        f"records={ROOT / 'docs' / 'records'}",
        f"page={page}",
        f"output={tmp_path}",
    ]
    assert main.run(["table", *words]) == 0
    made = page.read_text(encoding="utf-8").replace(f"page={page}", "page=docs/results.md")
    assert made == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("table", "row"),
    [pytest.param(t, r, id=f"{t.id}-{r.key}") for t in load_tables("desk") for r in t.reproduced if r.choose],
)
def test_the_experiment_of_a_row_has_what_was_chosen_for_it(table: Table, row: Row):
    """`python train.py experiment=desk/…`, the command in the file, is then the run whose figure stands beside it."""
    compose.load_components(())
    records = f"records={ROOT / 'docs' / 'records'}"
    request = door.make_request(table.id, compose.parse(["scale=desk", records], own=door.OWN))
    chosen = chosen_words(table, row, request)
    assert chosen is not None
    assert job_of(table, row, 0, chosen, request).key == job_of(table, row, 0, (), request).key, chosen
