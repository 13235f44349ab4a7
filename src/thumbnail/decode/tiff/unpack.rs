//! The bytes of a chunk, decompressed while they are read, so that a strip of any height takes the memory of a row.
//!
//! Owns the choice of decompressor, LZW, `PackBits` and the bit order. Refuses to know samples and pixels.

use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};

use flate2::bufread::ZlibDecoder;
use weezl::BitOrder;
use weezl::LzwStatus;
use weezl::decode::Decoder as LzwDecoder;

use super::super::super::ThumbnailError;
use super::super::super::input::Input;
use super::super::super::probe::Directory;
use super::fax::{FaxRows, FaxScheme};

/// Opens a chunk for reading decompressed bytes.
///
/// # Errors
/// `Unsupported` for other compressions, `Broken` if there is no such chunk.
pub(super) fn open<'a>(
    input: &'a mut Input<'_>,
    directory: &Directory,
    chunk: usize,
) -> Result<Box<dyn Read + 'a>, ThumbnailError> {
    let stored = stored(input, directory, chunk)?;
    let width = directory.chunk_size.0;
    let fax = |kind: FaxScheme, stored| -> Box<dyn Read + 'a> { Box::new(FaxRows::new(stored, kind, width)) };
    Ok(match directory.compression {
        1 => Box::new(stored),
        2 => fax(FaxScheme::Plain, stored),
        3 => fax(FaxScheme::Group3 { is_2d: directory.fax_options & 1 == 1 }, stored),
        4 => fax(FaxScheme::Group4, stored),
        5 => Box::new(Lzw::new(stored)?),
        8 | 32_946 => Box::new(ZlibDecoder::new(stored)),
        32_773 => Box::new(PackBits { inner: stored, run: PackBitsRun::None }),
        _ => return Err(ThumbnailError::Unsupported("TIFF in this packing")),
    })
}

/// A chunk as stored, with the highest bit of each byte first.
pub(super) fn stored<'a>(
    input: &'a mut Input<'_>,
    directory: &Directory,
    chunk: usize,
) -> Result<Box<dyn BufRead + 'a>, ThumbnailError> {
    let start = *directory.offsets.get(chunk).ok_or_else(|| ThumbnailError::broken("no such chunk"))?;
    // Some old writers leave out the byte counts.
    let length = directory.byte_counts.get(chunk).copied().filter(|length| *length > 0).unwrap_or(u64::MAX);
    input.seek(SeekFrom::Start(start))?;
    let part = input.take(length);
    if directory.is_reversed && !directory.is_jpeg() {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, Reversed(part))));
    }
    Ok(Box::new(part))
}

/// Reverses the bits of each byte.
struct Reversed<R>(R);

impl<R: Read> Read for Reversed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        buffer.iter_mut().take(count).for_each(|byte| *byte = byte.reverse_bits());
        Ok(count)
    }
}

/// LZW (TIFF 6.0, section 13), or the variant of writers before TIFF 5.0, whose codes begin with their lowest bit.
struct Lzw<R> {
    inner: R,
    decoder: LzwDecoder,
}

impl<R: BufRead> Lzw<R> {
    /// Tells the variant by the first code, which is always the one that clears the table.
    fn new(mut inner: R) -> io::Result<Self> {
        let is_old = matches!(inner.fill_buf()?, [0, second, ..] if second & 1 == 1);
        let decoder = if is_old {
            LzwDecoder::new(BitOrder::Lsb, 8)
        } else {
            LzwDecoder::with_tiff_size_switch(BitOrder::Msb, 8)
        };
        Ok(Self { inner, decoder })
    }
}

impl<R: BufRead> Read for Lzw<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let packed = self.inner.fill_buf()?;
            let is_end = packed.is_empty();
            let result = self.decoder.decode_bytes(packed, buffer);
            self.inner.consume(result.consumed_in);
            match result.status {
                _ if result.consumed_out > 0 => return Ok(result.consumed_out),
                Ok(LzwStatus::Done) => return Ok(0),
                Ok(LzwStatus::Ok | LzwStatus::NoProgress) if is_end || buffer.is_empty() => return Ok(0),
                Ok(LzwStatus::Ok | LzwStatus::NoProgress) => {}
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// `PackBits` (TIFF 6.0, section 9).
struct PackBits<R> {
    inner: R,
    /// The rest of the current run.
    run: PackBitsRun,
}

enum PackBitsRun {
    None,
    /// The next bytes, this many, are literal.
    Literal(usize),
    /// This byte, this many times.
    Repeat(u8, usize),
}

impl<R: BufRead> PackBits<R> {
    /// The next compressed byte.
    fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.inner.fill_buf()?.first().copied();
        self.inner.consume(usize::from(byte.is_some()));
        Ok(byte)
    }
}

impl<R: BufRead> Read for PackBits<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.run {
                PackBitsRun::Literal(left) if left > 0 => {
                    let most = left.min(buffer.len());
                    let count = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
                    self.run = PackBitsRun::Literal(left.saturating_sub(count));
                    return Ok(count);
                }
                PackBitsRun::Repeat(byte, left) if left > 0 => {
                    let count = left.min(buffer.len());
                    buffer.iter_mut().take(count).for_each(|to| *to = byte);
                    self.run = PackBitsRun::Repeat(byte, left.saturating_sub(count));
                    return Ok(count);
                }
                PackBitsRun::None | PackBitsRun::Literal(_) | PackBitsRun::Repeat(..) => {}
            }
            let Some(head) = self.byte()? else { return Ok(0) };
            self.run = match head.cast_signed() {
                i8::MIN => PackBitsRun::None,
                count @ 0.. => PackBitsRun::Literal(usize::from(count.unsigned_abs()).saturating_add(1)),
                count => {
                    let Some(byte) = self.byte()? else { return Ok(0) };
                    PackBitsRun::Repeat(byte, usize::from(count.unsigned_abs()).saturating_add(1))
                }
            };
        }
    }
}

/// Bytes reversed at once.
const BUFFER: usize = 4096;
