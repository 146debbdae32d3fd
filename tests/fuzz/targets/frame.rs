//! Headers of segments, frames and their cursors.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::frame(data));
