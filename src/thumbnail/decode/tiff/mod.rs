//! Decoding of TIFF: strips row by row, tiles and planes a band of chunks at a time.
//!
//! Owns the order of chunks, and bad ones, whose pixels become white. Refuses to know further pages. Written here because
//! the `tiff` crate decodes a strip whole, and in many files the whole picture is one strip.

mod fax;
mod samples;
mod unpack;

use std::io::{Read, Seek as _, SeekFrom};
use std::ops::Range;

use self::samples::Photometric;
use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::jpeg;
use super::super::pixels::{Decoded, Layout, length};
use super::super::probe::{Directory, Header, OLD_JPEG};
use super::sink::Sink;

/// Decodes the first page, reduced once for each divisor.
pub(super) fn decode(
    input: Input<'_>,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let mut input = input;
    let directory = Directory::read(&mut input)?;
    if (directory.width, directory.height) != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    directory.check_supported()?;
    let photometric = Photometric::of(&directory)?;
    let icc = profile(&mut input, &directory, header)?;
    let layout = photometric.layout(&directory);
    let mut page = TiffReader {
        input,
        photometric,
        layout,
        sink: Sink::new(header, layout, divisors),
        lost: 0,
        pixels: Vec::new(),
        directory,
    };
    let bands = page.directory.height.div_ceil(page.directory.chunk_size.1.max(1));
    let mut why = None;
    let across = match (page.directory.is_tiled, page.directory.chunk_size.0) {
        (true, wide) => page.directory.width.div_ceil(wide.max(1)),
        (false, _) => 1,
    };
    for band in 0..bands {
        // All further chunks are missing. There may be as many of them as pixels, so they are not tried one by one.
        if length(band.saturating_mul(across)) >= page.directory.offsets.len() {
            why.get_or_insert_with(|| ThumbnailError::broken("no such chunk"));
            let came = page.sink.rows.saturating_add(page.lost);
            page.lost = page.lost.saturating_add(page.directory.height.saturating_sub(came));
            break;
        }
        let done = band.saturating_mul(page.directory.chunk_size.1);
        let rows = page.directory.chunk_size.1.min(page.directory.height.saturating_sub(done));
        let is_gathered = page.directory.is_tiled || page.directory.is_planar;
        let outcome = if is_gathered { page.read_band(band, rows) } else { page.read_strip(band, rows) };
        match outcome {
            Ok(()) => {}
            Err(error @ (ThumbnailError::Broken(_) | ThumbnailError::Unsupported(_))) => why = Some(error),
            Err(error) => return Err(error),
        }
        // The rows that the chunk should have had and did not.
        let came = page.sink.rows.saturating_add(page.lost);
        page.lost = page.lost.saturating_add(done.saturating_add(rows).saturating_sub(came));
    }
    let icc = icc.filter(|icc| !icc.is_empty() && !matches!(photometric, Photometric::Lab { .. }));
    page.sink.finish(why.map_or(Ok(()), Err), icc.as_deref())
}

/// The colour profile; shorter if the file ends inside it.
fn profile(
    input: &mut Input<'_>,
    directory: &Directory,
    header: &Header,
) -> Result<Option<Vec<u8>>, ThumbnailError> {
    let Some((start, length)) = directory.profile else { return Ok(None) };
    let mut icc = Vec::new();
    input.seek(SeekFrom::Start(start))?;
    input.by_ref().take(length.min(header.profile_bytes.into())).read_to_end(&mut icc)?;
    Ok(Some(icc))
}

/// Reads the rows of a page.
struct TiffReader<'a> {
    input: Input<'a>,
    directory: Directory,
    photometric: Photometric,
    layout: Layout,
    sink: Sink,
    /// Rows that are missing since the last one read.
    lost: u32,
    /// A row of pixels.
    pixels: Vec<u8>,
}

impl TiffReader<'_> {
    /// Reads a strip and passes on its rows.
    fn read_strip(&mut self, band: u32, rows: u32) -> Result<(), ThumbnailError> {
        let Self { input, directory, photometric, layout, sink, lost, pixels } = self;
        let (photometric, layout) = (*photometric, *layout);
        let chunk = usize::try_from(band).unwrap_or(usize::MAX);
        each_row(input, directory, photometric, ChunkRows { chunk, rows }, &mut |samples| {
            fill_lost_rows(sink, lost, layout, directory.width);
            samples::to_pixels(samples, directory, photometric, layout, pixels);
            sink.push(pixels);
        })
    }

    /// Reads a row of tiles, or the same strip of every plane, and passes on its rows once all of them are complete.
    fn read_band(&mut self, band: u32, rows: u32) -> Result<(), ThumbnailError> {
        let Self { input, directory, photometric, layout, sink, lost, pixels } = self;
        let (width, samples) = (length(directory.width), length(directory.samples));
        let across = directory.width.div_ceil(directory.chunk_size.0.max(1));
        let down = directory.height.div_ceil(directory.chunk_size.1.max(1));
        let planes = if directory.is_planar { directory.samples } else { 1 };
        let area = width.saturating_mul(length(rows));
        let mut collected = photometric.blank(directory).repeat(area);
        let (mut any, mut why) = (false, None);
        for plane in 0..planes {
            for column in 0..across {
                let chunk = plane
                    .saturating_mul(down)
                    .saturating_add(band)
                    .saturating_mul(across)
                    .saturating_add(column);
                if length(chunk) >= directory.offsets.len() {
                    why = Some(ThumbnailError::broken("no such chunk"));
                    break;
                }
                let left = length(column.saturating_mul(directory.chunk_size.0));
                let columns = left..left.saturating_add(length(directory.chunk_size.0)).min(width);
                let plane = directory.is_planar.then_some(length(plane));
                let mut lines = collected.chunks_exact_mut(width.saturating_mul(samples).max(1));
                let outcome = each_row(
                    input,
                    directory,
                    *photometric,
                    ChunkRows { chunk: length(chunk), rows },
                    &mut |row| {
                        any = true;
                        if let Some(line) = lines.next() {
                            copy_columns(line, row, &columns, samples, plane);
                        }
                    },
                );
                match outcome {
                    Ok(()) => {}
                    Err(error @ (ThumbnailError::Broken(_) | ThumbnailError::Unsupported(_))) => {
                        why = Some(error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if any {
            fill_lost_rows(sink, lost, *layout, directory.width);
            for row in collected.chunks_exact(width.saturating_mul(samples).max(1)) {
                samples::to_pixels(row, directory, *photometric, *layout, pixels);
                sink.push(pixels);
            }
            sink.is_partial |= why.is_some();
        }
        why.map_or(Ok(()), Err)
    }
}

/// Adds white rows in place of missing ones.
fn fill_lost_rows(sink: &mut Sink, lost: &mut u32, layout: Layout, width: u32) {
    let value = if layout == Layout::Cmyk { 0 } else { u8::MAX };
    let row =
        if *lost > 0 { vec![value; length(width).saturating_mul(layout.channels())] } else { Vec::new() };
    for _ in 0..std::mem::take(lost) {
        sink.push(&row);
        sink.is_partial = true;
    }
}

/// Copies the row of a chunk into its columns of a band's row; of a plane, into every pixel's sample of that plane.
fn copy_columns(line: &mut [u8], row: &[u8], columns: &Range<usize>, samples: usize, plane: Option<usize>) {
    let from = columns.start.saturating_mul(samples);
    let to = columns.end.saturating_mul(samples);
    let line = line.get_mut(from..to).unwrap_or_default();
    match plane {
        None => line.iter_mut().zip(row).for_each(|(to, value)| *to = *value),
        Some(plane) => {
            let places = line.iter_mut().skip(plane).step_by(samples.max(1));
            places.zip(row).for_each(|(to, value)| *to = *value);
        }
    }
}

/// A chunk and how many of its rows belong to the picture.
#[derive(Clone, Copy)]
struct ChunkRows {
    chunk: usize,
    rows: u32,
}

/// Reads the rows of a chunk as samples of 8 bits.
fn each_row(
    input: &mut Input<'_>,
    directory: &Directory,
    photometric: Photometric,
    ChunkRows { chunk, rows }: ChunkRows,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), ThumbnailError> {
    if directory.is_jpeg() {
        let picture = decode_jpeg_chunk(input, directory, chunk)?;
        let row = length(picture.width).saturating_mul(picture.channels);
        picture.data.chunks_exact(row.max(1)).take(length(rows)).for_each(take);
        let is_whole = picture.height >= rows && !picture.is_partial;
        return if is_whole { Ok(()) } else { Err(ThumbnailError::broken("a chunk lacks rows")) };
    }
    let mut reader = unpack::open(input, directory, chunk)?;
    let count = length(directory.chunk_size.0).saturating_mul(length(directory.samples_in_chunk()));
    let mut samples = Vec::new();
    if photometric == Photometric::YCbCr && directory.subsampling != (1, 1) && !directory.is_planar {
        return read_subsampled_rows(&mut reader, directory, rows, take);
    }
    let mut row = vec![0; usize::try_from(directory.row_bytes()).map_err(ThumbnailError::broken)?];
    for _ in 0..rows {
        reader.read_exact(&mut row)?;
        samples::to_bytes(&mut row, directory, count, &mut samples)?;
        take(&samples);
    }
    Ok(())
}

/// Reads rows of subsampled YCbCr: units of several luma samples and one pair of chroma samples (TIFF 6.0, section 21).
fn read_subsampled_rows(
    reader: &mut dyn Read,
    directory: &Directory,
    rows: u32,
    take: &mut dyn FnMut(&[u8]),
) -> Result<(), ThumbnailError> {
    let (across, down) = (length(directory.subsampling.0), length(directory.subsampling.1));
    let width = length(directory.chunk_size.0);
    let unit = across.saturating_mul(down).saturating_add(2);
    if directory.bits != 8 || directory.samples != 3 {
        return Err(ThumbnailError::Unsupported("TIFF with shared chromas of other than 8 bits"));
    }
    let mut units = vec![0; width.div_ceil(across).saturating_mul(unit)];
    let mut row = Vec::new();
    for _ in 0..rows.div_ceil(directory.subsampling.1) {
        reader.read_exact(&mut units)?;
        for line in 0..down {
            row.clear();
            for unit in units.chunks_exact(unit) {
                let lumas = unit.get(line.saturating_mul(across)..).unwrap_or_default().iter().take(across);
                if let Some([blue, red]) = unit.last_chunk::<2>() {
                    lumas.for_each(|luma| row.extend([*luma, *blue, *red]));
                }
            }
            row.truncate(width.saturating_mul(3));
            take(&row);
        }
    }
    Ok(())
}

/// Decodes a chunk that is a JPEG, whose tables may be stored in the directory.
fn decode_jpeg_chunk(
    input: &mut Input<'_>,
    directory: &Directory,
    chunk: usize,
) -> Result<jpeg::Picture, ThumbnailError> {
    let mut tables = Vec::new();
    let most = directory.max_jpeg_bytes();
    let picture = if directory.compression == OLD_JPEG {
        // The whole picture is one JPEG.
        let (start, _) =
            directory.jpeg.filter(|_| chunk == 0).ok_or_else(|| ThumbnailError::broken("no JPEG"))?;
        input.seek(SeekFrom::Start(start))?;
        jpeg::decode_part(input, &tables, most)?
    } else {
        if let Some((start, length)) = directory.jpeg {
            input.seek(SeekFrom::Start(start))?;
            input.by_ref().take(length.min(MAX_JPEG_TABLES)).read_to_end(&mut tables)?;
        }
        jpeg::decode_part(&mut unpack::stored(input, directory, chunk)?, &tables, most)?
    };
    if picture.channels != length(directory.samples_in_chunk()) || picture.width != directory.chunk_size.0 {
        return Err(ThumbnailError::broken("a JPEG that does not fit its place"));
    }
    Ok(picture)
}

/// Most bytes of the tables of JPEG chunks.
const MAX_JPEG_TABLES: u64 = 1 << 14;
