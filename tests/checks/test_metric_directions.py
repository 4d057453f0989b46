"""Metrics that people write, each under the right and under the wrong direction: TS911."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial

import numpy as np
import pytest
from transformers import BertForTokenClassification, DataCollatorForTokenClassification

import trainsanity
from fixtures.field import _evaluation, _seq2seq
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.types import Status

NAME = "loop.metric_prefers_the_right"
TAGS = ("O", "B-who", "I-who")


def accuracy(found):
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


def macro_f1(found):
    said, right = found.predictions.argmax(-1), found.label_ids
    of_class = []
    for one in np.unique(right):
        both = ((said == one) & (right == one)).sum()
        of_class.append(2 * both / max(1, (said == one).sum() + (right == one).sum()))
    return {"f1": float(np.mean(of_class))}


def rmse(found):
    off = np.squeeze(found.predictions) - found.label_ids
    return {"rmse": float(np.sqrt((off**2).mean()))}


def entities(tags):
    """Return begins and ends of entities, as seqeval counts them."""
    found, begin = set(), None
    for at, tag in enumerate([*tags, 0]):
        if begin is not None and tag != 2:
            found.add((begin, at))
            begin = None
        if tag == 1:
            begin = at
    return found


def entity_f1(found):
    both = said_in_all = right_in_all = 0
    for said, right in zip(found.predictions.argmax(-1), found.label_ids, strict=True):
        counts = right != -100
        one, other = entities(said[counts]), entities(right[counts])
        both, said_in_all = both + len(one & other), said_in_all + len(one)
        right_in_all += len(other)
    return {"entity_f1": 2 * both / max(1, said_in_all + right_in_all)}


def overlap(found):
    """Share of pairs of tokens that the target has, too, as BLEU counts them."""
    shared = written = 0
    for said, right in zip(found.predictions, found.label_ids, strict=True):
        one, other = ([t for t in row if t not in (-100, _seq2seq.PAD)] for row in (said, right))
        pairs, wanted = (Counter(itertools.pairwise(row)) for row in (one, other))
        shared, written = shared + (pairs & wanted).total(), written + pairs.total()
    return {"bleu_like": shared / max(1, written)}


def tagged(tok, rows, seed=0):
    made = _evaluation.classified(tok, rows, seed)
    return made.map(lambda row: {"labels": [(i + k) % 3 for k, i in enumerate(row["input_ids"])]})


def of_classes(metric, **chosen):
    tok = _evaluation.tokenizer()
    args = _evaluation.every(**chosen)
    return _evaluation.trainer(_evaluation.bert(tok), tok, args, compute_metrics=metric)


def of_numbers(metric, **chosen):
    tok = _evaluation.tokenizer()
    model = _evaluation.bert(tok, num_labels=1, problem_type="regression")
    rows = partial(_evaluation.classified, of=lambda label: label / 2 - 0.75)
    args = _evaluation.every(**chosen)
    return _evaluation.trainer(model, tok, args, rows=rows, compute_metrics=metric)


def of_tags(metric, **chosen):
    tok = _evaluation.tokenizer()
    model = _evaluation.bert(tok, BertForTokenClassification, num_labels=len(TAGS))
    return _evaluation.trainer(
        model,
        tok,
        _evaluation.every(**chosen),
        rows=tagged,
        compute_metrics=metric,
        data_collator=DataCollatorForTokenClassification(tok),
    )


def of_texts(metric, **chosen):
    tok = _seq2seq.tokenizer()
    args = _evaluation.every(predict_with_generate=True, generation_max_length=20, **chosen)
    return _seq2seq.trainer(_seq2seq.t5(tok), tok, args=args, compute_metrics=metric)


METRICS = {
    "accuracy": (of_classes, accuracy, True),
    "f1": (of_classes, macro_f1, True),
    "rmse": (of_numbers, rmse, False),
    "entity_f1": (of_tags, entity_f1, True),
    "bleu_like": (of_texts, overlap, True),
}


def judged(name, greater):
    make, metric, _ = METRICS[name]
    spec = trainsanity.PipelineSpec(
        name, lambda: make(metric, metric_for_best_model=name, greater_is_better=greater)
    )
    [result] = spec.visit(lambda pipeline: run(pipeline, registry().select([NAME]))).results
    return result


@pytest.mark.parametrize("name", METRICS)
def test_the_right_direction_is_green(name):
    result = judged(name, METRICS[name][2])
    assert result.status is Status.PASS, result


@pytest.mark.parametrize("name", METRICS)
def test_the_wrong_direction_is_red(name):
    result = judged(name, not METRICS[name][2])
    assert result.status is Status.FAIL, result
    assert name in result.findings[0].headline
