"""tune=N: halving keeps what is best on val, never less than without tuning, and trains nothing twice."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mldec.config import Config, with_settings
from mldec.engine import tuning
from mldec.engine.metric_writer import best_on_val, read_records
from mldec.engine.training import TrainResult, train_once
from mldec.engine.tuning import Interruption, Trial, tune
from mldec.errors import ConfigError, RunError
from tests.curve import make


class Trainings:
    """Stands in for training: val is a function of the settings; counts what is trained."""

    def __init__(self, value, stop_at: int | None = None) -> None:
        self.value, self.stop_at, self.epochs = value, stop_at, list[int]()

    def __call__(self, config: Config, folder: Path, *, quiet: bool) -> TrainResult:
        assert quiet
        if (folder / "metrics.jsonl").exists():
            return TrainResult({}, folder)
        if len(self.epochs) == self.stop_at:
            return TrainResult({}, folder, 130)
        self.epochs.append(config.schedule.epochs)
        folder.mkdir(parents=True)
        record = {"kind": "eval", "step": 1, "epoch": 1, "best": self.value(config)}
        (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        return TrainResult({}, folder)


@pytest.fixture
def config(small_digits) -> Config:
    return make([*small_digits, "schedule.epochs=8", "schedule.max_lr=1e-3"])


def run(config: Config, trainings: Trainings, folder: Path, monkeypatch, count: int = 8) -> tuple[Config, Trial]:
    monkeypatch.setattr(tuning, "train_once", trainings)
    return tune(config, count, folder, lambda line: None)


def test_halving_finds_the_best_and_costs_less_than_training_all(config, tmp_path, monkeypatch):
    def value(tried: Config) -> float:
        return 50 - 10 * abs(math.log2(tried.schedule.max_lr / 2e-3)) + tried.schedule.epochs / 100

    trainings = Trainings(value)
    tuned, best = run(config, trainings, tmp_path, monkeypatch)
    assert best.changes == {"schedule.max_lr": 2e-3}
    assert tuned.schedule.max_lr == 2e-3
    assert tuned.schedule.epochs == 8
    assert len(trainings.epochs) == 8 + 4 + 2
    assert sum(trainings.epochs) < (6 + 2 * 2) * 8  # of six settings with 8 epochs and two with 16


def test_without_anything_better_the_experiment_stays_as_it_was(config, tmp_path, monkeypatch):
    """Also where it is the worst until the last round, as slow starters are."""
    tuned, best = run(config, Trainings(lambda tried: 60.0), tmp_path / "equal", monkeypatch)
    assert tuned == config
    assert best.changes == {}

    def late(tried: Config) -> float:
        if tried == config:
            return 90.0
        return 40.0 if with_settings(tried, {"schedule.epochs": 8}) == config else 50.0

    tuned, best = run(config, Trainings(late), tmp_path / "late", monkeypatch)
    assert tuned == config
    assert best.value == 90.0


def test_a_stopped_search_goes_on_where_it_was(config, tmp_path, monkeypatch):
    with pytest.raises(Interruption) as stop:
        run(config, Trainings(lambda tried: tried.schedule.max_lr, stop_at=5), tmp_path, monkeypatch)
    assert stop.value.exit_code == 130
    trainings = Trainings(lambda tried: tried.schedule.max_lr)
    run(config, trainings, tmp_path, monkeypatch)
    assert len(trainings.epochs) == 8 + 4 + 2 - 5


def test_a_trial_that_fails_is_the_worst(config, tmp_path, monkeypatch):
    def value(tried: Config) -> float:
        if tried.schedule.max_lr > config.schedule.max_lr:
            raise RunError("the loss is nan")
        return 1.0

    _, best = run(config, Trainings(value), tmp_path, monkeypatch)
    assert best.value == 1.0


def test_only_settings_that_the_components_have_are_varied(small_digits, tmp_path, monkeypatch):
    without = make([*(text for text in small_digits if not text.startswith("head.")), "head=gap", "optimizer=sgd"])
    assert all(hasattr(without.head, "dropout") or "head.dropout" not in t.changes for t in tuning._trials(without, ()))
    for trial in tuning._trials(without, ()):
        assert with_settings(without, trial.changes).schedule.epochs >= 1
    with pytest.raises(ConfigError, match="tune=9: this experiment has"):
        run(without, Trainings(lambda tried: 1.0), tmp_path, monkeypatch, count=9)


def test_real_trials_are_trained_and_measured_on_val(small_digits, tmp_path):
    config = make([*small_digits, "schedule.epochs=2"])
    said: list[str] = []
    tuned, best = tune(config, 2, tmp_path, said.append)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 4  # two settings at one epoch and at two
    whole = [folder for folder in folders if folder.name.startswith("epochs=2")]
    assert best.value == max(best_on_val(read_records(folder / "metrics.jsonl")) for folder in whole)
    assert len(said) == 6  # a line each, also of what is not trained again
    assert tuned.schedule.epochs == 2


def test_a_training_on_other_data_is_not_taken_for_done(config, tmp_path):
    config = with_settings(config, {"schedule.epochs": 1, "dataset.train": 8, "dataset.val": 4, "dataset.test": 4})
    folder = tmp_path / "run"
    assert train_once(config, folder, quiet=True).exit_code == 0
    assert train_once(config, folder, quiet=True).metrics == {}  # done
    with pytest.raises(ConfigError, match="was trained on other val images or labels; delete it, or use another name="):
        train_once(with_settings(config, {"dataset.val": 5}), folder, quiet=True)
