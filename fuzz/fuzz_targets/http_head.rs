//! See `openexec_fuzz::http_head`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    openexec_fuzz::http_head::check(bytes);
});
