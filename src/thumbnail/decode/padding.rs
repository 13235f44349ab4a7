//! Bytes that stand in for the missing end of a truncated file. Decoding twice with different ones shows which rows do not
//! depend on them.
//!
//! Owns the kinds of padding. Refuses to know formats.

/// Padding of one kind: a repeated byte for the first few, pseudo-random but always the same for all others.
pub(super) fn padding(kind: u8) -> [u8; PAD] {
    let plain = [0, 0xff, 0x55, 0xaa, 0x33, 0xcc];
    if let Some(byte) = plain.get(usize::from(kind)) {
        return [*byte; PAD];
    }
    let mut bytes = [0; PAD];
    // Xorshift.
    let mut state = u32::from(kind).wrapping_mul(0x9e37_79b9);
    for byte in &mut bytes {
        state ^= state.wrapping_shl(13);
        state ^= state.wrapping_shr(17);
        state ^= state.wrapping_shl(5);
        [_, *byte, _, _] = state.to_be_bytes();
    }
    bytes
}

/// Bytes of a block of padding.
pub(super) const PAD: usize = 1024;
