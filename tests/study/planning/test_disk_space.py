"""Tests of the disk check before a study."""

import json
import os
import resource
from pathlib import Path

import pytest

from objectives.errors import ExportError, SourceError
from objectives.export.weights import tensor_sizes
from objectives.merge.recipe import PathRecipe
from objectives.models.sources import Sources
from study.config.genome import PathConfig
from study.config.load import load_config
from study.config.study import StudyConfig
from study.planning.disk_space import check_models, check_room
from study.planning.merge_size import merged_bytes
from tests.support.paths import DEMO


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    return load_config(DEMO / "study.yaml")


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_name(config: StudyConfig, name: str) -> StudyConfig:
    study = config.study.model_copy(update={"name": name})
    return config.model_copy(update={"study": study})


def test_a_model_that_is_a_path_without_a_folder_is_an_error(config: StudyConfig) -> None:
    check_models(config)
    for key, value in (("models", ("models/none", "org/b")), ("base_model", "./none")):
        genome = config.genome.model_copy(update={key: value})
        with pytest.raises(SourceError, match="none: there is no folder"):
            check_models(config.model_copy(update={"genome": genome}))


def test_the_check_leaves_no_files(config: StudyConfig, cwd: Path) -> None:
    check_room(config)
    assert os.listdir(cwd) == []
    (cwd / "runs" / "demo").mkdir(parents=True)
    (cwd / "runs" / "demo" / "study.db").touch()
    check_room(config)
    assert os.listdir(cwd / "runs" / "demo") == ["study.db"]


@pytest.mark.parametrize("file", ["runs", "runs/demo", "runs/demo/report"])
@pytest.mark.parametrize("kind", ["file", "pipe", "broken link", "loop"])
def test_an_obstacle_is_an_error(config: StudyConfig, cwd: Path, file: str, kind: str) -> None:
    path = cwd / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_text("a file")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if kind == "loop" else "nowhere")
    with pytest.raises(ExportError, match=r"results cannot be written to .*runs/demo: ") as error:
        check_room(config)
    assert "run in another folder" in str(error.value)
    assert os.path.lexists(path)


def test_a_name_that_is_too_long_for_a_folder_is_an_error(config: StudyConfig, cwd: Path) -> None:
    with pytest.raises(ExportError, match="File name too long"):
        check_room(with_name(config, "x" * 256))
    assert os.listdir(cwd) == []
    check_room(with_name(config, "x" * 255))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_an_error(config: StudyConfig, cwd: Path) -> None:
    cwd.chmod(0o500)
    try:
        with pytest.raises(ExportError, match="Permission denied"):
            check_room(config)
    finally:
        cwd.chmod(0o700)


def test_a_full_disk_is_an_error(config: StudyConfig, cwd: Path) -> None:
    """A limit on the size of files simulates a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(ExportError, match="File too large"):
            check_room(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(cwd) == []


def test_too_little_space_for_the_merge_is_a_warning(
    config: StudyConfig, cwd: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_room(config)
    assert not caplog.records
    (cwd / "m").mkdir()
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 4]}})
    data = len(header).to_bytes(8, "little") + header.encode()
    (cwd / "m" / "model.safetensors").write_bytes(data)
    genome = config.genome.model_copy(update={"base_model": str(cwd / "m")})
    check_room(config.model_copy(update={"genome": genome}))
    assert "the final merge takes 2000000.00 GB" in caplog.text


def test_the_size_of_a_merge_is_read_from_headers(cwd: Path) -> None:
    model = DEMO / "models" / "base"
    size = merged_bytes("models/base", DEMO)
    assert size is not None
    assert size == pytest.approx((model / "model.safetensors").stat().st_size, rel=0.1)
    for name, content in {"a": b"", "b": b"\xff" * 8, "c": b"\x02" + bytes(7) + b"[]"}.items():
        (cwd / name).mkdir()
        (cwd / name / "model.safetensors").write_bytes(content)
        assert merged_bytes(name, cwd) is None
    for name in ("nowhere", "a\0b", "x" * 5000, "a+b+c", ""):
        assert merged_bytes(name, cwd) is None


@pytest.mark.parametrize("max_hops", [32, 40, 48])
def test_the_size_of_the_longest_path_is_that_of_its_export(max_hops: int) -> None:
    config = PathConfig.model_validate(
        {"kind": "layers", "models": ["models/base"], "max_hops": max_hops}
    )
    sources = Sources({"base": DEMO / "models/base"}, "base", has_base=False)
    path = PathRecipe.whole("base", 32).padded(max_hops)
    assert merged_bytes("models/base", DEMO, config) == sum(tensor_sizes(path, sources).values())
