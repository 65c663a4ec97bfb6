"""Uploads to a local server with the hub's API."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from objectives.errors import ExportError
from study.artifacts.publish import check_repository, upload
from study.config.errors import ConfigError
from study.export import export
from tests.support.hub import Hub

TOKEN = "hf_Secret77"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(TOKEN) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def merge(tmp_path: Path) -> Path:
    folder = tmp_path / "merge"
    folder.mkdir()
    (folder / "README.md").write_text("# A merge\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


@pytest.mark.parametrize("public", [False, True])
def test_a_new_repository_is_private_and_has_every_file(
    hub: Hub, merge: Path, public: bool
) -> None:
    check_repository("me/merge", overwrite=False)
    address = upload(merge, "me/merge", public, "A merge")
    assert address == f"{hub.address}/me/merge"
    assert hub.private == {"me/merge": not public}
    expected = {path.name: path.read_bytes() for path in merge.iterdir()}
    assert hub.files["me/merge"] == expected


def test_an_existing_repository_needs_overwrite_and_stays_as_it_is(hub: Hub, merge: Path) -> None:
    upload(merge, "me/merge", public=True, message="A merge")
    with pytest.raises(ExportError, match=r"this repository exists; .* pass --overwrite"):
        check_repository("me/merge", overwrite=False)
    (merge / "README.md").write_text("# Another\n")
    check_repository("me/merge", overwrite=True)
    upload(merge, "me/merge", public=False, message="Another")
    assert hub.files["me/merge"]["README.md"] == b"# Another\n"
    assert hub.private == {"me/merge": False}


@pytest.mark.parametrize("name", ["merge", "me/merge/more", "me/..", "", "me/a b", "-me/x"])
def test_a_name_that_is_none_is_refused_without_a_request(hub: Hub, name: str) -> None:
    with pytest.raises(ExportError, match="must be USER/NAME"):
        check_repository(name, overwrite=False)
    assert not hub.requests


def test_a_missing_token_is_reported_with_the_remedy(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ExportError, match="there is no token; set HF_TOKEN"):
        check_repository("me/merge", overwrite=False)


def test_errors_of_the_hub_are_one_line_without_the_token(
    hub: Hub, merge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.broken = True
    with pytest.raises(ExportError, match=f"--push me/merge: .*; the merge is in {merge}") as full:
        upload(merge, "me/merge", public=False, message="A merge")
    monkeypatch.setenv("HF_TOKEN", "hf_Wrong77")
    with pytest.raises(ExportError, match="--push me/merge: the hub refused") as wrong:
        check_repository("me/merge", overwrite=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ExportError, match="the hub refused or cannot be reached") as away:
        check_repository("me/merge", overwrite=False)
    for error in (full, wrong, away):
        assert "77" not in str(error.value)
        assert "\n" not in str(error.value)


def test_public_without_push_is_refused_because_nothing_is_uploaded() -> None:
    with pytest.raises(ConfigError, match="--public: only --push USER/NAME uploads"):
        export(Path("study.yaml"), Path("out"), public=True)
