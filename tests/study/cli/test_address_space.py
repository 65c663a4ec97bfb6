"""A limit of the address space that is too low for torch is reported before torch is loaded."""

import resource
import subprocess
import sys

import pytest

from study.cli.address_space import MIN_BYTES
from tests.support.paths import DEMO, ROOT

LOADING = {
    "run": [f"{DEMO}/study.yaml"],
    "plan": [f"{DEMO}/study.yaml"],
    "report": [f"{DEMO}/study.yaml"],
    "export": [f"{DEMO}/study.yaml", "--out", "out"],
    "verify": ["none"],
}
"""The commands that load torch, with arguments."""


def limited(name: str, *words: str, limit: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"study.{name}", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", LOADING)
@pytest.mark.parametrize("limit", [1_000_000 << 10, 1_500_000 << 10, MIN_BYTES - 1])
def test_a_limit_too_low_for_torch_is_refused_before_torch_is_loaded(name: str, limit: int) -> None:
    result = limited(name, *LOADING[name], limit=limit)
    assert result.returncode == 2
    imports, others = [], []
    for line in result.stderr.splitlines():
        (imports if line.startswith("import time:") else others).append(line)
    [message] = others
    assert message == (
        f"error: the limit of the address space is {limit / 2**30:.3g} GiB (ulimit -v), but torch "
        "needs at least 2 GiB: raise it, for example with ulimit -v unlimited"
    )
    assert not any(line.split()[-1] in ("torch", "transformers", "numpy") for line in imports)


def test_help_and_commands_without_torch_accept_a_low_limit() -> None:
    limit = 1_000_000 << 10
    assert limited("run", "--help", limit=limit).returncode == 0
    assert "none.yaml does not exist" in limited("status", "none.yaml", limit=limit).stderr


def test_a_sufficient_limit_is_accepted() -> None:
    assert "none.yaml does not exist" in limited("plan", "none.yaml", limit=MIN_BYTES).stderr
