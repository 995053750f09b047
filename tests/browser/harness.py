"""JupyterLab, Notebook, Voila and a headless chromium: start, open a notebook, run, look at pixels.

with LabServer(folder) as server, Browser() as browser:
    page = browser.open(server, "a.ipynb")
    page.run_all()
    page.wait_idle()
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from cdvae_lab.cli.app import voila_command

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ARGUMENTS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    # WebGL without a graphics card
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    # nothing but this machine can be reached
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
# Counts the animation frames in which something was drawn, the longest time without one, and WebGL contexts.
_COUNTERS = r"""
(() => {
  if (window.__gl) return;
  const S = window.__gl = {frames: 0, dirty: false, contexts: [], longest: 0, last: 0};
  for (const C of [window.WebGLRenderingContext, window.WebGL2RenderingContext])
    for (const n of ['drawArrays', 'drawElements', 'drawArraysInstanced', 'drawElementsInstanced']) {
      const o = C && C.prototype[n];
      if (o) C.prototype[n] = function(...a) { S.dirty = true; return o.apply(this, a); };
    }
  const get = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function(t, ...a) {
    const c = get.call(this, t, ...a);
    if (c && /webgl/.test(t) && !this.__seen) { this.__seen = 1; S.contexts.push(new WeakRef(c)); }
    return c;
  };
  const tick = (t) => {
    if (S.dirty) { S.frames++; S.dirty = false; if (S.last) S.longest = Math.max(S.longest, t - S.last); S.last = t; }
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
})();
"""
_LOCAL = re.compile(r"^((https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:|about:|file:|chrome)")
# JupyterLab on a slow machine, the software renderer, and what Notebook 7.6 says of a notebook without any widget.
_NOISE = re.compile(
    r"taking too long to activate|GPU stall due to ReadPixels|software WebGL|GL Driver Message"
    r"|^Cannot read properties of undefined \(reading 'schema'\)[\s\S]*/static/notebook/notebook_core"
)


# An arrow takes the right end of a list.
_CUT = """selector => {
  const pen = document.createElement('canvas').getContext('2d');
  const room = (e, arrow) => {
    const style = getComputedStyle(e), right = parseFloat(style.paddingRight);
    pen.font = style.font;
    return e.clientWidth - parseFloat(style.paddingLeft) - (arrow ? Math.max(right, 18) : right) + 1;
  };
  const all = kind => [...document.querySelector(selector).querySelectorAll(kind)].filter(e => e.offsetParent);
  const cut = (e, texts, arrow) => texts.filter(t => room(e, arrow) < pen.measureText(t).width);
  return [
    ...all('.widget-label').filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent),
    ...all('input[type=text], input[type=number]').flatMap(e => cut(e, [e.value || e.placeholder], false)),
    ...all('select').flatMap(e => cut(e, [...e.options].map(o => o.text), true)),
  ];
}"""


class Server:
    """A program that serves pages on a free port, with folders of its own and no first-run messages.

    Args:
        root: an empty folder; notebooks go into its `work`.
    """

    ready = "/api"  # what answers once it is there

    def __init__(self, root: Path) -> None:
        self.root = root / "work"
        self._home = root / "jupyter"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Arguments of Python that start it, in `root`."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        self._log = (self._home.parent / "server.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, *self.command()],
            cwd=self.root, env=self._environment(), stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{self.base}{self.ready}", timeout=2).close()
            except urllib.error.HTTPError:  # it answers
                return self
            except (urllib.error.URLError, TimeoutError):
                if self._process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise
                time.sleep(0.1)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._log.close()

    def kernels(self) -> set[int]:
        """Process numbers of the kernels that the server has started and that are alive."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self._process.pid and b"ipykernel" in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
            except OSError:  # it has ended meanwhile
                continue
        return found

    def _environment(self) -> dict[str, str]:
        kinds = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
        environment = dict(os.environ) | {f"JUPYTER_{kind}": str(self._home / kind.lower()) for kind in kinds}
        environment |= {"IPYTHONDIR": str(self._home / "ipython"), "PYTHONPATH": str(ROOT)}
        environment["JUPYTERLAB_WORKSPACES_DIR"] = str(self._home / "workspaces")
        environment["JUPYTERLAB_SETTINGS_DIR"] = str(self._home / "settings")
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        news = "@jupyterlab/apputils-extension:announcements"
        self._write("config_dir/labconfig/page_config.json", {"disabledExtensions": {news: True}})
        # Cells below the fold are drawn at once, else their widgets do not exist.
        self._write("settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings", {"windowingMode": "none"})
        return environment

    def _write(self, name: str, content: dict) -> None:
        path = self._home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


class LabServer(Server):
    """JupyterLab."""

    module, app = "jupyterlab", "LabApp"

    def command(self) -> list[str]:
        command = ["-m", self.module, "--no-browser", "--ip=127.0.0.1", f"--port={self.port}", "--allow-root"]
        command += ["--IdentityProvider.token=", "--ServerApp.password=", "--ServerApp.port_retries=0"]
        command += ["--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={self.root}"]
        return [*command, f"--{self.app}.expose_app_in_browser=True"]

    def notebook(self, name: str, *cells: str) -> str:
        """Write a notebook of these code cells."""
        import nbformat

        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        code = [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": kernel}), self.root / name)
        return name


class ClassicServer(LabServer):
    """Notebook 7."""

    module, app = "notebook", "JupyterNotebookApp"


class VoilaServer(Server):
    """The server of `cdvae-lab app`.

    Args:
        root: an empty folder.
        theme: "light" or "dark".
    """

    ready = "/voila/static/no-such-file"  # the page itself would start a kernel

    def __init__(self, root: Path, theme: str = "light") -> None:
        super().__init__(root)
        self._theme = theme

    def command(self) -> list[str]:
        # What `cdvae-lab app` starts, so that the two cannot differ, but for what a test needs.
        options = ["--no-browser", f"--port={self.port}", "--Voila.port_retries=0"]
        return ["-m", *voila_command(self._theme), *options]

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"JUPYTER_PATH": str(ROOT / "notebooks")}


class Browser:
    """A chromium that reaches this machine alone."""

    def __enter__(self) -> Browser:
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=_ARGUMENTS)
        return self

    def __exit__(self, *_: object) -> None:
        self._chromium.close()
        self._playwright.stop()

    def open(self, server: LabServer, notebook: str) -> LabPage:
        """A notebook in JupyterLab."""
        page = LabPage(self._new_page())
        page.goto(f"{server.base}/lab/tree/{notebook}?reset")
        return page

    def open_classic(self, server: ClassicServer, notebook: str) -> LabPage:
        """A notebook in Notebook 7."""
        page = LabPage(self._new_page())
        page.goto(f"{server.base}/notebooks/{notebook}")
        return page

    def open_app(self, server: VoilaServer) -> Page:
        """The page of `cdvae-lab app`."""
        page = Page(self._new_page())
        page.page.goto(server.base, wait_until="domcontentloaded", timeout=120_000)
        return page

    def _new_page(self):
        context = self._chromium.new_context(viewport={"width": 1300, "height": 1000})
        context.add_init_script(_COUNTERS)
        return context.new_page()

    def close_pages(self) -> None:
        """All that are open."""
        for context in self._chromium.contexts:
            context.close()

    def open_file(self, path: Path, dark: bool = False) -> Page:
        """A page that was sent by mail and opened with a double click."""
        scheme = "dark" if dark else "light"
        context = self._chromium.new_context(viewport={"width": 1000, "height": 800}, color_scheme=scheme)
        page = Page(context.new_page())
        page.page.goto(path.as_uri())
        return page


class Page:
    """What a browser shows; `errors` and `outside` collect what should not be."""

    def __init__(self, page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.outside: list[str] = []
        page.on("request", lambda request: self._outside(request.url))
        page.on("websocket", lambda socket: self._outside(socket.url))
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._complaint(str(error), f"\n{error.stack}"))

    def _outside(self, url: str) -> None:
        if not _LOCAL.match(url):
            self.outside.append(url)

    def _console(self, message) -> None:
        if message.type == "error":
            self._complaint(message.text[:500])

    def _complaint(self, text: str, where: str = "") -> None:
        if not _NOISE.search(text + where):
            self.errors.append(text + where)

    def sleep(self, seconds: float) -> None:
        self.page.wait_for_timeout(1000 * seconds)

    def wait(self, expression: str, timeout: float = 20) -> None:
        self.page.wait_for_function(expression, timeout=1000 * timeout)

    def js(self, expression: str, argument: object = None):
        return self.page.evaluate(expression, argument)

    def cut(self, selector: str) -> list[str]:
        """The texts of labels, inputs and lists in the first such element for which there is not enough room."""
        return self.js(_CUT, selector)

    def gl(self) -> dict:
        """Drawn frames, the longest time between two (ms), and WebGL contexts that are still alive."""
        return self.js("""() => ({frames: __gl.frames, longest: __gl.longest,
            contexts: __gl.contexts.filter(r => r.deref() && !r.deref().isContextLost()).length})""")

    def gl_reset(self) -> None:
        self.js("() => Object.assign(__gl, {frames: 0, longest: 0, last: 0}) && 1")

    def shot(self, selector: str, path: Path | None = None) -> np.ndarray:
        """The pixels of the first such element, (rows, columns, 3)."""
        element = self.page.locator(selector).first
        element.scroll_into_view_if_needed()
        return pixels(element.screenshot(path=path))


class LabPage(Page):
    """A notebook in JupyterLab, or in Notebook 7."""

    def goto(self, url: str) -> None:
        self.page.goto(url, wait_until="domcontentloaded")
        self.wait_idle(120)

    def reload(self) -> None:
        self.page.reload(wait_until="domcontentloaded")
        self.wait_idle(120)

    def wait_idle(self, timeout: float = 60) -> None:
        """Until the kernel is idle and no cell has a star: the kernel alone can look idle in between."""
        self.wait(
            """() => { const w = window.jupyterapp?.shell.currentWidget;
               return w?.sessionContext?.session?.kernel?.status === 'idle'
                 && ![...w.node.querySelectorAll('.jp-InputPrompt')].some(e => /\\[\\*\\]/.test(e.textContent)); }""",
            timeout,
        )
        self.sleep(0.3)

    def run_all(self) -> None:
        self.js("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        self.sleep(0.3)

    def save(self) -> None:
        self.js("() => window.jupyterapp.commands.execute('docmanager:save').then(() => 1)")

    def kernel(self, code: str, wait: bool = True) -> str:
        """Run code in the notebook's kernel; what it printed."""
        return self.js(
            """([code, wait]) => { const k = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
               const f = k.requestExecute({code, store_history: false}); let out = '';
               f.onIOPub = m => { if (m.header.msg_type === 'stream') out += m.content.text;
                 if (m.header.msg_type === 'error') out += m.content.ename + ': ' + m.content.evalue; };
               return wait ? f.done.then(() => out) : ''; }""",
            [code, wait],
        )

    def dark(self, on: bool) -> None:
        name = "JupyterLab Dark" if on else "JupyterLab Light"
        self.js("(t) => window.jupyterapp.commands.execute('apputils:change-theme', {theme: t}).then(() => 1)", name)
        self.sleep(1)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def colors(picture: np.ndarray) -> int:
    return len(np.unique(picture.reshape(-1, 3), axis=0))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Share of pixels that differ visibly."""
    return float((np.abs(one - other).max(-1) > 24).mean())
