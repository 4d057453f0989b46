"""A check that never ends or does not fit into memory is one error; the others are judged."""

from __future__ import annotations

import copy
import itertools
import queue
import signal
import sys
import time
import weakref

import pytest
import torch

from fixtures.faults import healthy
from trainsanity.engine.registry import Registry, registry
from trainsanity.engine.runner import Runner, run
from trainsanity.errors import UsageError
from trainsanity.isolation import time_limit as limits
from trainsanity.isolation.fingerprint import fingerprint
from trainsanity.isolation.out_of_memory import give_back, out_of_memory
from trainsanity.isolation.pass_counter import counted
from trainsanity.isolation.snapshot import restored
from trainsanity.isolation.time_limit import TimedOut, deferred, limited
from trainsanity.measurements.model.head import watched
from trainsanity.measurements.model.probes import states_of
from trainsanity.pipeline import Pipeline
from trainsanity.types import Check, Measured, Status

CHECKS = ["TS102", "TS503", "TS701", "TS801"]
"""The second and third need the recorded steps, the others do not."""


SAID = r"^the check took longer than the 0\.1 s that it was given and was stopped$"


def forever():
    while True:
        time.sleep(0.01)


def judged(trainer, **options):
    """Results by code, and what had changed afterwards."""
    pipeline = Pipeline.from_trainer(trainer)
    before = copy.deepcopy(fingerprint(pipeline))
    report = run(pipeline, registry().select(CHECKS), **options)
    after = fingerprint(pipeline)
    results = {result.check.code: result for result in report.results}
    return report, results, [name for name in before if before[name] != after[name]]


def test_what_takes_longer_than_it_may_is_stopped_and_swallowing_does_not_help(monkeypatch):
    monkeypatch.setattr(limits, "AGAIN", 0.05)
    swallowed = []

    def stubborn():
        for _ in range(3):
            try:
                forever()
            except BaseException as error:
                swallowed.append(error)
        forever()

    with pytest.raises(TimedOut, match=SAID), limited(0.1, "the check"):
        stubborn()
    assert len(swallowed) == 3
    with pytest.raises(TimedOut), limited(0.1, "the check"):  # noqa: PT012 - it ends by itself
        try:
            forever()
        except BaseException as error:
            raise KeyError from error
    with limited(60, "the check"):
        pass
    with pytest.raises(KeyError), limited(60, "the check"):
        raise KeyError
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_what_was_told_where_nobody_hears_it_is_told_again_at_once(monkeypatch, capfd):
    monkeypatch.setattr(limits, "AGAIN", 3600)
    deleted = []

    class Slow:
        def __del__(self):
            deleted.append(True)
            time.sleep(0.3)
            deleted.append(True)

    def lets_go():
        Slow()
        for _ in range(500):  # not for ever, or nobody would see it fail
            time.sleep(0.01)
        pytest.fail("it was not told again")

    hook = sys.unraisablehook
    with pytest.raises(TimedOut), limited(0.1, "the check"):
        lets_go()
    assert len(deleted) == 1
    assert sys.unraisablehook is hook
    assert capfd.readouterr().err == ""


def test_what_is_being_put_back_is_not_stopped(monkeypatch):
    monkeypatch.setattr(limits, "AGAIN", 0.05)
    put_back = []

    def put_back_slowly():
        with deferred():
            time.sleep(0.2)
            put_back.append(True)

    with pytest.raises(TimedOut), limited(0.05, "the check"):
        put_back_slowly()
    assert put_back


def lines_of_ours(at):
    """Trace the lines of this package, and let the timer ring before the ``at``-th of them."""
    came = []

    def trace(frame, event, _):
        file = frame.f_code.co_filename
        if not file.startswith(limits.OURS) or file == limits.__file__:
            return None
        if event == "line":
            came.append(frame.f_lineno)
            if len(came) == at:
                signal.raise_signal(signal.SIGALRM)
        return trace

    return trace, came


@pytest.mark.parametrize("manager", [states_of, counted, lambda model: watched(model, model[0])])
def test_no_hook_stays_at_whatever_line_the_timer_rings(manager):
    model, before = torch.nn.Sequential(torch.nn.Linear(2, 2)), sys.gettrace()
    for at in itertools.count(1):
        trace, came = lines_of_ours(at)
        stopped = False
        sys.settrace(trace)
        try:
            with limited(60, "the check"):
                with manager(model):
                    pass
                sys.settrace(before)
                time.sleep(0.1 if len(came) >= at else 0)
        except TimedOut:
            stopped = True
        finally:
            sys.settrace(before)
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        assert hooks == [0, 0], came
        if len(came) < at:
            break
        assert stopped, came
    assert at > 5


def test_code_that_hangs_inside_a_context_manager_is_stopped_with_patience(monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 0.1)
    start = time.monotonic()
    with pytest.raises(TimedOut, match=SAID), limited(0.1, "the check"), restored([Hangs()]):
        pass
    assert time.monotonic() - start < 5


class Hangs:
    """A part whose attributes are never read to the end."""

    @property
    def __dict__(self):
        forever()


def test_a_timer_that_runs_already_runs_on():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(TimedOut), limited(0.1, "the check"):
            forever()
        assert not rang
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.2
        time.sleep(0.4)
        assert rang
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_check_that_hangs_is_an_error_and_the_next_one_is_judged():
    def hangs(pipeline):
        forever()
        yield Measured("never")

    def passes(pipeline):
        yield Measured("all is well")

    catalogue = Registry()
    for number, check in enumerate((hangs, passes)):
        catalogue.add(Check(f"ACME{number:03}", f"loss.{check.__name__}", check))
    runner = Runner(Pipeline(torch.nn.Linear(2, 2)), checks=catalogue, timeout=0.2)
    hung, passed = map(runner.result, catalogue.all())
    assert hung.status is Status.ERROR
    assert hung.reason == (
        "check ACME000 took longer than the 0.2 s that it was given and was stopped"
    )
    assert passed.status is Status.PASS


def test_a_step_that_hangs_is_an_error_blocks_what_needs_it_and_is_taken_back():
    trainer = healthy()
    compute_loss, calls = trainer.compute_loss, []

    def hangs_at_the_third(*args, **kwargs):
        calls.append(True)
        if len(calls) == 3:
            forever()
        return compute_loss(*args, **kwargs)

    trainer.compute_loss = hangs_at_the_third
    report, results, changed = judged(trainer, timeout=5)
    assert changed == []
    assert results["TS503"].status is Status.ERROR
    said = "measurement 'recording' took longer than the 5 s that it was given and was stopped"
    assert results["TS503"].reason == said
    assert results["TS701"].status is Status.BLOCKED
    assert results["TS701"].reason == said
    assert results["TS102"].status is results["TS801"].status is Status.PASS
    assert report.exit_code() == 3


def test_there_is_no_limit_in_another_thread():
    import threading

    said = []

    def ask():
        try:
            with limited(1, "the check"):
                pass
        except UsageError as error:
            said.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert said == ["a time limit needs a POSIX system and the main thread: leave out the timeout"]


def asks_for_a_petabyte():
    torch.empty(2**50, dtype=torch.uint8)


def says_it_is_out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")


@pytest.mark.parametrize(
    ("fails", "asked"),
    [(asks_for_a_petabyte, "1125899906842624 bytes"), (says_it_is_out_of_memory, "20.00 GiB")],
)
def test_a_step_that_does_not_fit_is_one_error_and_its_memory_is_given_back(fails, asked):
    trainer = healthy()
    held = queue.SimpleQueue()  # a list in a closure would be put back

    def compute_loss(model, inputs, *args, **kwargs):
        large = torch.zeros(1000)
        held.put(weakref.ref(large))
        fails()
        return large.sum()

    trainer.compute_loss = compute_loss
    report, results, changed = judged(trainer)
    assert changed == []
    assert results["TS503"].status is Status.ERROR
    assert results["TS503"].reason == (
        f"measurement 'recording' ran out of memory (it asked for {asked} more): give a smaller "
        "per_device_train_batch_size, or leave out with --max-cost what takes so much"
    )
    assert results["TS701"].status is Status.BLOCKED
    assert results["TS701"].blocked_by == "loss.finite"
    assert results["TS102"].status is results["TS801"].status is Status.PASS
    assert report.exit_code() == 3
    held_by_the_step = [held.get() for _ in range(held.qsize())]
    assert held_by_the_step
    assert [reference() for reference in held_by_the_step] == [None] * len(held_by_the_step)


def test_a_second_step_that_does_not_fit_leaves_the_first():
    trainer = healthy()
    step, calls = trainer.training_step, []

    def training_step(*args, **kwargs):
        calls.append(True)
        if len(calls) == 6:  # four micro-batches a step
            says_it_is_out_of_memory()
        return step(*args, **kwargs)

    trainer.training_step = training_step
    report, results, changed = judged(trainer)
    assert changed == []
    assert results["TS503"].status is Status.PASS
    assert report.exit_code() == 0


def test_other_errors_are_not_taken_for_want_of_memory():
    assert out_of_memory(MemoryError()) == ""
    for error in (RuntimeError("memory format"), ValueError("out of memory"), KeyError("memory")):
        assert out_of_memory(error) is None


def test_what_the_frames_of_a_chain_hold_is_given_back():
    kept = []

    def inner():
        large = torch.zeros(10)
        kept.append(weakref.ref(large))
        raise KeyError

    def outer():
        other = torch.zeros(10)
        kept.append(weakref.ref(other))
        try:
            inner()
        except KeyError as error:
            raise MemoryError from error

    try:
        outer()
    except MemoryError as error:
        failed = error
    assert all(reference() is not None for reference in kept)
    give_back(failed)
    assert [reference() for reference in kept] == [None, None]
