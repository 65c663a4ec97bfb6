"""The memory that an engine and its sources need, from headers alone, and the host's memory."""

import dataclasses
from pathlib import Path

import pytest

from objectives.engines.host_memory import available_memory
from objectives.engines.memory import (
    groups_within,
    indivisible_dimension,
    kv_bytes_per_token,
    sizes,
)
from objectives.errors import EngineError
from objectives.models.sources import Sources
from tests.support.paths import DEMO
from tests.support.sizes import MISTRALS


@pytest.mark.parametrize(
    ("memory", "host", "place"),
    [(141e9, 0, "gpu"), (85e9, 128e9, "gpu"), (80e9, 128e9, "pinned"), (30e9, 32e9, "file")],
)
def test_sources_are_kept_in_the_first_place_that_has_room(
    memory: float, host: float, place: str
) -> None:
    if place == "gpu" and host == 0:
        host = 2e9
    assert MISTRALS.choose_residence("auto", int(memory), int(host)) == place


def test_a_study_that_does_not_fit_is_refused_with_a_table() -> None:
    with pytest.raises(EngineError, match=r"(?s)does not fit.*source x +14.48 GB.*sources: file"):
        MISTRALS.choose_residence("auto", int(16e9), int(128e9))
    with pytest.raises(EngineError, match=r"engine.sources: gpu"):
        MISTRALS.choose_residence("gpu", int(48e9), int(128e9))


def test_sizes_come_from_the_headers() -> None:
    folders = {name: DEMO / "models" / name for name in ("base", "numeric")}
    sources = Sources(folders, "base")
    needed = sizes(sources, "bfloat16", 1024, 64, 4096)
    stored = sum(p.stat().st_size for p in (DEMO / "models" / "base").glob("*.safetensors"))
    assert needed.sources["base"] == pytest.approx(stored, rel=0.02)
    assert needed.model == needed.sources["base"]
    mistral = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    assert kv_bytes_per_token(mistral | {"hidden_size": 4096}, 2) == 131072


def test_every_gpu_that_shares_a_model_needs_its_own_sources() -> None:
    pair = dataclasses.replace(MISTRALS, gpus=2)
    assert pair.on_host("pinned") == 2 * MISTRALS.on_host("pinned")
    assert pair.on_host("file") == 2 * MISTRALS.on_host("file")


@pytest.mark.parametrize(
    ("gpus", "what"),
    [(1, None), (2, None), (8, None), (16, None), (3, "32 attention heads")],
)
def test_a_part_that_gpus_cannot_share_evenly_is_named(gpus: int, what: str | None) -> None:
    mistral = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}
    assert indivisible_dimension(mistral | {"intermediate_size": 14336}, gpus) == what


def test_every_part_that_gpus_cannot_share_evenly_is_named() -> None:
    odd = {"num_attention_heads": 36, "num_key_value_heads": 8, "vocab_size": 32000}
    assert indivisible_dimension(odd | {"intermediate_size": 14336}, 6) == "8 key-value heads"
    odd |= {"num_key_value_heads": 36}
    assert indivisible_dimension(odd | {"intermediate_size": 14336}, 6) == "intermediate size 14336"
    assert (
        indivisible_dimension(odd | {"intermediate_size": 3600}, 6)
        == "32000 rows of the vocabulary"
    )


def test_a_group_exceeds_the_capacity_only_with_a_single_key() -> None:
    tokens = {7: 40, 2: 60, 9: 1, 4: 150, 1: 100, 3: 99}
    assert list(groups_within(100, tokens)) == [[7, 2], [9], [4], [1], [3]]
    assert list(groups_within(100, {})) == []


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  800 kB\n")
    return path


def test_the_memory_of_the_host_is_what_is_available(meminfo: Path, tmp_path: Path) -> None:
    assert available_memory(meminfo, tmp_path, tmp_path / "none") == 800 * 1024
    assert available_memory(tmp_path / "none", tmp_path, tmp_path / "none") == 0
    assert 0 < available_memory() < 2**50


@pytest.mark.parametrize("place", ["", "job/step"], ids=["in a container", "in a job"])
@pytest.mark.parametrize(
    ("controllers", "folder", "limit", "used"),
    [
        ("", ".", "memory.max", "memory.current"),
        ("cpu,memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
    ids=["v2", "v1"],
)
def test_the_limit_of_a_control_group_applies(
    meminfo: Path,
    tmp_path: Path,
    place: str,
    controllers: str,
    folder: str,
    limit: str,
    used: str,
) -> None:
    """A container cannot see the path on the host; its own group is the root."""
    cgroup_root, self_cgroup = tmp_path / "groups", tmp_path / "own"
    self_cgroup.write_text(f"4:cpuset:/elsewhere\n3:{controllers}:/{place or 'docker/1234'}\n")
    group = cgroup_root / folder / Path(place).parent
    group.mkdir(parents=True)
    (group / limit).write_text("400000\n")
    (group / used).write_text("150000\n")
    (group / "memory.stat").write_text("anon 80000\nactive_file 20000\ninactive_file 30000\n")
    assert available_memory(meminfo, cgroup_root, self_cgroup) == 400000 - 150000 + 50000
    for none in ("max\n", f"{2**63 - 4096}\n"):
        (group / limit).write_text(none)
        assert available_memory(meminfo, cgroup_root, self_cgroup) == 800 * 1024


def test_sources_on_the_gpu_need_no_memory_of_the_host() -> None:
    assert MISTRALS.choose_residence("auto", int(141e9), 0) == "gpu"
    with pytest.raises(EngineError, match="does not fit"):
        MISTRALS.choose_residence("auto", int(80e9), 0)
