"""The map in JupyterLab, with the mouse. Pictures of it are kept in out/browser/."""

from __future__ import annotations

import pytest

from tests.browser.harness import ROOT, Browser, LabPage, LabServer, colors, difference, pixels

MAKE = """
import cdvae_lab as lab
from cdvae_lab.widgets import LatentMapView
view = LatentMapView('perov_5')
view
"""
PICTURES = ROOT / "out" / "browser"
# The pixels of a place on the map.
PIXEL = """([x, y]) => {
  const plot = document.querySelector('.cdvae-map .js-plotly-plot'), full = plot._fullLayout;
  const box = plot.getBoundingClientRect();
  return [box.left + full.xaxis._offset + full.xaxis.l2p(x), box.top + full.yaxis._offset + full.yaxis.l2p(y)];
}"""


def says(page: LabPage, word: str, timeout: float = 60) -> None:
    page.wait(f"() => document.querySelector('.cdvae-map')?.innerText.includes({word!r})", timeout)


def pixel(page: LabPage, xy: str) -> tuple[float, float]:
    """Where the place that an expression gives is on the screen; the map is scrolled into view."""
    page.page.locator(".cdvae-map .js-plotly-plot").scroll_into_view_if_needed()
    x, y = page.js(PIXEL, [float(v) for v in page.kernel(f"print(*map(float, {xy}))").split()])
    return x, y


def click(page: LabPage, xy: str) -> None:
    x, y = pixel(page, xy)
    page.page.mouse.move(x - 3, y - 3)
    page.page.mouse.move(x, y, steps=3)
    page.sleep(0.3)
    page.page.mouse.click(x, y)


@pytest.fixture(scope="module")
def page(lab_server: LabServer, browser: Browser) -> LabPage:
    page = browser.open(lab_server, lab_server.notebook("map.ipynb", MAKE))
    page.run_all()
    says(page, "click on a crystal")
    page.wait("() => document.querySelector('.cdvae-map .js-plotly-plot .gl-canvas')", 30)
    page.wait_idle()
    return page


def test_a_click_on_a_crystal_shows_it_and_says_that_it_is_decoded(page: LabPage) -> None:
    # The crystal with most room around it, so that it is that one which is hit.
    page.kernel("loneliest = int(view.map.nearest(view.map.xy, k=2)[1][:, 1].argmax())")
    before = page.shot(".cdvae-map .nglview-widget canvas, .cdvae-map canvas:not(.gl-canvas)")
    click(page, "view.map.xy[loneliest].tolist()")
    says(page, "decodes from its latent")
    says(page, "predicted from z")
    assert page.kernel("print(view.selection.pick.z.equal(view.map.latents[[loneliest]].float()))").strip() == "True"
    page.sleep(1)
    after = page.shot(".cdvae-map .nglview-widget canvas, .cdvae-map canvas:not(.gl-canvas)")
    assert colors(after) > 50
    assert difference(before, after) > 0.01


def test_a_click_on_an_empty_place_decodes_it(page: LabPage) -> None:
    page.kernel("""
import torch
low, high = view.map.xy.quantile(0.1, dim=0), view.map.xy.quantile(0.9, dim=0)
places = low + (high - low) * torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
empty = places[view.map.nearest(places)[1][:, 0].argmax()].tolist()""")
    click(page, "empty")
    says(page, "An empty place")
    says(page, "predicted from z")
    # The net's knot nearest to the click, not the click itself.
    apart = "x, y = view.plot.chosen; print((x - empty[0]) ** 2 + (y - empty[1]) ** 2)"
    assert float(page.kernel(apart)) < 0.2**2
    assert "latent_at" in page.kernel("print(view.code)")


def test_no_room_is_left_empty_below_the_map_and_its_toolbar_hides_nothing(page: LabPage) -> None:
    below = """() => {
      const plot = document.querySelector('.cdvae-map .js-plotly-plot').getBoundingClientRect();
      const buttons = [...document.querySelectorAll('.cdvae-map button')];
      return buttons.find(b => b.innerText.trim() === 'Generate').getBoundingClientRect().top - plot.bottom;
    }"""
    assert page.js(below) < 40
    ground = "() => getComputedStyle(document.querySelector('.cdvae-map .modebar-group')).backgroundColor"
    assert page.js(ground) == "rgba(0, 0, 0, 0)"


def test_a_lasso_gives_a_table(page: LabPage) -> None:
    page.page.locator(".cdvae-map button", has_text="lasso").first.click()
    page.wait("() => document.querySelector('.cdvae-map .js-plotly-plot')._fullLayout.dragmode === 'lasso'")
    page.sleep(0.5)
    middle = "view.map.xy.median(0).values.tolist()"
    x, y = pixel(page, middle)
    mouse = page.page.mouse
    rows = "() => document.querySelectorAll('.cdvae-map table tbody tr').length"
    for _ in range(3):  # a page that is redrawing itself can miss the press
        mouse.move(x - 60, y - 60)
        mouse.down()
        page.sleep(0.2)
        for dx, dy in ((60, -60), (60, 60), (-60, 60), (-60, -58)):
            mouse.move(x + dx, y + dy, steps=8)
        page.sleep(0.2)
        mouse.up()
        for _ in range(20):
            page.sleep(0.5)
            if page.js(rows) > 3:
                break
        else:
            continue
        break
    assert page.js(rows) > 3
    count = int(page.kernel("print(len(view.table))"))
    inside = page.kernel("print(sum((abs(view.map.xy - view.map.xy.median(0).values) < 0.5).all(1)).item())")
    assert 0 < count < 6000
    assert int(inside) > 0
    page.shot(".cdvae-map", PICTURES / "map_lasso.png")


def test_a_found_crystal_is_marked_while_there_is_a_lasso(page: LabPage) -> None:
    page.kernel("i = int((view.map.xy - view.map.xy.quantile(0.9, dim=0)).norm(dim=1).argmin())")
    place = "view.map.xy[i].tolist()"
    x, y = pixel(page, place)
    around = {"x": x - 12, "y": y - 12, "width": 24, "height": 24}
    before = pixels(page.page.screenshot(clip=around))
    page.kernel("view.find(view.map.ids[i])")
    page.kernel("view.wait(60)")
    page.sleep(1.5)
    page.page.locator(".cdvae-map .js-plotly-plot").scroll_into_view_if_needed()
    x, y = pixel(page, place)
    after = pixels(page.page.screenshot(clip=around | {"x": x - 12, "y": y - 12}))
    assert (after.sum(-1) < 200).sum() > 40 > (before.sum(-1) < 200).sum()  # the ring is black
    page.kernel("view.clear()")
    page.page.locator(".cdvae-map button", has_text="move").first.click()


def test_hovering_does_not_move_the_page(page: LabPage) -> None:
    height = "() => document.querySelector('.cdvae-map').getBoundingClientRect().height"
    before = page.js(height)
    x, y = pixel(page, "view.map.xy[i].tolist()")  # which has been decoded, so that there is a picture
    page.page.mouse.move(x - 3, y - 3)
    page.page.mouse.move(x, y, steps=3)
    says(page, "under the mouse")
    assert page.js(height) == before


def test_closer_the_net_is_finer(page: LabPage) -> None:
    page.kernel("view.plot.figure.update_layout(xaxis_range=[5, 6], yaxis_range=[5, 6])")
    page.sleep(1.5)
    span = "g = view.plot.figure.data[0]; print(g.x.min() >= 4.9, g.x.max() <= 6.1, len(g.x) > 500)"
    assert page.kernel(span).split() == ["True"] * 3
    page.shot(".cdvae-map", PICTURES / "map_close.png")
    page.kernel("view.plot.show_all()")
    page.sleep(1)


def test_light_and_dark(page: LabPage) -> None:
    page.kernel("view.set_path('path', view.map.latents[:6].float()); view.generate(8, wait=True); view.color = 'O'")
    page.kernel("view.choose(3, wait=True)")
    for dark in (False, True):
        page.dark(dark)
        page.sleep(2.5)
        picture = page.shot(".cdvae-map .js-plotly-plot", PICTURES / f"map_plot_{dark}.png")
        page.shot(".cdvae-map", PICTURES / f"map_{'dark' if dark else 'light'}.png")
        corner = picture[5, 5].sum() / 3
        assert corner < 80 if dark else corner > 220
    page.dark(False)


def test_closing_gives_everything_back(page: LabPage) -> None:
    threads = "import threading; print(threading.active_count())"
    before, contexts = int(page.kernel(threads)), page.gl()["contexts"]
    for _ in range(3):
        page.kernel("import ipywidgets; extra = LatentMapView(view.model); view.children += (extra,)")
        page.wait("() => document.querySelectorAll('.cdvae-map .js-plotly-plot .gl-canvas').length >= 6", 30)
        page.kernel("view.children = view.children[:-1]\nextra.close()")
        page.wait("() => document.querySelectorAll('.cdvae-map .js-plotly-plot').length === 1", 30)
    page.sleep(1)
    assert page.gl()["contexts"] <= contexts + 2
    assert int(page.kernel(threads)) <= before


def test_no_errors_and_nothing_from_outside(page: LabPage) -> None:
    assert page.errors == []
    assert page.outside == []
