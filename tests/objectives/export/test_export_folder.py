"""Where an export may be written and what it may replace, with merges of tiny models."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from objectives.errors import ExportError
from objectives.export import weights as module
from objectives.export.export import changed_weights, export, is_export_of
from objectives.export.manifest import EXPORTING, MANIFEST_FILE, recorded
from objectives.export.target import remove_leftovers, replace_atomically
from objectives.merge.recipe import MergeRecipe
from objectives.models.sources import Sources

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def sources(family: dict[str, Path]) -> Sources:
    return Sources(family, "base")


@pytest.fixture(scope="module")
def recipe(sources: Sources) -> MergeRecipe:
    return MergeRecipe.single("x", sources.num_layers)


@pytest.fixture
def write(sources: Sources, recipe: MergeRecipe) -> Write:
    def write(out: Path, **options: object) -> Path:
        texts = {"study.json": "{}\n", "verdict.json": "{}\n"}
        options = {"overwrite": True, "texts": texts, **options}
        return export(recipe, sources, dict.fromkeys(sources.checkpoints, "m"), out, "c", **options)

    return write


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def as_before_manifests(folder: Path) -> Path:
    """Change the folder to the format of earlier versions."""
    (folder / MANIFEST_FILE).unlink()
    return folder


@pytest.mark.parametrize("earlier", [False, True])
def test_an_export_is_replaced_completely(write: Write, tmp_path: Path, earlier: bool) -> None:
    out = write(tmp_path / "m", shard_bytes=5_000)
    assert len([*out.glob("model-*.safetensors")]) > 1
    if earlier:
        as_before_manifests(out)
    write(out)
    assert sorted(p.name for p in out.glob("model*")) == ["model.safetensors"]
    assert {*recorded(out)} == {*everything(out)}
    assert os.listdir(tmp_path) == ["m"]


def test_an_export_with_deleted_files_can_be_replaced(write: Write, tmp_path: Path) -> None:
    out = write(tmp_path / "m")
    (out / "model.safetensors").unlink()
    (out / "README.md").unlink()
    assert (write(out) / "README.md").exists()


def add(name: str, text: str = "mine") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return change


def list_all(folder: Path) -> None:
    """Write SHA256SUMS as `sha256sum *` does before a model is published."""
    add("model.gguf")(folder)
    with (folder / "SHA256SUMS").open("w") as sums:
        subprocess.run("sha256sum *", shell=True, cwd=folder, stdout=sums, check=True)


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add("thesis.txt"), r"thesis\.txt"),
        (add("model-q4.gguf"), r"model-q4\.gguf"),
        (add(".git/config"), r"\.git/"),
        (add("notes/today/x.md"), "notes/"),
        (lambda folder: (folder / "empty").mkdir(), "empty/"),
        (lambda folder: (folder / "link").symlink_to(folder.parent), r"link \(a link\)"),
        (lambda folder: (folder / "dead").symlink_to("nowhere"), r"dead \(a link\)"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe"),
        (list_all, "."),
    ],
)
def test_a_folder_with_other_files_is_not_replaced(
    write: Write, tmp_path: Path, change: Callable[[Path], None], named: str, earlier: bool
) -> None:
    out = write(tmp_path / "m")
    if earlier:
        as_before_manifests(out)
    change(out)
    before = everything(out)
    with pytest.raises(ExportError, match=named) as refused:
        write(out)
    assert str(out) in str(refused.value)
    assert everything(out) == before
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_an_export_with_a_changed_file_is_not_replaced(
    write: Write, tmp_path: Path, name: str
) -> None:
    out = write(tmp_path / "m")
    with (out / name).open("ab") as file:
        file.write(b" more")
    with pytest.raises(ExportError, match=f"{name} \\(changed since the export\\)"):
        write(out)
    assert (out / name).read_bytes().endswith(b" more")


@pytest.mark.parametrize(
    "files",
    [
        {"recipe.json": '{"soup": "onions"}'},
        {"recipe.json": '{"soup": "onions"}', "SHA256SUMS": ""},
        {"recipe.json": "[" * 100_000, "SHA256SUMS": ""},
        {"recipe.json": '{"recipe": 1, "sources": 2}', "SHA256SUMS": f"{'0' * 64}  thesis.txt\n"},
        {"recipe.json": '{"recipe": 1, "sources": 2}', "SHA256SUMS": f"{'0' * 64}  ../x\n"},
        {"manifest.json": '{"name": "a web app", "icons": []}'},
        {"manifest.json": '{"written_by": "merge-study", "files": ["thesis.txt"]}'},
        {"manifest.json": '{"written_by": "merge-study", "files": {"../thesis.txt": "0"}}'},
        {"manifest.json": '{"written_by": "merge-study", "files": {"thesis.txt": null}}'},
        {"manifest.json": '{"written_by": "merge-study", "files": {"thesis.txt": NaN}}'},
        {"manifest.json": '{"written_by": "merge-study", "files": {}}'},
        {"config.json": "{}"},
    ],
)
def test_a_folder_that_is_not_an_export_is_not_replaced(
    write: Write, tmp_path: Path, files: dict[str, str]
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    for name, text in {**files, "thesis.txt": "years of work"}.items():
        (out / name).write_text(text)
    before = everything(out)
    with pytest.raises(ExportError, match="is not an exported merge"):
        write(out)
    assert everything(out) == before


def test_a_link_is_not_followed(write: Write, tmp_path: Path) -> None:
    out = write(tmp_path / "m")
    for target in (out, tmp_path / "nowhere"):
        link = tmp_path / "link"
        link.symlink_to(target)
        with pytest.raises(ExportError, match="link is a link, which is not followed"):
            write(link)
        assert link.is_symlink()
        link.unlink()
    (tmp_path / "real").mkdir()
    (tmp_path / "above").symlink_to("real")
    assert write(tmp_path / "above" / "m") == tmp_path / "real" / "m"


@pytest.mark.parametrize(
    "name", ["/dev/null", "/dev/stdout", "/proc/merge", "/", "{here}", "{here}/f", "{here}/f/x",
             "{here}/" + "x" * 300, "{here}/nul\0", "{here}/" + "d/" * 3000, "{here}/loop/x"],
)  # fmt: skip
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_cannot_be_written_is_reported(
    write: Write, tmp_path: Path, name: str, overwrite: bool
) -> None:
    (tmp_path / "f").write_text("a file")
    (tmp_path / "loop").symlink_to("loop")
    before = everything(tmp_path)
    with pytest.raises(ExportError):
        write(Path(name.format(here=tmp_path)), overwrite=overwrite)
    assert everything(tmp_path) == before
    assert len(os.listdir(tmp_path)) == 2


def test_a_long_name_is_shortened_for_the_temporary_folder(write: Write, tmp_path: Path) -> None:
    out = write(tmp_path / ("é" * 127))
    assert (write(out) / "config.json").exists()
    assert os.listdir(tmp_path) == [out.name]


@pytest.mark.parametrize("limit", [0, 100, 2_000, 20_000])
def test_a_full_disk_leaves_the_earlier_export_unchanged(
    write: Write, tmp_path: Path, limit: int
) -> None:
    """A full disk is simulated by a limit on the size of files."""
    out = write(tmp_path / "m")
    before, limits = everything(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(ExportError, match="cannot write"):
            write(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert everything(out) == before
    assert os.listdir(tmp_path) == ["m"]


def test_a_full_disk_is_reported_while_a_union_tokenizer_is_saved(
    family: dict[str, Path], tmp_path: Path
) -> None:
    sources = Sources(family, "base", "union")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    names = dict.fromkeys(sources.checkpoints, "m")
    recipe = MergeRecipe.single("x", sources.num_layers)
    weights = export(recipe, sources, names, tmp_path / "m", "c") / "model.safetensors"
    sources.vocabulary.tokenizer.add_tokens([f"word{i}" for i in range(3000)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (weights.stat().st_size, limits[1]))
    try:
        with pytest.raises(ExportError, match=r"cannot write the tokenizer to .*: File too large"):
            export(recipe, sources, names, tmp_path / "n", "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["m"]


def test_too_little_free_space_is_reported_before_anything_is_written(
    sources: Sources, tmp_path: Path
) -> None:
    from objectives.export.target import resolve_target

    with pytest.raises(ExportError, match=r"of free space, but the merge needs 1000000\.00"):
        resolve_target(tmp_path / "a" / "m", overwrite=False, size=10**15)
    assert os.listdir(tmp_path) == []


# What happens to the target while the merge is computed


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("appears", ["file", "link", "changed export"])
def test_what_appears_at_the_target_is_kept(
    write: Write, tmp_path: Path, overwrite: bool, appears: str
) -> None:
    other, out = write(tmp_path / "other"), tmp_path / "m"
    kept = everything(other)

    def export_while_it_appears() -> None:
        with replace_atomically(out, overwrite) as folder:
            add("model.safetensors")(folder)
            if appears == "file":
                add("thesis.txt")(out)
            elif appears == "link":
                out.symlink_to(other)
            else:
                shutil.copytree(other, out)
                add("README.md", "my notes")(out)

    with pytest.raises(ExportError, match=r"exists|is a link|not overwritten"):
        export_while_it_appears()
    assert everything(other) == kept
    if appears == "file":
        assert everything(out) == {"thesis.txt": b"mine"}
    elif appears == "link":
        assert out.is_symlink()
    else:
        assert everything(out)["README.md"] == b"my notes"
    assert sorted(os.listdir(tmp_path)) == ["m", "other"]


def test_an_export_that_was_killed_while_it_wrote_is_removed_by_the_next(
    write: Write, tmp_path: Path
) -> None:
    part, of_another = tmp_path / ".m.part-1", tmp_path / ".other.part-1"
    for folder in (part, of_another):
        add("model.safetensors")(folder)
        (folder / EXPORTING).touch()
    write(tmp_path / "m")
    assert sorted(os.listdir(tmp_path)) == [".other.part-1", "m"]


# What killed exports leave


def test_only_the_leftovers_of_killed_exports_are_removed(write: Write, tmp_path: Path) -> None:
    part, theirs = tmp_path / ".merge-1.part-77", tmp_path / ".photos.part-2"
    for folder in (part, theirs, tmp_path / ".backup.old-2024"):
        add("sub/file")(folder)
    (part / EXPORTING).touch()
    (tmp_path / ".elsewhere.old-3").symlink_to(theirs)
    write(tmp_path / "merge-2")
    shutil.copytree(tmp_path / "merge-2", tmp_path / ".merge-2.old-8")
    shutil.copytree(tmp_path / "merge-2", tmp_path / ".merge-3.old-8")
    remove_leftovers(tmp_path)
    assert not part.exists()
    assert (theirs / "sub/file").exists()
    assert (tmp_path / ".backup.old-2024/sub/file").exists()
    assert (tmp_path / ".elsewhere.old-3").is_symlink()
    assert not (tmp_path / ".merge-2.old-8").exists()
    assert everything(tmp_path / "merge-3") == everything(tmp_path / "merge-2"), "put back"


def test_a_running_export_is_not_removed(tmp_path: Path) -> None:
    part = tmp_path / ".merge-1.part-77"
    add(EXPORTING, "")(part)
    code = (
        "import fcntl, sys\n"
        f"file = open({str(part / EXPORTING)!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        remove_leftovers(tmp_path)
        assert part.exists()
        other.communicate()
    remove_leftovers(tmp_path)
    assert not part.exists()


# What is read from an exported folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("garbage\n", "SHA256SUMS:1: 'garbage' is not a line of sha256sum"),
        (f"{'0' * 64}  a\n{'0' * 63}  b\n", "SHA256SUMS:2: "),
        (f"{'0' * 64}  /etc/passwd\n", "SHA256SUMS:1: '/etc/passwd' is not the name of a file"),
        (f"{'0' * 64}  ../x\n", r"SHA256SUMS:1: '\.\./x' is not the name of a file"),
        (f"{'0' * 64}  a/../../x\n", "is not the name of a file"),
        (f"{'0' * 64}  .\n", "is not the name of a file"),
        (f"{'0' * 64}  a/b\n", "SHA256SUMS:1: 'a/b' is not the name of a file beside it"),
        (b"\xff\xfe\x00", "cannot read .*SHA256SUMS: .* invalid start byte"),
        (None, "cannot read .*SHA256SUMS: it is a folder; choose a regular file"),
    ],
)
def test_an_invalid_checksum_file_is_reported(
    write: Write, tmp_path: Path, text: str | bytes | None, message: str
) -> None:
    out = write(tmp_path / "m")
    (out / "SHA256SUMS").unlink()
    if text is None:
        (out / "SHA256SUMS").mkdir()
    else:
        (out / "SHA256SUMS").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExportError, match=message):
        changed_weights(out)


def test_a_huge_checksum_file_is_not_read(write: Write, tmp_path: Path) -> None:
    out = write(tmp_path / "m")
    os.truncate(out / "SHA256SUMS", 1 << 40)
    with pytest.raises(ExportError, match="it is larger than 67,108,864 bytes"):
        changed_weights(out)


def test_missing_and_unlisted_weights_are_reported_as_changed(write: Write, tmp_path: Path) -> None:
    out = write(tmp_path / "m")
    assert changed_weights(out) == []
    (out / "model.safetensors").rename(out / "more.safetensors")
    assert changed_weights(out) == ["model.safetensors", "more.safetensors"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["model.safetensors", "SHA256SUMS", "listed"])
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/proc/kmsg", "is a link out of its folder, to /proc/kmsg"),
        ("/proc/self/status", "is a link out of its folder"),
        ("/dev/zero", "is a link out of its folder, to /dev/zero"),
        ("pipe", "it is a pipe; choose a regular file"),
        ("folder", "it is a folder; choose a regular file"),
        ("loop", "[Ss]ymlink loop|symbolic links"),
    ],
)
def test_only_regular_files_of_the_folder_are_opened(
    write: Write, tmp_path: Path, name: str, target: str, reason: str
) -> None:
    out = write(tmp_path / "m")
    with (out / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  listed\n")
    (out / name).unlink(missing_ok=True)
    if target == "pipe":
        os.mkfifo(out / name)
    elif target == "folder":
        (out / name).mkdir()
    else:
        (out / name).symlink_to(name if target == "loop" else target)
    with pytest.raises(ExportError, match=f"cannot read .*{name}: .*({reason})"):
        changed_weights(out)


def test_links_within_the_folder_are_followed(write: Write, tmp_path: Path) -> None:
    out = write(tmp_path / "m")
    for name in ("model.safetensors", "SHA256SUMS"):
        (out / name).rename(out / f"real-{name}.bin")
        (out / name).symlink_to(f"real-{name}.bin")
    assert changed_weights(out) == []


def test_an_export_without_weights_does_not_hold_the_merge(
    write: Write, sources: Sources, recipe: MergeRecipe, tmp_path: Path
) -> None:
    out = write(tmp_path / "m")
    assert is_export_of(out, recipe, sources, {"study.json": "{}\n"})
    assert not is_export_of(out, recipe, sources, {"study.json": "{} \n"})
    (out / "model.safetensors").unlink()
    assert not is_export_of(out, recipe, sources)
    (out / "recipe.json").write_text("[" * 100_000)
    assert not is_export_of(out, recipe, sources)
    assert not is_export_of(tmp_path / "nowhere", recipe, sources)


def test_the_manifest_lists_every_file_of_an_export(write: Write, tmp_path: Path) -> None:
    import hashlib

    out = write(tmp_path / "m")
    data = json.loads((out / MANIFEST_FILE).read_text())
    assert data["written_by"] == "merge-study"
    files = everything(out)
    del files[MANIFEST_FILE]
    assert data["files"] == {n: hashlib.sha256(text).hexdigest() for n, text in files.items()}


def test_a_merge_is_written_by_the_cpu_if_the_gpu_has_too_little_memory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    expected = everything(write(tmp_path / "cpu"))
    monkeypatch.setattr(module, "_can_use_gpu", lambda recipe: True)
    monkeypatch.setattr(module, "Streamed", no_memory)
    assert everything(write(tmp_path / "gpu")) == expected


@pytest.mark.gpu
def test_a_merge_that_the_gpu_computes_is_written_with_the_same_bytes(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"weight": (((0.7,), (0.4,)),), "density": (((0.6,), (0.8,)),)}
    recipe = MergeRecipe("dare_ties", ("x", "y"), "base", sources.num_layers, values)
    names = dict.fromkeys(sources.checkpoints, "m")
    by_gpu = everything(export(recipe, sources, names, tmp_path / "gpu", "c"))
    monkeypatch.setattr(module, "_can_use_gpu", lambda recipe: False)
    assert everything(export(recipe, sources, names, tmp_path / "cpu", "c")) == by_gpu
