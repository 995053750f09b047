"""Responsiveness of the player in a browser: `python -m benchmarks.feel` prints a table. Run it on an idle machine."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.browser.harness import Browser, LabPage, LabServer

# Cells of 24 atoms from random weights: only the speed matters, so every cell is given 24.
LARGE = """
import torch
import cdvae_lab as lab
torch.manual_seed(0)
large = lab.CDVAE(lab.CDVAEConfig(max_atoms=24)).eval().requires_grad_(False)
large.lattice_mean.copy_(torch.tensor([2.6, 2.6, 2.6, 90, 90, 90]))
large.num_atoms_head.hidden[-1].bias[24] += 100
"""
MAKE = """
from cdvae_lab.widgets import CrystalView, TrajectoryPlayer
player = TrajectoryPlayer({model}, n=4, steps={steps}, height=400)
player
"""
# Seconds from a click, made in the page itself, until a condition holds.
CLICK = """async ([name, until]) => {
  const button = [...document.querySelectorAll('.cdvae-player button')].find(b => b.textContent.trim() === name);
  const so = new Function('return ' + until), frame = () => new Promise(requestAnimationFrame);
  Object.assign(__gl, {frames: 0, longest: 0, last: 0});
  document.querySelector('.cdvae-stage')?.removeAttribute('data-frame');
  const start = performance.now();
  button.click();
  while (!so()) { if (performance.now() - start > 60000) throw new Error(until); await frame(); }
  return (performance.now() - start) / 1000;
}"""
# A pointer that moves over the strips from the first frame to the last.
SCRUB = """async (seconds) => {
  const canvas = document.querySelector('canvas[role=img]'), box = canvas.getBoundingClientRect();
  const frame = () => new Promise(requestAnimationFrame), seen = new Set();
  const send = (kind, x) => canvas.dispatchEvent(new PointerEvent(kind, {clientX: x, clientY: box.top + 40, buttons: 1,
    pointerId: 1, bubbles: true}));
  canvas.setPointerCapture = () => {};
  Object.assign(__gl, {frames: 0, longest: 0, last: 0});
  const start = performance.now();
  send('pointerdown', box.left + 129);
  for (let t = 0; t < seconds; t = (performance.now() - start) / 1000) {
    send('pointermove', box.left + 129 + (box.width - 216) * t / seconds);
    await frame();
  }
  return [__gl.frames / ((performance.now() - start) / 1000), __gl.longest / 1000];
}"""
STATUS = "document.querySelector('.cdvae-player')?.innerText ?? ''"
THREADS = "import threading; print(threading.active_count())"


def says(page: LabPage, word: str, timeout: float = 120) -> None:
    page.wait(f"() => ({STATUS}).includes('{word}')", timeout)


def while_computing(page: LabPage, seconds: float = 5) -> tuple[float, float, float]:
    """Measure the first frame (s), frames a second on the screen, and Stop until the screen shows it (s)."""
    first = page.js(CLICK, ["Run", "document.querySelector('.cdvae-stage[data-frame]') && __gl.frames > 0"])
    page.gl_reset()
    page.sleep(seconds)
    rate = page.gl()["frames"] / seconds
    assert page.kernel("print(player.running)").strip() == "True", "the run is too short for this machine"
    stop = page.js(CLICK, ["Stop", f"({STATUS}).includes('stopp')"])
    says(page, "stopped")
    return first, rate, stop


def measure(folder: Path, runs: int = 2) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    with LabServer(folder) as server, Browser() as browser:
        for name, head, model in (
            ("4 crystals of 5 atoms", "", "'perov_5'"),
            ("4 cells of 24 atoms, random weights", LARGE, "large"),
        ):
            cell = head + MAKE.format(model=model, steps=2000)
            page = browser.open(server, server.notebook("feel.ipynb", cell))
            page.run_all()
            says(page, "press Run")
            page.wait_idle()
            for run in range(runs):
                load = os.getloadavg()[0]
                first, rate, stop = while_computing(page)
                measured = f"{first:.2f} s first, {rate:.1f} frames/s, Stop shown {stop:.2f} s (load {load:.1f})"
                rows.append((f"{name}, run {run + 1}", measured))
            page.page.close()
        page = browser.open(server, server.notebook("scrub.ipynb", MAKE.format(model="'perov_5'", steps=499)))
        page.run_all()
        says(page, "press Run")
        page.wait_idle()
        page.kernel("player.run(wait=True)")
        page.sleep(2)
        page.kernel("import time; time.sleep(12)", wait=False)
        page.sleep(0.5)
        rate, gap = page.js(SCRUB, 10)
        rows.append(("scrubbing 500 frames, kernel busy", f"{rate:.1f} frames/s, longest gap {gap:.2f} s"))
        page.wait_idle()
        before, contexts = page.kernel(THREADS), page.gl()["contexts"]
        for _ in range(20):
            page.kernel(
                "from IPython.display import display\nextra = TrajectoryPlayer(player.model)\n"
                "extra.run(wait=True)\nplayer.children += (extra,)"
            )
            page.wait("() => document.querySelectorAll('.cdvae-player .cdvae-player').length === 1", 10)
            page.kernel("player.children = player.children[:-1]\nextra.close()")
            page.wait("() => document.querySelectorAll('.cdvae-player .cdvae-player').length === 0", 10)
        page.sleep(5)  # one that was closed before it was drawn is left to the browser's collector
        after, threads = page.gl()["contexts"], page.kernel(THREADS).strip()
        measured = f"contexts {contexts} before, {after} after; threads {before.strip()} before, {threads} after"
        rows.append(("20 players opened, run and closed", measured))
        rows.append(("errors, requests outside", f"{len(page.errors)}, {len(page.outside)}"))
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = measure(Path(folder))
    lines = [f"{os.cpu_count()} cores, load " + ", ".join(f"{x:.1f}" for x in os.getloadavg())]
    lines += [f"{name:<45} {measured}" for name, measured in table]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
