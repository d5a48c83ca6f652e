"""Claims and queues: who runs what, and what is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import Trial, TrialState, create_trial

from fake_trial import record_of
from stpl.errors import ConfigError
from stpl.runs.record import RunKey, read_steps, write_record
from stpl.sweeps import claims
from stpl.sweeps.claims import Failure, TrialFailedError
from stpl.sweeps.queues import GridQueue, SearchQueue
from stpl.sweeps.runner import curve, final_value
from stpl.sweeps.schema import Sweep, read_sweep
from stpl.sweeps.storage import open_storage
from stpl.sweeps.supervisor import BEGAN
from waiting import PATIENCE, wait_until

GRID = """
method: grid
metric: {name: val/miou, goal: maximize}
parameters:
  bench: {value: streets}
  experiment: {values: [a, b]}
  seed_everything: {value: 0}
"""
SEARCH = """
method: bayes
metric: {name: val/miou, goal: maximize}
run_cap: 3
parameters:
  bench: {value: streets}
  experiment: {value: a}
  model.x: {min: 0.0, max: 1.0}
  seed_everything: {values: [0, 1]}
"""
A, B = "streets/a/seed0", "streets/b/seed0"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 's.sqlite3'}"


def plan(folder: Path, text: str = GRID) -> Sweep:
    path = folder / ("grid.yaml" if text.strip().startswith("method: grid") else "search.yaml")
    path.write_text(text)
    return read_sweep(path)


@pytest.fixture
def queue(url: str, tmp_path: Path) -> GridQueue:
    return GridQueue(open_storage(url), plan(tmp_path), tmp_path / "runs")


@pytest.fixture
def search(url: str, tmp_path: Path) -> SearchQueue:
    return SearchQueue(open_storage(url), plan(tmp_path, SEARCH), tmp_path / "runs")


def record(folder: Path, name: str) -> None:
    bench, experiment, seed = name.split("/")
    key = RunKey(bench, experiment, int(seed[4:]))
    write_record(key.directory(folder / "runs"), record_of(key, 33.0))


def states(queue: GridQueue | SearchQueue) -> list[str]:
    return [trial.state.name for trial in queue.study.trials]


def test_two_workers_take_different_cells(queue: GridQueue, url: str, tmp_path: Path) -> None:
    ran = []

    def run(trial: Trial) -> float:
        ran.append(queue.job(trial).name)
        record(tmp_path, ran[-1])
        if len(ran) == 1:
            other = GridQueue(open_storage(url), plan(tmp_path), tmp_path / "runs")
            assert other.offer()
            other.claim(run)
            assert other.left() == 0
        return 33.0

    assert queue.offer()
    queue.claim(run)
    assert ran == [A, B]
    assert states(queue) == ["COMPLETE", "COMPLETE"]


def test_a_claim_is_not_offered_again_but_a_finished_trial_without_a_record_is(
    queue: GridQueue, tmp_path: Path
) -> None:
    record(tmp_path, B)

    def run(trial: Trial) -> float:
        assert queue.job(trial).name == A
        assert not queue.offer()
        return 1.0

    assert queue.offer()
    queue.claim(run)
    assert queue.left() == 1  # the record decides, and there is none
    assert queue.offer()


def test_cell_enqueued_twice_is_run_by_the_older_claim_only(queue: GridQueue, url: str, tmp_path: Path) -> None:
    ran = []
    for _ in range(2):
        queue.study.enqueue_trial({}, user_attrs={"cell": A})

    def run(trial: Trial) -> float:
        ran.append(queue.job(trial).name)
        GridQueue(open_storage(url), plan(tmp_path), tmp_path / "runs").claim(run)
        return 1.0

    queue.claim(run)
    assert ran == [A]
    assert states(queue) == ["COMPLETE", "FAIL"]
    assert not queue.given_up()


def test_cells_of_another_call_are_left_alone(queue: GridQueue) -> None:
    queue.study.enqueue_trial({}, user_attrs={"cell": "streets/other/seed9"})
    queue.claim(lambda trial: pytest.fail(f"ran {queue.job(trial)}"))
    assert states(queue) == ["FAIL"]


@pytest.mark.slow
def test_claim_of_a_dead_process_is_freed_at_once(queue: GridQueue, tmp_path: Path, url: str) -> None:
    dying = (
        "import os, sys\nfrom pathlib import Path\nfrom stpl.sweeps.queues import GridQueue\n"
        "from stpl.sweeps.schema import read_sweep\nfrom stpl.sweeps.storage import open_storage\n"
        f"queue = GridQueue(open_storage({url!r}), read_sweep(Path({str(tmp_path / 'grid.yaml')!r})), Path('runs'))\n"
        "queue.offer()\nqueue.claim(lambda trial: os._exit(0))"
    )
    subprocess.run([sys.executable, "-c", dying], check=True, timeout=PATIENCE)
    assert states(queue) == ["RUNNING", "WAITING"]
    queue.free_dead_claims()
    assert states(queue) == ["FAIL", "WAITING"]
    assert queue.left() == 2


def test_silent_claim_of_another_machine_is_freed_after_a_while(
    queue: GridQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes = {"cell": A, "worker": "elsewhere:1", "beat": 3}
    queue.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
    queue.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"cell": B}))  # died before it signed
    now = 1000.0
    monkeypatch.setattr("stpl.sweeps.claims.time.monotonic", lambda: now)
    queue.free_dead_claims()
    now += claims.GRACE_SECONDS - 1
    queue.free_dead_claims()
    assert states(queue) == ["RUNNING", "RUNNING"]
    queue.study._storage.set_trial_user_attr(queue.study.trials[0]._trial_id, "beat", 4)
    now += 2
    queue.free_dead_claims()
    assert states(queue) == ["RUNNING", "FAIL"]  # the first has just beaten
    now += claims.GRACE_SECONDS + 1
    queue.free_dead_claims()
    assert states(queue) == ["FAIL", "FAIL"]


def test_workers_with_different_folders_of_runs_are_told(queue: GridQueue, url: str, tmp_path: Path) -> None:
    other = GridQueue(open_storage(url), plan(tmp_path), tmp_path / "elsewhere")
    again = GridQueue(open_storage(url), plan(tmp_path), tmp_path / "mounted/../runs")

    def run(trial: Trial) -> float:
        again.offer()
        with pytest.raises(ConfigError, match="has another folder of runs"):
            other.offer()
        return 1.0

    queue.offer()
    queue.claim(run)
    assert other.offer()  # afterwards it may take over


def test_hearts_beat_while_a_trial_runs(queue: GridQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)

    def run(trial: Trial) -> float:
        wait_until(lambda: queue.study.trials[trial.number].user_attrs.get("beat", 0) >= 3, "no heart beats")
        return 1.0

    queue.offer()
    queue.claim(run)
    assert queue.study.trials[0].user_attrs["worker"].endswith(f":{os.getpid()}")


@pytest.mark.parametrize("reports", [False, True])
def test_worker_that_was_taken_for_dead_does_no_harm(queue: GridQueue, reports: bool) -> None:
    def run(trial: Trial) -> float:
        queue.study.tell(trial.number, state=TrialState.FAIL)  # another one freed the claim
        if reports:
            trial.report(0.5, 0)
        return 1.0

    queue.offer()
    queue.claim(run)
    assert states(queue)[0] == "FAIL"


def test_two_workers_may_free_one_claim_at_the_same_moment(queue: GridQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"cell": A}))
    stale = queue.study.get_trials()[0]
    queue.study.tell(0, state=TrialState.FAIL)
    monkeypatch.setattr("optuna.study._tell._get_frozen_trial", lambda *_: stale)  # looked at before it was freed
    queue._tell(0, TrialState.FAIL)
    assert states(queue) == ["FAIL"]


def test_failures_of_one_call_are_counted_over_its_workers(
    queue: GridQueue, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(trial: Trial) -> float:
        trial.set_user_attr("failure", Failure(run=A, code=3, tail="why", log="log"))
        raise TrialFailedError

    record(tmp_path, B)
    for times in range(1, 4):
        assert queue.left() == 1
        assert queue.offer()
        queue.claim(fail)
        assert len(queue.failures(A)) == times
    assert queue.left() == 0
    assert queue.given_up()[A]["tail"] == "why"
    monkeypatch.setenv(BEGAN, "2000-01-01T00:00:00")
    assert GridQueue(open_storage(url), plan(tmp_path), tmp_path / "runs").left() == 0  # a worker of the same call
    monkeypatch.delenv(BEGAN)
    assert GridQueue(open_storage(url), plan(tmp_path), tmp_path / "runs").left() == 1  # a new call tries again


def test_target_ends_a_sweep(url: str, tmp_path: Path) -> None:
    text = GRID.replace("goal: maximize", "goal: maximize, target: 50")
    queue = GridQueue(open_storage(url), plan(tmp_path, text), tmp_path / "runs")
    queue.mark_recorded({A: 49.9})
    assert queue.left() == 2
    queue.mark_recorded({B: 50.0})
    assert queue.left() == 0


# --- searches ---------------------------------------------------------------------------------------------------------


def test_search_ends_at_its_cap_also_with_workers_at_once(search: SearchQueue, url: str, tmp_path: Path) -> None:
    drawn: list[object] = []

    def run(trial: Trial) -> float:
        job = search.job(trial)
        assert [cell.key.seed for cell in job.cells] == [0, 1]
        drawn.append(job.cells[0].parameters["model.x"])
        other = SearchQueue(open_storage(url), plan(tmp_path, SEARCH), tmp_path / "runs")
        if len(drawn) < 3:
            assert other.offer()
        else:
            assert not other.offer()
        other.claim(run)  # though nothing is offered: two workers may have asked at the same moment
        return float(len(drawn))

    while search.left():
        assert search.offer()
        search.claim(run)
    assert len(drawn) == len(set(drawn)) == 3
    assert sorted(states(search)) == ["COMPLETE"] * 3 + ["FAIL"]


def test_trial_of_a_dead_worker_is_tried_again_with_the_same_parameters(search: SearchQueue) -> None:
    drawn = []

    def run(trial: Trial) -> float:
        job = search.job(trial)
        drawn.append((job.name, job.cells[0].parameters["model.x"], job.place))
        if len(drawn) == 1:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        search.claim(run)
    assert search.left() == 3
    assert search.offer()
    search.claim(run)
    assert drawn[0] == drawn[1]
    assert search.left() == 2
    search.claim(run)
    assert drawn[2][1] != drawn[1][1]
    assert drawn[2][2] == 2


def test_one_worker_repeats_its_proposals(tmp_path: Path) -> None:
    def proposals(name: str) -> list[object]:
        url = f"sqlite:///{tmp_path / name}"
        queue = SearchQueue(open_storage(url), plan(tmp_path, SEARCH), tmp_path / "runs")
        found: list[object] = []

        def run(trial: Trial) -> float:
            found.append(queue.job(trial).cells[0].parameters["model.x"])
            return float(str(found[-1]))

        for _ in range(3):
            queue.claim(run)
        return found

    assert proposals("one") == proposals("two")


def test_search_that_asks_another_question_is_refused(search: SearchQueue, url: str, tmp_path: Path) -> None:
    changed = plan(tmp_path, SEARCH.replace("max: 1.0", "max: 2.0"))
    with pytest.raises(ConfigError, match="its ranges changed since this search began"):
        SearchQueue(open_storage(url), changed, tmp_path / "runs")


def test_pruned_is_done(search: SearchQueue) -> None:
    def run(trial: Trial) -> float:
        search.job(trial)
        trial.report(12.0, 0)
        raise optuna.TrialPruned

    search.claim(run)
    assert search.left() == 2
    assert search.ended_early() == 1
    assert search.study.trials[0].value == 12.0


# --- what runs leave on disk ------------------------------------------------------------------------------------------


def test_steps_are_read_from_the_tail_of_the_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_steps(path) == (0, 0)
    path.write_text("step,name,value\n0,progress/steps,200.0\n")
    assert read_steps(path) == (0, 200)
    with path.open("a") as file:
        file.writelines(f"{step},train/loss,0.5\n{step},train/lr,1e-4\n" for step in range(1, 1000))
        file.write("1000,train/lo")  # still being written
    assert read_steps(path) == (999, 200)
    path.write_bytes(b"\x00\xff,,\n\n,")
    assert read_steps(path) == (0, 0)


def test_curve_of_a_metric(tmp_path: Path) -> None:
    assert curve(tmp_path, "val/miou") == []
    (tmp_path / "metrics.csv").write_text(
        'step,name,value\n0,val/miou,1.5\n1,train/loss,9\n2,val/miou,nan\n2,"val/iou/a, b",3\n4,val/miou,2.5\n6,val/m'
    )
    found = curve(tmp_path, "val/miou")
    assert (found[0], found[2], len(found)) == (1.5, 2.5, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("val/miou", 40.0), ("val/iou/road", 50.0), ("best/miou", 42.0), ("seconds", 1.5), ("train/loss", 0.25)],
)
def test_any_number_of_a_run_can_be_the_goal(tmp_path: Path, name: str, value: float) -> None:
    (tmp_path / "metrics.csv").write_text("step,name,value\n1,train/loss,0.5\n2,train/loss,0.25\n")
    assert final_value(record_of(RunKey("streets", "a", 0), 40.0), tmp_path, name) == value


def test_a_metric_that_the_run_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'val/miou'") as caught:
        final_value(record_of(RunKey("streets", "a", 0), 40.0), tmp_path, "val/mIuo")
    assert "unknown metric 'val/mIuo'" in str(caught.value)
