"""Warnings of the libraries: heard whatever is filtered, once each, and shown as before."""

from __future__ import annotations

import logging
import types
import warnings

import pytest

from trainsanity.isolation.library_warnings import LONGEST, listening


def module(name: str):
    made = types.ModuleType(name)
    exec("import warnings\ndef warn(*a, **k): warnings.warn(*a, **k)", vars(made))
    return made


def heard_of(call):
    heard = []
    with listening(heard):
        call()
    return [(one.library, one.text, one.category) for one in heard]


def test_a_filter_that_ignores_is_no_obstacle():
    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module("peft.mapping").warn("a second\n time", RuntimeWarning)
            module("peft.mapping").warn("a second\n time", RuntimeWarning)
            module("numpy.core").warn("not ours")

    assert heard_of(call) == [("peft", "a second time", "RuntimeWarning")]


def test_a_logger_that_is_silenced_is_heard_and_stays_silent(caplog):
    logger = logging.getLogger("transformers.somewhere")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        assert heard_of(lambda: logger.warning("%d keys", 3)) == [("transformers", "3 keys", "log")]
    finally:
        logger.setLevel(before)
    assert "3 keys" not in caplog.text


def test_what_is_said_once_a_process_is_heard_of_every_pipeline():
    from transformers.utils import logging as theirs

    logger = theirs.get_logger("transformers.once")
    before = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        for _ in range(2):
            assert heard_of(lambda: logger.warning_once("said")) == [
                ("transformers", "said", "log")
            ]
    finally:
        theirs.set_verbosity(before)


def test_the_place_that_is_blamed_is_the_callers():
    inner = module("torch.nn.functional")
    with listening([]), pytest.warns(UserWarning, match="sizes") as caught:
        inner.warn("sizes", stacklevel=2)
    assert caught[0].filename == __file__


def test_all_is_undone_also_after_an_error():
    before = warnings.warn, logging.Logger.warning

    def call():
        assert warnings.warn is not before[0]
        raise KeyError

    with pytest.raises(KeyError):
        heard_of(call)
    assert (warnings.warn, logging.Logger.warning) == before


def test_a_paused_listener_keeps_nothing_and_long_texts_are_cut():
    heard = []
    with listening(heard) as listener, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module("trl.trainer").warn("x" * 10_000)
        listener.paused = True
        module("trl.trainer").warn("unheard")
    assert [one.text for one in heard] == ["x" * (LONGEST - 3) + "..."]
