//! Comparison with another decoder for every kind of file that an encoder writes, and damaged files.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "tests"
)]

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::*;

/// Columns and rows: no multiple of anything.
const SIZE: (u16, u16) = (187, 101);

/// A picture of soft waves in every channel.
fn waves(channels: usize) -> Vec<u8> {
    let mut data = Vec::new();
    for y in 0..u32::from(SIZE.1) {
        for x in 0..u32::from(SIZE.0) {
            for channel in 0..channels {
                let (x, y) = (f64::from(x) / 23.0, f64::from(y) / 17.0);
                let wave = (x + channel as f64).sin() * (y - channel as f64 * 0.7).cos();
                data.push((127.5 + 100.0 * wave) as u8);
            }
        }
    }
    data
}

/// A file.
fn encode(color: ColorType, channels: usize, set: impl Fn(&mut Encoder<&mut Vec<u8>>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    set(&mut encoder);
    encoder.encode(&waves(channels), SIZE.0, SIZE.1, color).unwrap();
    bytes
}

/// Every kind of file that the encoder writes.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let samplings = [
        SamplingFactor::F_1_1,
        SamplingFactor::F_2_1,
        SamplingFactor::F_1_2,
        SamplingFactor::F_2_2,
        SamplingFactor::F_4_1,
        SamplingFactor::F_4_2,
        SamplingFactor::F_1_4,
        SamplingFactor::F_2_4,
    ];
    for sampling in samplings {
        for (progressive, optimized, restart) in [
            (false, false, 0),
            (false, true, 0),
            (true, false, 0),
            (true, true, 0),
            (true, false, 5),
            (false, false, 3),
        ] {
            let set = |encoder: &mut Encoder<&mut Vec<u8>>| {
                encoder.set_sampling_factor(sampling);
                encoder.set_progressive(progressive);
                encoder.set_optimized_huffman_tables(optimized);
                encoder.set_restart_interval(restart);
            };
            let kind = format!("{sampling:?} {progressive} {optimized} {restart}");
            files.push((format!("rgb {kind}"), encode(ColorType::Rgb, 3, set)));
            files.push((format!("ycck {kind}"), encode(ColorType::CmykAsYcck, 4, set)));
        }
    }
    files.push(("grey".into(), encode(ColorType::Luma, 1, |_| {})));
    files.push((
        "grey, progressive".into(),
        encode(ColorType::Luma, 1, |encoder| encoder.set_progressive(true)),
    ));
    files.push(("cmyk".into(), encode(ColorType::Cmyk, 4, |_| {})));
    files
}

/// The other decoder's pixels.
fn reference(bytes: &[u8]) -> Vec<u8> {
    jpeg_decoder::Decoder::new(bytes).decode().unwrap()
}

/// Squares averaged, those at the edges over what they have.
fn average(data: &[u8], channels: usize, divisor: usize) -> Vec<u8> {
    let (width, height) = (usize::from(SIZE.0), usize::from(SIZE.1));
    let mut small = Vec::new();
    for top in (0..height).step_by(divisor) {
        for left in (0..width).step_by(divisor) {
            for channel in 0..channels {
                let rows = top..(top + divisor).min(height);
                let square: Vec<u32> = rows
                    .flat_map(|y| (left..(left + divisor).min(width)).map(move |x| (x, y)))
                    .map(|(x, y)| u32::from(data[(y * width + x) * channels + channel]))
                    .collect();
                small.push((square.iter().sum::<u32>() / square.len() as u32) as u8);
            }
        }
    }
    small
}

/// The mean and the largest difference.
fn difference(one: &[u8], other: &[u8]) -> (f64, u8) {
    assert_eq!(one.len(), other.len());
    let apart = one.iter().zip(other).map(|(one, other)| one.abs_diff(*other));
    let sum: u32 = apart.clone().map(u32::from).sum();
    (f64::from(sum) / one.len() as f64, apart.max().unwrap())
}

#[test]
fn every_kind_of_file_decodes_as_in_another_decoder() {
    for (kind, bytes) in files() {
        let expected = reference(&bytes);
        let got = decode(bytes.as_slice(), 1, None).unwrap();
        assert_eq!((got.width, got.height), (SIZE.0.into(), SIZE.1.into()), "{kind}");
        let (mean, most) = difference(&got.data, &expected);
        // Chromas of fewer samples are stretched otherwise there.
        assert!(mean < 2.0 && most < 40, "{kind}: {mean} {most}");
        if kind.contains("F_1_1") || kind.contains("grey") || kind == "cmyk" {
            assert!(mean < 0.5 && most <= 3, "{kind}: {mean} {most}");
        }
    }
}

#[test]
fn refining_scans_decode_as_in_another_decoder() {
    // Written by libjpeg: ten scans, of which five refine others.
    let bytes = include_bytes!("../../../tests/fixtures/progressive.jpg");
    let got = decode(bytes.as_slice(), 1, None).unwrap();
    let (mean, most) = difference(&got.data, &reference(bytes));
    assert!(mean < 4.0 && most < 60, "{mean} {most}");
    let quarter = decode(bytes.as_slice(), 4, None).unwrap();
    assert_eq!((quarter.width, quarter.height), (24, 16));
}

#[test]
fn fractions_are_averages_of_the_whole() {
    for (kind, bytes) in files() {
        let whole = reference(&bytes);
        for divisor in [2, 4, 8_u32] {
            let got = decode(bytes.as_slice(), divisor, None).unwrap();
            let (mean, _) = difference(&got.data, &average(&whole, got.channels, divisor as usize));
            assert!(mean < 2.5, "{kind} 1/{divisor}: {mean}");
        }
    }
}

/// The mean difference within some rows.
fn apart(one: &[u8], other: &[u8], channels: usize, rows: std::ops::Range<usize>) -> f64 {
    let row = usize::from(SIZE.0) * channels;
    difference(&one[rows.start * row..rows.end * row], &other[rows.start * row..rows.end * row]).0
}

/// Where the data of the first scan begin.
fn first_scan(bytes: &[u8]) -> usize {
    let at = memchr::memmem::find(bytes, b"\xff\xda").unwrap();
    at + 8 + 2 * usize::from(bytes[at + 4])
}

#[test]
fn a_truncated_file_shows_what_is_there() {
    for (kind, bytes) in files() {
        let whole = decode(bytes.as_slice(), 1, None).unwrap();
        assert!(!whole.is_partial, "{kind}");
        let start = first_scan(&bytes);
        // Only the end marker is missing, or that and what stands before it.
        for end in [bytes.len() - 2, bytes.len() - 3] {
            let got = decode(&bytes[..end], 1, None).unwrap();
            assert!(difference(&got.data, &whole.data).0 < 2.0, "{kind}");
            assert!(got.is_partial || end == bytes.len() - 2, "{kind}");
        }
        // A progressive file has its rows in its first scan, and those first.
        let end = start + (bytes.len() - start) * 6 / 10;
        let got = decode(&bytes[..end], 1, None).unwrap();
        assert!(got.is_partial, "{kind}");
        // Where one component comes after the other the chromas lack.
        let is_interleaved =
            usize::from(bytes[memchr::memmem::find(&bytes, b"\xff\xda").unwrap() + 4]) == got.channels;
        if is_interleaved {
            assert!(apart(&got.data, &whole.data, got.channels, 0..32) < 12.0, "{kind}");
        }
        // Nothing but headers shows nothing.
        assert!(matches!(decode(&bytes[..start], 1, None), Err(ThumbnailError::Broken(_))), "{kind}");
        assert!(decode(&bytes[..start + 3], 1, None).is_err(), "{kind}: nearly nothing");
    }
}

/// A file with markers, whose rows of units have two intervals each.
fn with_markers() -> (Vec<u8>, Picture) {
    let bytes = encode(ColorType::Rgb, 3, |encoder| {
        encoder.set_sampling_factor(SamplingFactor::F_2_2);
        encoder.set_restart_interval(6);
    });
    let whole = decode(bytes.as_slice(), 1, None).unwrap();
    (bytes, whole)
}

/// Where restart markers stand.
fn markers(bytes: &[u8]) -> Vec<usize> {
    let start = first_scan(bytes);
    (start..bytes.len() - 1)
        .filter(|at| bytes[*at] == 0xff && (0xd0..=0xd7).contains(&bytes[at + 1]))
        .collect()
}

#[test]
fn damage_between_two_markers_stays_there() {
    let (bytes, whole) = with_markers();
    let markers = markers(&bytes);
    // Twelve units across: rows 32 to 47 are intervals 4 and 5, of which 4 is between markers 3 and 4.
    let mut zeroed = bytes.clone();
    zeroed[markers[3] + 2..markers[4]].fill(0);
    let mut bad = bytes.clone();
    bad[markers[3] + 6..markers[3] + 16].fill(0xfe);
    let mut stray = bytes.clone();
    stray[markers[3] + 8..markers[3] + 10].copy_from_slice(&[0xff, 0x33]);
    let mut gone = bytes.clone();
    gone.drain(markers[3] + 2..markers[4]);
    for (what, damaged) in [("zeroed", zeroed), ("bad", bad), ("stray", stray), ("gone", gone)] {
        let got = decode(damaged.as_slice(), 1, None).unwrap();
        for rows in [0..32, 48..101] {
            assert!(apart(&got.data, &whole.data, 3, rows.clone()) < 0.1, "{what} {rows:?}");
        }
        // The other half of the row is whole.
        let right = |picture: &Picture| picture.data[(40 * 187 + 100) * 3..(40 * 187 + 187) * 3].to_vec();
        assert_eq!(right(&got), right(&whole), "{what}");
    }
}

#[test]
fn without_restart_markers_decoding_continues_after_a_bad_code() {
    let bytes = encode(ColorType::Luma, 1, |_| {});
    let whole = decode(bytes.as_slice(), 1, None).unwrap();
    let middle = first_scan(&bytes) + (bytes.len() - first_scan(&bytes)) / 2;
    let mut bad = bytes.clone();
    // Ones, of which there is no code.
    bad[middle..middle + 6].copy_from_slice(&[0xff, 0, 0xff, 0, 0xff, 0]);
    let got = decode(bad.as_slice(), 1, None).unwrap();
    assert!(got.is_partial);
    assert!(apart(&got.data, &whole.data, 1, 0..32) < 0.1);
    let last = &got.data[90 * 187..101 * 187];
    let is_grey = last.iter().filter(|level| level.abs_diff(128) < 2).count() > last.len() / 2;
    assert!(!is_grey, "what stands behind is shown");
}

#[test]
fn a_lost_restart_marker_costs_the_interval_after_it() {
    let (bytes, whole) = with_markers();
    for lost in 0..markers(&bytes).len() - 1 {
        let at = markers(&bytes)[lost];
        let mut removed = bytes.clone();
        removed.drain(at..at + 2);
        let mut overwritten = bytes.clone();
        overwritten[at..at + 2].fill(0);
        for damaged in [removed, overwritten] {
            let got = decode(damaged.as_slice(), 1, None).unwrap();
            assert!(got.is_partial);
            let row = lost.div_ceil(2) * 16;
            assert!(row == 0 || apart(&got.data, &whole.data, 3, 0..row) < 0.1, "{lost}");
            if row + 16 < 101 {
                assert!(apart(&got.data, &whole.data, 3, row + 16..101) < 0.1, "{lost}");
            }
        }
    }
}

#[test]
fn a_repeated_earlier_restart_marker_is_skipped() {
    let (mut bytes, whole) = with_markers();
    let at = markers(&bytes)[5];
    bytes.splice(at..at, [0xff, 0xd1]);
    let got = decode(bytes.as_slice(), 1, None).unwrap();
    assert!(difference(&got.data, &whole.data).0 < 0.1);
}

/// A file without the segments of a marker.
fn without(bytes: &[u8], marker: u8) -> Vec<u8> {
    let mut rest = bytes.to_vec();
    while let Some(at) = memchr::memmem::find(&rest[..first_scan(&rest)], &[0xff, marker]) {
        let length = usize::from(u16::from_be_bytes([rest[at + 2], rest[at + 3]]));
        rest.drain(at..at + 2 + length);
    }
    rest
}

#[test]
fn files_without_huffman_tables_use_the_standard_ones() {
    for color in [ColorType::Rgb, ColorType::Luma] {
        let bytes = encode(color, if color == ColorType::Luma { 1 } else { 3 }, |_| {});
        let got = decode(without(&bytes, 0xc4).as_slice(), 1, None).unwrap();
        assert_eq!(got.data, decode(bytes.as_slice(), 1, None).unwrap().data);
        assert!(!got.is_partial);
    }
}

#[test]
fn cmyk_is_inverted_with_and_without_adobes_segment() {
    let bytes = encode(ColorType::Cmyk, 4, |_| {});
    let marked = decode(bytes.as_slice(), 1, None).unwrap();
    assert_eq!(decode(without(&bytes, 0xee).as_slice(), 1, None).unwrap().data, marked.data);
}

#[test]
fn a_segment_length_below_two_counts_as_empty() {
    let bytes = encode(ColorType::Rgb, 3, |_| {});
    let whole = decode(bytes.as_slice(), 1, None).unwrap();
    for length in [0, 1, 2] {
        let mut odd = bytes.clone();
        odd.splice(2..2, [0xff, 0xfe, 0, length]);
        assert_eq!(decode(odd.as_slice(), 1, None).unwrap().data, whole.data, "{length}");
    }
}

/// A grey file whose frame is said to have luma of some blocks a unit over chromas of one, all of one colour.
fn sampled(across: u8, down: u8, (width, height): (u16, u16)) -> Vec<u8> {
    let mut bytes = encode(ColorType::Rgb, 3, |encoder| encoder.set_sampling_factor(SamplingFactor::F_1_1));
    let frame = memchr::memmem::find(&bytes, b"\xff\xc0").unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes[frame + 11] = across << 4 | down;
    let start = first_scan(&bytes);
    bytes.truncate(start);
    // Standard tables: a luma of +40 (DC 6 bits: 1110, then 101000; end 1010), chromas of +20 and -20 (5 bits: 11110).
    let units = usize::from(width).div_ceil(usize::from(across) * 8)
        * usize::from(height).div_ceil(usize::from(down) * 8);
    let mut bits = String::new();
    for unit in 0..units {
        for block in 0..across * down {
            bits += if unit == 0 && block == 0 { "11101010001010" } else { "001010" };
        }
        bits += if unit == 0 { "111101010000111100101100" } else { "00000000" };
    }
    while !bits.len().is_multiple_of(8) {
        bits += "1";
    }
    for byte in bits.as_bytes().chunks(8) {
        let byte = u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap();
        bytes.push(byte);
        if byte == 0xff {
            bytes.push(0);
        }
    }
    bytes.extend(b"\xff\xd9");
    bytes
}

#[test]
fn chroma_at_a_third_of_the_luma_resolution_is_scaled() {
    for (across, down) in [(1, 3), (3, 1), (3, 3), (1, 2)] {
        let bytes = sampled(across, down, (50, 60));
        for divisor in [1, 2, 4, 8] {
            let got = decode(bytes.as_slice(), divisor, None).unwrap();
            assert_eq!((got.width, got.height), (50_u32.div_ceil(divisor), 60_u32.div_ceil(divisor)));
            assert!(!got.is_partial, "{across} {down}");
            let first = &got.data[..3];
            assert!(first[0] != first[1] && first[1] != first[2], "it has a colour: {first:?}");
            assert!(got.data.chunks(3).all(|pixel| pixel == first), "{across} {down} 1/{divisor}");
        }
    }
}

#[test]
fn profiles_are_put_together_and_bounded() {
    let piece = |number: u8, size: usize| {
        let mut piece = b"ICC_PROFILE\0".to_vec();
        piece.extend([number, 2]);
        piece.resize(14 + size, number);
        piece
    };
    let with = |pieces: &[Vec<u8>]| {
        encode(ColorType::Luma, 1, |encoder| {
            for piece in pieces {
                encoder.add_app_segment(2, piece.clone()).unwrap();
            }
        })
    };
    let got = decode(with(&[piece(2, 3), piece(1, 2)]).as_slice(), 8, None).unwrap();
    assert_eq!(got.icc.unwrap(), [1, 1, 2, 2, 2]);
    let bytes = with(&vec![piece(1, 60_000); 80]);
    assert!(matches!(probe(&mut bytes.as_slice()), Err(ThumbnailError::TooLarge(_))));
}

#[test]
fn a_profile_ends_before_the_first_scan() {
    let mut bytes = encode(ColorType::Luma, 1, |encoder| encoder.set_progressive(true));
    let late = b"\xff\xe2\0\x12ICC_PROFILE\0\x01\x01ab";
    let end = bytes.len() - 2;
    bytes.splice(end..end, late.iter().copied());
    assert_eq!(decode(bytes.as_slice(), 8, None).unwrap().icc, None);
}

#[test]
fn scans_of_nothing_end_at_the_deadline() {
    // One table, in which a code of one bit says one zero and a value of one bit; then scans without data.
    let mut bytes = b"\xff\xd8\xff\xdb\0\x43\0".to_vec();
    bytes.extend([1; 64]);
    bytes.extend(b"\xff\xc2\0\x0b\x08\x10\0\x10\0\x01\x01\x11\0");
    bytes.extend(b"\xff\xc4\0\x14\x10\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01");
    for _ in 0..90 {
        bytes.extend(b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0");
    }
    bytes.extend(b"\xff\xd9");
    let got = decode(bytes.as_slice(), 8, Some(Instant::now()));
    assert!(matches!(got, Err(ThumbnailError::Timeout)), "{got:?}");
}

#[test]
fn memory_shrinks_with_the_result() {
    let bytes = encode(ColorType::Rgb, 3, |encoder| encoder.set_progressive(true));
    let (info, _) = probe(&mut bytes.as_slice()).unwrap();
    let [whole, half, quarter, eighth] = [1, 2, 4, 8].map(|divisor| estimate(&info, divisor));
    assert!(whole > half && half > quarter && quarter > eighth, "{whole} {half} {quarter} {eighth}");
}
