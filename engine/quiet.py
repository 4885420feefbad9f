"""Holding back what diffusers and transformers say to their own developers while we call them."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_TALKATIVE = ("diffusers", "transformers")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drops Python warnings and all log lines below ERROR of the model libraries until the block ends.

    Unused config attributes, deprecations inside a library: nothing that its user could act on. What
    matters (a missing or misshapen tensor, a setting we do not support) we check and raise ourselves.
    """
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
