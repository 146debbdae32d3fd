//! OTLP's exports in JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::otlp_json(data));
