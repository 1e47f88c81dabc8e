"""The errors that users see: what is wrong, where, and what to do about it.

    UnclipError
    ├── ConfigError        a configuration that cannot be right
    ├── CheckpointError    a model folder or checkpoint that cannot be used
    ├── DataError          training data that cannot be used
    ├── TrainingError      a run that cannot continue
    ├── RequestError       a call that asks for something impossible
    └── Cancelled          the caller asked to stop

The command line prints any of them as one line and exits with 1. Every other exception is a bug and shows
its traceback.
"""

from __future__ import annotations


class UnclipError(Exception):
    """The parent of every error this package raises on purpose."""


class ConfigError(UnclipError):
    """A configuration that cannot be right."""


class CheckpointError(UnclipError):
    """A model folder or checkpoint that cannot be used."""


class DataError(UnclipError):
    """Training data that cannot be used."""


class TrainingError(UnclipError):
    """A run that cannot continue."""


class RequestError(UnclipError):
    """A call that asks for something impossible."""


class Cancelled(UnclipError):
    """Raised from an `on_step` callback to stop a generation."""
