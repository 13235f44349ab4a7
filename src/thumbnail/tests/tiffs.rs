//! Kinds of TIFF.

use std::ops::Range;

use image::RgbaImage;

use super::sources::{COLOR, Scene, picture};
use super::tiff_parts::{
    BITS, GREY, SIZE, Tiff, deflate, differences, fax, float_differences, jpeg, lzw, old_lzw, pack_bits,
    packed, part, raw_jpeg, reversed, scene, shared_chromas, strips, tiles, ycbcr,
};

/// A file and what is seen of it.
type Sample = (String, Vec<u8>, Scene);

/// A way to pack bytes, with its number.
type Packer = (&'static str, u32, fn(&[u8]) -> Vec<u8>);

/// What is read besides the kinds of [`super::sources`], with its scene.
pub(super) fn all() -> Vec<Sample> {
    [arranged(), packed_chunks(), with_palettes(), with_other_meanings(), faxes(), jpegs(), raw_jpegs()]
        .concat()
}

/// RGB, its chunks to come.
fn rgb() -> Tiff {
    Tiff::new(3, 8, 2, Vec::new())
}

/// A file with chunks.
fn of(tiff: Tiff, chunks: Vec<Vec<u8>>) -> Tiff {
    Tiff { chunks, ..tiff }
}

/// The places of a scene's colours.
fn places(picture: &RgbaImage, of: Scene) -> Vec<u8> {
    picture.pixels().map(|pixel| of.iter().position(|color| *color == pixel.0).unwrap() as u8).collect()
}

/// Tiles, planes, orders of bytes.
fn arranged() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |what: &str, tiff: Tiff, scene: Scene| all.push((what.to_owned(), tiff.file(), scene));
    let color = scene(COLOR);
    let planes: Vec<Vec<u8>> = (0..3).flat_map(|channel| tiles(&color, 32, &[channel])).collect();
    add("tiles in planes", of(rgb().tiled(32, 32).with(284, &[2]), planes), COLOR);
    let planes: Vec<Vec<u8>> = (0..3).flat_map(|channel| strips(&color, 7, &[channel])).collect();
    add("strips in planes", of(rgb().with(278, &[7]).with(284, &[2]), planes), COLOR);
    add("tiles", of(rgb().tiled(48, 48), tiles(&color, 48, &[0, 1, 2])), COLOR);
    add("a tile larger than all", of(rgb().tiled(128, 128), tiles(&color, 128, &[0, 1, 2])), COLOR);
    add("BigTIFF", of(rgb().with(278, &[7]).big(), strips(&color, 7, &[0, 1, 2])), COLOR);
    add("Motorola's order", of(rgb().with(278, &[7]).motorola(), strips(&color, 7, &[0, 1, 2])), COLOR);
    add("both", of(rgb().with(278, &[7]).big().motorola(), strips(&color, 7, &[0, 1, 2])), COLOR);
    add("one strip without a length of its rows", of(rgb(), strips(&color, 80, &[0, 1, 2])), COLOR);
    add("lengths that lack", of(rgb().with(278, &[7]), strips(&color, 7, &[0, 1, 2])).with(279, &[0]), COLOR);
    all
}

/// Every way to pack, predicted and not.
fn packed_chunks() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |what: &str, tiff: Tiff, scene: Scene| all.push((what.to_owned(), tiff.file(), scene));
    let color = scene(COLOR);
    let packers: [Packer; 5] = [
        ("PackBits", 32_773, pack_bits),
        ("LZW", 5, lzw),
        ("old LZW", 5, old_lzw),
        ("Deflate", 8, deflate),
        ("Adobe's Deflate", 32_946, deflate),
    ];
    for (name, number, pack) in packers {
        let chunks = strips(&color, 11, &[0, 1, 2]).iter().map(|strip| pack(strip)).collect();
        add(name, of(rgb().with(278, &[11]).with(259, &[number]), chunks), COLOR);
        let chunks = tiles(&color, 32, &[0, 1, 2]).iter().map(|tile| pack(tile)).collect();
        add(&format!("{name} in tiles"), of(rgb().tiled(32, 32).with(259, &[number]), chunks), COLOR);
        let chunks =
            strips(&color, 11, &[0, 1, 2]).iter().map(|strip| pack(&differences(strip, 300, 3, 1))).collect();
        add(
            &format!("{name}, predicted"),
            of(rgb().with(278, &[11]).with(259, &[number]).with(317, &[2]), chunks),
            COLOR,
        );
    }
    let doubled: Vec<u8> =
        part(&color, (0, 0), SIZE, &[0, 1, 2]).into_iter().flat_map(|value| [value, value]).collect();
    let words = Tiff::new(3, 16, 2, vec![lzw(&differences(&doubled, 600, 3, 2))]);
    add("16 bits, predicted", words.with(259, &[5]).with(317, &[2]), COLOR);
    let grey = scene(GREY);
    let floats: Vec<f32> =
        part(&grey, (0, 0), SIZE, &[0]).into_iter().map(|value| f32::from(value) / 255.0).collect();
    let predicted = Tiff::new(1, 32, 1, vec![deflate(&float_differences(&floats, 100))]);
    add("floats, predicted", predicted.with(259, &[8]).with(317, &[3]).with(339, &[3]), GREY);
    all
}

/// Colours by number.
fn with_palettes() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |what: &str, tiff: Tiff, scene: Scene| all.push((what.to_owned(), tiff.file(), scene));
    let color = scene(COLOR);
    for (depth, count) in [(8, 256), (4, 16), (2, 4)] {
        for scale in [257, 1] {
            let mut palette = vec![0; 3 * count];
            for (at, color) in COLOR.iter().enumerate() {
                (0..3).for_each(|plane| palette[plane * count + at] = u32::from(color[plane]) * scale);
            }
            let bytes = packed(&places(&color, COLOR), 100, depth);
            let tiff = Tiff::new(1, depth.into(), 3, vec![bytes]).with(320, &palette);
            add(&format!("palette of {depth} bits, {scale}"), tiff, COLOR);
        }
    }
    all
}

/// Alpha, chromas, Lab.
fn with_other_meanings() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |what: &str, tiff: Tiff, scene: Scene| all.push((what.to_owned(), tiff.file(), scene));
    let (color, grey) = (scene(COLOR), scene(GREY));
    let pairs: Vec<u8> = part(&grey, (0, 0), SIZE, &[0, 3]);
    let half = GREY.map(|[r, g, b, _]| [r, g, b, 128]);
    let faint: Vec<u8> = pairs.chunks(2).flat_map(|pair| [pair[0], 128]).collect();
    add("grey with alpha", Tiff::new(2, 8, 1, vec![faint]).with(338, &[2]), half);
    add("grey and something", Tiff::new(2, 8, 1, vec![pairs]).with(338, &[0]), GREY);
    let unknown: Vec<u8> = part(&color, (0, 0), SIZE, &[0, 1, 2, 0]);
    add("RGB and something", Tiff::new(4, 8, 2, vec![unknown]).with(338, &[0]), COLOR);

    let chromas: Vec<u8> = color.pixels().flat_map(|pixel| ycbcr(pixel.0[..3].try_into().unwrap())).collect();
    add("chromas for each pixel", Tiff::new(3, 8, 6, vec![chromas]).with(530, &[1, 1]), COLOR);
    add("chromas for four", Tiff::new(3, 8, 6, vec![shared_chromas()]), COLOR);
    // CIE: 54 81 70 is red, 30 68 -112 blue, in sRGB; greys have no opponents.
    let lab = [[(54.3_f32 * 2.55) as u8, 81, 70], [137, 0, 0], [(29.6 * 2.55) as u8, 68, 144], [255, 0, 0]];
    let seen: Scene = [[255, 0, 0, 255], [128, 128, 128, 255], [0, 0, 255, 255], [255, 255, 255, 255]];
    let signed: Vec<u8> = places(&color, COLOR).iter().flat_map(|index| lab[usize::from(*index)]).collect();
    let shifted: Vec<u8> =
        signed.chunks(3).flat_map(|pixel| [pixel[0], pixel[1] ^ 128, pixel[2] ^ 128]).collect();
    let words: Vec<u8> = signed.iter().flat_map(|value| [0, *value]).collect();
    add("CIE Lab", Tiff::new(3, 8, 8, vec![signed]), seen);
    add("ICC Lab", Tiff::new(3, 8, 9, vec![shifted]), seen);
    add("CIE Lab of 16 bits", Tiff::new(3, 16, 8, vec![words]), seen);
    all
}

/// Fax of every group.
fn faxes() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |what: &str, tiff: Tiff, scene: Scene| all.push((what.to_owned(), tiff.file(), scene));
    let bits = || Tiff::new(1, 1, 0, Vec::new()).with(278, &[20]);
    add("modified Huffman", of(bits().with(259, &[2]), fax(2, false)), BITS);
    add("group 3", of(bits().with(259, &[3]), fax(3, false)), BITS);
    add("group 3 in two dimensions", of(bits().with(259, &[3]).with(292, &[1]), fax(3, true)), BITS);
    add("group 4", of(bits().with(259, &[4]), fax(4, true)), BITS);
    add(
        "modified Huffman, lowest bit first",
        of(bits().with(259, &[2]).with(266, &[2]), reversed(fax(2, false))),
        BITS,
    );
    add(
        "group 3, lowest bit first",
        of(bits().with(259, &[3]).with(266, &[2]), reversed(fax(3, false))),
        BITS,
    );
    add(
        "group 4, lowest bit first",
        of(bits().with(259, &[4]).with(266, &[2]), reversed(fax(4, true))),
        BITS,
    );
    let inverse = BITS.map(|[r, g, b, _]| [!r, !g, !b, 255]);
    add("group 4, black is 0", of(bits().with(259, &[4]).with(262, &[1]), fax(4, true)), inverse);
    all
}

/// JPEG inside.
fn jpegs() -> Vec<Sample> {
    let mut all = Vec::new();
    let mut add = |what: &str, tiff: Tiff, scene: Scene| all.push((what.to_owned(), tiff.file(), scene));
    let (color, grey) = (scene(COLOR), scene(GREY));
    for is_apart in [false, true] {
        let parts: Vec<_> =
            tiles(&color, 32, &[0, 1, 2]).iter().map(|tile| jpeg(tile, (32, 32), false, is_apart)).collect();
        let tables: Vec<u32> = parts[0].1.iter().map(|byte| u32::from(*byte)).collect();
        let tiff =
            Tiff::new(3, 8, 6, parts.into_iter().map(|part| part.0).collect()).tiled(32, 32).with(259, &[7]);
        let tiff = tiff.with(530, &[1, 1]);
        add(
            &format!("JPEG in tiles, {is_apart}"),
            if is_apart { tiff.with(347, &tables) } else { tiff },
            COLOR,
        );
        let parts: Vec<_> =
            strips(&grey, 16, &[0]).iter().map(|strip| jpeg(strip, (100, 16), true, is_apart)).collect();
        let tables: Vec<u32> = parts[0].1.iter().map(|byte| u32::from(*byte)).collect();
        let tiff = Tiff::new(1, 8, 1, parts.into_iter().map(|part| part.0).collect())
            .with(278, &[16])
            .with(259, &[7]);
        add(
            &format!("grey JPEG in strips, {is_apart}"),
            if is_apart { tiff.with(347, &tables) } else { tiff },
            GREY,
        );
    }
    all
}

/// JPEG inside whose channels are what the TIFF says, with Adobe's words in the JPEG or without.
fn raw_jpegs() -> Vec<Sample> {
    let mut all = Vec::new();
    let (color, grey) = (scene(COLOR), scene(GREY));
    let bytes_of = |scene: Scene| -> Vec<u8> {
        (0..SIZE.1)
            .flat_map(|y| (0..SIZE.0).map(move |x| (x, y)))
            .flat_map(|(x, y)| scene[usize::from(x >= SIZE.0 / 2) + 2 * usize::from(y >= SIZE.1 / 2)])
            .collect()
    };
    let faint = COLOR.map(|[r, g, b, _]| [r, g, b, 100]);
    let inks = COLOR.map(|[r, g, b, _]| [!r, !g, !b, 0]);
    let chromas = COLOR.map(|[r, g, b, _]| {
        let [y, blue, red] = ycbcr([r, g, b]);
        [y, blue, red, 100]
    });
    let four = |scene: Scene| raw_jpeg(&bytes_of(scene), SIZE, 4);
    let mut add = |what: &str, samples: u32, photometric: u32, extra: &[u32], jpeg: Vec<u8>, scene: Scene| {
        for has_adobe in [false, true] {
            let mut jpeg = jpeg.clone();
            if has_adobe {
                let word = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x02";
                jpeg.splice(2..2, word.iter().copied());
            }
            let tiff = Tiff::new(samples, 8, photometric, vec![jpeg]).with(259, &[7]);
            let tiff = if extra.is_empty() { tiff } else { tiff.with(338, extra) };
            all.push((format!("JPEG of {what}, {has_adobe}"), tiff.file(), scene));
        }
    };
    add("RGBA", 4, 2, &[2], four(faint), faint);
    add("RGB and alpha without a word", 4, 2, &[], four(faint), faint);
    add("RGBX", 4, 2, &[0], four(faint), COLOR);
    add("CMYK", 4, 5, &[], four(inks), COLOR);
    add("chromas and alpha", 4, 6, &[2], four(chromas), faint);
    let rgb = part(&color, (0, 0), SIZE, &[0, 1, 2]);
    add("RGB", 3, 2, &[], raw_jpeg(&rgb, SIZE, 3), COLOR);
    let lab = [[137, 209, 198, 0], [137, 128, 128, 0], [75, 196, 16, 0], [255, 128, 128, 0]];
    let seen: Scene = [[255, 0, 0, 255], [128, 128, 128, 255], [0, 0, 255, 255], [255, 255, 255, 255]];
    let three =
        |scene: Scene| bytes_of(scene).chunks(4).flat_map(|pixel| pixel[..3].to_vec()).collect::<Vec<u8>>();
    add("ICC Lab", 3, 9, &[], raw_jpeg(&three(lab), SIZE, 3), seen);
    let signed = lab.map(|[l, a, b, _]| [l, a ^ 128, b ^ 128, 0]);
    add("CIE Lab", 3, 8, &[], raw_jpeg(&three(signed), SIZE, 3), seen);
    let pairs: Vec<u8> =
        part(&grey, (0, 0), SIZE, &[0, 3]).chunks(2).flat_map(|pair| [pair[0], 100]).collect();
    let half = GREY.map(|[r, g, b, _]| [r, g, b, 100]);
    add("grey with alpha", 2, 1, &[2], raw_jpeg(&pairs, SIZE, 2), half);
    add("grey and something", 2, 1, &[0], raw_jpeg(&pairs, SIZE, 2), GREY);
    for (photometric, scene) in [(6, chromas), (2, COLOR)] {
        let planes: Vec<Vec<u8>> = (0..3)
            .map(|channel| bytes_of(scene).chunks(4).map(|pixel| pixel[channel]).collect::<Vec<u8>>())
            .map(|plane| jpeg(&plane, SIZE, true, false).0)
            .collect();
        let tiff = of(Tiff::new(3, 8, photometric, Vec::new()), planes).with(259, &[7]).with(284, &[2]);
        all.push((format!("JPEG in planes, {photometric}"), tiff.with(530, &[1, 1]).file(), COLOR));
    }
    all
}

/// Whole files of kinds that are not read: packed by number, and JPEG inside of 12 bits.
pub(super) fn not_read() -> Vec<(String, Vec<u8>)> {
    let rgb = || Tiff::new(3, 8, 2, vec![vec![40; 1000]]);
    let packings = [
        9, 10, 32_766, 32_809, 34_661, 34_676, 34_712, 34_887, 34_925, 34_926, 34_927, 34_933, 50_000,
        50_001, 50_002, 52_546,
    ];
    let mut all: Vec<_> =
        packings.map(|number| (format!("packing {number}"), rgb().with(259, &[number]).file())).into();
    all.push(("in tiles".to_owned(), rgb().with(259, &[50_000]).tiled(112, 80).file()));
    all.push(("12 bits".to_owned(), rgb().with(258, &[12; 3]).with(259, &[7]).file()));
    all.push(("old JPEG in pieces".to_owned(), rgb().with(259, &[6]).file()));
    all.push(("LogLuv".to_owned(), rgb().with(262, &[32_845]).file()));
    all.push(("several depths".to_owned(), rgb().with(258, &[8, 8, 4]).file()));
    let mut rare = raw_jpeg(&vec![40; 24_000], SIZE, 3);
    let frame = memchr::memmem::find(&rare, b"\xff\xc0").unwrap();
    rare[frame + 1] = 0xc9;
    all.push(("arithmetic JPEG".to_owned(), Tiff::new(3, 8, 2, vec![rare]).with(259, &[7]).file()));
    all
}

/// Files of several strips with a part of one but the first that may be damaged.
pub(super) fn in_strips() -> Vec<(String, Vec<u8>, Range<usize>)> {
    let color = picture(COLOR);
    let color = RgbaImage::from_fn(SIZE.0, SIZE.1, |x, y| *color.get_pixel(x, y));
    let mut all = Vec::new();
    let mut add = |what: &str, tiff: Tiff, strip: usize| {
        let (file, spans) = tiff.finish();
        let span = spans[strip].clone();
        let middle = span.start + span.len() / 2;
        all.push((what.to_owned(), file, middle..(middle + 8).min(span.end)));
    };
    let bits = || Tiff::new(1, 1, 0, Vec::new()).with(278, &[20]);
    for (name, number, chunks) in
        [("group 4", 4, fax(4, true)), ("group 3", 3, fax(3, false)), ("modified Huffman", 2, fax(2, false))]
    {
        add(name, Tiff { chunks, ..bits().with(259, &[number]) }, 2);
    }
    let packers: [Packer; 3] = [("PackBits", 32_773, pack_bits), ("LZW", 5, lzw), ("Deflate", 8, deflate)];
    for (name, number, pack) in packers {
        let chunks = strips(&color, 16, &[0, 1, 2]).iter().map(|strip| pack(strip)).collect();
        add(name, Tiff { chunks, ..Tiff::new(3, 8, 2, Vec::new()).with(278, &[16]).with(259, &[number]) }, 3);
    }
    all
}
