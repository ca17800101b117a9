"""What can go wrong in the export, by name: one sentence with what was wrong, what was expected
and what to do."""


class ExportError(Exception):
    """Base of all; the command prints it as one line."""


class CheckpointError(ExportError):
    """A file is not the checkpoint that was expected: another kind, damaged or hostile."""


class ConversionError(ExportError):
    """A converted network differs from PyTorch's by more than its bound."""


class VerificationError(ExportError):
    """Golden cases failed."""


class FetchError(ExportError):
    """A file could not be fetched whole and true."""


class StatisticsError(ExportError):
    """Statistics cannot be computed or joined."""
