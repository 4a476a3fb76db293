"""`adacomed doctor`, on this machine and on ones that lack something: fakes are real packages."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adacomed.commands.doctor import _no_cuda, doctor, examine
from adacomed.commands.doctor_packages import Row, core, extras, import_names, torchvision
from adacomed.encoders.base import ENCODERS
from adacomed.errors import InputError

SECTIONS = ["core", "extras", "devices", "libraries", "machine", "hub", "encoders"]
RUN = "from adacomed.commands.doctor import doctor; doctor(json=True)"
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution, as pip would leave it, before all others on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def put(name: str, version: str, *metadata: str, module: str | None = None, code: str = ""):
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        head = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *metadata)
        (info / "METADATA").write_text("\n".join(head) + "\n")
        if module:
            (info / "top_level.txt").write_text(f"{module}\n")
            (site / module).mkdir()
            (site / module / "__init__.py").write_text(code)
        return site

    return put


@pytest.fixture(scope="module")
def examined() -> dict[str, list[Row]]:
    return examine()


def test_plain_text_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    doctor()
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["section", "name", "usable", "found", "fix"]
    assert {len(cells) for cells in lines} == {5}
    assert list(dict.fromkeys(cells[0] for cells in lines[1:])) == SECTIONS
    assert {cells[2] for cells in lines[1:]} <= {"yes", "no", "-"}
    assert not any("\x1b" in cell for cells in lines for cell in cells)


def test_a_table_on_a_terminal_keeps_the_brackets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, install: Install
) -> None:
    install("adacomed", "9.9", "Provides-Extra: slide", "Requires-Dist: no-such; extra == 'slide'")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    doctor()
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "pip install 'adacomed[slide]'" in out


def test_json_has_the_same_rows(
    capsys: pytest.CaptureFixture[str], examined: dict[str, list[Row]]
) -> None:
    doctor(json=True)
    found = json.loads(capsys.readouterr().out)
    assert list(found) == SECTIONS
    names = {section: [row["name"] for row in rows] for section, rows in found.items()}
    assert names == {section: [row.name for row in rows] for section, rows in examined.items()}


def test_every_row_that_is_not_usable_says_what_to_do(examined: dict[str, list[Row]]) -> None:
    for rows in examined.values():
        for row in rows:
            assert row.usable is not False or row.fix, row
            assert "\t" not in row.found + row.fix


def test_this_machine(examined: dict[str, list[Row]]) -> None:
    import torch

    rows = {row.name: row for row in examined["core"] + examined["devices"]}
    assert rows["torch"] == Row("torch", True, torch.__version__)
    assert rows["python"].found.startswith(sys.version.split()[0])
    assert rows["cpu"].usable
    assert all(row.usable for row in examined["core"])
    assert [row.name for row in examined["encoders"]] == list(ENCODERS)


# ---- packages ------------------------------------------------------------------------------------
def test_extras_are_read_from_the_metadata(install: Install) -> None:
    install("present", "2.1", module="present_module")
    site = install("hollow", "1.0", module="hollow_module")
    (site / "hollow_module" / "__init__.py").unlink()
    (site / "hollow_module").rmdir()
    extra = {
        "fine": ["present>=2"],
        "old": ["present>=3"],
        "absent": ["present", "no-such-package>=1"],
        "gone": ["hollow"],
        "elsewhere": ['no-such-package; sys_platform == "amiga"'],
        "all": ["fake[fine,old]"],
        "circle": ["fake[circle]", "present"],
        "dev": ["no-such-package"],
    }
    lines = ["Requires-Dist: also-missing"]  # of the core, in no extra
    for name, requirements in extra.items():
        lines.append(f"Provides-Extra: {name}")
        for text in requirements:
            package, _, marker = text.partition("; ")
            both = f"({marker}) and " if marker else ""
            lines.append(f'Requires-Dist: {package}; {both}extra == "{name}"')
    install("fake", "1.0", *lines)
    found = {row.name: row for row in extras(import_names(), "fake")}
    usable = {name: row.usable for name, row in found.items()}
    assert usable == {
        "fine": True,
        "old": False,
        "absent": False,
        "gone": False,
        "elsewhere": True,
        "all": False,
        "circle": True,
    }
    assert found["fine"] == Row("fine", True, "present 2.1")
    assert found["old"].found == "present 2.1 (needs >=3)"
    assert found["absent"].found == "present 2.1, no-such-package missing"
    assert found["gone"].found == "hollow 1.0 (its files are gone)"
    assert found["all"].fix == "Run: pip install 'fake[all]'"


def test_a_package_that_is_not_installed_has_no_extras() -> None:
    assert extras({}, "no-such-package") == []


def test_a_core_that_lacks_a_package_is_an_error(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("adacomed", "9.9", "Requires-Dist: torch>=99", "Requires-Dist: no-such-package")
    with pytest.raises(InputError, match="cannot run here: torch, no-such-package"):
        doctor()
    assert "core\tno-such-package\tno\tmissing\t" in capsys.readouterr().out
    rows = core(import_names())
    assert [row.usable for row in rows] == [True, True, False, False]
    assert "needs >=99" in rows[2].found


@pytest.mark.parametrize(
    ("needs", "build", "usable"),
    [
        ("torch>=2", "1.0", True),
        ("torch>=2", "1.0+cpu", True),
        ("torch>=99", "1.0", False),  # of another release
        ("torch>=2", "1.0+cu130", False),  # of another build: torch::nms does not exist
    ],
)
def test_torchvision_of_another_build(
    install: Install, needs: str, build: str, usable: bool
) -> None:
    install("torch", "2.13.0+cpu")
    site = install("torchvision", "1.0", f"Requires-Dist: {needs}", module="torchvision")
    (site / "torchvision" / "version.py").write_text(f"__version__ = '{build}'\n")
    row = torchvision()
    assert row.usable is usable
    assert ("pip uninstall torchvision" in row.fix) is not usable
    assert "torchvision" not in sys.modules


def test_a_card_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _no_cuda(None).usable is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert "CPU build" in _no_cuda(None).fix
    assert "CUDA 13.0: check the driver" in _no_cuda("13.0").fix


# ---- a machine of its own ------------------------------------------------------------------------
def test_a_machine_where_much_is_broken(tmp_path: Path, install: Install) -> None:
    """Libraries that do not load, the hub offline, one model in its cache; in a few seconds."""
    broken = "raise OSError('libopenslide.so.1: cannot open shared object file')\n"
    install("openslide-python", "1.4", module="openslide", code=broken)
    site = install("pydicom", "3.0", module="pydicom", code="raise ImportError('no')\n")
    hub = tmp_path / "hub"
    snapshot = hub / "models--stanfordmimi--Merlin" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    environment = {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(site)}
    heavy = "{'transformers', 'torchvision', 'sklearn', 'chronos'} & set(sys.modules)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, "-c", f"{RUN}\nimport sys; assert not {heavy}, {heavy}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 10  # seconds of one core; two or three as a rule
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    found = {row["name"]: row for rows in json.loads(ran.stdout).values() for row in rows}
    assert found["openslide"]["usable"] is False
    assert "libopenslide.so.1" in found["openslide"]["found"]
    assert found["openslide"]["fix"] == "Run: pip install 'adacomed[slide]'"
    for name in ("JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000", "RLE"):
        assert found[f"DICOM {name}"]["fix"] == "Run: pip install 'adacomed[image]'"
    assert "nothing is fetched (HF_HUB_OFFLINE=1)" in found["mode"]["found"]
    assert found["models in the cache"]["found"] == "1"
    assert str(hub) in found["cache folder"]["found"]
    assert found["merlin"]["found"] == "weights are here"
    assert found["moirai"]["usable"] is False
    assert found["moirai"]["fix"].startswith("Run: hf download Salesforce/moirai-1.1-R-large")
    assert "Ask for access at https://huggingface.co/MahmoodLab/UNI" in found["uni"]["fix"]
