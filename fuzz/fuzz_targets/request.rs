//! See `openexec_fuzz::request`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    openexec_fuzz::request::check(bytes);
});
