"""Triton kernels in Triton's interpreter, in half the time.

The interpreter computes with each sum and product of integers whether it overflows, and uses the
result only in its debug mode.
"""

from contextlib import contextmanager
from pathlib import Path

import pytest

from styleclip_server.serving import configs, model_repository

_OMIT_OVERFLOW_CHECKS = """\
from triton.runtime import interpreter

interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
"""


def omit_overflow_checks():
    """Omit the computations in this process."""
    exec(_OMIT_OVERFLOW_CHECKS, {})


_FORMULAS = f"""\
import sys
import types

sys.path.append({str(Path(__file__).parent)!r})
import e4e_formulas
import stylegan2_formulas

for formulas in (e4e_formulas, stylegan2_formulas):
    formulas.replace_kernels(types.SimpleNamespace(setattr=setattr))
"""


@contextmanager
def on_the_cpu(*, formulas=False):
    """Every engine's networks run on the CPU in servers that are started meanwhile; PyTorch's
    interpret their kernels, or compute the kernels' formulas, which is faster."""
    build, python_model = configs.network_config, model_repository._python_model
    first = _FORMULAS if formulas else _OMIT_OVERFLOW_CHECKS

    def network_config(*arguments):
        config = build(*arguments)
        for group in config.instance_group:
            group.kind = group.KIND_CPU
        return config

    def with_change(*arguments):
        model = python_model(*arguments)
        return model and first + model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configs, "network_config", network_config)
        patch.setattr(model_repository, "_python_model", with_change)
        yield
