"""Which runs a table consists of: seeds, lengths of training, learning rates searched until one lies inside."""

from pathlib import Path

import pytest

from mldec.commands import compose, table
from mldec.commands.table_plan import chosen_words, configs_of, final_jobs, search_jobs, tried
from mldec.paper.records import Record, write_record
from mldec.paper.tables import load_tables


@pytest.fixture(autouse=True)
def components() -> None:
    compose.load_components(())


def request(folder: Path, *words: str):
    return table.make_request("13", compose.parse(["scale=desk", f"records={folder}", *words], own=table.OWN))


def write(jobs, folder: Path, val) -> None:
    for job in jobs:
        rate = float(job.overrides[0].partition("=")[2])
        given = job.identity() | {"outcome": "finished", "protocol": "standard", "metrics": {}, "best": val(rate)}
        write_record(folder, Record(**given))


def search(folder: Path, val) -> list[str]:
    """The rates that are tried in the end, if a rate gives `val` on val; those that are chosen from first."""
    asked = request(folder)
    row = asked.tables[0].row("softmax_ml_decoder")
    rounds = 0
    while jobs := [job for job in search_jobs(asked.tables[0], row, asked) if not (folder / file_name(job)).exists()]:
        write(jobs, folder, val)
        rounds += 1
        assert rounds < 10
    found = tried(asked.tables[0], row, asked)["schedule.max_lr"]
    return [*found, *(chosen_words(asked.tables[0], row, asked) or ())]


def file_name(job) -> str:
    return f"{job.table}_{job.row}_seed{job.seed}_{job.key[:8]}.json"


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
    *found, chosen = search(tmp_path, lambda rate: -abs(rate - best))
    assert found == rates
    nearest = min(rates, key=lambda rate: abs(float(rate) - best))
    assert chosen == f"schedule.max_lr={nearest}"


def test_nothing_is_chosen_before_all_candidates_are_known(tmp_path: Path) -> None:
    asked = request(tmp_path)
    one, row = asked.tables[0], asked.tables[0].row("softmax_ml_decoder")
    jobs = search_jobs(one, row, asked)
    write(jobs[:2], tmp_path, lambda rate: rate)
    assert chosen_words(one, row, asked) is None
    assert final_jobs(one, row, asked) == []
    assert len(search_jobs(one, row, asked)) == 3


def decided(folder: Path, best: float, *words: str):
    """The request of a table whose average pooling was found to be best on val at the rate `best`."""
    asked = request(folder, *words)
    (one,) = asked.tables
    write(search_jobs(one, one.row("sigmoid_gap"), asked), folder, lambda rate: -abs(rate - best))
    return one, asked


def test_a_table_has_its_own_number_of_seeds_and_some_rows_fewer(tmp_path: Path) -> None:
    one, asked = decided(tmp_path, 0.03)
    assert one.seeds == 5
    for row, seeds in (("sigmoid_gap_12", (0, 1, 2, 3, 4)), ("sigmoid_gap_24", (0, 1, 2))):
        assert tuple(job.seed for job in final_jobs(one, one.row(row), asked)) == seeds
    one, typed = decided(tmp_path, 0.03, "seeds=7,8")
    assert typed.search_seed == 7
    assert [job.seed for job in final_jobs(one, one.row("sigmoid_gap_12"), typed)] == [7, 8]


@pytest.mark.parametrize("best", [0.01, 0.03])
def test_longer_rows_take_over_what_the_short_one_chose(best: float, tmp_path: Path) -> None:
    asked = request(tmp_path)
    (one,) = asked.tables
    assert final_jobs(one, one.row("sigmoid_gap_12"), asked) == []  # nothing is chosen yet
    write(search_jobs(one, one.row("sigmoid_gap"), asked), tmp_path, lambda rate: -abs(rate - best))
    for row, epochs in (("sigmoid_gap_12", 12), ("sigmoid_gap_24", 24)):
        for job in final_jobs(one, one.row(row), asked):
            assert job.overrides == (f"schedule.epochs={epochs}", f"schedule.max_lr={best:g}")


def test_a_longer_row_is_the_same_experiment_with_more_epochs() -> None:
    for one in load_tables("desk"):
        for pair in one.plateau:
            row, doubled = one.row(pair.row), one.row(pair.doubled)
            epochs = [
                configs_of(r.experiment, tuple(f"{k}={v}" for k, v in r.settings.items()), None)[0].schedule.epochs
                for r in (row, doubled)
            ]
            assert epochs[1] == 2 * epochs[0] == 2 * row.cells["epochs"]
            assert doubled.cells["epochs"] == epochs[1]
            assert row.experiment == doubled.experiment


def test_random_groups_differ_from_seed_to_seed() -> None:
    configs = [configs_of("desk/table1/ml_decoder_k20_random", (f"seed={seed}",), None)[0] for seed in (0, 1, 5)]
    assert [config.head.grouping_seed for config in configs] == [0, 1, 5]
    assert {config.head.grouping for config in configs} == {"random"}
