"""Pages with numbers are generated: the committed ones are what the committed records give."""

from pathlib import Path

from mldec.commands import main

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
