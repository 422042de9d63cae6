"""`mldec table`: rows over seeds from one command, with clear errors."""

import dataclasses
import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mldec.commands import compose, main, table
from mldec.commands.options import parse
from mldec.config import build_config, to_mapping
from mldec.errors import ConfigError
from mldec.paper import runner
from mldec.paper.records import ADDED, REMOVED, config_key, find_records
from mldec.paper.tables import find_table, load_tables
from mldec.registry import HEADS
from tests.curve import SMALLER
from tests.forked import Begun

SMALL = [
    *("dataset.train=64", "dataset.val=32", "dataset.test=32"),
    *("schedule.epochs=1", "runtime.threads=1", *SMALLER),
]


def run(capsys, *words: str) -> tuple[int, str]:
    code = main.run(["table", *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture(autouse=True)
def table_1_chooses_nothing(monkeypatch) -> None:
    """Rows times seeds are then all the runs of Table 1; choosing and lengths are tested on Table 13."""

    def load(scale: str):
        return tuple(short(t) if (t.id, scale) == ("table1", "desk") else t for t in load_tables(scale))

    def short(t):
        rows = tuple(dataclasses.replace(row, choose={}) for row in t.rows if not row.settings)
        keys = {row.key for row in rows}
        findings = tuple(finding for finding in t.findings if {finding.better, finding.worse} <= keys)
        return dataclasses.replace(t, rows=rows, findings=findings, plateau=())

    monkeypatch.setattr("mldec.paper.tables.load_tables", load)


@pytest.fixture
def forked(monkeypatch) -> None:
    """Rows run in processes that have torch already; other tests start them really."""
    monkeypatch.setattr(runner, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Begun}))


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    return [*SMALL, f"dataset.root={tmp_path / 'digits'}", f"output={tmp_path / 'out'}", "scale=desk"]


def test_a_table_is_run_reported_and_not_run_again(small, forked, tmp_path, capsys):
    """Two rows, two seeds, side by side; what two tables share is trained once."""
    code, text = run(capsys, "1", *small, "rows=gap,ml_decoder_k80", "seeds=0,1", "jobs=2")
    assert code == 0, text
    out = tmp_path / "out"
    records = find_records(out / "records").by_key.values()
    assert sorted((r.row, r.seed) for r in records) == [(row, s) for row in ("gap", "ml_decoder_k80") for s in (0, 1)]
    for record in records:
        assert record.seconds > 0
        assert record.peak_memory["host"] > 10**7
        assert record.environment["packages"]["torch"]
    assert re.search(r"\| GAP +\| 80 +\|.*\(2\)", (out / "table1.md").read_text())
    assert (out / "table1.csv").exists()
    assert "\\begin{tabular}" in (out / "table1.tex").read_text()
    assert "ML-Decoder with K = N" in text
    runs = sorted(path.stat().st_mtime_ns for path in (out / "runs").glob("*/metrics.jsonl"))
    code, text = run(capsys, "7", *small, "rows=random", "seeds=0,1")
    assert code == 0
    assert "2 of 2 runs already have records" in text
    assert sorted(path.stat().st_mtime_ns for path in (out / "runs").glob("*/metrics.jsonl")) == runs
    assert re.search(r"fixed noise.*\(2\)", text)


@pytest.mark.slow  # trains six times and more
def test_a_setting_is_chosen_on_val_with_the_first_seed(small, tmp_path, capsys):
    code, text = run(capsys, "13", *small, "rows=softmax_gap", "seeds=3,4")
    assert code == 0, text
    records = list(find_records(tmp_path / "out" / "records").by_key.values())
    tried = {record.overrides[0]: record.best for record in records if record.seed == 3}
    assert set(tried) >= {f"schedule.max_lr={rate}" for rate in (0.01, 0.03, 0.1)}  # more where one at the end is best
    (other,) = [record for record in records if record.seed == 4]
    assert tried[other.overrides[0]] == max(tried.values())
    assert f"`{other.overrides[0].partition('=')[2]}`" in text


def test_a_failed_row_is_shown_and_the_others_go_on(small, forked, tmp_path, capsys, monkeypatch):
    plain = runner.command

    def command(job, workspace):
        failing = [sys.executable, "-c", "import sys; print('boom'); sys.exit(3)"]
        return failing if job.row == "ml_decoder_k20" else plain(job, workspace)

    monkeypatch.setattr(runner, "command", command)
    code, text = run(capsys, "1", *small, "seeds=0", "rows=gap,ml_decoder_k20")
    assert code == 1
    assert "table1/ml_decoder_k20 seed 0 failed with exit code 3" in text
    assert "    boom" in text
    assert "failed" in (tmp_path / "out" / "table1.md").read_text()
    assert [record.row for record in find_records(tmp_path / "out" / "records").by_key.values()] == ["gap"]


def test_a_setting_that_a_row_cannot_take_is_refused_before_anything_runs(small, tmp_path, capsys):
    code, text = run(capsys, "1", *small, "head.num_groups=500")
    assert code == 2
    assert "head=gap has no such setting" in text
    assert not (tmp_path / "out" / "runs").exists()


def test_an_absent_dataset_is_said_once_and_nothing_is_run(tmp_path, capsys):
    words = [f"output={tmp_path / 'out'}", f"dataset.root={tmp_path / 'nowhere'}", "backbone.pretrained=false"]
    code, text = run(capsys, "1", *words, "seeds=0")
    assert code == 1
    assert text.count("coco cannot be used") == 1
    assert "mldec data download dataset=coco" in text
    assert "dataset absent" in text
    assert re.search(r"GAP: coco; start .*; protocol paper; one GPU of 24 GiB, about [\d.]+ hours on an RTX 3090", text)
    assert not (tmp_path / "out" / "runs").exists()


def test_rows_whose_dataset_is_there_go_on_and_users_parts_reach_the_trainings(tmp_path, capsys, monkeypatch):
    """Of a table with two datasets one is absent; the other is set in a config of the user's, with a head of theirs."""
    monkeypatch.setattr(HEADS, "_components", dict(HEADS._components))  # what the plugin adds goes with the test
    (tmp_path / "table_parts.py").write_text(
        "from dataclasses import dataclass\n"
        "from mldec.config import ComponentConfig\n"
        "from mldec.models.heads.gap import GlobalAveragePool\n"
        "from mldec.registry import HEADS\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class PartConfig(ComponentConfig):\n    pass\n"
        "@HEADS.register('table_part', PartConfig)\n"
        "def build(config, *, in_features, labels):\n    return GlobalAveragePool(in_features, len(labels))\n"
    )
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "head").mkdir()
    (tmp_path / "mine" / "head" / "part.yaml").write_text("name: table_part\n")
    (tmp_path / "mine" / "experiment" / "tiny.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /dataset: digits\n"
        "  - override /backbone: resnet_digits\n"
        "  - override /head: part\n"
        "  - _self_\n"
        "name: tiny\n"
        f"dataset: {{root: {tmp_path / 'digits'}, train: 64, val: 32, test: 32}}\n"
    )
    plain = find_table("14", "paper")
    rows = (plain.row("swin_l"), dataclasses.replace(plain.row("tresnet_l"), experiment="tiny"))
    two = dataclasses.replace(plain, rows=rows, findings=())
    monkeypatch.setattr("mldec.paper.tables.find_table", lambda name, scale: two)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    words = ["plugins=[table_parts]", "--config-dir=mine", "schedule.epochs=1"]
    code, text = run(capsys, "14", *words, "seeds=0", f"output={tmp_path / 'out'}")
    assert code == 1
    assert text.count("cannot be used") == 1
    assert "dataset absent" in text
    assert [record.row for record in find_records(tmp_path / "out" / "records").by_key.values()] == [rows[1].key], text
    code, text = run(capsys, "14", *words, "seeds=1", f"output={tmp_path / 'out'}", "launcher=print")
    assert "'plugins=[table_parts]'" in text
    assert f"--config-dir={tmp_path / 'mine'}" in text


def test_records_of_other_settings_are_listed_and_not_mixed_in(small, forked, tmp_path, capsys):
    words = [word for word in small if not word.startswith("schedule")]
    run(capsys, "1", *small, "rows=gap", "seeds=0")
    code, text = run(capsys, "1", *words, "rows=gap", "seeds=0", "report_only=true")
    assert code == 0
    (path,) = (tmp_path / "out" / "records").glob("*.json")
    assert path.name in text
    assert "other settings" in text
    assert "not run" in text
    old = {**json.loads(path.read_text()), "version": 0}
    path.with_name("old.json").write_text(json.dumps(old))
    _, text = run(capsys, "1", *small, "rows=gap", "seeds=0", "report_only=true")
    assert "old.json" in text
    assert "version 0" in text


def test_launchers_write_what_would_be_run(small, tmp_path, capsys):
    code, text = run(capsys, "1", *small, "launcher=print", "seeds=0,1")
    assert code == 0
    lines = text.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("mldec table table1 scale=desk rows=gap seeds=0 ")
    code, text = run(capsys, "1", *small, "launcher=slurm", "seeds=0,1")
    assert "#SBATCH --array=0-9" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert not (tmp_path / "out" / "runs").exists()


def test_a_printed_command_runs_its_row(small, tmp_path, capsys):
    _, text = run(capsys, "1", *small, "launcher=print", "seeds=1", "rows=gap")
    (line,) = text.splitlines()
    assert main.run(shlex.split(line)[1:]) == 0
    (record,) = find_records(tmp_path / "out" / "records").by_key.values()
    assert (record.row, record.seed) == ("gap", 1)


def test_the_benchmark_table(forked, tmp_path, capsys, monkeypatch):
    """All rows come from one process, a record a table, with a value for each round."""
    full = find_table("9", "desk")
    tiny = dataclasses.replace(
        full,
        benchmark=(
            "model",
            "experiment=desk/table9/ml_decoder",
            "heads=gap,ml_decoder",
            "num_labels=100",
            "seconds=0.01",
            "repeats=2",
        ),
    )
    monkeypatch.setattr("mldec.paper.tables.find_table", lambda name, scale: tiny)
    code, text = run(capsys, "9", "scale=desk", f"output={tmp_path}", "schedule.batch_size=2")
    assert code == 0, text
    assert re.search(r"\| GAP .*\| 100 .*\([12]\)", text)  # what is slow here is measured once
    assert re.search(r"transformer-decoder.*not run", text, re.IGNORECASE)


def test_a_table_of_trained_rows_measures_their_heads_as_well(forked, tmp_path, capsys, monkeypatch):
    full = find_table("arena", "probe")
    rows = tuple(dataclasses.replace(full.row(key), choose={}) for key in ("gap", "csra"))
    tiny = dataclasses.replace(
        full, rows=rows, plot=None, order=None, findings=(), plateau={}, seeds=1,
        benchmark=("heads", "table=arena", "rows=gap,csra", "seconds=0.01", "repeats=2"),
    )  # fmt: skip
    monkeypatch.setattr("mldec.paper.tables.find_table", lambda name, scale: tiny)
    network = ["backbone=resnet_digits", "backbone.pretrained=false", "dataset.image_size=64", "cache.tokens=false"]
    given = ["scale=probe", f"output={tmp_path}", "dataset=digits", f"dataset.root={tmp_path}", *SMALL, *network]
    code, text = run(capsys, "arena", "rows=gap", *given)
    assert code == 0, text
    assert "not measured" in text  # a part of the rows is trained only
    code, text = run(capsys, "arena", *given)
    assert code == 0, text
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")][:4]
    (place,) = (number for number, cell in enumerate(header.split("|")) if "1 image [ms]" in cell)
    assert all(float(line.split("|")[place]) > 0 for line in lines)
    records = find_records(tmp_path / "records").by_key.values()
    assert {record.labels for record in records} == {80, None}  # that of the benchmark is not trained
    assert "started" not in run(capsys, "arena", *given)[1]


def plan(name: str, *words: str):
    """The planner of a table at desk scale, and the table."""
    planner = table.make_planner(name, *parse(["scale=desk", *words], table.TableOptions, "table"))
    return planner, planner.request.tables[0]


def gap_job(*words: str):
    planner, one = plan("1", *words)
    return planner.job(one, one.row("gap"), 0), planner.request


def config_keys(experiment: str, *words: str) -> str:
    composed = table.compose_with_start((f"experiment={experiment}", *words, "seed=0"))
    return config_key(*map(build_config, composed))


def test_what_shortens_a_run_makes_another_record_and_what_only_executes_it_does_not():
    compose.load_components(())
    whole, _ = gap_job()
    assert gap_job("runtime.precision=bf16", "runtime=cpu", "dataset.root=elsewhere")[0].key == whole.key
    short, request = gap_job("runtime.limit_train_batches=2")
    assert short.key != whole.key
    assert "runtime.limit_train_batches=2" in runner.command(short, request.workspace)


def test_a_run_that_another_table_began_is_gone_on_with(tmp_path):
    """Rows of two tables that are one training have one run folder, whichever began it."""
    compose.load_components(())
    workspace = runner.Workspace(records=tmp_path, runs=tmp_path)
    twins = []
    for name, key in (("1", "ml_decoder_k80"), ("7", "random")):
        planner, one = plan(name)
        twins.append(planner.job(one, one.row(key), 0))
    assert twins[0].key == twins[1].key
    checkpoints = tmp_path / twins[0].folder_name / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.pt").touch()
    assert runner.command(twins[1], workspace)[4] == f"resume={checkpoints.parent}"


def test_another_backbone_brings_the_size_of_its_weights(capsys):
    compose.load_components(())
    words = ["scale=probe", "dataset=digits", "backbone=efficientnet_lite2"]
    planner = table.make_planner("7", *parse(words, table.TableOptions, "table"))
    assert "note: dataset.image_size=260, the input size of this backbone's weights, instead of 240" in (
        capsys.readouterr().err
    )
    (one,) = planner.request.tables
    assert all(planner.config(one, row).dataset.image_size == 260 for row in one.rows)
    for own in ("dataset.image_size=200", "backbone=efficientnet_lite1"):
        planner = table.make_planner("7", *parse([*words, own], table.TableOptions, "table"))
        assert planner.config(one, one.rows[0]).dataset.image_size == (200 if "size" in own else 240)


def test_a_benchmark_is_one_command_for_all_rows(tmp_path, capsys):
    code, text = run(capsys, "9", "scale=desk", "launcher=print", f"output={tmp_path}")
    assert code == 0
    (line,) = text.splitlines()
    assert line.startswith("mldec table table9 scale=desk output=")


def test_the_published_vectors_may_lie_anywhere(tmp_path):
    """A record does not depend on the folder of the images, nor of the label embeddings beside them."""
    compose.load_components(())
    keys = set()
    for root in ("/data/one", "/data/another"):
        keys.add(config_keys("table3/none", f"dataset.root={root}"))
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["15"], "table=15: no such table"),
        (["table=-1"], "table=-1: no such table; allowed: figure5, figure6, table1, "),
        (["table=0"], "table=0: no such table; "),
        (["5", "all"], "5 all: all and list stand alone"),
        (["1", "scale=lap"], "scale=lap: expected one of paper, probe, desk"),
        (["1", "seeds="], "seeds=: empty"),
        (["1", "seeds=²"], "seeds=²: expected an integer"),
        (["1", "seed=5"], "seed=5: every row has its own; use seeds=0,1,2"),
        (["1", "run_dir=x"], "run_dir=x: every row has its own; use output=DIR"),
        (["1", "-m"], "-m: has no effect here"),
        (
            ["10", "scale=probe", "dataset=digits", "backbone=efficientnet_lite0"],
            "row tresnet_xl_640 of Table 10 has backbone=efficientnet_lite2 of its own; leave it out",
        ),
        (["1", "seeds=a"], "seeds=a: expected an integer"),
        (["1", "rows=gab"], "did you mean gap"),
        (["5", "rows=kssnet"], "quotes it from the literature"),
        (["all", "rows=gap"], "belongs to one table"),
        (["1", "launcher=pbs"], "launcher=pbs: expected one of local, print, slurm"),
        (["1", "report_only=perhaps"], "report_only=perhaps: expected true or false"),
        (["1", "gpus=99"], "gpus=99: there are"),
        (["6", "scale=desk"], "has no version at desk scale"),
    ],
)
def test_bad_input(words, message):
    with pytest.raises(ConfigError) as caught:
        table.main(words)
    assert message in str(caught.value)


def test_list_shows_every_row(capsys):
    assert table.main(["list"]) == 0
    text = capsys.readouterr().out
    assert "Table 14" in text
    assert "figure6/resnet101_ml_decoder" in text
    assert "quoted" in text
    assert table.main(["list", "scale=probe"]) == 0
    assert "Arena: Methods side by side (also for Table 5, Table 11, Table 12)" in capsys.readouterr().out


def test_a_setting_that_came_later_leaves_the_keys_of_earlier_records():
    """With the value that means what was done before, it is no part of a key; any other value is another run."""
    compose.load_components(())
    (composed,) = table.compose_with_start(("experiment=desk/table1/gap", "seed=0"))
    config = build_config(composed)
    key = config_key(config)
    tree = to_mapping(config)
    for group, name in ADDED:
        tree[group].pop(name, None)
    for (group, name), value in REMOVED.items():
        tree[group][name] = value
    tree["backbone"]["normalize"] = "unit"  # what auto means without pretrained weights
    for name in ("name", "output", "run_dir", "runtime", "recipe", "cache"):
        del tree[name]
    for name in ("root", "cache"):
        del tree["dataset"][name]
    tree["limits"] = {}
    assert key == hashlib.sha256(json.dumps([tree], sort_keys=True).encode()).hexdigest()[:16]
    for word in ("dataset.interpolation=bicubic", "protocol.zsl_images=with_unseen", "protocol.gzsl_images=with_any"):
        assert config_keys("desk/table1/gap", word) != key
