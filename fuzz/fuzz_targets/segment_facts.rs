#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| walward_fuzz::segment_facts(data));
