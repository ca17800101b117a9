"""Edit without our client: the KServe v2 protocol over HTTP, with the standard library alone.

Binary tensors follow the JSON; `binary_data_size` is the length of each, and a BYTES element
starts with its own length (4 bytes, little-endian).
"""

import json
import os
import struct
import sys
import urllib.request
from pathlib import Path

SERVER = os.environ.get("STYLECLIP_SERVER", "http://localhost:8000")


def infer(model, inputs, binary):
    """Send one request; return the bytes of each output."""
    request = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    header = json.dumps(request).encode()
    url = f"{SERVER}/v2/models/{model}/infer"
    length = {"Inference-Header-Content-Length": str(len(header))}
    with urllib.request.urlopen(urllib.request.Request(url, header + binary, length)) as response:
        body = response.read()
        end = int(response.headers["Inference-Header-Content-Length"])
    outputs = {}
    for output in json.loads(body[:end])["outputs"]:
        start, end = end, end + output["parameters"]["binary_data_size"]
        outputs[output["name"]] = body[start:end]
    return outputs


def tensor(name, datatype, *data):
    return {"name": name, "datatype": datatype, "shape": [1, len(data)], "data": data}


def binary_tensor(name, datatype, shape, data):
    size = {"binary_data_size": len(data)}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": size}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    photo = (Path(__file__).parents[1] / "demo/samples/people-1.jpg").read_bytes()
    photo = struct.pack("<I", len(photo)) + photo
    photo_input = binary_tensor("PHOTO", "BYTES", [1, 1], photo)
    edit = [
        tensor("NEUTRAL", "BYTES", "a face"),
        tensor("TARGET", "BYTES", "a face with sunglasses"),
        tensor("STRENGTH", "FP32", 5),
        tensor("THRESHOLD", "FP32", 0.15),
    ]
    edited = infer("edit_photo", [photo_input, *edit], photo)
    (folder / "sunglasses.jpg").write_bytes(edited["PICTURE"][4:])

    # To edit a face many times, invert it once and send the bytes of its latent back.
    latent = infer("invert", [photo_input], photo)["W_PLUS"]
    edits = [
        binary_tensor("W_PLUS", "FP32", [1, len(latent) // 2048, 512], latent),
        tensor("NEUTRAL", "BYTES", "a face", "a face"),
        tensor("TARGET", "BYTES", "a sad face", "a face with a beard"),
        tensor("STRENGTH", "FP32", 4, 5),
        tensor("THRESHOLD", "FP32", 0.15, 0.15),
        tensor("FORMAT", "BYTES", "PNG"),
    ]
    edited = infer("edit", edits, latent)
    (folder / "two-edits.png").write_bytes(edited["PICTURE"][4:])
    moved = struct.unpack("<2i", edited["CHANNELS"])
    print(f"channels moved by the two edits: {moved[0]} and {moved[1]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
