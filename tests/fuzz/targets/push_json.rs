//! Loki's push in JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::push_json(data));
