"""toolkit/dataset/images.py: broken files are found as quickly as surely, odd ones noted."""

from __future__ import annotations

import errno
import os

import pytest
from PIL import Image

from toolkit.dataset.images import ImageInfo, inspect_images, require_missing
from toolkit.errors import RowFault, UserError
from toolkit.mgm.images import open_image


def test_odd_images_are_noted(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("RGB", (30, 20)).save(tmp_path / "broken_exif.jpg", exif=b"Exif\0\0none of it")
    Image.new("RGB", (30, 3)).save(tmp_path / "tiny.png")
    Image.new("RGB", (200, 9)).save(tmp_path / "long.png")
    infos = inspect_images(sorted(tmp_path.iterdir()), tmp_path)
    assert {path.stem: info.notes for path, info in infos.items()} == {
        "turned": ["oriented"],
        "broken_exif": [],
        "tiny": ["tiny"],
        "long": ["long"],
    }
    assert ImageInfo(8000, 7000, oriented=False).notes == ["huge"]


def test_images_are_all_looked_at_and_keep_their_path(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(100)]
    for number, path in enumerate(paths[:-1], 1):
        Image.new("RGB", (number, 5)).save(path)
    found = inspect_images(paths, tmp_path)
    assert [found[path].width for path in paths[:-1]] == list(range(1, 100))
    assert isinstance(found[paths[-1]], RowFault)
    assert found[paths[-1]].reason == "missing_image"


def test_kinds_of_pixels_are_noted(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "grey.jpg")
    Image.new("LA", (30, 20)).save(tmp_path / "grey_alpha.png")
    Image.new("CMYK", (30, 20)).save(tmp_path / "cmyk.jpg")
    Image.new("RGBA", (30, 20)).save(tmp_path / "alpha.png")
    Image.new("P", (30, 20)).save(tmp_path / "colour_key.png", transparency=0)
    Image.new("I;16", (30, 20)).save(tmp_path / "deep.png")
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "green")]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(tmp_path / "still.gif")
    infos = inspect_images(sorted(tmp_path.iterdir()), tmp_path)
    assert {path.name: info.notes for path, info in infos.items()} == {
        "grey.jpg": ["greyscale"],
        "grey_alpha.png": ["greyscale", "transparent"],
        "cmyk.jpg": ["cmyk"],
        "alpha.png": ["transparent"],
        "colour_key.png": ["transparent"],
        "deep.png": ["deep"],
        "animated.gif": ["animated"],
        "animated.webp": ["animated"],
        "still.gif": [],
    }


@pytest.mark.parametrize("options", [{"progressive": True}, {}, {"format": "PNG"}, {"format": "WEBP"}])
def test_the_quick_look_judges_as_training_does(tmp_path, options):
    """A file cut off anywhere is broken for both, and its size is that of the whole image."""
    whole = tmp_path / "whole"
    Image.effect_noise((75, 61), 60).convert("RGB").save(whole, **{"format": "JPEG"} | options)
    content = whole.read_bytes()
    cut = [tmp_path / f"{length}" for length in range(0, len(content), max(1, len(content) // 40))]
    for path in cut:
        path.write_bytes(content[: int(path.name)])
    found = inspect_images([whole, *cut], tmp_path)
    assert (found[whole].width, found[whole].height) == (75, 61)
    for path, info in found.items():
        try:
            open_image(path)
            training_takes_it = True
        except RowFault:
            training_takes_it = False
        assert isinstance(info, ImageInfo) == training_takes_it, path
    assert sum(isinstance(info, RowFault) for info in found.values()) > 30


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE])
def test_faults_of_the_machine_are_no_faults_of_the_image(tmp_path, monkeypatch, number):
    """Else a lost network disk would look like a thousand broken images."""
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)

    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=f"reading {path}: {os.strerror(number)}; nothing is known of the image"):
        inspect_images([path], tmp_path)


def test_an_image_that_goes_while_it_is_opened_is_missing(tmp_path, monkeypatch):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    plain = Image.open

    def gone(path, *words, **names):
        paths[1].unlink(missing_ok=True)
        return plain(path, *words, **names)

    monkeypatch.setattr(Image, "open", gone)
    found = inspect_images(paths, tmp_path)[paths[1]]
    assert (found.reason, found.detail) == ("missing_image", f"{paths[1]}: no such file")


def test_a_folder_that_is_away_says_nothing_of_its_images(tmp_path):
    """Else good rows would be skipped, or called faulty, because a network's disk was away for three seconds."""
    image = tmp_path / "seed" / "a.png"
    with pytest.raises(UserError, match="seed: no such folder, so nothing is known of its images; run again when"):
        inspect_images([image], tmp_path / "seed")
    require_missing([image], tmp_path)
    image.parent.mkdir()
    image.touch()
    with pytest.raises(UserError, match=r"a\.png: was not there and is now, so more may have been away; run the same"):
        require_missing([image], tmp_path)
