"""The champion's mirror becomes data/champion, or a message says why not."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import champion
from pipelines.errors import ExpostError

FILES = {"model.onnx": b"weights", "policy.json": b"{}"}


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / champion.MIRROR
    (folder / "bundle").mkdir(parents=True)
    for name, content in FILES.items():
        (folder / "bundle" / name).write_bytes(content)
    (folder / "bundle" / "manifest.json").write_text("{}")
    lines = "\n".join(f"{name}:{hashlib.sha256(FILES[name]).hexdigest()}" for name in sorted(FILES))
    status = {"state": "champion", "version": 3, "epoch": 2, "bundle_sha256": hashlib.sha256(lines.encode()).hexdigest()}
    (folder / "status.json").write_text(json.dumps(status))
    return folder


def test_the_mirror_is_copied_whole(mirror: Path) -> None:
    champion.main()
    assert json.loads(Path("data/champion/status.json").read_text())["version"] == 3
    assert {path.name: path.read_bytes() for path in Path("data/champion/bundle").iterdir()} == {**FILES, "manifest.json": b"{}"}


def test_a_mirror_never_filled_is_unsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    champion.main()
    status = json.loads(Path("data/champion/status.json").read_text())
    assert status.pop("state") == "unsynced"
    assert set(status) == set(champion.UNKNOWN)
    assert set(status.values()) == {None}
    assert not Path("data/champion/bundle").exists()


def test_no_champion_leaves_no_bundle_of_an_earlier_one(mirror: Path) -> None:
    champion.main()
    (mirror / "status.json").write_text(json.dumps({"state": "none"}))
    champion.main()
    assert not Path("data/champion/bundle").exists()


def floored(mirror: Path) -> None:
    """Give the mirror the floor's anchor, a bundle of its own."""
    (mirror / "first").mkdir()
    (mirror / "first/policy.json").write_bytes(b"[]")
    digest = hashlib.sha256(f"policy.json:{hashlib.sha256(b'[]').hexdigest()}".encode()).hexdigest()
    status = json.loads((mirror / "status.json").read_text())
    (mirror / "status.json").write_text(json.dumps({**status, "first": {"version": 1, "bundle_sha256": digest}}))


def test_what_the_mirror_knows_beside_the_champion_is_copied_too(mirror: Path) -> None:
    floored(mirror)
    for name in champion.NOTES:
        (mirror / name).write_text(name)
    (mirror / "something-else").write_text("x")
    champion.main()
    assert {path.name for path in Path("data/champion").iterdir()} == {"status.json", "bundle", "first", *champion.NOTES}
    assert Path("data/champion/first/policy.json").read_bytes() == b"[]"
    assert Path("data/champion/looks.npy").read_text() == "looks.npy"


def test_a_mirror_that_is_replaced_while_it_is_read_is_read_again(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a rollback beside a run does it: for a moment the status and the bundle are not of one champion."""
    whole = (mirror / "bundle/model.onnx").read_bytes()
    (mirror / "bundle/model.onnx").write_bytes(b"of another champion")
    monkeypatch.setattr(champion.time, "sleep", lambda seconds: (mirror / "bundle/model.onnx").write_bytes(whole))
    champion.main()
    assert Path("data/champion/bundle/model.onnx").read_bytes() == whole


def changed_byte(mirror: Path) -> None:
    (mirror / "bundle/model.onnx").write_bytes(b"weighty")


def extra_file(mirror: Path) -> None:
    (mirror / "bundle/payload.bin").write_bytes(b"x")


def missing_file(mirror: Path) -> None:
    (mirror / "bundle/policy.json").unlink()


def missing_bundle(mirror: Path) -> None:
    for path in (mirror / "bundle").iterdir():
        path.unlink()
    (mirror / "bundle").rmdir()


def link(mirror: Path) -> None:
    (mirror / "bundle/model.onnx").unlink()
    (mirror / "bundle/model.onnx").symlink_to("/etc/hostname")


def truncated_status(mirror: Path) -> None:
    (mirror / "status.json").write_text('{"state": "cham')


def unknown_state(mirror: Path) -> None:
    (mirror / "status.json").write_text('{"state": "king"}')


def bundle_without_status(mirror: Path) -> None:
    (mirror / "status.json").unlink()


def missing_anchor(mirror: Path) -> None:
    floored(mirror)
    (mirror / "first/policy.json").unlink()
    (mirror / "first").rmdir()


def changed_anchor(mirror: Path) -> None:
    floored(mirror)
    (mirror / "first/policy.json").write_bytes(b"{}")


def linked_note(mirror: Path) -> None:
    (mirror / "looks.npy").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    "damage",
    [
        missing_anchor,
        changed_anchor,
        linked_note,
        changed_byte,
        extra_file,
        missing_file,
        missing_bundle,
        link,
        truncated_status,
        unknown_state,
        bundle_without_status,
    ],
)
def test_a_corrupt_mirror_is_refused_and_the_last_copy_stays(mirror: Path, damage) -> None:
    champion.main()
    before = Path("data/champion/bundle/model.onnx").read_bytes()
    damage(mirror)
    with pytest.raises(ExpostError, match="however"):
        champion.main()
    assert Path("data/champion/bundle/model.onnx").read_bytes() == before


def test_it_imports_the_standard_library_only(tmp_path: Path) -> None:
    code = "import sys, pipelines.champion; print(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)))"
    out = subprocess.run([sys.executable, "-S", "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert out.stdout.strip() in ("['__main__', 'pipelines']", "['pipelines']")
