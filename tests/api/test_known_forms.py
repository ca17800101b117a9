"""A message of a known form is passed on exactly if its checks would pass."""

import random

import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest

from styleclip_contract import wire
from styleclip_server.api.kserve import inference
from styleclip_server.api.kserve.known_forms import KnownForms
from styleclip_server.api.refusals import Refused
from styleclip_server.serving import configs

INTERFACE = inference.ModelInterface.of(configs.step_config(wire.DIRECTION, "cpu"))


def text(value):
    return len(value).to_bytes(4, "little") + value


def build_message(identifier="one", target=b"a sad face", strength=bytes(4), **fields):
    request = ModelInferRequest(model_name="direction", id=identifier, **fields)
    for name, datatype, content in (
        ("NEUTRAL", "BYTES", text(b"a face")),
        ("TARGET", "BYTES", text(target)),
        ("STRENGTH", "FP32", strength),
        ("THRESHOLD", "FP32", bytes(4)),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(content)
    request.outputs.add(name="DELTA")
    return request.SerializeToString()


def check(message):
    """Return the rows of a message that passes the checks, as they were without known forms."""
    inference.read_form(message)
    return inference.check(inference.parse(message), INTERFACE, allow_shared_memory=False)


def find(forms, message, interface=INTERFACE):
    return forms.find(message, inference.read_form(message), lambda name: interface)


def remember(forms, message):
    form, request = inference.read_form(message), inference.parse(message)
    rows = inference.check(request, INTERFACE, allow_shared_memory=False)
    forms.remember(message, form, request, INTERFACE, rows)


@pytest.fixture
def forms():
    known = KnownForms()
    remember(known, build_message())
    return known


def test_other_contents_and_ids_have_the_same_form(forms):
    for message in (build_message("two", b"a smiling face", b"abcd"), build_message("")):
        known = find(forms, message)
        assert (known.model, known.rows) == ("direction", check(message))


def test_other_forms_and_a_new_configuration_are_not_known(forms):
    assert find(forms, build_message(model_version="1")) is None
    assert find(forms, build_message(), interface=None) is None
    assert find(KnownForms(), build_message()) is None
    assert find(forms, build_message("x" * 1025)) is None
    assert find(forms, build_message(strength=bytes(8))) is None


def test_wrong_texts_of_a_known_form_are_refused(forms):
    message = build_message().replace(text(b"a sad face"), b"\xff" * 14)
    with pytest.raises(Refused, match="TARGET"):
        find(forms, message)


def test_forms_that_are_changed_on_their_way_are_not_remembered():
    unknown_field = build_message() + b"\xf8\x07\x01"
    in_other_order = build_message() + ModelInferRequest(id="later").SerializeToString()
    request = ModelInferRequest.FromString(build_message())
    request.parameters["priority"].int64_param = 1
    for message in (unknown_field, in_other_order, request.SerializeToString()):
        forms = KnownForms()
        remember(forms, message)
        assert find(forms, message) is None


def test_a_damaged_message_is_known_only_if_its_checks_pass(forms):
    """What the known form lets pass, parses to a request that passes the checks."""
    generator, message = random.Random(1), build_message()
    passed = 0
    for _ in range(20_000):
        damaged = bytearray(message)
        for _ in range(generator.randint(1, 3)):
            kind, at = generator.randrange(3), generator.randrange(len(damaged))
            if kind == 0:
                damaged[at] = generator.randrange(256)
            elif kind == 1:
                del damaged[at]
            else:
                damaged.insert(at, generator.randrange(256))
        damaged = bytes(damaged)
        try:
            known = find(forms, damaged)
        except Refused:
            with pytest.raises(Refused):
                check(damaged)
            continue
        if known:
            passed += 1
            assert check(damaged) == known.rows
            assert inference.parse(damaged).model_name == known.model
    assert passed > 300


def test_only_the_newest_forms_are_kept(forms):
    for version in range(300):
        remember(forms, build_message(model_version=str(version)))
    assert find(forms, build_message()) is None
    assert find(forms, build_message(model_version="299"))
