//! Texts of labels.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::labels(data));
