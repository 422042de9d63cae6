"""Property: `debug=profile` leaves a trace that tools can read."""

from __future__ import annotations

import json

from tests.curve import make, make_trainer


def test_a_profiled_run_leaves_a_trace_and_a_summary(small_digits, tmp_path):
    words = [word for word in small_digits if "epochs" not in word and "batch_size" not in word]
    make_trainer(make([*words, "debug=profile", "schedule.batch_size=8", "runtime.workers=0"])).fit(tmp_path)
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    assert any("aten::" in event.get("name", "") for event in trace["traceEvents"])
    assert "aten::" in (tmp_path / "profile" / "summary.txt").read_text()
