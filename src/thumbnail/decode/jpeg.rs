//! JPEG, decoded at 1/8, 1/4, 1/2 or 1/1 straight from its coefficients.

use super::super::Limits;
use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::jpeg::{self, Picture};
use super::super::pixels::{Decoded, Layout, Pixels};
use super::super::plan::RenderSpec;
use super::super::probe::Header;
use super::PLENTY;

/// Decodes at the fraction that [`scale`] says.
pub(super) fn decode(
    input: Input<'_>,
    header: &Header,
    spec: &RenderSpec,
    limits: &Limits,
) -> Result<Decoded, ThumbnailError> {
    let divisor = scale(header, spec);
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

/// The fraction to decode at: the smallest that leaves a factor of two to the final filter; of a picture that would
/// still be larger than [`PLENTY`] then, the smallest that leaves 4/3. The transform itself filters, so what is lost
/// there can hardly be seen.
pub(super) fn scale(header: &Header, spec: &RenderSpec) -> u32 {
    let within = |most: u32| [8, 4, 2].into_iter().find(|divisor| *divisor <= most).unwrap_or(1);
    let double = within(spec.factor(2, 1));
    let area = u64::from(double).saturating_mul(u64::from(double)).max(1);
    if header.pixels().div_euclid(area) > PLENTY { within(spec.factor(4, 3)) } else { double }
}
