"""A simulated run that is killed goes on from its file to the same end."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import hwsim
from hwsim.analysis.training.progress import simulated_runs
from hwsim.errors import InputError, OutputError
from hwsim.sim.failures import FailurePlan

PLAN = FailurePlan(2e7, 600.0, 30.0, 100.0, 3600.0, 2000.0, 2)
SCRIPT = """
import sys
import numpy as np
from hwsim.analysis.training.progress import simulated_runs
from hwsim.sim.failures import FailurePlan
plan = FailurePlan(2e7, 600.0, 30.0, 100.0, 3600.0, 2000.0, 2)
simulated_runs(plan, np.random.SeedSequence(7).spawn(200), seed=7, path=sys.argv[1])
"""


def seeds(count):
    return np.random.SeedSequence(7).spawn(count)


def failures(path):
    return sum(s["failures"] for s in json.loads(path.read_text())["states"])


def test_a_killed_simulation_loses_nothing(tmp_path):
    path = tmp_path / "run.json"
    child = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not path.exists() or not failures(path)):
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = failures(path)
    assert done > 0
    # Of the 200 replications a few are enough; the file is cut to them.
    saved = json.loads(path.read_text())
    saved["about"]["replications"] = 3
    saved["states"] = saved["states"][:3]
    path.write_text(json.dumps(saved))
    gone_on = simulated_runs(PLAN, seeds(3), seed=7, path=path)
    whole = simulated_runs(PLAN, seeds(3), seed=7)
    assert [s.to_dict() for s in gone_on] == [s.to_dict() for s in whole]
    # What is finished is not simulated again.
    begin = time.process_time()
    again = simulated_runs(PLAN, seeds(3), seed=7, path=path)
    assert time.process_time() - begin < 0.5
    assert [s.to_dict() for s in again] == [s.to_dict() for s in whole]


def test_a_file_in_parts_is_the_same_as_one_go(tmp_path, monkeypatch):
    import hwsim.analysis.training.progress as progress

    monkeypatch.setattr(progress, "_FAILURES", 7)
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    plan = FailurePlan(3e5, 600.0, 30.0, 100.0, 3600.0, 2000.0, 0)
    found = simulated_runs(plan, seeds(4), seed=7, path=tmp_path / "p.json")
    assert found == simulated_runs(plan, seeds(4), seed=7)


def test_files_of_other_runs_are_refused(tmp_path):
    path = tmp_path / "run.json"
    plan = FailurePlan(3e5, 600.0, 30.0, 100.0, 3600.0, 2000.0, 0)
    simulated_runs(plan, seeds(2), seed=7, path=path)
    with pytest.raises(InputError, match=r"another run \(seed differs"):
        simulated_runs(plan, seeds(2), seed=8, path=path)
    with pytest.raises(InputError, match=r"another run \(replications differs"):
        simulated_runs(plan, seeds(3), seed=7, path=path)
    with pytest.raises(InputError, match=r"another run \(plan differs"):
        simulated_runs(PLAN, seeds(2), seed=7, path=path)
    path.write_text("{}")
    with pytest.raises(InputError, match="no progress of a simulated run"):
        simulated_runs(plan, seeds(2), seed=7, path=path)
    with pytest.raises(OutputError, match="cannot be written"):
        simulated_runs(plan, seeds(2), seed=7, path=tmp_path / "no" / "where.json")


def test_a_whole_run_goes_on_from_its_file(tmp_path):
    step = hwsim.train("gpt2", "dgx-h100")
    options = {"tokens": 1e13, "device_mtbf": 1e6, "replications": 3, "seed": 5}
    plain = hwsim.training_run(step, **options)
    kept = hwsim.training_run(step, **options, resume=tmp_path / "r.json")
    again = hwsim.training_run(step, **options, resume=tmp_path / "r.json")
    assert plain.to_dict() == kept.to_dict() == again.to_dict()
