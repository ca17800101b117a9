"""The tokenizer refuses long texts and needs no torch; the golden data has its numbers."""

import subprocess
import sys

import pytest

from styleclip_contract.errors import TextTooLong
from styleclip_server.pipeline.tokenizer import tokenize


def test_a_text_that_is_too_long_is_refused_with_what_to_do():
    with pytest.raises(TextTooLong, match="Shorten the text that begins with 'a very long"):
        tokenize(["a very long description " * 30])


def test_the_tokenizer_needs_no_torch():
    code = "import sys, styleclip_server.pipeline.tokenizer as t; t.tokenize(['a face']); assert 'torch' not in sys.modules"  # noqa: E501
    subprocess.run([sys.executable, "-c", code], check=True)
