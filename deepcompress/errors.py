"""Every exception that deepcompress raises on purpose.

    DeepCompressError (Exception)
    ├── ParameterError (ValueError)      an argument that cannot be meant: a share of 1.2, 17 bits, an unknown method
    ├── PipelineError                    stages in an order that cannot work, or a stage without what it needs
    ├── ModelError                       a model that cannot be compressed, or that does not match a file
    ├── FormatError                      a file that is not a well-formed .dcz
    │   ├── VersionError                 a file of a newer major version, or with flags that this reader does not know
    │   └── UnsupportedError             one tensor that needs a codec this reader does not know; the others load
    ├── TrainingError                    training that cannot go on: a loss that is not finite
    ├── StorageError (OSError)           a path that cannot be read or written, a full disk
    └── MissingExtraError (ImportError)  an optional dependency that is not installed

Foreign errors are translated once, where they enter; a message says where, what was expected and what came instead.
"""

from __future__ import annotations

__all__ = [
    "DeepCompressError",
    "FormatError",
    "MissingExtraError",
    "ModelError",
    "ParameterError",
    "PipelineError",
    "StorageError",
    "TrainingError",
    "UnsupportedError",
    "VersionError",
]


class DeepCompressError(Exception):
    """Base of every error that deepcompress raises on purpose."""


class ParameterError(DeepCompressError, ValueError):
    """An argument is out of its range or of an unknown name."""

    @classmethod
    def of(cls, name: str, owner: str, expected: str, got: object) -> ParameterError:
        """The one sentence in which every bad parameter is reported."""
        return cls(f"The {name!r} parameter of {owner} must be {expected}. Got {got!r} instead.")


class PipelineError(DeepCompressError):
    """Stages stand in an order that cannot work, or a stage lacks what it needs."""


class ModelError(DeepCompressError):
    """A model cannot be compressed, or does not match a file."""


class FormatError(DeepCompressError):
    """A file is not a well-formed .dcz file. `section`: which of a tensor's sections is not, where one is."""

    section: str | None = None


class VersionError(FormatError):
    """A file needs a newer reader."""


class UnsupportedError(FormatError):
    """One tensor needs a codec that this reader does not know."""


class TrainingError(DeepCompressError):
    """Training cannot go on; the model is as it was before."""


class StorageError(DeepCompressError, OSError):
    """A path cannot be read or written."""


class MissingExtraError(DeepCompressError, ImportError):
    """An optional dependency is not installed."""
