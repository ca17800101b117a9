"""`make demo` on a running server."""

from PIL import Image

from demo import run_demo


def test_the_demo_edits_a_face_crop_with_the_first_presets(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_demo, "ROOT", tmp_path)
    monkeypatch.setattr(run_demo, "OUT", tmp_path / "out")
    assert run_demo.main(["--server", server.grpc_url]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    edited = {f"edited-{name}.png" for name in ("sunglasses", "beard", "sad", "red-hair")}
    assert names == edited | {"original.png", "demo.jpg"}
    assert Image.open(tmp_path / "out/demo.jpg").size == (1376, 352)
    assert "out/demo.jpg" in capsys.readouterr().out
