"""The report of a sweep: the same figures as page, text and JSON; the page opens in a real browser."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Runner
from tests.support import Lab
from tests.sweeps import finished_sweep

LEVELS: dict[str, list[Any]] = {"temperature": [0, 0.3, 0.6, 1.0], "top_p": [0.9, 1.0], "n": [1, 16]}
BROWSER = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=10000"),
)

# A page around the report: as wide as a phone or a desk, it tells what the report in it came to.
PROBE = """<!doctype html><body style="margin:0"><iframe width="{width}" height="900" src="{page}"></iframe>
<pre id="told"></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const images = [...page.images];
  const paper = getComputedStyle(page.body).backgroundColor;
  document.getElementById("told").textContent = JSON.stringify({{
    overflow: root.scrollWidth - root.clientWidth, paper, title: page.title,
    images: images.map(image => [image.naturalWidth, image.getBoundingClientRect().width]),
    alts: images.map(image => image.alt.length), rows: page.querySelectorAll("tr.best").length,
    small: [...page.querySelectorAll("p, td, th, dd, dt, small, summary")]
      .filter(one => parseFloat(getComputedStyle(one).fontSize) < 13).length }});
}});
</script>"""


def test_page_text_and_json_say_the_same(research_log: Lab, runner: Runner) -> None:
    run = finished_sweep(research_log, LEVELS, failed=(5,))
    words = (*research_log.args, "phase=phase2", "action=report")
    text, document = runner(*words), runner(*words, "output=json").plan
    assert text.exit_code == 0, text
    assert document["format"] == "runner.report/1"
    assert document["axes"] == LEVELS
    best = max((m for m in document["members"] if m["figures"]), key=lambda m: m["figures"]["majority_vote"])
    assert document["best"] == best["member"]
    assert f"majority vote {best['figures']['majority_vote']:.3f}" in text.stdout
    assert "failed: CUDA out of memory" in text.stdout
    assert (document["load_seconds"], document["usd"]) == (18.3, round(1.99 * 300 / 3600, 4))
    page = Path(document["page"])
    assert page == run / "report" / "report.html"
    html = page.read_text()
    assert f"{best['figures']['majority_vote']:.3f}" in html and "CUDA out of memory" in html
    assert not re.findall(r"(?:src|href|srcset)=\"(?!data:|\.\./)[^\"]+", html), "it loads nothing"
    for picture in document["pictures"]:
        assert Path(picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [Path(picture).stem for picture in document["pictures"]] == ["quality", "throughput", "time"]


@pytest.mark.parametrize(
    "levels",
    [{"temperature": [0.1, 1.0]}, {"temperature": [0, 1.0], "n": [1, 4]}, {"model": ["a", "b/c"]},
     {"seed": list(range(60))}, {"a": [1, 2], "b": [1, 2], "c": list(range(9))}],
)  # fmt: skip
def test_any_number_of_axes_gives_a_page(hostile_log: Lab, runner: Runner, levels: dict[str, Any]) -> None:
    run = finished_sweep(hostile_log, levels)
    done = runner(*hostile_log.args, "phase=phase2", "action=report", "run=1")
    assert done.exit_code == 0, done
    assert (run / "report" / "report.html").stat().st_size > 10_000


def test_a_training_is_reported_by_its_curves(research_log: Lab, runner: Runner) -> None:
    script = (
        "import json\nfrom pathlib import Path\nfile = Path(__file__).parent / 'metrics.jsonl'\n"
        "rows = [{'training': 'a', 'step': i, 'loss': 1 / (i + 1), 'note': 'x'} for i in range(9)]\n"
        "file.write_text('\\n'.join(map(json.dumps, rows)) + '\\n{torn')\n"
    )
    research_log.add_phase("phase1-test", script, artifacts=["metrics.jsonl"])
    words = (*research_log.args, "phase=phase1")
    assert runner(*words, "action=train", "confirm=true").exit_code == 0
    document = runner(*words, "action=report", "output=json").plan
    assert document["curves"] == {"loss": [[i, 1 / (i + 1)] for i in range(9)]}
    assert [Path(picture).stem for picture in document["pictures"]] == ["curves"]
    assert "loss" in runner(*words, "action=report").stdout


def test_without_the_library_the_figures_are_shown_and_the_command_that_helps(
    research_log: Lab, runner: Runner, tmp_path: Path
) -> None:
    finished_sweep(research_log, {"n": [1, 2]})
    hidden = tmp_path / "site"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\nold = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'matplotlib' else old(name, *more)\n"
    )
    words = (*research_log.args, "phase=phase2", "action=report")
    done = runner(*words, env={"PYTHONPATH": str(hidden)})
    assert done.exit_code == 64
    assert "majority vote" in done.stdout and "uv pip install --python" in done.stderr


def test_a_phase_without_runs_says_so(research_log: Lab, runner: Runner) -> None:
    research_log.add_phase("phase1-test")
    done = runner(*research_log.args, "phase=phase1", "action=report")
    assert done.exit_code == 64 and "no run yet" in done.stderr
    assert runner(*research_log.args, "phase=phase1", "action=report", "run=4").exit_code == 64


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_opens_in_a_browser(
    research_log: Lab, runner: Runner, tmp_path: Path, width: int, theme: str
) -> None:
    """No error in the console, nothing wider than the page, pictures drawn, in the theme asked for."""
    assert shutil.which("chromium"), "tests/install-debian-packages installs it"
    run = finished_sweep(research_log, LEVELS, failed=(5,))
    assert runner(*research_log.args, "phase=phase2", "action=report").exit_code == 0
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width, page=(run / "report" / "report.html").as_uri()))
    options = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 500)},1000"]
    dark = ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
    done = subprocess.run(
        [*BROWSER, *options, *dark, "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="told">(\{.*?\})</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    told = json.loads(found[1])
    assert told["title"] == "phase2-sampler · 0001-generate"
    assert told["overflow"] <= 0 and told["small"] == 0 and told["rows"] > 0
    assert told["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[theme]
    assert len(told["images"]) == 3 and min(told["alts"]) > 20
    for natural, shown in told["images"]:
        assert natural == (576 if width == 400 else pytest.approx(1296, abs=400))
        assert 300 < shown <= width


def test_pictures_on_disk_are_as_wide_as_a_page(research_log: Lab, runner: Runner) -> None:
    run = finished_sweep(research_log, LEVELS)
    assert runner(*research_log.args, "phase=phase2", "action=report").exit_code == 0
    for file in (run / "report").glob("*.png"):
        width, _ = struct.unpack(">II", file.read_bytes()[16:24])
        assert width >= 1200
