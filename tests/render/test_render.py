"""Pictures: atoms, colors and images drawn, and files that other programs can open."""

from __future__ import annotations

import io
import itertools
import math
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from cdvae_lab import render
from cdvae_lab.crystals import lattice as lat
from cdvae_lab.crystals.batch import Crystals
from cdvae_lab.errors import LabError, SettingError
from cdvae_lab.models.checkpoints import load
from cdvae_lab.render import gif, grid, image_atoms, picture, png_bytes, strip
from cdvae_lab.render.legend import printable
from cdvae_lab.render.scene import Camera, bonded_pairs
from cdvae_lab.render.spheres import confusable, element_color, oklab


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def one_atom(frac: list[float], number: int = 8, side: float = 5.0) -> Crystals:
    return Crystals(torch.tensor([[frac]]), torch.tensor([[number]]), side * torch.eye(3)[None])


@pytest.mark.parametrize("theme", ["light", "dark", "transparent"])
@pytest.mark.parametrize("size", [48, 161, 480])
def test_a_picture_has_the_size_asked_for_and_is_not_blank(srtio3, theme, size):
    image = picture(srtio3, size=size, theme=theme)
    assert image.size == (size, size)
    assert image.mode == ("RGBA" if theme == "transparent" else "RGB")
    colors = image.getcolors(size * size)
    assert len(colors) > 200
    # The background is still the commonest color, and the crystal fills a good part.
    assert 0.1 < max(count for count, _ in colors) / size**2 < 0.8


def test_each_theme_has_its_background(srtio3):
    light, dark = picture(srtio3), picture(srtio3, theme="dark")
    assert light.getpixel((0, 0)) == (255, 255, 255)
    assert sum(dark.getpixel((0, 0))) < 100
    assert picture(srtio3, theme="transparent").getpixel((0, 0)) == (0, 0, 0, 0)
    assert (pixels(light) != pixels(dark)).any(-1).mean() > 0.5


def test_the_middle_of_a_sphere_has_its_elements_color():
    # Face on, one atom in the middle of the cell, half-lit: the color there is the element's, hue and all.
    for number in (8, 11, 38):
        image = pixels(picture(one_atom([0.5, 0.5, 0.5], number), legend=False, rotate=(0, 0)))
        middle = image[235:245, 235:245].reshape(-1, 3).mean(0)
        cosine = middle @ element_color(number) / np.linalg.norm(middle) / np.linalg.norm(element_color(number))
        assert cosine > 0.985


def test_another_species_changes_the_colors(srtio3):
    other = srtio3.replace(atomic_numbers=torch.tensor([[56, 22, 16, 16, 16]]))
    changed = (abs(pixels(picture(srtio3, legend=False)) - pixels(picture(other, legend=False))) > 30).any(-1)
    assert changed.mean() > 0.02


@pytest.mark.parametrize(
    ("frac", "drawn"),
    [([0, 0, 0], 8), ([0.5, 0, 0], 4), ([0.5, 0.5, 0], 2), ([0.5, 0.5, 0.5], 1), ([0.995, 1.0, -0.005], 8)],
)
def test_atoms_on_corners_edges_and_faces_are_drawn_on_all_of_them(frac, drawn):
    places, numbers = image_atoms(np.array([frac], dtype=float), np.array([8]))
    assert len(places) == len(numbers) == drawn
    # All are the same atom, and all lie in the cell or on its surface.
    assert np.allclose((places - np.array(frac) + 0.5) % 1, 0.5)
    assert (places > -0.02).all()
    assert (places < 1.02).all()
    alone, _ = image_atoms(np.array([frac], dtype=float), np.array([8]), images=False)
    assert len(alone) == 1


def test_the_pictures_show_the_images_or_not():
    corner = one_atom([0.0, 0.0, 0.0])
    red = [
        ((image := pixels(picture(corner, legend=False, images=images)))[..., 0] - image[..., 2] > 60).sum()
        for images in (True, False)
    ]
    assert red[0] > 5 * red[1] > 0


def test_a_camera_keeps_the_cell_in_the_picture_from_every_angle():
    rng = np.random.default_rng(0)
    corners = np.array(list(itertools.product((0, 1), repeat=3)))
    for steady in (True, False):
        for _ in range(50):
            lattice = rng.normal(size=(3, 3)) * rng.uniform(1, 8, (3, 1))
            camera = Camera.fit(lattice, (rng.uniform(0, 360), rng.uniform(-90, 90)), (0, 30, 480, 440), steady)
            flat, _, _ = camera.project(corners @ lattice)
            assert (flat > [0, 30]).all()
            assert (flat < [480, 440]).all()


def test_a_steady_camera_has_one_scale_for_all_angles():
    lattice = np.diag([3.0, 4.0, 9.0])
    scales = {
        round(Camera.fit(lattice, (float(spin), 16.0), (0, 0, 480, 480), True).scale, 9) for spin in range(0, 360, 30)
    }
    assert len(scales) == 1


def test_bonds_of_known_structures(srtio3, nacl, diamond):
    def bonds(crystal: Crystals) -> set[tuple[int, int]]:
        places, numbers = image_atoms(crystal.frac_coords[0].double().numpy(), crystal.atomic_numbers[0].numpy())
        pairs = bonded_pairs(places @ crystal.lattice[0].double().numpy(), numbers)
        return {tuple(sorted((int(numbers[i]), int(numbers[j])))) for i, j in pairs}

    assert bonds(srtio3) == {(8, 22)}
    assert bonds(nacl) == {(11, 17)}
    assert bonds(diamond) == {(6, 6)}


def test_options_change_the_picture(srtio3):
    plain = pixels(picture(srtio3))
    for option in ({"bonds": False}, {"labels": True}, {"legend": False}, {"caption": "t = 3"}, {"rotate": (40, -20)}):
        assert (pixels(picture(srtio3, **option)) != plain).any()
    titled = pixels(picture(srtio3, caption="t = 3"))
    assert (titled[8:34, 190:290] < 200).any()
    assert (plain[470:, 8:60] == 255).all()
    assert (plain[440:470, 8:60] < 120).any()  # the formula


def test_no_two_elements_of_the_bundled_model_have_nearly_the_same_color():
    numbers = load("perov_5").elements.nonzero()[:, 0].tolist()
    seen = np.array([oklab(np.array(element_color(n), dtype=float)) for n in numbers])
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1) + np.eye(len(seen))
    assert apart.min() > 0.035  # Sc and Ag were 0.031 apart, Rb and Cs not at all
    # And they are still the colors that people know: oxygen is red, sulfur yellow, and both read on any paper.
    assert element_color(8)[0] > 2 * max(element_color(8)[1:])
    assert min(element_color(16)[:2]) > 2 * element_color(16)[2]
    assert 0.45 < seen[:, 0].min() < seen[:, 0].max() < 0.86


def test_symbols_are_written_where_colors_could_be_confused():
    assert confusable((17, 9))  # two greens
    assert not confusable((6,))
    assert not confusable((38, 22, 8))


def test_captions_use_only_characters_of_the_font():
    assert printable("σ = 0.1 Å → café") == "sigma = 0.1 A -> cafe"


def test_a_picture_of_an_invalid_crystal_states_it(srtio3):
    broken = picture(srtio3.replace(lattice=srtio3.lattice * math.nan), legend=False)
    lost = picture(srtio3.replace(frac_coords=srtio3.frac_coords * math.inf), legend=False)
    assert pixels(broken).tolist() == pixels(lost).tolist()
    assert (pixels(broken)[230:250] < 200).any()
    flat = torch.tensor([[[4.0, 0, 0], [4.0, 0, 0], [0, 0, 0]]])
    nothing = Crystals(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), torch.eye(3)[None] * 4)
    for odd in (
        srtio3.replace(lattice=flat),
        nothing,
        srtio3.replace(atomic_numbers=torch.tensor([[200, 118, 104, 2, 61]])),
    ):
        assert len(picture(odd).getcolors(480 * 480)) > 10


def test_grids_and_strips_contain_their_pictures(known_crystals, srtio3, diamond):
    sheet = grid(known_crystals, 2, size=150)
    assert sheet.size == (300, 300)
    assert pixels(sheet.crop((150, 0, 300, 150))).tolist() == pixels(picture(known_crystals, 1, size=150)).tolist()
    assert (pixels(sheet.crop((150, 150, 300, 300))) == 255).all()
    image = strip([srtio3, diamond, srtio3], captions=["one", "two", "three"], size=150, theme="dark")
    assert image.size == (3 * 150 + 2 * 15, 150)
    third = picture(srtio3, size=150, caption="three", theme="dark")
    assert pixels(image.crop((330, 0, 480, 150))).tolist() == pixels(third).tolist()
    assert strip([srtio3], theme="transparent").mode == "RGBA"


def test_a_gif_has_its_frames_its_speed_and_an_exact_background(srtio3, tmp_path):
    path = gif([srtio3] * 6, tmp_path / "new" / "turn.gif", fps=10, turn=15, size=120)
    with Image.open(path) as image:
        assert image.n_frames == 6
        assert image.info["duration"] == 100
        assert image.info["loop"] == 0
        assert image.size == (120, 120)
        frames = []
        for n in range(6):
            image.seek(n)
            frames.append(pixels(image))
    assert all(frame[0, 0].tolist() == [255, 255, 255] for frame in frames)
    assert all((one != other).any() for one, other in itertools.combinations(frames, 2))
    assert [p.name for p in path.parent.iterdir()] == ["turn.gif"]


def test_a_gif_of_finished_pictures(srtio3, tmp_path):
    made = [picture(srtio3, theme="dark", size=100, rotate=(spin, 20)) for spin in (0, 20, 40)]
    with Image.open(gif(iter(made), tmp_path / "a.gif")) as image:
        assert image.n_frames == 3
        assert abs(pixels(image) - pixels(made[0])).mean() < 4


def test_other_threads_run_while_a_gif_is_written(srtio3, tmp_path):
    made = [picture(srtio3, size=320, rotate=(spin, 20)) for spin in range(12)]
    ticks = [time.monotonic()]
    done = threading.Event()

    def tick():
        while not done.wait(0.005):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    gif(made, tmp_path / "a.gif")
    ticks.append(time.monotonic())
    done.set()
    thread.join()
    longest = max(after - before for before, after in itertools.pairwise(ticks))
    assert longest < 0.5 * (ticks[-1] - ticks[0])  # it was nine tenths of the time


def test_the_background_of_a_gif_is_the_most_frequent_color(srtio3, tmp_path):
    image = Image.new("RGB", (100, 100), (3, 200, 40))
    image.paste((250, 1, 2), (0, 0, 40, 100))
    with Image.open(gif([image], tmp_path / "a.gif")) as written:
        assert written.convert("RGB").getpixel((99, 99)) == (3, 200, 40)


def test_png_bytes_open_as_the_same_picture(srtio3):
    with Image.open(io.BytesIO(png_bytes(srtio3, size=96, theme="transparent"))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), np.asarray(picture(srtio3, size=96, theme="transparent")))


def test_settings_out_of_range_are_named(srtio3, tmp_path):
    with pytest.raises(SettingError, match="theme is 'blue'"):
        picture(srtio3, theme="blue")
    with pytest.raises(SettingError, match="size is 20"):
        picture(srtio3, size=20)
    with pytest.raises(IndexError, match="number 3 of 1 crystals"):
        picture(srtio3, 3)
    with pytest.raises(SettingError, match="columns"):
        grid(srtio3, -1)
    with pytest.raises(SettingError, match="captions: 2 for 1"):
        grid(srtio3, captions=["a", "b"])
    with pytest.raises(SettingError, match="at least one"):
        strip([])
    with pytest.raises(SettingError, match="at least one"):
        gif([], tmp_path / "a.gif")
    with pytest.raises(SettingError, match="fps is 90"):
        gif([srtio3], tmp_path / "a.gif", fps=90)
    with pytest.raises(SettingError, match="transparency"):
        gif([srtio3], tmp_path / "a.gif", theme="transparent")
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"cannot write the GIF"):
        gif([srtio3], tmp_path / "file" / "a.gif")
    assert not (tmp_path / "a.gif").exists()


def test_origin_moves_to_the_heaviest_of_the_rarest(known_crystals: Crystals) -> None:
    shift = torch.tensor([0.31, 0.72, 0.13])
    moved = known_crystals.replace(
        frac_coords=((known_crystals.frac_coords + shift) % 1) * known_crystals.mask[..., None]
    )
    back = render.at_atom(moved)
    assert torch.allclose(back.frac_coords[0, 0], torch.zeros(3), atol=1e-6)  # Sr, the heavier of Sr and Ti
    difference = back.frac_coords - known_crystals.frac_coords
    assert (difference[0] - difference[0].round()).abs().max() < 1e-5
    assert torch.equal(back.frac_coords[~back.mask], torch.zeros(int((~back.mask).sum()), 3))
    followed = render.at_atom(known_crystals, like=moved)
    assert torch.allclose(lat.wrap(followed.frac_coords[0, 0] + shift + 1e-6), torch.full((3,), 1e-6), atol=1e-5)
