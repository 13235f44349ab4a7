//! A chunk's bytes, unpacked while they are read.

use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};

use flate2::bufread::ZlibDecoder;
use weezl::BitOrder;
use weezl::LzwStatus;
use weezl::decode::Decoder as LzwDecoder;

use super::super::super::ThumbnailError;
use super::super::super::input::Input;
use super::super::super::probe::Directory;
use super::fax;

/// Opens a chunk. `rows_width` is the width of its rows.
pub(super) fn open<'a>(
    input: &'a mut Input<'_>,
    directory: &Directory,
    chunk: usize,
) -> Result<Box<dyn Read + 'a>, ThumbnailError> {
    let stored = stored(input, directory, chunk)?;
    let width = directory.chunk.0;
    let fax =
        |kind: fax::Kind, stored| -> Box<dyn Read + 'a> { Box::new(fax::Rows::new(stored, kind, width)) };
    Ok(match directory.compression {
        1 => Box::new(stored),
        2 => fax(fax::Kind::Plain, stored),
        3 => fax(fax::Kind::Group3 { is_mixed: directory.fax_options & 1 == 1 }, stored),
        4 => fax(fax::Kind::Group4, stored),
        5 => Box::new(Lzw::new(stored)?),
        8 | 32_946 => Box::new(ZlibDecoder::new(stored)),
        32_773 => Box::new(PackBits { inner: stored, run: Run::None }),
        _ => return Err(ThumbnailError::Unsupported("TIFF in this packing")),
    })
}

/// A chunk as it is stored, in the usual order of bits.
pub(super) fn stored<'a>(
    input: &'a mut Input<'_>,
    directory: &Directory,
    chunk: usize,
) -> Result<Box<dyn BufRead + 'a>, ThumbnailError> {
    let start = *directory.offsets.get(chunk).ok_or_else(|| ThumbnailError::broken("no such chunk"))?;
    // Old writers leave lengths out.
    let length = directory.lengths.get(chunk).copied().filter(|length| *length > 0).unwrap_or(u64::MAX);
    input.seek(SeekFrom::Start(start))?;
    let part = input.take(length);
    if directory.is_reversed && !directory.is_jpeg() {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, Reversed(part))));
    }
    Ok(Box::new(part))
}

/// Bytes whose first bit is the lowest.
struct Reversed<R>(R);

impl<R: Read> Read for Reversed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        buffer.iter_mut().take(count).for_each(|byte| *byte = byte.reverse_bits());
        Ok(count)
    }
}

/// LZW, of the common kind or as the first writers understood it, bits the other way round.
struct Lzw<R> {
    /// What is packed.
    inner: R,
    /// Its codes.
    decoder: LzwDecoder,
}

impl<R: BufRead> Lzw<R> {
    /// By its first code, which clears the table.
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
    /// What is packed.
    inner: R,
    /// What is at hand.
    run: Run,
}

/// A run of `PackBits`.
enum Run {
    /// None.
    None,
    /// So many bytes as they are.
    Literal(usize),
    /// A byte so many times.
    Repeat(u8, usize),
}

impl<R: BufRead> PackBits<R> {
    /// The next byte of what is packed.
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
                Run::Literal(left) if left > 0 => {
                    let most = left.min(buffer.len());
                    let count = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
                    self.run = Run::Literal(left.saturating_sub(count));
                    return Ok(count);
                }
                Run::Repeat(byte, left) if left > 0 => {
                    let count = left.min(buffer.len());
                    buffer.iter_mut().take(count).for_each(|to| *to = byte);
                    self.run = Run::Repeat(byte, left.saturating_sub(count));
                    return Ok(count);
                }
                Run::None | Run::Literal(_) | Run::Repeat(..) => {}
            }
            let Some(head) = self.byte()? else { return Ok(0) };
            self.run = match head.cast_signed() {
                i8::MIN => Run::None,
                count @ 0.. => Run::Literal(usize::from(count.unsigned_abs()).saturating_add(1)),
                count => {
                    let Some(byte) = self.byte()? else { return Ok(0) };
                    Run::Repeat(byte, usize::from(count.unsigned_abs()).saturating_add(1))
                }
            };
        }
    }
}

/// Bytes turned at once.
const BUFFER: usize = 4096;
