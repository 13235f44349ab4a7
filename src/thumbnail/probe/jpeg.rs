//! JPEG, up to its first scan.

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::jpeg;
use super::super::orient::Orientation;
use super::{Format, Header, Storage, exif_orientation};

/// Reads the segments before the first scan, so that EXIF after the frame header is found too.
pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    let (summary, exif) = jpeg::probe(input)?;
    let header = Header::new(Format::Jpeg, summary.size(), Storage::Jpeg(summary))?;
    let orientation = exif.map_or(Orientation::UPRIGHT, |exif| exif_orientation(&exif));
    Ok(Header { orientation, profile_bytes: summary.profile_bytes, ..header })
}
