"""`scripts/mutations.py`: each fault can still be made. That the tests catch them is what running the script shows."""

from pathlib import Path

import pytest

from scripts import mutations

ROOT = Path(__file__).parents[2]


def test_each_fault_changes_one_place_and_leaves_valid_python():
    assert len({fault.name for fault in mutations.FAULTS}) == len(mutations.FAULTS) >= 81
    for fault in mutations.FAULTS:
        changed = mutations.apply(fault, (ROOT / fault.file).read_text(encoding="utf-8"))
        compile(changed, fault.name, "exec")
        file, *options = fault.tests.split()
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert options[:1] in ([], ["-k"]), fault.name
        assert "".join(options[1:]) in text, f"{fault.name}: {file} has no such test"


def test_a_fault_whose_text_is_missing_is_an_error():
    with pytest.raises(ValueError, match=r"occurs 0 times in mldec/losses/asymmetric\.py"):
        mutations.apply(mutations.FAULTS[0], "")
