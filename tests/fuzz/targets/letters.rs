//! Frames of a dead-letter queue.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::letters(data));
