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
        "unknown labels weigh as known ones", "losses.py", "weight * unknown_weight", "weight * 1.0", "test_losses.py"
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
        "models/heads/kernels.py",
        ".mul_(LEVELS / (LEVELS - dropped))",
        "",
        "models/test_dropout.py",
    ),
    Fault(
        "half of the levels",
        "models/heads/kernels.py",
        "random_(-(2**63), None)",
        "random_()",
        "models/test_dropout.py",
    ),
    Fault(
        "EMA of the wrong side",
        "engine/ema.py",
        "averages, raws, 1 - decay",
        "averages, raws, decay",
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
        "seen and unseen swapped", "metrics/zero_shot.py", '"zsl": ~seen', '"zsl": seen', "metrics/test_zero_shot.py"
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
        "step, rank = self.progress.step, self.group.rank",
        "step, rank = 0, self.group.rank",
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
        "build.build_eval_loader(self.config, self.splits.test, self.device, self.group)",
        "build.build_eval_loader(self.config, self.splits.val, self.device, self.group)",
        "engine/test_trainer.py",
    ),
    Fault(
        "images counted by two processes",
        "data/loader.py",
        "range(rank, size, processes)",
        "range(0, size, processes)",
        "data/test_loader.py -k share",
    ),
    Fault(
        "the same order in every epoch",
        "data/loader.py",
        "_rng(_ORDER, self.seed, epoch)",
        "_rng(_ORDER, self.seed, 0)",
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
    Fault("code in checkpoints", "models/tensor_files.py", "weights_only=True", "weights_only=False", "test_safety.py"),
    Fault(
        "a center crop rounded to nearest",
        "data/image.py",
        "math.floor(size / crop)",
        "round(size / crop)",
        "data/test_image.py -k side_before",
    ),
    Fault(
        "GZSL over images with an unseen label",
        "metrics/zero_shot.py",
        '"with_any": present.any(axis=1)',
        '"with_any": present[:, ~seen].any(axis=1)',
        "metrics/test_zero_shot.py -k by_hand",
    ),
    Fault(
        "an empty class left out of the mean of LESA and BiAM",
        "metrics/average_precision.py",
        'in ("exact_zero", "paper")',
        'in ("paper",)',
        "metrics/test_zero_shot.py -k empty",
    ),
    Fault(
        "NUS-WIDE's test images without an unseen label left out",
        "data/nuswide_zsl.py",
        'if split == "train":',
        'if split == "train" or (flags := ~flags) is not None:',
        "data/test_nuswide.py -k unknown_in_training",
    ),
    Fault(
        "timm's cosine after the warm-up",
        "engine/schedule.py",
        "min(epoch / self.cosine_epochs, 1.0)",
        "min((epoch - self.warmup_epochs) / (self.cosine_epochs - self.warmup_epochs), 1.0)",
        "engine/test_schedule.py -k equals_that_of_timm",
    ),
    Fault(
        "other weights than the tag says",
        "models/hub.py",
        'return f"{architecture}.{config.tag}"',
        "return default",
        "models/test_backbone.py -k which_weights",
    ),
    Fault(
        "queries as the target of Query2Label",
        "models/heads/query2label.py",
        "torch.zeros_like(queries[0])",
        "queries[0]",
        "models/test_query2label.py -k plain",
    ),
    Fault(
        "Query2Label's target asks without its queries",
        "models/heads/query2label.py",
        "self.multihead_attn(target + queries,",
        "self.multihead_attn(target,",
        "models/test_query2label.py -k plain",
    ),
    Fault(
        "shapes read from the network itself",
        "models/tracing.py",
        "_copy_without_tensors(model).eval()",
        "model.eval()",
        "models/test_tracing.py -k keeps_stays",
    ),
    Fault(
        "final norm forgotten where a checkpoint is loaded",
        "engine/build.py",
        "final_norm=config.backbone.keeps_final_norm",
        'final_norm="auto"',
        "models/test_final_norm.py -k setting",
    ),
    Fault(
        "what a network exempts decays",
        "engine/optimizer.py",
        '"no_decay" if plain or named else "decay"',
        '"no_decay" if plain else "decay"',
        "models/test_final_norm.py -k exempts",
    ),
    Fault(
        "smoothing of single-label targets toward a half",
        "losses.py",
        "else 1 / logits.shape[1]",
        "else 1 / 2",
        "test_losses.py -k timms",
    ),
    Fault(
        "a cached index's types are believed",
        "data/index_file.py",
        'place.get("dtype") != DTYPES[name].str',
        'place.get("dtype") is None',
        "data/test_index_file.py -k pointers",
    ),
    Fault(
        "a cached index's root is believed",
        "data/index_file.py",
        'if root != home and not root.startswith(os.path.join(home, "")):',
        "if not root:",
        "data/test_index_file.py -k root",
    ),
    Fault(
        "offsets of a cached index may fall",
        "data/index_file.py",
        "if offsets.strides != (0,) and (offsets[1:] < offsets[:-1]).any():",
        "if len(offsets) < 0:",
        "data/test_index_file.py -k fall",
    ),
    Fault(
        "names are excluded without quotation marks",
        "data/exclusions.py",
        "return name if plain else json.dumps(name)",
        "return name",
        "data/test_exclusions.py -k every_name",
    ),
    Fault(
        "a pipe is opened as annotations",
        "data/files.py",
        "    if not stat.S_ISREG(status.st_mode):",
        "    if stat.S_ISSOCK(status.st_mode):",
        "data/test_files.py -k no_regular",
    ),
    Fault(
        "scans behind a JPEG's end are counted",
        "data/image.py",
        "if marker == 0xD9:",
        "if marker == 0x00:",
        "data/test_untrusted.py -k looks_like",
    ),
    Fault(
        "shrink copies what links lead to",
        "data/shrink_plan.py",
        'if entry.is_symlink() and not os.path.realpath(entry.path).startswith(os.path.join(home, "")):',
        "if not home:",
        "commands/test_data_untrusted.py -k copies_regular",
    ),
    Fault(
        "annotations are checked after the images",
        "commands/data.py",
        "    _adjust(config, None, places, plan.files)\n",
        "",
        "commands/test_data_untrusted.py -k come_before",
    ),
    Fault(
        "packed records are read",
        "models/tensor_files.py",
        "member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size",
        "False",
        "models/test_tensor_files.py -k packed",
    ),
    Fault(
        "expanded tensors are taken for stored ones",
        "models/pickles.py",
        "max(count, last + 1 if count else 0) * width",
        "(last + 1 if count else 0) * width",
        "models/test_tensor_files.py -k asks",
    ),
    Fault(
        "any number of layers is built",
        "models/bounded.py",
        "if count > most:",
        "if count > most * 10**9:",
        "models/test_bounded.py -k layers",
    ),
    Fault(
        "stored interpolations are resolved",
        "commands/compose.py",
        "mapping = OmegaConf.create(literal.hide(stored))",
        "mapping = OmegaConf.create(stored)",
        "engine/test_untrusted.py -k literal",
    ),
    Fault(
        "the lost best epoch is reported",
        "engine/trainer.py",
        "best.step // len(self.batches)",
        "max(1, best.step // len(self.batches) - 1)",
        "engine/test_untrusted.py -k best",
    ),
    Fault(
        "images are drawn where a checkpoint says",
        "engine/consent.py",
        'if "dataset.root" not in typed:',
        "if False:",
        "engine/test_untrusted.py -k drawn",
    ),
    Fault(
        "workers die of the SIGTERM of a scheduler",
        "data/workers.py",
        "signal.signal(signum, signal.SIG_IGN)",
        "signal.signal(signum, signal.SIG_DFL)",
        "data/test_workers.py -k signals",
    ),
    Fault(
        "a worker outlives its main process",
        "data/workers.py",
        "    os._exit(1)\n",
        "    return\n",
        "data/test_workers.py -k outlive",
    ),
    Fault(
        "a lock that forked processes share",
        "engine/lock.py",
        "    os.register_at_fork(after_in_child=_close_copies)",
        "    pass",
        "engine/test_lock.py -k loader_process",
    ),
    Fault(
        "a second run is let in",
        "engine/lock.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "engine/test_lock.py -k second",
    ),
    Fault(
        "a full disk of curves stops the run",
        "engine/board.py",
        "except OSError as error:",
        "except EOFError as error:",
        "engine/test_board.py -k full_disk",
    ),
    Fault(
        "half a file stays",
        "files.py",
        "            partial.unlink(missing_ok=True)\n        if",
        "            pass\n        if",
        "test_files.py -k fails",
    ),
    Fault(
        "attention in bfloat16 gives float32 back",
        "models/heads/layers.py",
        ".flatten(2).to(given))",
        ".flatten(2))",
        "models/test_heads.py -k bfloat16_computes",
    ),
    Fault(
        "a benchmark's record says float32",
        "commands/benchmark.py",
        "choose_precision(precision, device)",
        'choose_precision("fp32", device)',
        "benchmarks/test_measure_gpu.py -k rehearsed",
    ),
    Fault(
        "a record without its driver",
        "engine/tracking.py",
        '"driver": driver,',
        '"driver": torch.version.cuda,',
        "benchmarks/test_measure_gpu.py -k driver",
    ),
    Fault(
        "a GPU measured in float32",
        "benchmarks/gpu.py",
        '"runtime.precision=bf16"',
        '"runtime.precision=fp32"',
        "benchmarks/test_measure_gpu.py -k fits_together",
    ),
    Fault(
        "a skipped step counts as an update",
        "engine/trainer.py",
        "return self.scaler.get_scale() >= before",
        "return True",
        "engine/test_cuda.py -k overflows",
    ),
    Fault(
        "optimizer state keeps its layout in memory",
        "engine/optimizer.py",
        "value.stride() != parameter.stride()",
        "value.stride() == ()",
        "engine/test_cuda.py -k channels_last",
    ),
    Fault(
        "augmentation shares the stream of the order",
        "data/loader.py",
        "spawn_key=(purpose,)",
        "spawn_key=()",
        "data/test_loader.py -k streams",
    ),
    Fault(
        "mixing draws what dropout draws",
        "engine/seeding.py",
        "spawn_key=(1,) if mixing else ()",
        "spawn_key=()",
        "engine/test_seeding.py",
    ),
    Fault(
        "claims are not corrected for their number",
        "paper/findings.py",
        "(len(p_values) - rank) * p_values[place]",
        "p_values[place]",
        "paper/test_report.py -k holm",
    ),
    Fault(
        "degrees of freedom of as many as there are pairs",
        "paper/findings.py",
        "stats.t.sf(abs(gap / error), len(differences) - 1)",
        "stats.t.sf(abs(gap / error), len(differences))",
        "paper/test_report.py -k p_values",
    ),
    Fault(
        "better is said before the plateau",
        "paper/findings.py",
        "if unsettled:",
        "if unsettled is None:",
        "paper/test_report.py -k plateau",
    ),
    Fault(
        "the best rate may lie at the edge",
        "commands/table_plan.py",
        "if best not in (ordered[0], ordered[-1]):",
        "if True:",
        "commands/test_table_plan.py -k widened",
    ),
    Fault(
        "a number is what Python calls digits",
        "errors.py",
        "return int(text) if _DIGITS.fullmatch(text) else None",
        "return int(text) if text.isdigit() else None",
        "commands/test_odd_options.py -k ascii_digits",
    ),
    Fault(
        "an unknown word of a boolean is false",
        "commands/words.py",
        "    if text.lower() not in BOOLEANS:\n",
        "    if not text:\n",
        "commands/test_odd_options.py -k booleans",
    ),
    Fault(
        "a slow connection is kept",
        "data/watch.py",
        "if now - before < LEAST_SPEED * WINDOW:",
        "if now < before:",
        "data/test_download.py -k now_and_then",
    ),
    Fault(
        "a changed image keeps its scores",
        "engine/predictions.py",
        "if known != stamp(paths[number]):",
        "if known is None:",
        "commands/test_predict.py -k last_record",
    ),
    Fault(
        "marks of direction reach the terminal",
        "errors.py",
        "\\u2028-\\u202e\\u2066-\\u2069",
        "\\u2028-\\u2029",
        "commands/test_odd_options.py -k printed_of_a_name",
    ),
    Fault(
        "data of another fingerprint is evaluated",
        "engine/same_data.py",
        'and fingerprint != what["fingerprint"]',
        'and fingerprint == ""',
        "commands/test_odd_options.py -k another_fingerprint",
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
