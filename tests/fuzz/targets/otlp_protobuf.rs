//! OTLP's exports in protobuf.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::otlp_protobuf(data));
