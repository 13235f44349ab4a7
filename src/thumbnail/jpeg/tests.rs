//! Against another decoder, for every kind of file that an encoder writes.

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
fn every_kind_of_file_is_what_another_decoder_sees() {
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
fn bits_that_later_scans_add_are_what_another_decoder_sees() {
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

#[test]
fn a_file_that_breaks_off_is_broken_wherever_it_does() {
    for (kind, bytes) in files().into_iter().step_by(7) {
        for end in (0..bytes.len() - 2).step_by(97) {
            let got = decode(&bytes[..end], 4, None);
            // Between two scans of a progressive file it is a picture already.
            if !kind.contains("true") {
                assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{kind} {end}");
            }
        }
        // Only the end marker is missing.
        decode(&bytes[..bytes.len() - 2], 4, None).unwrap();
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
    assert!(matches!(got, Err(ThumbnailError::OutOfTime)), "{got:?}");
}

#[test]
fn what_is_kept_shrinks_with_the_result() {
    let bytes = encode(ColorType::Rgb, 3, |encoder| encoder.set_progressive(true));
    let (summary, _) = probe(&mut bytes.as_slice()).unwrap();
    let [whole, half, quarter, eighth] = [1, 2, 4, 8].map(|divisor| estimate(&summary, divisor));
    assert!(whole > half && half > quarter && quarter > eighth, "{whole} {half} {quarter} {eighth}");
}
