"""The end of a command by a signal, an error, or an output that cannot be written."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from objectives.crash_report import description
from objectives.engines.vllm.child import without_ctrl_c
from study.__main__ import COMMANDS
from study.cli.faults import MAX_LINE_LENGTH, MAX_LINES, format_message, report_error
from study.cli.interrupts import Interrupted
from study.cli.options import RunOptions
from study.config.errors import ConfigError
from study.worker.process import WorkerSpec, check_workers, run_worker
from study.worker.start import HostShare
from tests.support.paths import DEMO, ROOT


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def shell(line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `study` is the project's command line."""
    line = line.replace("study ", f"{sys.executable} -m study ")
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(**more),
        check=False,
    )


def python(work: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command that executes these lines of Python."""
    code = (
        "from study.cli.boundary import run_and_exit\n"
        f"def work():\n    {work}\nrun_and_exit(work)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "--token", "Hidden77", "--storage", "postgresql://u:Pw7@h/d"],
        capture_output=True,
        text=True,
        env=environment(**more),
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        *((command, signal.SIGINT, 130) for command in COMMANDS),
        ("run", signal.SIGTERM, 143),
        ("status", signal.SIGTERM, 143),
    ],
)
def test_a_signal_during_imports_ends_a_command_without_a_traceback(
    command: str, number: signal.Signals, code: int
) -> None:
    line = [sys.executable, "-X", "importtime", "-m", f"study.{command}", "none.yaml"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        output, sent = "", False
        for text in process.stderr:
            output += text
            if not sent and re.search(r"\| +(click|typer|rich)", text):
                process.send_signal(number)
                sent = True
    assert process.returncode == code
    assert "interrupted\n" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("study plan --help > /dev/full", 74),
        ("study > /dev/full", 74),
        ("study plan --help >&-", 74),
        ("study --version >&- 2>&-", 74),
        ("study --version > /dev/full 2> /dev/full", 74),
        ("study status none.yaml > /dev/full", 2),
        ("study status none.yaml 2> /dev/full", 2),
        ("study status none.yaml 2>&-", 2),
        ("study --version 2>&- <&-", 0),
        ("set -o pipefail; study plan --help | true", 141),
    ],
)
def test_an_unwritable_stream_causes_an_exit_code_and_no_traceback(line: str, code: int) -> None:
    result = shell(line)
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") <= 1


def test_no_file_gets_the_descriptor_of_a_closed_stdout() -> None:
    code = (
        "import study.cli.streams as s, tempfile; s.guard_streams(); f = tempfile.TemporaryFile(); "
    )
    code += "f = tempfile.TemporaryFile(); import sys; print(f.fileno(), file=sys.stderr)"
    result = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" >&- <&-'],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert int(result.stderr) > 2


def test_characters_are_replaced_on_an_ascii_terminal() -> None:
    result = python("print('0.5 ± 0.1 │ \\ud800')", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stdout) == (0, "0.5 ? 0.1 ? ?\n")


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        ("sqlite:///", "/x.db", "File name too long"),
        ("sqlite:///", "?timeout=x", "the only option of a SQLite URL is timeout"),
        ("postgresql://u:Hidden77@", "/d", "check host, port, user, password and database name"),
        ("postgresql+", "://h/d", "is not supported; write postgresql://"),
        ("x", "://h/d", "only sqlite and postgresql are supported"),
    ],
)
def test_the_message_about_a_long_url_ends_with_its_reason(
    start: str, end: str, reason: str
) -> None:
    url = f"{start}{'a' * 5000}{end}"
    result = shell(f"study status {DEMO}/study.yaml", STUDY_STORAGE=url)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert re.search(reason, line)
    assert "a..." in line
    assert not line.endswith(" ...")
    assert "Hidden77" not in line


def test_an_internal_error_is_one_line_and_a_file_without_secrets(tmp_path: Path) -> None:
    result = python(
        "raise KeyError('postgresql://u:Pw7@h/d', 'password=Pw8', 'Secret9')",
        TMPDIR=str(tmp_path),
        MY_TOKEN="Secret9",
    )
    assert result.returncode == 70
    [line] = result.stderr.splitlines()
    [file] = tmp_path.iterdir()
    assert str(file) in line
    text = file.read_text()
    for word in ("Traceback", "KeyError", "torch", "python 3", "postgresql://***", "--token"):
        assert word in text
    for secret in ("Hidden77", "Pw7", "Pw8", "Secret9"):
        assert secret not in text


def test_an_internal_error_is_one_line_if_no_file_can_be_written(tmp_path: Path) -> None:
    work = "import tempfile; tempfile.tempdir = '/dev/null'; raise KeyError('a\\nb')"
    result = python(work, TMPDIR=str(tmp_path))
    assert result.returncode == 70
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("work", "code", "words"),
    [
        ("raise MemoryError", 2, "out of memory"),
        ("bytearray(2**60)", 2, "out of memory"),
        ("raise ImportError('libx.so: failed to map segment from shared object')", 2, "memory"),
        ("raise OSError(28, 'No space left on device', '/x')", 2, "/x: No space left on device"),
        ("raise OSError(24, 'Too many open files')", 2, "ulimit -n"),
        ("open('/proc/sys/none', 'w')", 2, "/proc/sys/none: "),
        ("f = lambda: f(); f()", 2, "nested too deeply"),
        ('raise RuntimeError("can\'t start new thread")', 2, "thread"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        (
            "from study.config.errors import ConfigError; raise ConfigError('x: wrong')",
            2,
            "x: wrong",
        ),
        ("raise SystemExit(3)", 3, ""),
    ],
)
def test_errors_of_users_and_of_the_machine_have_a_message(
    work: str, code: int, words: str
) -> None:
    result = python(work)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 1


def test_a_lack_of_memory_is_reported() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))"
    result = python(f"{limit}; bytearray(1 << 31)")
    assert result.returncode == 2
    assert "out of memory (the limit is 1 GiB, ulimit -v)" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_long_message_is_shortened_and_its_control_characters_are_escaped() -> None:
    text = format_message(
        "\n".join(["error: bad", "a\x1b[2Jb\x9b", "x" * 9999, *map(str, range(50))])
    )
    lines = text.split("\n")
    assert len(lines) == MAX_LINES
    assert lines[1] == "a\\x1b[2Jb\\x9b"
    assert len(lines[2]) < MAX_LINE_LENGTH + 10
    assert lines[-1] == "  ... and 46 more"


def test_an_exception_in_a_thread_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from study.cli.session import reporting_errors

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    with reporting_errors("worker 1: "):
        thread = threading.Thread(target=lambda: {}["none"])
        thread.start()
        thread.join()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("worker 1: error: internal error (KeyError)")


def test_a_signal_determines_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(Interrupted(signal.SIGTERM)) == 143
    assert capsys.readouterr().err == "interrupted\n"


def test_the_values_of_secret_options_are_hidden() -> None:
    text = description(KeyError(), ["x", "--token", "Abc", "--token=Def", "--trials", "3"], {})
    assert "--token=***' --trials 3" in text
    assert "Abc" not in text
    assert "Def" not in text


@pytest.mark.parametrize(
    "program",
    [[sys.executable, "-m", "study"], [str(Path(sys.executable).with_name("merge-study"))]],
    ids=["module", "script"],
)
def test_the_program_lists_and_runs_all_commands(program: list[str]) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words], capture_output=True, text=True, env=environment())

    listed = run()
    assert (listed.returncode, listed.stdout) == (0, run("--help").stdout)
    for command in COMMANDS:
        assert f"\n  {command} " in listed.stdout
    assert run("--version").stdout == f"merge-study {version('merge-study')}\n"
    assert f"{program[-1]} status [OPTIONS]".rpartition("/")[2] in run("status", "--help").stdout
    refused = run("status", "none.yaml")
    assert (refused.returncode, refused.stderr) == (2, "error: none.yaml does not exist\n")
    unknown = run("rum")
    assert unknown.returncode == 2
    assert "unknown command 'rum'" in unknown.stderr


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        (Path("none.yaml"), 2, "worker 1: error: none.yaml does not exist"),
        (3, 70, "worker 1: error: internal error (AttributeError)"),
    ],
    ids=["user error", "internal error"],
)
def test_an_error_ends_a_worker_process_with_its_name_and_one_line(
    path: Any,
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    share = HostShare(2, 1, 2**30)
    spec = WorkerSpec(path, "sqlite:///none.db", 1, RunOptions("transformers"), 1, share)
    process = multiprocessing.get_context("spawn").Process(target=run_worker, args=(spec,))
    process.start()
    process.join()
    assert process.exitcode == code
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(words)


def test_more_workers_than_the_machine_can_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="--workers 100000: this machine has"):
        check_workers(100_000)
    check_workers(1)


def test_ctrl_c_does_not_reach_a_starting_process(capfd: pytest.CaptureFixture[str]) -> None:
    """A terminal sends SIGINT to all processes, also while they import."""
    process = multiprocessing.get_context("spawn").Process(target=os._exit, args=(7,))
    with without_ctrl_c():
        process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 7
    assert "Traceback" not in capfd.readouterr().err
