#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    storgo_fuzz::archive(data);
});
