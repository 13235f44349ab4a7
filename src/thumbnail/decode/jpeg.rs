//! Decoding of JPEG: owns the choice of the fraction, 1/1 to 1/8, at which [`jpeg`] decodes.

use super::super::Limits;
use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::jpeg::{self, Picture};
use super::super::pixels::{Decoded, Layout, Pixels};
use super::super::plan::RenderSpec;
use super::super::probe::Header;
use super::LARGE;

pub(super) fn decode(
    input: Input<'_>,
    header: &Header,
    spec: &RenderSpec,
    limits: &Limits,
) -> Result<Decoded, ThumbnailError> {
    let divisor = divisor(header, spec);
    let Picture { width, height, channels, data, icc, is_partial } =
        jpeg::decode(input, divisor, limits.deadline)?;
    if (width, height) != (header.width.div_ceil(divisor), header.height.div_ceil(divisor)) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let layout = match channels {
        1 => Layout::Grey,
        3 => Layout::Rgb,
        _ => Layout::Cmyk,
    };
    Ok(Decoded { pixels: Pixels { width, height, layout, data }, divisor, icc, is_partial })
}

/// The divisor to decode with: the largest that leaves a factor of two for the final filter. If the decoded picture would still
/// have more than [`LARGE`] pixels, the largest that leaves 4/3: the inverse transform is a good filter itself, so the
/// difference can hardly be seen.
pub(super) fn divisor(header: &Header, spec: &RenderSpec) -> u32 {
    let within = |most: u32| [8, 4, 2].into_iter().find(|divisor| *divisor <= most).unwrap_or(1);
    let double = within(spec.factor(2, 1));
    let area = u64::from(double).saturating_mul(u64::from(double)).max(1);
    if header.pixels().div_euclid(area) > LARGE { within(spec.factor(4, 3)) } else { double }
}
