"""The export's errors. A message says in one line what is wrong, what was expected, what to do."""


class ExportError(Exception):
    """Base of all errors here; the command prints it as one line."""


class CheckpointError(ExportError):
    """A file is not the expected checkpoint: another kind, damaged or hostile."""


class ConversionError(ExportError):
    """A converted network differs from PyTorch's by more than its bound."""


class VerificationError(ExportError):
    """Golden cases failed."""


class FetchError(ExportError):
    """A file could not be fetched, or is not the published one."""


class StatisticsError(ExportError):
    """Statistics cannot be computed or merged."""


class DirectionError(ExportError):
    """A direction does not fit the domain, or cannot be fitted to the latents."""
