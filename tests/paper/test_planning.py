"""Which runs a table consists of: seeds, lengths of training, learning rates searched until the best lies inside."""

from pathlib import Path

import pytest

from mldec.commands import compose
from mldec.commands.options import parse
from mldec.commands.table import TableOptions, compose_with_start, make_planner
from mldec.config import build_config
from mldec.paper import planning, records
from mldec.paper.planning import SEED, Planner, with_seed
from mldec.paper.records import Record, write_record
from mldec.paper.tables import PaperTable, load_tables


@pytest.fixture(autouse=True)
def components() -> None:
    compose.load_components(())


def plan(folder: Path, *given: str, table: str = "13") -> tuple[Planner, PaperTable]:
    """The planner of a table at desk scale with the records of a folder."""
    planner = make_planner(table, *parse(["scale=desk", f"records={folder}", *given], TableOptions, "table"))
    return planner, planner.request.tables[0]


def write(jobs, planner: Planner, val) -> None:
    """Records in which a learning rate has `val` on val."""
    for job in jobs:
        rate = float(job.overrides[0].partition("=")[2])
        entries = job.identity() | {"outcome": "finished", "protocol": "standard", "metrics": {}, "best": val(rate)}
        write_record(planner.request.workspace.records, Record(**entries))
    planner.read_records()


@pytest.mark.parametrize(
    ("best", "rates"),
    [
        (0.003, ["0.001", "0.003", "0.01"]),
        (0.01, ["0.001", "0.003", "0.01", "0.03"]),
        (0.02, ["0.001", "0.003", "0.01", "0.03", "0.1"]),
        (0.0003, ["0.0001", "0.0003", "0.001", "0.003", "0.01"]),
        (1e-9, ["1e-05", "3e-05", "0.0001", "0.0003", "0.001", "0.003", "0.01"]),  # not for ever
    ],
)
def test_a_grid_is_widened_until_its_best_rate_lies_inside(best: float, rates: list[str], tmp_path: Path) -> None:
    planner, table = plan(tmp_path)
    row = table.row("softmax_ml_decoder")
    rounds = 0
    while jobs := [job for job in planner.search_jobs(table, row) if job.key not in planner.records.by_key]:
        write(jobs, planner, lambda rate: -abs(rate - best))
        rounds += 1
        assert rounds < 10
    assert planner.tried(table, row)["schedule.max_lr"] == rates
    nearest = min(rates, key=lambda rate: abs(float(rate) - best))
    assert planner.chosen(table, row) == (f"schedule.max_lr={nearest}",)


def test_nothing_is_chosen_before_all_candidates_are_known(tmp_path: Path) -> None:
    planner, table = plan(tmp_path)
    row = table.row("softmax_ml_decoder")
    write(planner.search_jobs(table, row)[:2], planner, lambda rate: rate)
    assert planner.chosen(table, row) is None
    assert planner.final_jobs(table, row) == []
    assert len(planner.search_jobs(table, row)) == 3


def decided(folder: Path, best: float, *given: str) -> tuple[Planner, PaperTable]:
    """The planner of a table whose average pooling was found to be best on val at the rate `best`."""
    planner, table = plan(folder, *given)
    write(planner.search_jobs(table, table.row("sigmoid_gap")), planner, lambda rate: -abs(rate - best))
    return planner, table


def test_a_row_that_uses_what_another_chose_has_that_chosen_first(tmp_path: Path) -> None:
    planner, table = plan(tmp_path, "rows=softmax_ml_decoder_48")
    (row,) = planner.rows(table)
    jobs = planner.search_jobs(table, row)
    assert [job.row for job in jobs] == ["softmax_ml_decoder"] * 3
    write(jobs, planner, lambda rate: -abs(rate - 0.003))
    assert planner.final_jobs(table, row)


def test_a_table_has_its_own_number_of_seeds_and_some_rows_fewer(tmp_path: Path) -> None:
    planner, table = decided(tmp_path, 0.03)
    assert table.seeds == 5
    for row, seeds in (("sigmoid_gap", (0, 1, 2, 3, 4)), ("sigmoid_gap_24", (0, 1, 2)), ("sigmoid_gap_48", (0,))):
        assert tuple(job.seed for job in planner.final_jobs(table, table.row(row))) == seeds
    planner, table = decided(tmp_path, 0.03, "seeds=7,8")
    assert planner.request.search_seed == 7
    assert [job.seed for job in planner.final_jobs(table, table.row("sigmoid_gap_24"))] == [7, 8]


@pytest.mark.parametrize("best", [0.01, 0.03])
def test_longer_rows_use_the_setting_that_the_short_one_chose(best: float, tmp_path: Path) -> None:
    planner, table = plan(tmp_path)
    assert planner.final_jobs(table, table.row("sigmoid_gap_24")) == []  # nothing is chosen yet
    planner, table = decided(tmp_path, best)
    for row, epochs in (("sigmoid_gap_24", 24), ("sigmoid_gap_48", 48)):
        for job in planner.final_jobs(table, table.row(row)):
            assert job.overrides == (f"schedule.epochs={epochs}", f"schedule.max_lr={best:g}")


def test_a_longer_row_is_the_same_experiment_with_more_epochs(tmp_path: Path) -> None:
    for table in load_tables("desk"):
        planner, _ = plan(tmp_path, table=table.id)
        for key, double in table.plateau.items():
            row, doubled = table.row(key), table.row(double)
            epochs = [planner.config(table, r).schedule.epochs for r in (row, doubled)]
            assert epochs[1] == 2 * epochs[0] == 2 * row.cells["epochs"]
            assert doubled.cells["epochs"] == epochs[1]
            assert row.experiment == doubled.experiment


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=desk/table1/ml_decoder_k20_random",),  # whose permutation of labels refers to the seed
        ("experiment=desk/table2/gap", "schedule.max_lr=0.03"),  # which starts from another experiment
        ("experiment=table3/none", "dataset.root=/data"),
        ("experiment=digits", "name='run of seed ${seed}'"),  # text that refers to it
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_seed_put_in_afterwards_is_as_if_composed_with_it(overrides: tuple[str, ...]) -> None:
    once = compose_with_start((*overrides, f"seed={SEED}"))
    for seed in (0, 1, 5):
        filled = [with_seed(mapping, seed) for mapping in once]
        assert filled == [*compose_with_start((*overrides, f"seed={seed}"))]
        assert [build_config(mapping).seed for mapping in filled] == [seed] * len(once)


def test_random_groups_differ_from_seed_to_seed(tmp_path: Path) -> None:
    (composed,) = compose_with_start(("experiment=desk/table1/ml_decoder_k20_random", f"seed={SEED}"))
    configs = [build_config(with_seed(composed, seed)) for seed in (0, 1, 5)]
    assert [config.head.grouping_seed for config in configs] == [0, 1, 5]
    assert {config.head.grouping for config in configs} == {"random"}


def test_a_row_is_composed_once_per_setting_and_records_are_read_once(tmp_path: Path, monkeypatch) -> None:
    """Whatever the number of seeds, and however often the planner is queried."""
    planner, table = decided(tmp_path, 0.03)
    reads, composed = [], []
    monkeypatch.setattr(planning, "find_records", lambda folder: reads.append(folder) or records.find_records(folder))

    def spy(overrides):
        composed.append(overrides)
        return compose_with_start(overrides)

    planner = Planner(planner.request, spy)
    for _ in range(2):
        for key in ("sigmoid_gap", "sigmoid_gap_24"):
            row = table.row(key)
            assert planner.final_jobs(table, row)
            assert planner.search_jobs(table, row) or row.chosen_in
            assert planner.config(table, row).schedule.max_lr == 0.03
    assert len(reads) == 1
    assert len(composed) == 3 + 1  # three rates for the short row, the chosen one for the long row
    assert len(set(composed)) == len(composed)
