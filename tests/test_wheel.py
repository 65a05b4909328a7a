"""The built wheel works outside the checkout, even where none of its dependencies is installed."""

from __future__ import annotations

import subprocess
import sys

from triagekit import __version__


def run(*words, **options):
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_in_a_fresh_venv_without_dependencies(checkout, tmp_path):
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", str(tmp_path), str(checkout)),
    )
    (wheel,) = tmp_path.glob("triagekit-*.whl")
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = tmp_path / "venv" / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel))
    triage = str(tmp_path / "venv" / "bin" / "triage")
    assert run(triage, "--version", cwd=tmp_path).strip() == f"triagekit {__version__}"
    shown = run(triage, "schema", "show", "it_tickets", cwd=tmp_path)
    assert shown == (checkout / "configs" / "schema" / "it_tickets.yaml").read_text(encoding="utf-8")
    base = next((tmp_path / "venv").rglob("triagekit/modeling/tiny_base/model.safetensors"))
    assert base.stat().st_size < 15 * 2**20
    sources = {
        path.name for path in (tmp_path / "venv").rglob("triagekit/decoding/kernels/*") if path.suffix in {".cpp", ".h"}
    }
    assert sources == {"packed_attention.cpp", "pointwise.cpp", "text_choice.cpp", "vectors.h"}
