#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| streamlink_core::fuzz::udp(input));
