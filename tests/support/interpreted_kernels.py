"""Triton kernels in Triton's interpreter, in half the time.

The interpreter computes with each sum and product of integers whether it overflows, and uses the
result only in its debug mode.
"""

from styleclip_server.serving import model_repository

_OMIT_OVERFLOW_CHECKS = """\
from triton.runtime import interpreter

interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
"""


def omit_overflow_checks():
    """Omit the computations in this process."""
    exec(_OMIT_OVERFLOW_CHECKS, {})


def omit_overflow_checks_in_servers(monkeypatch):
    """Omit the computations in the networks' processes of servers that this process starts."""
    python_model = model_repository._python_model

    def with_omission(*arguments):
        model = python_model(*arguments)
        return model and _OMIT_OVERFLOW_CHECKS + model

    monkeypatch.setattr(model_repository, "_python_model", with_omission)
