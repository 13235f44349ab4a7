//! The segments of a JPEG (T.81, annex B): frame header, tables, scan headers, application data.
//!
//! Owns what is kept of them between scans. Refuses to know entropy-coded data. Allocates at most a segment, 64 KiB, and
//! [`MAX_PROFILE`] bytes of colour profile.

use std::io::{BufRead, Read as _};

use super::super::color::MAX_PROFILE;
use super::ThumbnailError;
use super::bits::next_byte;
use super::huffman::Huffman;
use super::standard;

/// What the segments so far have said.
#[derive(Debug, Default)]
pub(super) struct Headers {
    frame: Option<Frame>,
    pub(super) tables: Tables,
    /// The colour transform of Adobe's segment (technote 5116): 0 none, 1 YCbCr, 2 YCCK.
    adobe: Option<u8>,
    /// The EXIF block, from its byte order on.
    pub(super) exif: Option<Vec<u8>>,
    pub(super) profile: Profile,
}

/// A frame header (SOF; T.81, B.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::thumbnail) struct Frame {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) progressive: bool,
    /// How many components there are: 1 to 4.
    pub(super) count: u8,
    /// Only the first `count` are used.
    pub(super) components: [Component; MAX_COMPONENTS],
}

/// A component of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::thumbnail) struct Component {
    /// The identifier that scan headers use.
    id: u8,
    /// Horizontal sampling factor: blocks across an MCU, 1 to 4.
    pub(super) across: u32,
    /// Vertical sampling factor: blocks down an MCU, 1 to 4.
    pub(super) down: u32,
    /// The index of its quantisation table.
    pub(super) quantization: u8,
}

/// What is known of a file before its first scan, which is enough to estimate the memory for decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::thumbnail) struct JpegInfo {
    pub(super) frame: Frame,
    /// Whether the first scan has every component.
    interleaved: bool,
    /// Bytes of the colour profile.
    pub(in crate::thumbnail) profile_bytes: u32,
}

/// A scan header (SOS; T.81, B.2.3).
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) parts: Vec<ScanComponent>,
    /// Spectral selection: the first and last coefficient, in zigzag order.
    pub(super) band: (u32, u32),
    /// Successive approximation: the bit position of the previous scan (0 for none) and of this one.
    pub(super) bits: (u32, u32),
}

/// A component of a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanComponent {
    /// Its index in the frame.
    pub(super) component: usize,
    /// The index of its DC table.
    pub(super) dc: usize,
    /// The index of its AC table.
    pub(super) ac: usize,
}

/// The tables in force.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Quantisation tables, in zigzag order.
    pub(super) quantization: [Option<[u16; 64]>; 4],
    pub(super) dc: [Option<Huffman>; 4],
    pub(super) ac: [Option<Huffman>; 4],
    /// MCUs between restart markers; 0 if there are no markers.
    pub(super) restart_interval: u32,
}

/// The meaning of the components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::thumbnail) enum ColorSpace {
    Grey,
    YCbCr,
    Rgb,
    /// CMYK where 255 is no ink, as Adobe writes it.
    InvertedCmyk,
    /// Inverted CMYK whose first three channels are stored as YCbCr.
    Ycck,
    /// This number of components, not converted.
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
    /// Width and height in pixels.
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
    /// Fills in the tables of T.81, annex K.3, where none was defined.
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
    pub(super) fn components(&self) -> &[Component] {
        self.components.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Reads a SOF segment; `None` if it is malformed.
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
    /// Reads segments up to the first scan header. `tables` may hold tables as a JPEG without a picture.
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

    pub(super) fn is_progressive(&self) -> bool {
        self.frame.is_some_and(|frame| frame.progressive)
    }

    /// The meaning of the components: by Adobe's segment, or else by their identifiers and number.
    pub(super) fn color_space(&self) -> Result<ColorSpace, ThumbnailError> {
        let components = self.frame.as_ref().map(Frame::components).unwrap_or_default();
        let is_rgb = components.iter().map(|component| component.id).eq(*b"RGB");
        Ok(match (components.len(), self.adobe) {
            (2, _) => return Err(ThumbnailError::Unsupported("JPEG of two channels")),
            (3, Some(0)) => ColorSpace::Rgb,
            (3, None) if is_rgb => ColorSpace::Rgb,
            (3, _) => ColorSpace::YCbCr,
            (4, Some(2)) => ColorSpace::Ycck,
            // Without Adobe's segment too, as in browsers.
            (4, _) => ColorSpace::InvertedCmyk,
            _ => ColorSpace::Grey,
        })
    }

    /// Reads segments up to the next scan header; `None` at the end of the picture or of the file. `marker` is a marker that was
    /// already read.
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
                        // Motion JPEG frames of webcams leave them out.
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

    fn frame(&self) -> Result<Frame, ThumbnailError> {
        self.frame.ok_or_else(|| ThumbnailError::broken("a scan before its frame"))
    }

    /// Keeps what is needed of a segment; `None` if it is malformed.
    fn take_segment(&mut self, code: u8, segment: &[u8]) -> Option<()> {
        match code {
            // Only hierarchical files have several frame headers.
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
            if parts.iter().any(|part: &ScanComponent| part.component == component) {
                return None;
            }
            let (dc, ac) = (usize::from(tables.wrapping_shr(4)), usize::from(tables & 15));
            parts.push(ScanComponent { component, dc, ac });
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

/// A colour profile in pieces (ICC.1, B.4), up to [`MAX_PROFILE`] bytes.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// The pieces with their sequence numbers.
    pieces: Vec<(u8, Vec<u8>)>,
    /// Bytes of all pieces.
    bytes: u32,
    too_large: bool,
    /// Whether further pieces are ignored.
    is_closed: bool,
}

impl Profile {
    /// Adds the piece in an APP2 segment, if it has one.
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

    /// The profile, put together. Later pieces are ignored.
    pub(super) fn close(&mut self) -> Option<Vec<u8>> {
        self.is_closed = true;
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.sort_by_key(|(number, _)| *number);
        (!pieces.is_empty()).then(|| pieces.into_iter().flat_map(|(_, piece)| piece).collect())
    }
}

/// Skips to the next marker and returns its code; `None` at the end of the file.
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

/// Reads the data of a segment.
fn read_segment(input: &mut dyn BufRead) -> Result<Vec<u8>, ThumbnailError> {
    let mut length = [0; 2];
    input.read_exact(&mut length)?;
    // A length below 2, the size of the length itself, counts as no data, as in other decoders.
    let length = u16::from_be_bytes(length).saturating_sub(2);
    let mut segment = Vec::new();
    let read = input.take(length.into()).read_to_end(&mut segment)?;
    if read < usize::from(length) { Err(ThumbnailError::broken("a segment breaks off")) } else { Ok(segment) }
}

/// Refuses frames that are not supported.
fn refuse_frame(code: u8, segment: &[u8]) -> Result<(), ThumbnailError> {
    match (code, segment) {
        (0xc0..=0xc2, [12 | 16, ..]) => Err(ThumbnailError::Unsupported("JPEG of more than 8 bits")),
        (0xc0..=0xc2, [8, _, _, _, _, 5..=u8::MAX, ..]) => {
            Err(ThumbnailError::Unsupported("JPEG of more than 4 channels"))
        }
        _ => Ok(()),
    }
}

/// The error for a malformed segment.
fn senseless() -> ThumbnailError {
    ThumbnailError::broken("a segment makes no sense")
}

/// Most components of a frame.
pub(super) const MAX_COMPONENTS: usize = 4;
/// Most segments. Real files have a few dozen; a large profile takes one for each 64 KiB.
const MAX_SEGMENTS: usize = 2000;
/// Most stray bytes between segments, which some cameras leave there.
const MAX_STRAY: usize = 1 << 16;
