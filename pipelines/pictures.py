"""Images: read from an archive of arrays, from encoded bytes or from files, and brought to the one size that params.yaml declares."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ExpostError, must

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

#: Suffixes of files that are images; a folder of them is a table, with the folder around each as its label.
FILES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
ARCHIVE = ".npz"
#: Formats that are decoded, and the most pixels that one image may say it has: a few bytes can stand for gigabytes.
_FORMATS, _MOST = ("PNG", "JPEG", "BMP", "WEBP"), 1 << 26
#: Modes without colour, and the number of the note by which a camera says how it was held (5 to 8: on its side).
_GREY, _ORIENTATION = ("1", "L", "LA"), 0x0112
FILE = "file"  #: column of the paths of image files
_PARTS = ("train", "val", "test")
_RESTORE = "Put the whole file there again, or leave the row out with ingest.where."

Pixels = NDArray[np.uint8]


def is_archive(name: str) -> bool:
    """Whether a file of this name holds arrays of images."""
    return name.lower().endswith(ARCHIVE)


def is_picture(name: str) -> bool:
    """Whether a file of this name is one image."""
    return name.lower().endswith(FILES)


def read_archive(file: Path) -> pl.DataFrame:
    """An archive in MedMNIST's form, `train_images` (n, H, W) or (n, H, W, 3) uint8 and `train_labels`, and so for val and test.

    Columns: image, label, part. Raises ExpostError where the archive is of another form.
    """
    import polars as pl

    form = "arrays <part>_images, uint8 (n, H, W) or (n, H, W, 3), and <part>_labels, one whole number per image, for train, val and test"
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = [part for part in _PARTS if f"{part}_images" in archive.files]
            found = {part: (archive[f"{part}_images"], archive[f"{part}_labels"]) for part in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise must(f"{file.name} must hold {form}", " ".join(str(error).split())[:200], "Mend the archive.") from error
    frames = []
    for part, (images, listed) in found.items():
        labels = listed.reshape(len(listed), -1) if listed.ndim else listed.reshape(1, 1)
        right = images.dtype == np.uint8 and images.shape[3:] in ((), (1,), (3,)) and images.ndim in (3, 4)
        if not right or labels.shape != (len(images), 1) or labels.dtype.kind not in "iu" or not images.size:
            got = f"{part} has images {images.shape} {images.dtype} and labels {listed.shape} {listed.dtype}"
            raise must(f"{file.name} must hold {form}", got, "Mend the archive.")
        pixels = images if images.ndim == 4 else images[..., None]
        columns = [pl.Series("image", pixels), pl.Series("label", labels[:, 0]), pl.Series("part", [part] * len(images))]
        frames.append(pl.DataFrame(columns))
    if not frames or len({frame.schema["image"] for frame in frames}) > 1:
        got = "there is none of them" if not frames else "the parts' images differ in size"
        raise must(f"{file.name} must hold {form}", got, "Mend the archive.")
    return pl.concat(frames, how="vertical_relaxed", rechunk=True)


def read_folder(files: Sequence[Path]) -> pl.DataFrame:
    """Image files as a table: image (bytes), file (its path from the folder that holds all), label, the folder around it, and part, the one around that.

    Where all files lie in one folder there is no label, where there is no further folder no part. Raises ExpostError where they lie at different depths.
    """
    import polars as pl

    root = Path(os.path.commonpath([file.parent for file in files]))
    places = [file.relative_to(root).parts for file in files]
    depths = {len(place) for place in places}
    if len(depths) > 1 or max(depths) > 3:
        rule = "a folder of images must hold one folder per class, or one per part and those per class in each, and nothing beside them"
        ordered: list[tuple[str, ...]] = sorted(places, key=len)
        raise must(rule, f"{'/'.join(ordered[0])} and {'/'.join(ordered[-1])} lie at different depths", "Move the files.")
    columns: dict[str, Any] = {"image": [file.read_bytes() for file in files], FILE: ["/".join(place) for place in places]}
    for depth, name in ((2, "label"), (3, "part")):
        if max(depths) >= depth:
            columns[name] = [place[-depth] for place in places]
    return pl.DataFrame(columns, schema_overrides={"image": pl.Binary})


def holds(series: pl.Series) -> bool:
    """Whether a column holds images: arrays of pixels, or bytes (plain, or in a field of that name) whose first value is one."""
    import polars as pl

    if isinstance(series.dtype, pl.Array):
        return series.dtype.inner is not None and _array_shape(series) is not None
    encoded = _encoded(series)
    first = None if encoded is None else encoded.drop_nulls().head(1)
    if first is None or first.is_empty():
        return False
    try:
        _open(first[0])
    except (ExpostError, OSError, ValueError):
        return False
    return True


def _encoded(series: pl.Series) -> pl.Series | None:
    """Bytes of files, out of a column of them or of records with a field `bytes`, as Hugging Face's data sets have them."""
    import polars as pl

    if isinstance(series.dtype, pl.Struct) and any(field.name == "bytes" and field.dtype == pl.Binary for field in series.dtype.fields):
        return series.struct.field("bytes")
    return series if series.dtype == pl.Binary else None


def _array_shape(series: pl.Series) -> tuple[int, ...] | None:
    """(H, W, C) of a column of pixels, None for another column."""
    import polars as pl

    kind: Any = series.dtype
    if not isinstance(kind, pl.Array) or len(kind.shape) != 3 or kind.shape[2] not in (1, 3):
        return None
    while isinstance(kind, pl.Array):
        kind = kind.inner
    return tuple(series.dtype.shape) if kind == pl.UInt8 else None  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Looks:
    """A column's images by their headers: the commonest size (H, W), upright; whether all have it; how many were readable, and stored in colours."""

    size: tuple[int, int]
    same: bool
    images: int
    coloured: int


def looks_of(series: pl.Series) -> Looks:
    """What the images of a column look like, all of them, none decoded; those that cannot be read are passed over, since ingest names them."""
    shape = _array_shape(series)
    if shape is not None:
        return Looks((shape[0], shape[1]), True, len(series), len(series) if shape[2] == 3 else 0)
    encoded = _encoded(series)
    assert encoded is not None
    sizes, coloured = Counter[tuple[int, int]](), 0
    for value in encoded.drop_nulls():
        try:
            image = _open(value)
        except (OSError, ValueError):
            continue
        sizes[_upright(image)] += 1
        coloured += image.mode not in _GREY
    common = max(sorted(sizes), key=sizes.__getitem__)
    return Looks(common, len(sizes) == 1, sizes.total(), coloured)


def _upright(image: Image.Image) -> tuple[int, int]:
    """(H, W) that an image has once it is turned as the camera noted."""
    from PIL import Image

    try:
        turned = Image.Image.getexif(image).get(_ORIENTATION, 1) in (5, 6, 7, 8)  # the format's own getexif would decode a PNG
    except (ValueError, SyntaxError):  # a broken note
        turned = False
    return (image.width, image.height) if turned else (image.height, image.width)


def pixels(series: pl.Series, rule: Mapping[str, Any], rows: pl.Series | None = None, files: pl.Series | None = None) -> Pixels:
    """Images (n, C, H, W) uint8 of a column under `rule`: its `size` (H, W), `channels` 1 or 3, and what `resize` does with other sizes.

    Raises ExpostError naming the row (of `rows`, 1.. by default, and its file where known) of an image that is missing, cannot be read, or has another
    size where `resize` is refuse.
    """
    (height, width), channels = rule["size"], int(rule["channels"])
    shape = _array_shape(series)
    if shape == (height, width, channels) and not series.has_nulls():
        return np.ascontiguousarray(series.to_numpy().reshape(-1, *shape).transpose(0, 3, 1, 2))
    encoded = series if shape is not None else _encoded(series)
    if encoded is None:
        got = f"it is of type {series.dtype}"
        raise must(f"column {series.name!r} must hold images, as bytes of files or arrays of pixels", got, "Give it another kind.")
    found = np.empty((len(series), channels, height, width), dtype=np.uint8)
    for place, value in enumerate(encoded):
        try:
            image = _open(value) if shape is None else _of_array(value)
            found[place] = _sized(image, rule)
        except (ExpostError, OSError, ValueError, SyntaxError) as error:
            where = f"row {place + 1 if rows is None else rows[place]}" + ("" if files is None else f", {files[place]}")
            reason = " ".join(str(error).split())[:200]
            if isinstance(error, ExpostError):
                raise ExpostError(f"{where}: {error}") from None
            raise must(f"column {series.name!r} must hold images that can be read", f"{where}: {reason}", _RESTORE) from error
    return found


def _open(value: bytes | None) -> Image.Image:
    """The image of a file's bytes, not decoded yet; raises OSError or ValueError where it is none or far too large."""
    from PIL import Image, UnidentifiedImageError

    if value is None:
        raise ValueError("it is missing")
    try:
        image = Image.open(io.BytesIO(value), formats=_FORMATS)
    except UnidentifiedImageError:  # its message names our buffer
        raise ValueError(f"its {len(value)} bytes are no image of a format that is read ({', '.join(_FORMATS)}), or broken off") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    if image.width * image.height > _MOST:
        raise ValueError(f"it says that it has {image.width} x {image.height} pixels, more than {_MOST}")
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its values have more than 8 bits (mode {image.mode})")
    return image


def _of_array(value: Any) -> Image.Image:
    from PIL import Image

    if value is None:
        raise ValueError("it is missing")
    array = value.to_numpy()
    if array.dtype != np.uint8:
        raise ValueError("some of its pixels are missing")
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _sized(image: Image.Image, rule: Mapping[str, Any]) -> Pixels:
    """Pixels (C, H, W), upright as the camera noted, in the declared colours and size."""
    from PIL import Image, ImageOps

    (height, width), channels = rule["size"], int(rule["channels"])
    turned = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    if turned.size != (width, height):
        if rule["resize"] == "refuse":
            got = f"it has {turned.height} x {turned.width} pixels"
            remedy = "Set ingest.image.resize to area (or bilinear) in params.yaml, or mend the image."
            raise must(f"images must have {height} x {width} pixels (ingest.image.size)", got, remedy)
        how = {"area": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR}[rule["resize"]]
        turned = turned.resize((width, height), how)
    array = np.asarray(turned, dtype=np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def digests(images: Pixels) -> list[str]:
    """A name of each image's pixels, (n,): equal for equal images and for no others (BLAKE2b of 16 bytes)."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in images]


def placed(table: pl.DataFrame, images: pl.Series, order: Sequence[str]) -> pl.DataFrame:
    """The table with the column `images` in its place in `order`."""
    import polars as pl

    return pl.DataFrame([images if name == images.name else table[name] for name in order])


def named(series: pl.Series) -> pl.Series:
    """A name of each value of a column of images, by its bytes as they are."""
    import polars as pl

    encoded = _encoded(series)
    values = series.to_numpy() if encoded is None else encoded
    names = [None if value is None else hashlib.blake2b(bytes(value), digest_size=16).hexdigest() for value in values]
    return pl.Series(series.name, names, dtype=pl.String)


def attached(frame: pl.DataFrame, rows: NDArray[np.int64], schema: Mapping[str, Any], images: Path) -> pl.DataFrame:
    """Rows of the table that ingest wrote, by their indices `(n,)`, with the pixels of `images`, its images.npy, in place of their names."""
    name = next((column["name"] for column in schema["columns"] if column["kind"] == "image"), None)
    frame = frame[rows]
    if name not in frame.columns or not images.exists():  # scoring will say that they are missing
        return frame
    return frame.with_columns(column(name, np.load(images, mmap_mode="r", allow_pickle=False)[rows]))


def column(name: str, images: Pixels) -> pl.Series:
    """A column of pixels (H, W, C) out of images (n, C, H, W), as `pixels` takes it back."""
    import polars as pl

    return pl.Series(name, np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
