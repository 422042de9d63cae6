"""Check the tests: each of these faults, put into a copy of the source by itself, must make a test fail.

    python scripts/mutations.py             # all, as many at a time as there are cores; some minutes
    python scripts/mutations.py ema tie     # those whose name holds one of the words

Leaves with 1 where a fault survives. Keep the list: a fault that once slipped through belongs here with its test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("mldec", "configs", "tests", "scripts", "pyproject.toml", "README.md", "LICENSE")


class Fault(NamedTuple):
    """`right` stands once in `file` (below mldec/) and becomes `wrong`; of `tests` (below tests/) one must fail."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


FAULTS = [
    Fault("sign of the negatives' term", "losses.py", "+ absent * q.clamp", "- absent * q.clamp", "test_losses.py"),
    Fault(
        "gammas swapped",
        "losses.py",
        "self.gamma_pos * present + self.gamma_neg * absent",
        "self.gamma_neg * present + self.gamma_pos * absent",
        "test_losses.py",
    ),
    Fault("clip taken twice", "losses.py", "shifted = right + shift", "shifted = right + 2 * shift", "test_losses.py"),
    Fault("slope where it is cut off", "losses.py", "slope.masked_fill_(", "slope.masked_fill(", "test_losses.py"),
    Fault(
        "unknown labels weigh as known ones",
        "losses.py",
        "weight * unknown_weight",
        "weight * 1.0",
        "test_losses.py",
    ),
    Fault(
        "group factor rounded down",
        "models/heads/layers.py",
        "group_size = -(-num_classes // num_groups)",
        "group_size = max(1, num_classes // num_groups)",
        "models/test_ml_decoder.py",
    ),
    Fault(
        "classes in the order of another grouping",
        "models/heads/layers.py",
        "row_BN = row_BN.index_select(1, self.places)",
        "row_BN = row_BN.index_select(1, torch.argsort(self.places))",
        "models/test_ml_decoder.py",
    ),
    Fault(
        "no residual of the queries",
        "models/heads/layers.py",
        "return self.norm1(queries + self.dropout(update))",
        "return self.norm1(self.dropout(update))",
        "models/test_ml_decoder.py",
    ),
    Fault(
        "keys and values swapped",
        "models/heads/layers.py",
        "projected[1:] = projected[1].chunk(2, dim=2)",
        "projected[1:] = projected[1].chunk(2, dim=2)[::-1]",
        "models/test_ml_decoder.py",
    ),
    Fault(
        "dropout without its scale",
        "models/heads/dropout.py",
        ".mul_(LEVELS / (LEVELS - dropped))",
        "",
        "models/test_dropout.py",
    ),
    Fault(
        "half of the levels",
        "models/heads/dropout.py",
        "random_(-(2**63), None)",
        "random_()",
        "models/test_dropout.py",
    ),
    Fault(
        "EMA of the wrong side",
        "engine/ema.py",
        "averages, lives, 1 - decay",
        "averages, lives, decay",
        "engine/test_ema.py",
    ),
    Fault(
        "EMA that never moves",
        "engine/ema.py",
        "averages.append(average)",
        "averages.append(average.clone())",
        "engine/test_ema.py",
    ),
    Fault(
        "ties broken by order",
        "metrics/average_precision.py",
        "np.searchsorted(everything, positives)",
        'np.searchsorted(everything, positives, side="right") + 1',
        "metrics/test_average_precision.py",
    ),
    Fault(
        "unknown labels as negatives",
        "metrics/average_precision.py",
        "known = targets >= 0",
        "known = targets >= -1",
        "metrics/test_average_precision.py",
    ),
    Fault(
        "threshold met is above it",
        "metrics/f1.py",
        "_f1(scores, targets, lambda block: block > threshold)",
        "_f1(scores, targets, lambda block: block >= threshold)",
        "metrics/test_f1.py",
    ),
    Fault(
        "seen and unseen swapped",
        "metrics/zero_shot.py",
        '"zsl": ~seen',
        '"zsl": seen',
        "metrics/test_zero_shot.py",
    ),
    Fault(
        "peak a step late",
        "engine/schedule.py",
        "self.total_steps - 1, self.total_steps - 1",
        "self.total_steps, self.total_steps - 1",
        "engine/test_schedule.py",
    ),
    Fault(
        "biases decay",
        "engine/optimizer.py",
        'parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"',
        "parameter.ndim < 1",
        "engine/test_optimizer.py",
    ),
    Fault(
        "partner's share of the targets",
        "engine/mixing.py",
        "batch.targets[partners].lerp(batch.targets, lam)",
        "batch.targets.lerp(batch.targets[partners], lam)",
        "engine/test_mixing.py",
    ),
    Fault(
        "optimizer state left behind on resume",
        "engine/run_state.py",
        'trainer.optimizer.load_state_dict(state["optimizer"])',
        "pass",
        "engine/test_trainer.py -k resumed",
    ),
    Fault(
        "damaged weights are saved",
        "engine/trainer.py",
        "refuse_damaged(self.classifier.state_dict(), self.progress.step)",
        "pass",
        "engine/test_trainer.py -k gradient",
    ),
    Fault(
        "the lowest of equally good thresholds",
        "engine/thresholds.py",
        "len(f1) - 1 - int(np.argmax(f1[::-1]))",
        "int(np.argmax(f1))",
        "engine/test_thresholds.py",
    ),
    Fault(
        "the same chances in every step",
        "engine/trainer.py",
        "step_seed(self.config.seed, self.progress.step, self.team.rank)",
        "step_seed(self.config.seed, 0, self.team.rank)",
        "engine/test_trainer.py",
    ),
    Fault(
        "a step trained twice on resume",
        "engine/trainer.py",
        "self.batches.batches(epoch, start=done)",
        "self.batches.batches(epoch, start=max(0, done - 1))",
        "engine/test_trainer.py -k resumed",
    ),
    Fault(
        "val for test",
        "engine/trainer.py",
        "build.build_eval_loader(self.config, self.splits.test, self.device, self.team)",
        "build.build_eval_loader(self.config, self.splits.val, self.device, self.team)",
        "engine/test_trainer.py",
    ),
    Fault(
        "pictures counted by two processes",
        "data/loader.py",
        "range(rank, size, processes)",
        "range(0, size, processes)",
        "data/test_loader.py -k share",
    ),
    Fault(
        "the same order in every epoch",
        "data/loader.py",
        "default_rng((self.seed, epoch))",
        "default_rng((self.seed, 0))",
        "data/test_loader.py",
    ),
    Fault("blue for red", "data/image.py", "cv2.cvtColor(image, cv2.COLOR_BGR2RGB)", "image", "data/test_image.py"),
    Fault(
        "a checkpoint renamed unread",
        "engine/checkpoint.py",
        "if damaged := written.testzip()",
        "if damaged := None",
        "engine/test_checkpoint.py",
    ),
    Fault(
        "code in checkpoints",
        "engine/checkpoint.py",
        "weights_only=True",
        "weights_only=False",
        "engine/test_checkpoint.py",
    ),
]


def main(words: Sequence[str]) -> int:
    chosen = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        survived = [fault.name for fault, caught in zip(chosen, pool.map(is_caught, chosen), strict=True) if not caught]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} faults make a test fail")
    for name in survived:
        print(f"survived: {name}")
    return 1 if survived or not chosen else 0


def is_caught(fault: Fault) -> bool:
    """Whether the fault's tests fail in a copy of the source that has it."""
    with tempfile.TemporaryDirectory(prefix="mldec-fault-") as folder:
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, Path(folder) / name)
        path = Path(folder) / "mldec" / fault.file
        path.write_text(changed(path.read_text(encoding="utf-8"), fault), encoding="utf-8")
        file, *options = fault.tests.split()
        test = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", f"tests/{file}", *options]
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *test], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"{fault.name}: pytest left with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    print(f"{'caught' if done.returncode else 'SURVIVED'}: {fault.name}", flush=True)
    return done.returncode == 1


def changed(text: str, fault: Fault) -> str:
    """The source with the fault. Raises ValueError if what it changes does not stand there exactly once."""
    if text.count(fault.right) != 1 or fault.right == fault.wrong:
        raise ValueError(f"{fault.name}: {fault.right!r} stands {text.count(fault.right)} times in {fault.file}")
    return text.replace(fault.right, fault.wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
