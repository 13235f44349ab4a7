//! The segments of a file (T.81, annex B): frame header, tables, scan headers, and what applications put there.
//!
//! Owns what is kept of them between scans. Allocates no more than a segment says it has, 64 KiB, and
//! [`MAX_PROFILE`] bytes of colour profile.

use std::io::{BufRead, Read as _};

use super::super::color::MAX_PROFILE;
use super::ThumbnailError;
use super::bits::next_byte;
use super::huffman::Huffman;
use super::standard;

/// What was read of a file so far.
#[derive(Debug, Default)]
pub(super) struct Headers {
    /// The frame header.
    frame: Option<Frame>,
    /// Tables in force.
    pub(super) tables: Tables,
    /// What Adobe's marker says of the colours.
    adobe: Option<u8>,
    /// The EXIF block, from its byte order on.
    pub(super) exif: Option<Vec<u8>>,
    /// The colour profile.
    pub(super) profile: Profile,
}

/// What a frame header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::thumbnail) struct Frame {
    /// Columns.
    pub(super) width: u32,
    /// Rows.
    pub(super) height: u32,
    /// Whether scans refine one another.
    pub(super) progressive: bool,
    /// How many components there are: 1 to 4.
    pub(super) count: u8,
    /// The components; those beyond `count` mean nothing.
    pub(super) components: [Component; MAX_COMPONENTS],
}

/// A component of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::thumbnail) struct Component {
    /// Its name in scan headers.
    id: u8,
    /// Blocks of it across a unit, 1 to 4.
    pub(super) across: u32,
    /// Blocks of it down a unit, 1 to 4.
    pub(super) down: u32,
    /// Which quantisation table is its own.
    pub(super) quantization: u8,
}

/// What is known of a file before its first scan: enough to say what decoding takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::thumbnail) struct JpegInfo {
    /// The frame header.
    pub(super) frame: Frame,
    /// Whether the first scan holds every component.
    interleaved: bool,
    /// Bytes of colour profile.
    pub(in crate::thumbnail) profile_bytes: u32,
}

/// What a scan header says.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    /// Its components.
    pub(super) parts: Vec<Part>,
    /// First and last coefficient, in zigzag order.
    pub(super) band: (u32, u32),
    /// Bit that was refined last, and that is refined now.
    pub(super) bits: (u32, u32),
}

/// A component of a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Which of the frame's.
    pub(super) component: usize,
    /// Its DC table.
    pub(super) dc: usize,
    /// Its AC table.
    pub(super) ac: usize,
}

/// Tables in force.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Divisors of coefficients, in zigzag order.
    pub(super) quantization: [Option<[u16; 64]>; 4],
    /// Of first coefficients.
    pub(super) dc: [Option<Huffman>; 4],
    /// Of the others.
    pub(super) ac: [Option<Huffman>; 4],
    /// Units between restart markers; 0 for none.
    pub(super) restart_interval: u32,
}

/// What components stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::thumbnail) enum ColorSpace {
    /// One component.
    Grey,
    /// Three, luma and two chromas.
    YCbCr,
    /// Three, as they are.
    Rgb,
    /// Four, the light that inks let through.
    InvertedCmyk,
    /// Four, the same with the first three as luma and chromas.
    Ycck,
    /// So many, as they are: what they stand for is said elsewhere.
    Raw(u8),
}

impl ColorSpace {
    /// Bytes of a pixel.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::YCbCr | Self::Rgb => 3,
            Self::InvertedCmyk | Self::Ycck => 4,
            Self::Raw(count) => count.into(),
        }
    }
}

impl JpegInfo {
    /// Columns and rows.
    pub(in crate::thumbnail) fn size(&self) -> (u32, u32) {
        (self.frame.width, self.frame.height)
    }

    /// Bytes of a decoded pixel.
    pub(in crate::thumbnail) fn channels(&self) -> u64 {
        self.frame.count.into()
    }

    /// Whether coefficients have to be kept until the last scan.
    pub(super) fn is_buffered(&self) -> bool {
        self.frame.progressive || !self.interleaved
    }
}

impl Tables {
    /// Puts the tables of T.81, annex K.3, where there are none.
    fn add_standard(&mut self) {
        for ((dc, ac), (for_dc, for_ac)) in
            self.dc.iter_mut().zip(&mut self.ac).zip(standard::DC.into_iter().zip(standard::AC))
        {
            let fill = |table: &mut Option<Huffman>, (counts, symbols): ([u8; 16], &[u8])| {
                if table.is_none() {
                    *table = Huffman::new(counts, symbols.to_vec());
                }
            };
            fill(dc, for_dc);
            fill(ac, for_ac);
        }
    }
}

impl Frame {
    /// The components.
    pub(super) fn components(&self) -> &[Component] {
        self.components.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Reads a SOF segment.
    fn parse(segment: &[u8], progressive: bool) -> Option<Self> {
        let ([8, h1, h0, w1, w0, count @ 1..=4], rest) = segment.split_first_chunk::<6>()? else {
            return None;
        };
        let mut components = [Component::default(); MAX_COMPONENTS];
        let rest = rest.as_chunks::<3>().0.get(..usize::from(*count))?;
        for (component, [id, factors, quantization]) in components.iter_mut().zip(rest) {
            let (across, down) = (u32::from(factors.wrapping_shr(4)), u32::from(factors & 15));
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) || *quantization > 3 {
                return None;
            }
            *component = Component { id: *id, across, down, quantization: *quantization };
        }
        if *count == 1 {
            // One component is never interleaved, whatever its factors say (T.81, A.2.2).
            for only in &mut components {
                (only.across, only.down) = (1, 1);
            }
        }
        let height = u32::from(u16::from_be_bytes([*h1, *h0]));
        let width = u32::from(u16::from_be_bytes([*w1, *w0]));
        (width > 0 && height > 0).then_some(Self { width, height, progressive, count: *count, components })
    }
}

impl Headers {
    /// Reads up to the first scan. Tables may come from another place, before.
    pub(super) fn read(input: &mut dyn BufRead, mut tables: &[u8]) -> Result<(Self, Scan), ThumbnailError> {
        let mut headers = Self::default();
        if tables.len() > 2 {
            tables.consume(2);
            headers.next_scan(&mut tables, None)?;
        }
        let mut start = [0; 2];
        input.read_exact(&mut start)?;
        let scan = headers.next_scan(input, None)?;
        Ok((headers, scan.ok_or_else(|| ThumbnailError::broken("no scan after the headers"))?))
    }

    /// What is known before the first scan.
    pub(super) fn info(&self, first: &Scan) -> Result<JpegInfo, ThumbnailError> {
        let frame = self.frame()?;
        if self.profile.too_large {
            return Err(ThumbnailError::TooLarge("the image's colour profile is too large"));
        }
        let interleaved = first.parts.len() == usize::from(frame.count);
        Ok(JpegInfo { frame, interleaved, profile_bytes: self.profile.bytes })
    }

    /// Whether scans refine one another.
    pub(super) fn is_progressive(&self) -> bool {
        self.frame.is_some_and(|frame| frame.progressive)
    }

    /// What the components stand for: Adobe's marker decides, else their names and number.
    pub(super) fn color_space(&self) -> Result<ColorSpace, ThumbnailError> {
        let components = self.frame.as_ref().map(Frame::components).unwrap_or_default();
        let is_rgb = components.iter().map(|component| component.id).eq(*b"RGB");
        Ok(match (components.len(), self.adobe) {
            (2, _) => return Err(ThumbnailError::Unsupported("JPEG of two channels")),
            (3, Some(0)) => ColorSpace::Rgb,
            (3, None) if is_rgb => ColorSpace::Rgb,
            (3, _) => ColorSpace::YCbCr,
            (4, Some(2)) => ColorSpace::Ycck,
            // Without Adobe's marker too: browsers take every one for such.
            (4, _) => ColorSpace::InvertedCmyk,
            _ => ColorSpace::Grey,
        })
    }

    /// Reads segments up to the next scan; `None` at the end of the picture. `marker` was met already. Once there was a scan,
    /// the end of the file is an end like any other.
    pub(super) fn next_scan(
        &mut self,
        input: &mut dyn BufRead,
        mut marker: Option<u8>,
    ) -> Result<Option<Scan>, ThumbnailError> {
        for _ in 0..MAX_SEGMENTS {
            let code = match marker.take() {
                Some(code) => Some(code),
                None => next_marker(input)?,
            };
            match code {
                // Markers without a length: TEM, RSTn.
                Some(0x01 | 0xd0..=0xd7) => {}
                None | Some(0xd8 | 0xd9) => return Ok(None),
                Some(0xc3 | 0xf7) => return Err(ThumbnailError::Unsupported("lossless JPEG")),
                Some(0xc9..=0xcb) => return Err(ThumbnailError::Unsupported("JPEG with arithmetic codes")),
                Some(0xc5..=0xc7 | 0xcd..=0xcf | 0xde) => {
                    return Err(ThumbnailError::Unsupported("hierarchical JPEG"));
                }
                Some(code) => {
                    let segment = read_segment(input)?;
                    if code == 0xda {
                        // Frames of webcams and cameras leave them out.
                        self.tables.add_standard();
                        return self.parse_scan(&segment).map(Some).ok_or_else(senseless);
                    }
                    refuse_frame(code, &segment)?;
                    self.take_segment(code, &segment).ok_or_else(senseless)?;
                }
            }
        }
        Err(ThumbnailError::broken("segments without end"))
    }

    /// The frame header.
    fn frame(&self) -> Result<Frame, ThumbnailError> {
        self.frame.ok_or_else(|| ThumbnailError::broken("a scan before its frame"))
    }

    /// Keeps what is needed of a segment.
    fn take_segment(&mut self, code: u8, segment: &[u8]) -> Option<()> {
        match code {
            // A second frame header is for hierarchical files.
            0xc0..=0xc2 if self.frame.is_some() => return None,
            0xc0..=0xc2 => self.frame = Some(Frame::parse(segment, code == 0xc2)?),
            0xc4 => return self.take_codes(segment),
            0xdb => return self.take_divisors(segment),
            0xdd => self.tables.restart_interval = u32::from(u16::from_be_bytes(*segment.first_chunk()?)),
            0xe1 if self.exif.is_none() => self.exif = segment.strip_prefix(b"Exif\0\0").map(<[u8]>::to_vec),
            0xe2 => self.profile.add(segment),
            0xee => {
                if let Some([.., transform]) =
                    segment.strip_prefix(b"Adobe").and_then(<[u8]>::first_chunk::<7>)
                {
                    self.adobe = Some(*transform);
                }
            }
            _ => {}
        }
        Some(())
    }

    /// Reads a DHT segment.
    fn take_codes(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((place, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(total)?;
            let table = Huffman::new(*counts, symbols.to_vec())?;
            let tables = match place.wrapping_shr(4) {
                0 => &mut self.tables.dc,
                1 => &mut self.tables.ac,
                _ => return None,
            };
            *tables.get_mut(usize::from(place & 15))? = Some(table);
            segment = rest;
        }
        Some(())
    }

    /// Reads a DQT segment.
    fn take_divisors(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((place, rest)) = segment.split_first() {
            let mut table = [0; 64];
            segment = if place.wrapping_shr(4) == 0 {
                let (bytes, rest) = rest.split_first_chunk::<64>()?;
                table.iter_mut().zip(bytes).for_each(|(to, byte)| *to = u16::from(*byte));
                rest
            } else {
                let (bytes, rest) = rest.split_first_chunk::<128>()?;
                let words = bytes.as_chunks::<2>().0;
                table.iter_mut().zip(words).for_each(|(to, word)| *to = u16::from_be_bytes(*word));
                rest
            };
            *self.tables.quantization.get_mut(usize::from(place & 15))? = Some(table);
        }
        Some(())
    }

    /// Reads a SOS segment.
    fn parse_scan(&self, segment: &[u8]) -> Option<Scan> {
        let frame = self.frame?;
        let (count, rest) = segment.split_first()?;
        let (named, [start, end, bits]) = rest.split_at_checked(usize::from(*count).checked_mul(2)?)? else {
            return None;
        };
        let mut parts = Vec::new();
        for [id, tables] in named.as_chunks::<2>().0 {
            let component = frame.components().iter().position(|component| component.id == *id)?;
            if parts.iter().any(|part: &Part| part.component == component) {
                return None;
            }
            let (dc, ac) = (usize::from(tables.wrapping_shr(4)), usize::from(tables & 15));
            parts.push(Part { component, dc, ac });
        }
        let (start, end) = if frame.progressive { (u32::from(*start), u32::from(*end)) } else { (0, 63) };
        let (high, low) = (u32::from(bits.wrapping_shr(4)), u32::from(bits & 15));
        let (high, low) = if frame.progressive { (high, low) } else { (0, 0) };
        let dc_alone = !frame.progressive || (start == 0) == (end == 0);
        let one_by_one = start == 0 || parts.len() == 1;
        let sensible = start <= end && end <= 63 && low <= 13 && (high == 0 || high == low.wrapping_add(1));
        (!parts.is_empty() && dc_alone && one_by_one && sensible).then_some(Scan {
            parts,
            band: (start, end),
            bits: (high, low),
        })
    }
}

/// A colour profile in pieces (ICC.1, B.4), gathered up to a bound.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// Pieces with their numbers.
    pieces: Vec<(u8, Vec<u8>)>,
    /// Bytes of all pieces.
    bytes: u32,
    /// Whether there was too much of it.
    too_large: bool,
    /// Whether further pieces are none of it.
    is_closed: bool,
}

impl Profile {
    /// Adds the piece in an APP2 segment, if it is one.
    fn add(&mut self, segment: &[u8]) {
        let Some(([number, _count], piece)) =
            segment.strip_prefix(b"ICC_PROFILE\0").and_then(<[u8]>::split_first_chunk::<2>)
        else {
            return;
        };
        if self.is_closed || piece.is_empty() {
            return;
        }
        let total = self.bytes.saturating_add(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        if self.too_large || total > MAX_PROFILE {
            *self = Self { too_large: true, ..Self::default() };
            return;
        }
        self.bytes = total;
        self.pieces.push((*number, piece.to_vec()));
    }

    /// The profile, put together; pieces that come later are none of it.
    pub(super) fn close(&mut self) -> Option<Vec<u8>> {
        self.is_closed = true;
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.sort_by_key(|(number, _)| *number);
        (!pieces.is_empty()).then(|| pieces.into_iter().flat_map(|(_, piece)| piece).collect())
    }
}

/// The code of the next marker, `None` at the end of the file; what stands before it is passed over, as decoders do.
fn next_marker(input: &mut dyn BufRead) -> Result<Option<u8>, ThumbnailError> {
    let mut after_ff = false;
    for _ in 0..MAX_STRAY {
        match next_byte(input)? {
            None => return Ok(None),
            Some(0xff) => after_ff = true,
            Some(code) if after_ff && code != 0 => return Ok(Some(code)),
            Some(_) => after_ff = false,
        }
    }
    Err(ThumbnailError::broken("no marker where one belongs"))
}

/// What stands in a segment.
fn read_segment(input: &mut dyn BufRead) -> Result<Vec<u8>, ThumbnailError> {
    let mut length = [0; 2];
    input.read_exact(&mut length)?;
    // Less than the length itself is taken for nothing, as other decoders do.
    let length = u16::from_be_bytes(length).saturating_sub(2);
    let mut segment = Vec::new();
    let read = input.take(length.into()).read_to_end(&mut segment)?;
    if read < usize::from(length) { Err(ThumbnailError::broken("a segment breaks off")) } else { Ok(segment) }
}

/// Refuses a frame of a kind that is not read.
fn refuse_frame(code: u8, segment: &[u8]) -> Result<(), ThumbnailError> {
    match (code, segment) {
        (0xc0..=0xc2, [12 | 16, ..]) => Err(ThumbnailError::Unsupported("JPEG of more than 8 bits")),
        (0xc0..=0xc2, [8, _, _, _, _, 5..=u8::MAX, ..]) => {
            Err(ThumbnailError::Unsupported("JPEG of more than 4 channels"))
        }
        _ => Ok(()),
    }
}

/// A segment of no meaning.
fn senseless() -> ThumbnailError {
    ThumbnailError::broken("a segment makes no sense")
}

/// Components of a frame.
pub(super) const MAX_COMPONENTS: usize = 4;
/// Real files have a few dozen; a large profile takes one for each 64 KiB.
const MAX_SEGMENTS: usize = 2000;
/// Bytes between segments that some cameras leave there.
const MAX_STRAY: usize = 1 << 16;
