//! Log entries, one or an array of such.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::logs(data));
