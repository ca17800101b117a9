"""The training of the avatars domain: its recipes can be imported, and its report is up to date."""

import subprocess
import sys

import pytest

from paths import ROOT

TRAINING = ROOT / "domains/avatars"

for package in ("dicebear", "onnx", "resvg_py", "torch"):
    pytest.importorskip(package, reason=f"{package} is missing: pip install '.[avatars]'")


def run_python(code):
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_recipe_can_be_imported():
    modules = sorted(path.stem for path in TRAINING.glob("[a-z]*.py"))
    assert len(modules) > 12
    run_python(f"from domains.avatars import {', '.join(modules)}")


def test_the_model_card_has_the_figures_of_the_quality_report():
    tables = run_python(
        "import json\n"
        "from domains.avatars import quality_report\n"
        "report = json.load(open('model_repository/avatars/quality.json'))\n"
        "print(quality_report.format_tables(report))"
    )
    assert tables.strip() in (ROOT / "model_repository/avatars/MODEL_CARD.md").read_text("utf-8")


def test_a_caption_claims_no_more_than_it_says():
    run_python(
        "import random\n"
        "from domains.avatars.attributes import TABLE\n"
        "from domains.avatars.captions import GRAMMAR\n"
        "bald = next(phrase for phrase in GRAMMAR.phrases if phrase.text == 'bald')\n"
        "assert 'bald' in GRAMMAR.write_sentence([bald], 'face', random.Random(0))\n"
        "denied = GRAMMAR.all_values & ~GRAMMAR.mask((bald.attribute, bald.allowed))\n"
        "offset = TABLE.offsets[TABLE.names.index('top')]\n"
        "values = range(1, len(TABLE['top'].values))\n"
        "assert denied == sum(1 << offset + value for value in values)\n"
        "assert 'bald' not in GRAMMAR.neutral_text(random.Random(0))"
    )
