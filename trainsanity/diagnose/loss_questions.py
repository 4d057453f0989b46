"""Questions about a log's losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from trainsanity.diagnose.case import Case
from trainsanity.diagnose.entries import Entry
from trainsanity.diagnose.expected import (
    INITIALIZER_RANGE,
    MOST_CLASSES,
    ROWS,
    WIDTHS,
    band,
    healthy_range,
    logit_spread,
)
from trainsanity.diagnose.move_questions import diverged
from trainsanity.maths.factors import fitting, tell_apart
from trainsanity.types import Finding, Measured, Severity, Skip

TWICE = 2
"""The least accumulation there is, and so the least factor that it can leave in a loss."""

Answer = Iterator[Measured | Finding]


def initial(case: Case) -> Answer:
    """Compare the first loss with that of a head that knows nothing."""
    classes, entry = case.num_labels, _first(case)
    if classes is None:
        raise Skip(
            "--num-labels is not given: for C classes a fresh head starts near log C"
            + (f" (a cross entropy of {entry.loss:g} would take exp({entry.loss:g}) of them)"
               if (entry.loss or 0) > math.log(MOST_CLASSES) else "")
        )  # fmt: skip
    if classes < 2:
        raise Skip("one label is a regression: its first loss depends on the labels' scale")
    loss = entry.loss
    assert loss is not None
    if loss < 0:
        yield Finding(
            f"the first loss is {loss:g} at {case.where(entry)}; a cross entropy is never below 0",
            observed=loss,
            expected="0 or more",
            where=case.where(entry),
            cause="another loss than a cross entropy, or one with the wrong sign",
            fix=f"{case.rerun_command('TS501', 'TS502')} recomputes it from the logits of step 1",
        )
        yield Measured(f"the first loss is {loss:g} at {case.where(entry)}", loss, "0 or more")
        return
    floor = math.log(classes)
    low, high = healthy_range(classes, case.hidden_size)
    usual = f"{low:.1f} to {high:.1f}" if high - low >= 0.05 else f"{low:.2f}"
    widths = f"a hidden size of {case.hidden_size}"
    if not case.hidden_size:
        widths = f"hidden sizes of {WIDTHS[0]} to {WIDTHS[1]}"
    why = f"log C + s^2 / 2, where s = {INITIALIZER_RANGE} sqrt(hidden size), for {widths}"
    multiple = f"{loss / floor:.1f} x log {classes} ({floor:.3f})"
    least, most = band(classes, case.hidden_size, case.rows)
    if loss > most:
        names = _candidates(case, loss)
        yield Finding(
            f"the first loss, {loss:g} at {case.where(entry)}, is {multiple}; "
            f"a head that knows nothing starts at {usual} ({why})",
            observed=loss,
            expected=[round(low, 4), round(high, 4)],
            factor=loss / floor,
            where=case.where(entry),
            cause=_why_too_high(case, loss, usual, names),
            candidates=tuple(names) if _few(*_factors(case, loss)) else (),
            fix="find out which: "
            + case.rerun_command("TS402", "TS501", "TS502")
            + " recomputes the loss of step 1 from its own logits and names the factor",
        )
    guessed = "" if case.per_device_train_batch_size else " (--per-device-train-batch-size)"
    low_loss = ""
    if loss < least:
        low_loss = (
            "; below that range the head already knows something, or the loss is divided once too "
            f"often; {case.rerun_command('TS502')} tells which"
        )
    late = " (a mean over the steps before it)" if _is_mean(entry) else ""
    yield Measured(
        f"the first loss, {loss:g} at {case.where(entry)}{late}, is {multiple}; a fresh head "
        f"starts at {usual}, a mean over {case.rows} rows{guessed} between {max(least, 0.0):.2f} "
        f"and {most:.2f}{low_loss}",
        loss,
        [round(low, 4), round(high, 4)],
    )


def _first(case: Case) -> Entry:
    """Return the first entry, if it belongs to the beginning of the run."""
    if not case.log.first:
        raise Skip("the log has no training loss")
    entry = next((e for e in case.log.first if math.isfinite(e.loss or 0.0)), None)
    if entry is None:
        raise Skip("no loss near the beginning is a number")
    interval = case.log.interval
    if entry.step is not None and entry.step > max(interval or entry.step, 1):
        raise Skip(f"the log begins at step {entry.step}: the first steps are not in it")
    return entry


def _is_mean(entry: Entry) -> bool:
    return entry.step is not None and entry.step > 1


def _factors(case: Case, loss: float) -> tuple[float, float]:
    """Return the least and the greatest factor of the loss over that of a fresh head.

    The greatest is infinite if a mean over so few rows may be zero.
    """
    # A factor that is not divided out means that the step has as many times more rows.
    rows = case.rows if case.together else ROWS * int(loss / math.log(case.num_labels))
    low, high = band(case.num_labels, case.hidden_size, rows)
    return loss / high, loss / low if low > 0 else math.inf


def _candidates(case: Case, loss: float) -> list[str]:
    """Return the known numbers of the run that the factor may be; none if none are given."""
    return [] if case.together is None else fitting(*_factors(case, loss), case.facts)


def _why_too_high(case: Case, loss: float, usual: str, names: list[str]) -> str:
    """Return the possible causes, with no more certainty than a log gives."""
    spread = logit_spread(case.num_labels, loss)
    head = f"a head far too large (logits with a standard deviation of {spread:.1f})"
    least, most = _factors(case, loss)
    fits = _whole(least, most)
    if names and not _few(least, most):
        return (
            f"consistent with {' or '.join(names)}, which is not divided out, as with any factor "
            f"of {fits}, and with {head}"
        )
    if len(names) == 1:
        return (
            f"likely {names[0]}, which is not divided out; in a log {head} would look the same, "
            "but only by chance like a known number of the run"
        )
    if names:
        known = f"{' or '.join(names)} ({tell_apart(names)})"
        return f"likely {known}, which is not divided out; or {head}"
    if case.together is not None:
        between = f"{least:.1f} to {most:.1f}" if math.isfinite(most) else fits
        return (
            f"accumulation x processes = {case.together} does not explain a factor of {between}; "
            f"possibly {head}, or labels that belong to other outputs"
        )
    return (
        f"consistent with a factor of {fits} over a healthy {usual}, as of a loss "
        f"that is not divided by accumulation x processes; that they make {fits} is an inference, "
        "the log does not hold them (--gradient-accumulation-steps and --world-size tell). "
        f"Consistent, too, with {head}. In one step with gradient_accumulation_steps=1 on one "
        "process the first goes away and the second stays"
    )


def _whole(least: float, most: float) -> str:
    """Return the whole numbers in between if they are few, else the range."""
    if math.isinf(most):
        return f"{least:.1f} or more"
    if not _few(least, most):
        return f"{least:.1f} to {most:.1f}"
    *others, largest = map(str, range(max(math.ceil(least), 2), math.floor(most) + 1))
    return f"{', '.join(others)} or {largest}" if others else largest


def _few(least: float, most: float) -> bool:
    """Return whether so few factors fit that one which is a number of the run is no coincidence."""
    return math.isfinite(most) and 1 <= math.floor(most) - max(math.ceil(least), 2) + 1 <= 3


def train_and_eval(case: Case) -> Answer:
    """Compare the training loss with the evaluation loss, which is never accumulated."""
    if not case.log.evals:
        raise Skip("the log has no eval_loss to compare with")
    if diverged(case):
        raise Skip(
            "the loss diverges, so that what is logged over several steps and what is evaluated "
            "after them are losses of different weights"
        )
    pairs = [(t, e) for t, e in case.log.evals if t.loss and e.eval_loss and e.eval_loss > 0]
    ratios = [(t.loss or 0.0) / (e.eval_loss or 1.0) for t, e in pairs]
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)]
    if not ratios:
        raise Skip("no eval_loss with a training loss beside it is a number")
    ratio = statistics.median(ratios)
    train, evaluation = pairs[-1]
    both = f"training loss {train.loss:g}, eval_loss {evaluation.eval_loss:g}"
    together = case.together
    low, high = min(ratios), max(ratios)
    # The first training loss may be a mean over steps in which it fell.
    least = min(ratios[1:] or ratios)
    # On a log scale, ratios below the root of the factor are nearer to 1 than to the factor.
    if together is not None and together > 1 and low > math.sqrt(together):
        yield Finding(
            f"the training loss is {ratio:.2f} x the evaluation's ({both})",
            observed=ratio,
            expected=1,
            factor=ratio,
            where=case.where(train),
            cause=f"likely accumulation x processes = {together}, which is not divided out of the "
            "training loss; evaluation does not accumulate",
            fix=f"{case.rerun_command('TS502')} names the factor; model.accepts_loss_kwargs = "
            "False repairs a model whose loss ignores num_items_in_batch",
        )
    elif together is None and least >= TWICE:
        # A known number of the run stays what it is; augmentation and dropout come and go.
        steady = high / low < math.sqrt(2)
        yield Finding(
            f"the training loss stays {ratio:.2f} x the evaluation's ({both})",
            observed=ratio,
            expected=1,
            factor=ratio,
            where=case.where(train),
            cause="possibly accumulation x processes that are not divided out: evaluation does not "
            "accumulate; that is an inference, as the log does not hold them "
            "(--gradient-accumulation-steps and --world-size tell)"
            + ("" if steady else "; or rows that are made harder for training alone, as by mixup"),
            fix=f"{case.rerun_command('TS502')} names the factor",
            severity=Severity.FAILURE if steady else Severity.WARNING,
        )
    yield Measured(f"the training loss is {ratio:.2f} x the evaluation's ({both})", ratio, 1)


def finite(case: Case) -> Answer:
    """Count losses that are not finite, as far as the Trainer logs them."""
    log = case.log
    if not log.count:
        raise Skip("the log has no training loss")
    if log.bad_loss is not None:
        yield Finding(
            f"{log.bad_losses} of {log.count} logged losses are not numbers, the first "
            f"({log.bad_loss.loss}) at {case.where(log.bad_loss)}",
            observed=log.bad_loss.loss,
            expected="a number",
            where=case.where(log.bad_loss),
            cause="likely an earlier step: weights that are NaN stay NaN",
            fix="go back to the last checkpoint before it, and look at its rows with "
            + case.rerun_command("TS503", "TS604"),
        )
    yield Measured(
        f"{log.count - log.bad_losses} of {log.count} logged losses are numbers; "
        "logging_nan_inf_filter, on by default, replaces others before they are logged, so that "
        "only grad_norm shows them",
        log.count - log.bad_losses,
        log.count,
    )
