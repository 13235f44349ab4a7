#!/usr/bin/env python3
"""Thumbnails to look at, and beside those of others.

  tests/bench/pictures.py sheet OUT.png [FILE...]    sources of every kind (or FILEs) and their thumbnails on one sheet
  tests/bench/pictures.py compare [--size WxH] [--runs N] [FILE...]
                                                     what a thumbnail costs here, with vipsthumbnail and with Pillow

Needs Python's venv and Debian's libvips-tools; the default FILEs are those of its lomiri-wallpapers-20.04, and 14 megapixels
of one of them as PNG.
Pillow comes from PyPI into target/bench-venv. Our side is the program of tests/bench/thumbnails.rs, a process for each
picture, as the others are.

The reference of PSNR is the original, decoded whole by Pillow, oriented, brought to sRGB by its profile, and resized by
Lanczos3 in floating point on the values as they are (not in linear light): what each of the three aims at.
"""

import glob
import io
import json
import math
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, "target", "bench-venv")
PACKAGES = ["pillow==12.0.0", "numpy==2.3.4"]


def enter_venv():
    """Runs this script again where Pillow is."""
    python = os.path.join(VENV, "bin", "python")
    if sys.prefix == VENV:
        return
    stamp = os.path.join(VENV, "-".join(PACKAGES))
    if not os.path.exists(stamp):
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True)
        open(stamp, "w").close()
    os.execv(python, [python, *sys.argv])


enter_venv()

import numpy  # noqa: E402
from PIL import Image, ImageCms, ImageDraw, ImageOps  # noqa: E402

Image.MAX_IMAGE_PIXELS = None


def renderer():
    """Builds our program and gives its path."""
    command = ["cargo", "bench", "--locked", "--bench", "thumbnails", "--no-run", "--message-format", "json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [json.loads(line) for line in lines]
    return next(line["executable"] for line in built if line.get("target", {}).get("kind") == ["bench"])


def measured(command):
    """Runs a command: CPU seconds, wall seconds, peak MiB of that process alone, and what it printed."""
    witness = subprocess.run([sys.executable, "-S", "-c", WITNESS, *command], stdout=subprocess.PIPE, text=True)
    if witness.returncode:
        sys.exit(f"{' '.join(command)}: failed")
    figures, printed = witness.stdout.split("\n", 1)
    cpu, wall, peak_kib = map(float, figures.split())
    return cpu, wall, peak_kib / 1024, printed


# A peak counts from the fork on, so the parent has to be a small one.
WITNESS = """
import os, subprocess, sys, time
start = time.monotonic()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
printed = child.stdout.read().decode()
_, status, use = os.wait4(child.pid, 0)
child.returncode = status
print(use.ru_utime + use.ru_stime, time.monotonic() - start, use.ru_maxrss)
print(printed, end="")
sys.exit(1 if status else 0)
"""


# --- compare ---------------------------------------------------------------------------------------------------------

PILLOW = """
import sys
from PIL import Image, ImageOps
Image.MAX_IMAGE_PIXELS = None
_, source, width, height, out = sys.argv
picture = Image.open(source)
picture.thumbnail((int(width), int(height)), Image.Resampling.LANCZOS)
picture = ImageOps.exif_transpose(picture)
picture.convert("RGB").save(out, quality=80)
"""


def reference(source, size):
    """What the thumbnail of a source should be, as floats."""
    picture = to_srgb(ImageOps.exif_transpose(Image.open(source)))
    channels = [numpy.asarray(band, dtype=numpy.float32) for band in picture.split()]
    small = [Image.fromarray(channel).resize(size, Image.Resampling.LANCZOS) for channel in channels]
    return numpy.clip(numpy.stack([numpy.asarray(channel) for channel in small], axis=2), 0, 255)


def to_srgb(picture):
    """A picture's colours as its profile says, in sRGB."""
    profile = picture.info.get("icc_profile")
    if profile is None or picture.mode not in ("L", "RGB", "RGBA", "CMYK"):
        return picture.convert("RGB")
    mode = "RGB" if picture.mode != "RGBA" else "RGBA"
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(picture, io.BytesIO(profile), srgb, outputMode=mode).convert("RGB")


def psnr(path, expected):
    """Decibels between a file and the reference; more is better."""
    got = numpy.asarray(Image.open(path).convert("RGB"), dtype=numpy.float32)
    if got.shape != expected.shape:
        return math.nan
    return 10 * math.log10(255**2 / max(float(numpy.mean((got - expected) ** 2)), 1e-9))


def compare(arguments):
    """Prints a table."""
    size, runs = "800x600", 5
    while arguments and arguments[0].startswith("--"):
        if arguments[0] == "--size":
            size = arguments[1]
        else:
            runs = int(arguments[1])
        arguments = arguments[2:]
    ours = renderer()
    idle = {
        "vips": measured(["vipsthumbnail", "--version"])[2],
        "Pillow": measured([sys.executable, "-c", "from PIL import Image, ImageOps; Image.init()"])[2],
    }
    columns = ("file", "by", "CPU ms", "of vips", "wall ms", "MiB above idle", "KB", "PSNR dB")
    print("{:44} {:8} {:>7} {:>8} {:>8} {:>15} {:>6} {:>8}".format(*columns))
    with tempfile.TemporaryDirectory() as folder:
        for file in arguments or photographs(folder):
            compare_one(file, size, runs, ours, idle, folder)


def photographs(folder):
    """The photographs to compare with when none are named."""
    files = sorted(glob.glob("/usr/share/backgrounds/*.jpg"))
    as_png = os.path.join(folder, "14-megapixels.png")
    largest = max((Image.open(file) for file in files), key=lambda picture: picture.width * picture.height)
    largest.convert("RGB").crop((0, 0, 4600, 3050)).save(as_png)
    return [*files, as_png]


def compare_one(file, size, runs, ours, idle, folder):
    """The rows of one file. Turns alternate; the least of each figure counts."""
    width, height = map(int, measured([ours, "--plan", f"{size}-scale", file])[3].split())
    outs = {name: os.path.join(folder, f"{name}.jpg") for name in ("ours", "vips", "Pillow")}
    commands = {
        "ours": [ours, "--render", outs["ours"], f"{size}-scale", file],
        "vips": ["vipsthumbnail", file, "--size", f"{width}x{height}", "-o", f"{outs['vips']}[Q=80]"],
        "Pillow": [sys.executable, "-c", PILLOW, file, str(width), str(height), outs["Pillow"]],
    }
    least = {name: [math.inf] * 3 for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            cpu, wall, peak, printed = measured(command)
            above = int(printed.split()[0]) / 1024 if name == "ours" else peak - idle[name]
            least[name] = [min(pair) for pair in zip(least[name], (cpu, wall, above))]
    expected = reference(file, (width, height))
    label = f"{os.path.basename(file)[:27]} {width}x{height}"
    for name, (cpu, wall, above) in least.items():
        ratio, size_kb = cpu / least["vips"][0], os.path.getsize(outs[name]) / 1000
        print(f"{label:44} {name:8} {cpu * 1000:7.0f} {ratio:8.2f} {wall * 1000:8.0f} {above:15.1f} {size_kb:6.0f} {psnr(outs[name], expected):8.2f}")


# --- sheet -----------------------------------------------------------------------------------------------------------


def card(width=600, height=400):
    """A picture in which every mistake shows: up and left, hues, grey ramp, fine lines, soft and hard edges."""
    x, y = numpy.meshgrid(numpy.linspace(0, 1, width), numpy.linspace(0, 1, height))
    hues = numpy.stack([x * 360 / 360 * 255, numpy.full_like(x, 200), 255 - y * 160], axis=2).astype(numpy.uint8)
    picture = Image.fromarray(hues, "HSV").convert("RGB")
    draw = ImageDraw.Draw(picture)
    for step in range(16):
        draw.rectangle((100 + step * 25, 340, 124 + step * 25, 390), fill=(step * 17,) * 3)
    for line in range(0, 100, 4):
        draw.line((20 + line, 200, 20 + line, 300), fill="black")
        draw.line((140, 200 + line, 240, 200 + line), fill="white")
    draw.polygon(((300, 40), (250, 130), (350, 130)), fill="white", outline="black")
    draw.rectangle((280, 130, 320, 190), fill="white")
    draw.ellipse((420, 200, 560, 320), fill=(220, 30, 30), outline="white", width=6)
    draw.rectangle((0, 0, 70, 50), fill=(255, 0, 0))
    draw.rectangle((530, 0, 599, 50), fill=(0, 255, 0))
    draw.rectangle((0, 350, 70, 399), fill=(0, 0, 255))
    draw.text((20, 70), "left", fill="black", font_size=48)
    return picture


def with_hole(picture):
    """With a transparent ring and a soft edge."""
    mask = Image.new("L", picture.size, 255)
    ImageDraw.Draw(mask).ellipse((180, 90, 420, 330), fill=0)
    ramp = Image.linear_gradient("L").rotate(90).resize((100, picture.height))
    mask.paste(ramp, (picture.width - 100, 0))
    picture = picture.convert("RGBA")
    picture.putalpha(mask)
    return picture


def sources(folder):
    """Writes a file of every kind and gives label and path of each."""
    made = []
    rgb, alpha = card(), with_hole(card())

    def save(label, picture, extension, **options):
        path = os.path.join(folder, f"{len(made):02}.{extension}")
        picture.save(path, **options)
        made.append((label, path))

    undo = {5: 5, 6: 8, 7: 7, 8: 6}
    transposes = [None, None, 0, 3, 1, 5, 4, 6, 2]
    for value in range(1, 9):
        exif = Image.Exif()
        exif[274] = value
        inverse = transposes[undo.get(value, value)]
        stored = rgb if inverse is None else rgb.transpose(inverse)
        save(f"JPEG, orientation {value}", stored, "jpg", exif=exif, quality=92)
    # libvips carries these profiles.
    save("JPEG, sRGB", rgb, "jpg", quality=92)
    upright = made[-1][1]
    for label, name, extension in (("JPEG, Display P3", "p3", "jpg"), ("JPEG, CMYK with profile", "cmyk", "jpg"), ("TIFF, CMYK with profile", "cmyk", "tif")):
        path = os.path.join(folder, f"{len(made):02}.{extension}")
        subprocess.run(["vips", "icc_transform", upright, path, name, "--input-profile", "srgb"], check=True)
        made.append((label, path))
    save("JPEG, CMYK", rgb.convert("CMYK"), "jpg", quality=92)
    save("JPEG, grey", rgb.convert("L"), "jpg", quality=92)
    save("JPEG, progressive 4:2:0", rgb, "jpg", progressive=True, subsampling=2)
    save("PNG", rgb, "png")
    save("PNG, alpha", alpha, "png")
    save("PNG, grey and alpha", alpha.convert("LA"), "png")
    save("PNG, 16 bit", Image.fromarray(numpy.asarray(rgb.convert("L")).astype(numpy.uint16) * 257), "png")
    save("PNG, 1 bit", rgb.convert("1"), "png")
    save("PNG, 1 bit, white invisible", rgb.convert("1"), "png", transparency=255)
    save("PNG, palette of 16", rgb.quantize(16), "png")
    save("PNG, palette, one invisible", rgb.quantize(16), "png", transparency=3)
    save("PNG, tiny", rgb.resize((60, 40)), "png")
    black = Image.new("RGB", rgb.size)
    save("APNG", rgb, "png", save_all=True, append_images=[black], duration=100)
    save("GIF", rgb, "gif")
    save("GIF, hole", alpha, "gif")
    save("GIF, moving", rgb, "gif", save_all=True, append_images=[black], duration=100)
    save("WebP, lossy", rgb, "webp", quality=85)
    save("WebP, lossy, alpha", alpha, "webp", quality=85)
    save("WebP, lossless, alpha", alpha, "webp", lossless=True)
    save("WebP, moving", rgb, "webp", save_all=True, append_images=[black], duration=100)
    save("BMP", rgb, "bmp")
    save("BMP, palette", rgb.quantize(16), "bmp")
    save("TIFF, LZW", rgb, "tif", compression="tiff_lzw")
    save("TIFF, alpha, deflate", alpha, "tif", compression="tiff_adobe_deflate")
    save("TIFF, fax", rgb.convert("1"), "tif", compression="group4")
    save("TIFF, CMYK", rgb.convert("CMYK"), "tif")
    return made


def on_checks(picture):
    """A picture over a checkerboard."""
    checks = Image.new("RGB", picture.size, "white")
    draw = ImageDraw.Draw(checks)
    for x in range(0, picture.width, 8):
        for y in range(0, picture.height, 8):
            if (x + y) // 8 % 2:
                draw.rectangle((x, y, x + 7, y + 7), fill=(200, 200, 200))
    picture = picture.convert("RGBA")
    checks.paste(picture, (0, 0), picture)
    return checks


def shown(path):
    """A source as Pillow sees it, small."""
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode == "I;16":
        picture = Image.fromarray((numpy.asarray(picture) // 257).astype(numpy.uint8))
    picture = picture.convert("RGBA") if picture.mode in ("P", "PA", "LA", "1", "RGBA") else to_srgb(picture)
    picture.thumbnail((150, 150))
    return on_checks(picture)


def sheet(arguments):
    """Lays out the source as Pillow shows it, then two thumbnails of ours, cell by cell."""
    out, files = arguments[0], arguments[1:]
    ours = renderer()
    with tempfile.TemporaryDirectory() as folder:
        made = [(os.path.basename(file), file) for file in files] or sources(folder)
        columns, cell = 3, (480, 210)
        rows = (len(made) + columns - 1) // columns
        page = Image.new("RGB", (columns * cell[0], rows * cell[1]), "white")
        draw = ImageDraw.Draw(page)
        for index, (label, path) in enumerate(made):
            left, top = index % columns * cell[0] + 6, index // columns * cell[1] + 4
            page.paste(shown(path), (left, top + 18))
            notes = []
            for at, size in ((156, "96x96-crop"), (258, "150x140-scale")):
                target = os.path.join(folder, "thumbnail")
                printed = measured([ours, "--render", target, size, path])[3]
                if printed.startswith("original"):
                    notes.append("original")
                    continue
                thumbnail = Image.open(target)
                notes.append(f"{thumbnail.format} {thumbnail.width}x{thumbnail.height}")
                page.paste(on_checks(thumbnail), (left + at, top + 18))
            draw.text((left, top), f"{label}: {', '.join(notes)}", fill="black", font_size=13)
        page.save(out)
    print(f"{out}: {page.width}x{page.height}")


if __name__ == "__main__":
    modes = {"sheet": sheet, "compare": compare}
    if len(sys.argv) < 2 or sys.argv[1] not in modes or sys.argv[1:] == ["sheet"]:
        sys.exit(__doc__)
    modes[sys.argv[1]](sys.argv[2:])
