//! The header of a JPEG. Owns nothing but the translation; [`jpeg`] reads the segments.

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::jpeg;
use super::super::orient::Orientation;
use super::{Format, Header, Storage, exif_orientation};

/// Reads all segments before the first scan, because EXIF may come after the frame header.
pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    let (info, exif) = jpeg::probe(input)?;
    let header = Header::new(Format::Jpeg, info.size(), Storage::Jpeg(info))?;
    let orientation = exif.map_or(Orientation::UPRIGHT, |exif| exif_orientation(&exif));
    Ok(Header { orientation, profile_bytes: info.profile_bytes, ..header })
}
