//! Plain lines, with their labels in the query.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::lines(data));
