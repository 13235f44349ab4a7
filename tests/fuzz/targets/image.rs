//! A picture through the whole way to its thumbnail, within the memory that was estimated.

#![no_main]

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let allowed = media_sidecar::fuzzing::image(data);
    let taken = MEMORY.peak_usage().saturating_sub(before) as u64;
    assert!(taken <= allowed, "{taken} bytes taken, {allowed} allowed");
});
