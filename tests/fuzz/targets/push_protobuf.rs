//! Loki's push in protobuf.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::push_protobuf(data));
