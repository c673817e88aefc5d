"""Every Python block of the README and the docs runs, in a folder with the user's own `mine.py`."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OWN_MODEL = "decode-your-own-model.md"

MINE = """
import numpy as np
import torch
from sklearn.datasets import load_digits
import underscript as us

torch.manual_seed(0)
x, true = load_digits(return_X_y=True)
x = (x / 8 - 1).astype(np.float32)
y = us.corrupt_labels(true, 0.4, seed=1)
train, noisy_holdout = (x[:1200], y[:1200]), (x[1200:1500], y[1200:1500])
test = (x[1500:], true[1500:])
true_labels = true[:1200]
model = torch.nn.Sequential(
    torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.ReLU(),
    torch.nn.Linear(64, 10),
)
optimiser = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(150):
    optimiser.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(torch.tensor(train[0])), torch.tensor(train[1]))
    loss.backward()
    optimiser.step()
"""


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks of code, without a file that it prints for the reader to keep."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.S | re.M)
    return [block for block in found if not block.startswith("# mine.py")]


def mine(name: str) -> str:
    """Return the user's file: as the page prints it, or one that trains faster."""
    if name != OWN_MODEL:
        return MINE
    (printed,) = re.findall(r"^```python\n(# mine\.py\n.*?)^```$", _text(name), flags=re.S | re.M)
    return printed


def _text(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path):
    if page.name == "recipes.md":
        pytest.skip("parts of the examples, which test_recipes runs")
    code = "\n".join(blocks(page, "python"))
    if not code:
        pytest.skip("the page has no Python")
    if page.name == "adapters.md" and None in map(find_spec, ("accelerate", "lightning", "skorch")):
        pytest.skip("the libraries are not installed (extras lightning, skorch, transformers)")
    if page.name == OWN_MODEL:
        # The file that it prints is one where decoding helps, and the network is needed for it.
        code += "\nassert decoding.summary['gain_points'] > 20"
        code += "\nassert 'you do not need' not in decoding.verdict"
    (tmp_path / "mine.py").write_text(mine(page.name))
    if page.name == "exports.md":  # FiftyOne and Spotlight are too large to be installed here
        code = f"import sys; sys.path.append({str(ROOT / 'tests')!r})\n" + (
            f"import stand_ins; stand_ins.install()\n{code}"
        )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [OWN_MODEL, "repair.md"])
def test_the_commands_for_your_own_model_run(tmp_path, name):
    (tmp_path / "mine.py").write_text(mine(name))
    page = ROOT / "docs" / name
    # What is measured on MNIST is no command for the user's own model.
    own = [block for block in blocks(page, "sh") if "mine.py" in block]
    script = "set -e\n" + "\n".join(own)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "my-run").iterdir()) == [
        "candidates.csv",
        "decoder",
        "examples",
        "geometry.csv",
        "label_issues.csv",
        "layers.csv",
        "report.html",
        "results.json",
    ]
    if name == "repair.md":
        written = ("decoder.onnx", "repaired.safetensors", "labels.csv", "retrained.safetensors")
        assert all((tmp_path / file).is_file() for file in written)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.stem for path in PAGES[1:]}
    assert names <= {path.stem for path in tmp_path.glob("*.html")}
    page = (tmp_path / "api.html").read_text()
    for name in ("decode", "layer_curve", "MinimumAngleSubspaceClassifier"):
        assert f'id="underscript.{name}"' in page or f".{name}" in page
    # Nothing is asked from elsewhere.
    for path in tmp_path.glob("*.html"):
        asked = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"', path.read_text()
        )
        assert [url for url in asked if "canonical" not in url] == [], path.name
