//! Bodies in every content encoding.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::encodings(data));
