//! What stands for the bytes that a file lacks, while it is told which rows do not depend on them.

/// Bytes of some kind: all alike, or such as look like chance but are always the same.
pub(super) fn padding(kind: u8) -> [u8; PAD] {
    let plain = [0, 0xff, 0x55, 0xaa, 0x33, 0xcc];
    if let Some(byte) = plain.get(usize::from(kind)) {
        return [*byte; PAD];
    }
    let mut bytes = [0; PAD];
    let mut state = u32::from(kind).wrapping_mul(0x9e37_79b9);
    for byte in &mut bytes {
        state ^= state.wrapping_shl(13);
        state ^= state.wrapping_shr(17);
        state ^= state.wrapping_shl(5);
        [_, *byte, _, _] = state.to_be_bytes();
    }
    bytes
}

/// Bytes made at once.
pub(super) const PAD: usize = 1024;
