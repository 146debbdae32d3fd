//! Checkpoints.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::checkpoint(data));
