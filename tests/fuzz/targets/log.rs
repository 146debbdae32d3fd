//! A directory of segments and checkpoints.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::log(data));
